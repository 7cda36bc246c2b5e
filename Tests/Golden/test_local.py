"""Pods of one node, VRFs apart, flows."""

import pytest
import weft
from scapy.layers.inet import ICMP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoReply, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
VXLAN4 = ("vxlan", 4)
NUMBER = {"udp": {4: 17, 6: 17}, "tcp": {4: 6, 6: 6}, "echo": {4: 1, 6: 58}}


def packet(family, source, destination, kind="udp", **fields):
    return weft.ip(family, source, destination) / weft.transport(kind, family, **fields)


@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
def test_routed(replay, family, kind):
    inner = packet(family, weft.pod(family, "a"), weft.pod(family, "b"), kind)
    weft.same(replay({"a": [weft.routed("a", inner)]}).only("b"), weft.delivered("b", inner))


@families
def test_bridged(replay, family):
    frame = Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / packet(family, weft.pod(family, "a"), weft.pod(family, "b"))
    weft.same(replay({"a": [frame]}).only("b"), frame)


@families
def test_routed_back_to_the_same_pod(replay, family):
    # Through the router to oneself: that is routing, not a loop of a bridge.
    inner = packet(family, weft.pod(family, "a"), weft.pod(family, "a"))
    weft.same(replay({"a": [weft.routed("a", inner)]}).only("a"), weft.delivered("a", inner))


@families
def test_vrfs_are_apart(replay, family):
    # a and c have one address, b and d another: each pair sees itself alone.
    first = packet(family, weft.pod(family, "a"), weft.pod(family, "b"), payload=b"blue")
    second = packet(family, weft.pod(family, "c"), weft.pod(family, "d"), payload=b"red")
    run = replay({"a": [weft.routed("a", first)], "c": [weft.routed("c", second)]})
    assert {port: len(frames) for port, frames in run.sent.items()} == {"b": 1, "d": 1}
    weft.same(run.frames("b")[0], weft.delivered("b", first))
    weft.same(run.frames("d")[0], weft.delivered("d", second))
    assert sorted(flow["vrf"] for flow in run.report["flows"]) == [1, 1, 2, 2]


@families
def test_vrfs_leave_by_their_own_label(replay, family):
    for tunnel in weft.TUNNEL:
        frames = {port: [weft.routed(port, packet(family, weft.pod(family, port), weft.behind(family, tunnel)))]
                  for port in ("a", "c")}
        run = replay(frames)
        field = "vxlan.vni" if tunnel[0] == "vxlan" else "mpls.label"
        assert sorted(row[field][0] for row in run.tshark("fabric", field)) == ["100", "200"]


@families
def test_into_another_vrf(replay, family):
    destination = "10.18.0.5" if family == 4 else "fd12::5"
    inner = packet(family, weft.pod(family, "a"), destination)
    weft.same(replay({"a": [weft.routed("a", inner)]}).only("c"), weft.delivered("c", inner))


@families
def test_longest_prefix_wins(replay, family):
    # A route for each length from all to one address, each to b but the last and every second to c (through VRF 2).
    document = weft.tables()
    address, width = ("198.51.100.77", 32) if family == 4 else ("2001:db8:77::77", 128)
    import ipaddress
    for length in range(0, width + 1):
        network = ipaddress.ip_network(f"{address}/{length}", strict=False)
        document["routes"].append({"vrf": 1, "prefix": str(network), "nexthop": weft.ENCAP["ab"[length % 2]]})
    document["limits"]["routes"] = 1024
    number = int(ipaddress.ip_address(address))
    for length in range(0, width + 1):
        # Differs in the bit after the prefix: this length's route and no longer one covers it.
        other = ipaddress.ip_address(number ^ (1 << (width - 1 - length)) if length < width else number)
        if other.is_multicast or other.is_reserved or other.is_loopback or (family == 4 and int(other) >> 28 > 13):
            continue
        inner = packet(family, weft.pod(family, "b"), str(other))
        run = replay({"b": [weft.routed("b", inner)]}, document)
        weft.same(run.only("ab"[length % 2]), weft.delivered("ab"[length % 2], inner))


# --- flows


def flow(report, direction):
    found = [entry for entry in report["flows"] if entry["direction"] == direction]
    assert len(found) == 1, report["flows"]
    return found[0]


@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
def test_flow_both_ways(replay, family, kind):
    there = [packet(family, weft.pod(family, "a"), weft.behind(family, VXLAN4), kind, payload=b"x" * size)
             for size in (0, 10, 1000)]
    if kind == "echo":
        message = ICMP(type=0, id=77, seq=3) if family == 4 else ICMPv6EchoReply(id=77, seq=3)
    else:
        message = (UDP if kind == "udp" else TCP)(
            sport=weft.DESTINATION_PORT, dport=weft.SOURCE_PORT)
    back = [weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, "a")) / message / (b"y" * size)
            for size in (5, 500)]
    run = replay({"a": [(1 + i, weft.routed("a", p)) for i, p in enumerate(there)],
                  "fabric": [(10 + i, weft.remote(VXLAN4, p)) for i, p in enumerate(back)]})
    ports = (77, 77) if kind == "echo" else (weft.SOURCE_PORT, weft.DESTINATION_PORT)
    common = {"worker": 0, "vrf": 1, "protocol": NUMBER[kind][family]}
    assert flow(run.report, "forward") == common | {
        "source": weft.pod(family, "a"), "destination": weft.behind(family, VXLAN4), "source-port": ports[0],
        "destination-port": ports[1], "direction": "forward", "nexthop": weft.TUNNEL[VXLAN4], "packets": 3,
        "bytes": sum(len(bytes(p)) for p in there)}
    assert flow(run.report, "reverse") == common | {
        "source": weft.behind(family, VXLAN4), "destination": weft.pod(family, "a"), "source-port": ports[1],
        "destination-port": ports[0], "direction": "reverse", "nexthop": weft.ENCAP["a"], "packets": 2,
        "bytes": sum(len(bytes(p)) for p in back)}


def flows(run):
    return sorted((entry["protocol"], entry["source-port"], entry["destination-port"], entry["packets"])
                  for entry in run.report["flows"] if entry["direction"] == "forward")


def test_flow_without_ports(replay):
    inner = weft.ip(4, weft.pod(4, "a"), weft.pod(4, "b"), proto=253) / b"weft"
    assert flows(replay({"a": [weft.routed("a", inner)]})) == [(253, 0, 0, 1)]


def parts(family, identification, **fields):
    """A UDP packet in fragments."""
    if family == 4:
        whole = weft.ip(4, weft.pod(4, "a"), weft.pod(4, "b"), id=identification, **fields) / weft.transport(
            "udp", 4, b"x" * 100)
        return fragment(whole, fragsize=48)
    whole = weft.ip(6, weft.pod(6, "a"), weft.pod(6, "b"), **fields) / IPv6ExtHdrFragment(
        id=identification) / weft.transport("udp", 6, b"x" * 2000)
    return fragment6(whole, 1280)


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_go_with_their_first_one(replay, family):
    # All parts of a packet, and of another one, are of the flow whose ports the first part shows.
    frames = [weft.routed("a", part) for number in (1, 2) for part in parts(family, number)]
    run = replay({"a": frames})
    assert len(run.frames("b")) == len(frames)
    assert flows(run) == [(17, weft.SOURCE_PORT, weft.DESTINATION_PORT, len(frames))]


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_without_their_first_one(replay, family):
    # Nothing says what they are parts of: they count as a flow without ports.
    frames = [weft.routed("a", part) for part in parts(family, 3)[1:]]
    run = replay({"a": frames})
    assert len(run.frames("b")) == len(frames)
    assert flows(run) == [(17, 0, 0, len(frames))]


def test_a_full_flow_table_drops_nothing(replay):
    document = weft.tables()
    document["limits"]["flows"] = 8
    frames = [weft.routed("a", packet(4, weft.pod(4, "a"), weft.pod(4, "b"), sport=1000 + i)) for i in range(20)]
    run = replay({"a": frames}, document)
    assert len(run.frames("b")) == 20
    assert len(run.report["flows"]) == 8


def test_port_counters(replay):
    frames = [weft.routed("a", packet(4, weft.pod(4, "a"), weft.pod(4, "b"))), b"short"]
    run = replay({"a": frames})
    size = len(bytes(frames[0]))
    assert run.report["ports"]["a"] == {
        "rx-packets": 2, "rx-bytes": size + 5, "tx-packets": 0, "tx-bytes": 0, "drops": 1}
    assert run.report["ports"]["b"] == {
        "rx-packets": 0, "rx-bytes": 0, "tx-packets": 1, "tx-bytes": size, "drops": 0}
