"""weft trace through VLANs, replication, policers, marks and resolve nexthops: what it says is what a replay does."""

import json

import pytest
import test_flood
import test_vlan
import weft
from scapy.layers.l2 import Ether
from test_trace import ordered, stages, step, trace

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def both(replay, directory, document, port, frame):
    """A trace's report and the replay of the same frame, whose frames and drops are the same."""
    run = replay({port: [frame]}, document)
    file = directory / "in.pcap"
    weft.write_pcap(file, [frame])
    report = json.loads(trace(directory, document, "--interface", port, "--read", file, "--json").stdout)
    frames = {}
    for entry in report["frames"]:
        # The frames of a VLAN leave by the port of its parent.
        port = "a" if entry["device"].startswith("v1") else entry["device"]
        frames.setdefault(port, []).append(bytes.fromhex(entry["frame"]))
    assert {port: sorted(sent) for port, sent in frames.items()} == {
        port: sorted(sent) for port, sent in run.sent.items()}
    drops = [step["reason"] for step in report["steps"] if step["stage"] == "drop"]
    assert {reason: drops.count(reason) for reason in drops} == run.drops
    return report, run


@families
@test_vlan.numbers
def test_vlans(replay, tmp_path, family, number):
    document = test_vlan.tables()
    inner = test_vlan.packet(family, test_vlan.address(family, number), weft.pod(family, "d"))
    frame = test_vlan.tagged(Ether(src=test_vlan.STATION[number], dst=weft.ROUTER) / inner, number)
    report, run = both(replay, tmp_path, document, "a", frame)
    assert run.sent.keys() == {"d"}
    assert ordered(["receive", "parse", "route", "nexthop", "transmit"], stages(report))
    inner = test_vlan.packet(family, weft.pod(family, "d"), test_vlan.address(family, number))
    report, run = both(replay, tmp_path, document, "d", weft.routed("d", inner))
    assert run.sent.keys() == {"a"}
    assert step(report, "transmit")["device"] == f"v{number}"


def test_an_unknown_vlan(replay, tmp_path):
    frame = test_vlan.tagged(weft.routed("a", test_vlan.packet(4, "10.3.0.99", weft.pod(4, "d"))), None, tags=[(0x8100, 9)])
    report, _ = both(replay, tmp_path, test_vlan.tables(), "a", frame)
    assert step(report, "drop")["reason"] == "vlan_unknown"


@families
def test_replication(replay, tmp_path, family):
    document = test_flood.tables()
    report, run = both(replay, tmp_path, document, "a", Ether(
        src=weft.MAC["a"], dst=test_flood.BROADCAST) / test_flood.udp(family, test_flood.GROUPS[family][0]))
    # By the group's list: b, and one tunnel.
    assert {port: len(frames) for port, frames in run.sent.items()} == {"b": 1, "fabric": 1}
    assert step(report, "replicate") == {
        "stage": "replicate", "vrf": 1, "vrf-name": "blue", "mac": test_flood.BROADCAST}
    assert step(report, "nexthop") == {
        "stage": "nexthop", "nexthop": test_flood.GROUP, "action": "multicast", "members": "2,71"}


@families
@pytest.mark.parametrize("burst,color", [(10_000, "green"), (64, "red")])
def test_policers(replay, tmp_path, family, burst, color):
    document = weft.tables()
    document["policers"] = [{"id": 0, "name": "slow", "kind": "single-rate", "unit": "bits", "rate": 8000, "burst": burst}]
    document["interfaces"][2]["ingress-policer"] = 0
    frame = weft.routed("b", weft.ip(family, weft.pod(family, "b"), weft.pod(family, "a")) / weft.transport(
        "udp", family, payload=b"x" * 100))
    report, run = both(replay, tmp_path, document, "b", frame)
    assert step(report, "policer") == {"stage": "policer", "policer": 0, "name": "slow", "color": color}
    assert run.drops == ({} if color == "green" else {"policed": 1})


@families
def test_marks(replay, tmp_path, family):
    document = weft.tables()
    document["qos-classifiers"] = [{"id": 3, "dscp": [{"values": [10], "class": 5}]}]
    document["qos-marks"] = [{"id": 4, "classes": [{"class": 5, "dscp": 46}]}]
    document["interfaces"][1]["qos-classifier"] = 3
    document["interfaces"][2]["qos-marks"] = 4
    inner = weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"), tos=10 << 2) / weft.transport("udp", family)
    report, _ = both(replay, tmp_path, document, "a", weft.routed("a", inner))
    assert step(report, "parse")["forwarding-class"] == 5
    assert step(report, "mark") == {"stage": "mark", "dscp": 46}


@families
def test_marks_of_tags(replay, tmp_path, family):
    document = test_vlan.tables()
    document["qos-classifiers"] = [{"id": 3, "pcp": [{"values": [2], "class": 5}]}]
    document["qos-marks"] = [{"id": 4, "classes": [{"class": 5, "pcp": 6}]}]
    for interface in document["interfaces"]:
        interface |= {"v10": {"qos-classifier": 3}, "v11": {"qos-marks": 4}}.get(interface["device"], {})
    inner = test_vlan.packet(
        family, test_vlan.address(family, test_vlan.SINGLE), test_vlan.address(family, test_vlan.DOUBLE))
    frame = test_vlan.tagged(Ether(src=test_vlan.STATION[test_vlan.SINGLE], dst=weft.ROUTER) / inner,
                             test_vlan.SINGLE, prio=2)
    report, run = both(replay, tmp_path, document, "a", frame)
    assert step(report, "parse")["forwarding-class"] == 5
    assert step(report, "mark") == {"stage": "mark", "pcp": 6}
    assert run.only("a")[14] >> 5 == 6


@families
def test_nobody_is_asked_who_has_an_address(replay, tmp_path, family):
    document = weft.tables()
    document["nexthops"].append({"id": 40, "action": "resolve", "interface": 2})
    document["routes"].append({"vrf": 1, "prefix": "10.60.0.0/24" if family == 4 else "fd60::/64", "nexthop": 40})
    inner = weft.ip(family, weft.pod(family, "a"), "10.60.0.5" if family == 4 else "fd60::5") / weft.transport(
        "udp", family)
    report, run = both(replay, tmp_path, document, "a", weft.routed("a", inner))
    assert step(report, "nexthop")["action"] == "resolve"
    assert step(report, "drop")["reason"] in run.drops
