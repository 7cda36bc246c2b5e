"""weft trace: what it says would be sent or dropped is what a replay sends or drops."""

import json
import subprocess

import pytest
import weft
from scapy.layers.inet import ICMP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.utils import RawPcapReader

WEFT = weft.PROGRAM.parent / "weft"
families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def tables():
    """Everything at once: policy on b, a service, NAT both ways, a mirror, ECMP."""
    document = weft.tables()
    document["interfaces"][2] |= {"flags": ["policy", "bridging", "routing"], "tags": [7]}
    document["mirrors"] = [{"id": 3, "interface": 4}]
    document["rules"] = [
        {"id": 5, "name": "open ports", "priority": 10, "direction": "ingress", "action": "allow", "protocol": 17,
         "destination-ports": ["40000-50000"], "mirror": 3},
        {"id": 6, "priority": 20, "direction": "ingress", "action": "reject", "protocol": 6},
        {"id": 8, "priority": 30, "direction": "ingress", "action": "allow"}]
    document["services"], document["static-nat"], document["source-nat"], document["nat-pools"] = [], [], [], []
    for family, address in ((4, "10.96.0.1"), (6, "fd96::1")):
        document["services"].append(
            {"vrf": 1, "address": address, "protocol": "udp", "port": 53, "name": "dns",
             "backends": [{"address": weft.pod(family, "b"), "port": 44444, "vrf": 1}]})
    document["nat-pools"] = [{"id": 0, "name": "out", "vrf": 2, "first": "203.0.113.1", "last": "203.0.113.1"}]
    document["source-nat"] = [{"id": 1, "priority": 1, "vrf": 1, "source": "10.1.0.0/24", "egress": 2, "pool": 0}]
    document["nexthops"].append({"id": 50, "action": "ecmp", "members": [
        {"nexthop": weft.TUNNEL["vxlan", 4], "label": 100}, {"nexthop": weft.TUNNEL["mpls-over-udp", 4], "label": 100}]})
    document["routes"].append({"vrf": 1, "prefix": "10.50.0.0/16", "nexthop": 50})
    return document


def packets(family):
    """Port, frame, and stages that its trace must have."""
    a, b = weft.pod(family, "a"), weft.pod(family, "b")
    gone = "198.51.100.1" if family == 4 else "2001:db8:99::1"
    rows = [
        ("a", weft.routed("a", weft.ip(family, a, b) / weft.transport(kind, family)), stages)
        for kind, stages in (("udp", ["policy", "flow", "route", "nexthop", "mirror", "transmit"]),
                             ("tcp", ["policy", "flow", "drop", "answer"]), ("echo", ["policy", "flow", "transmit"]))]
    rows += [
        ("a", weft.routed("a", weft.ip(family, a, "10.96.0.1" if family == 4 else "fd96::1") / UDP(
            sport=9, dport=53) / b"query"), ["policy", "nat", "route", "transmit"]),
        ("a", Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / weft.ip(family, a, b) / weft.transport("udp", family),
         ["bridge", "nexthop", "transmit"]),
        ("a", Ether(src=weft.MAC["a"], dst="02:00:00:00:99:99") / weft.ip(family, a, b) / weft.transport("udp", family),
         ["bridge", "drop"]),
        ("a", weft.routed("a", weft.ip(family, a, gone) / weft.transport("udp", family)), ["route", "drop", "answer"]),
        ("a", weft.routed("a", weft.ip(family, a, weft.behind(family, ("vxlan", 4)), ttl=1) / UDP()), ["drop", "answer"]),
        ("a", weft.routed("a", weft.ip(family, a, weft.GATEWAY[family]) / weft.transport("echo", family)),
         ["route", "nexthop", "answer", "transmit"]),
        ("a", weft.routed("a", weft.ip(family, a, "10.17.0.1" if family == 4 else "fd11::1") / UDP()),
         ["route", "nexthop", "drop"]),
        ("a", weft.routed("a", weft.ip(family, a, "10.16.0.1" if family == 4 else "fd10::1") / UDP()),
         ["route", "nexthop", "drop"]),
        ("a", weft.routed("a", weft.ip(family, a, "10.18.0.1" if family == 4 else "fd12::1") / UDP()),
         # Translated, an IPv4 packet is in its VRF already.
         ["nat", "route", "nexthop", "transmit"] if family == 4 else ["route", "nexthop"] * 2 + ["transmit"]),
        ("a", weft.routed("a", weft.ip(family, b, a, **({"len": 9} if family == 4 else {"plen": 999})) / UDP()),
         ["drop"]),
        ("a", Ether(src=weft.MAC["a"], dst=weft.ROUTER, type=0x9999) / b"?", ["drop"]),
        ("a", b"\0\1\2", ["drop"]),
        ("fabric", Ether(dst=weft.FABRIC) / weft.ip(family, weft.THERE[family], weft.HERE[family]) / UDP(dport=4789),
         ["outer", "drop"]),
    ]
    if family == 4:
        rows += [
            ("a", weft.routed("a", weft.ip(4, a, "10.50.0.9") / weft.transport("udp", 4)),
             ["route", "nexthop", "member", "nexthop", "transmit"]),
            ("a", Ether(src=weft.MAC["a"], dst="ff:ff:ff:ff:ff:ff") / ARP(
                hwsrc=weft.MAC["a"], psrc=a, pdst=weft.GATEWAY[4]), ["answer", "transmit"]),
            ("a", fragment(weft.routed("a", weft.ip(4, a, weft.behind(4, ("vxlan", 4))) / UDP() / (b"f" * 2000)), 1000)[0],
             ["parse", "flow", "transmit"]),
        ]
    else:
        rows.append(("a", Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:fe") / IPv6(
            src=a, dst="ff02::1:ff00:fe", hlim=255) / ICMPv6ND_NS(tgt=weft.GATEWAY[6]), ["answer", "transmit"]))
    for tunnel in weft.TUNNEL:
        rows.append(("a", weft.routed("a", weft.ip(family, a, weft.behind(family, tunnel), tos=0xB8) / weft.transport(
            "udp", family)), ["flow", "route", "nexthop", "transmit"]))
        inner = weft.ip(family, weft.behind(family, tunnel), a) / weft.transport("udp", family)
        rows.append(("fabric", weft.remote(tunnel, inner), ["outer", "decapsulate", "parse", "flow", "transmit"]))
        rows.append(("fabric", weft.remote(tunnel, inner, label=999), ["outer", "drop"]))
    return rows


def trace(directory, document, *arguments, status=0):
    file = directory / "tables.json"
    file.write_text(json.dumps(document))
    process = subprocess.run([str(WEFT), "trace", "--tables", str(file), *map(str, arguments)], capture_output=True,
                             text=True, timeout=60)
    assert process.returncode == status, process.stderr
    return process


def stages(report):
    return [step["stage"] for step in report["steps"]]


def ordered(wanted, found):
    found = iter(found)
    return all(stage in found for stage in wanted)


@families
@pytest.mark.parametrize("number", range(30))
def test_says_what_a_replay_does(replay, tmp_path, family, number):
    rows = packets(family)
    if number >= len(rows):
        pytest.skip("no such row in this family")
    port, frame, wanted = rows[number]
    document = tables()
    run = replay({port: [frame]}, document)
    weft.write_pcap(tmp_path / "in.pcap", [b"\0" * 60, frame])
    report = json.loads(trace(tmp_path, document, "--interface", port, "--read", tmp_path / "in.pcap", "--packet", 2,
                              "--json").stdout)
    frames = {}
    for entry in report["frames"]:
        frames.setdefault(entry["device"], []).append(bytes.fromhex(entry["frame"]))
    drops = [step["reason"] for step in report["steps"] if step["stage"] == "drop"]
    assert {reason: drops.count(reason) for reason in drops} == run.drops
    if family == 4 and "pool" in json.dumps(report):
        # A port of a pool is one of many.
        assert {name: [len(frame) for frame in sent] for name, sent in frames.items()} == {
            name: [len(frame) for frame in sent] for name, sent in run.sent.items()}
    else:
        assert frames == run.sent
    assert stages(report)[0] == "receive"
    assert ordered(wanted, stages(report)), stages(report)


def step(report, stage):
    return next(step for step in report["steps"] if step["stage"] == stage)


def test_names_what_decided(tmp_path):
    document = tables()
    report = json.loads(trace(tmp_path, document, "--interface", 1, "--udp", "10.1.0.1:9", "10.96.0.1:53",
                              "--json").stdout)
    assert step(report, "receive") == {
        "stage": "receive", "interface": 1, "device": "a", "role": "virtual", "vrf": 1, "vrf-name": "blue", "bytes": 46,
        "source-mac": weft.MAC["a"], "destination-mac": weft.ROUTER}
    assert step(report, "policy") == {
        "stage": "policy", "direction": "ingress", "interface": 2, "tags": "7", "rule": 5, "name": "open ports",
        "priority": 10, "action": "allow", "mirror": 3}
    assert step(report, "nat") == {
        "stage": "nat", "service": "VRF 1 udp 10.96.0.1:53", "name": "dns", "backend": "10.1.0.2:44444"}
    assert step(report, "route") == {
        "stage": "route", "vrf": 1, "vrf-name": "blue", "prefix": "10.1.0.2/32", "nexthop": 2}
    assert step(report, "nexthop") == {
        "stage": "nexthop", "nexthop": 2, "action": "encap", "interface": 2, "destination-mac": weft.MAC["b"]}
    assert step(report, "mirror") == {"stage": "mirror", "mirror": 3, "interface": 4, "packets": 1, "bytes": 46}
    report = json.loads(trace(tmp_path, document, "--interface", 1, "--udp", "10.1.0.1:9", "10.18.0.1:53",
                              "--json").stdout)
    assert step(report, "nat") | {"source": ""} == {
        "stage": "nat", "source": "", "pool": 0, "pool-name": "out", "vrf": 2, "vrf-name": "red"}
    assert step(report, "nat")["source"].startswith("203.0.113.1:")


def test_text(tmp_path):
    text = trace(tmp_path, tables(), "--interface", "a", "--icmp", "10.1.0.1", "198.51.100.1").stdout
    assert 'drop      reason no_route, explanation "the VRF has no route to the destination"' in text
    assert "out of interface 1 (a):\n000000  02 00 00 00 01 01 00 00" in text


@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp"])
@pytest.mark.parametrize("length", [None, 60, 1500])
def test_described_packets_are_good(tmp_path, family, kind, length):
    # As scapy and tshark read what comes out of the other side: lengths and checksums right.
    a, b = weft.pod(family, "a"), weft.behind(family, ("vxlan", 4))
    ends = [a, b] if kind == "icmp" else [f"{a}:1000", f"{b}:2000"] if family == 4 else [f"[{a}]:1000", f"[{b}]:2000"]
    arguments = ["--interface", "a", f"--{kind}", *ends, "--ttl", 9, "--dscp", 10, "--write", tmp_path / "out.pcap"]
    if length:
        arguments += ["--length", length]
    if kind == "tcp":
        arguments += ["--flags", "syn,ece"]
    trace(tmp_path, weft.tables(), *arguments)
    frame = next(iter(RawPcapReader(str(tmp_path / "out.pcap"))))[0]
    inner = Ether(frame)[weft.VXLAN].payload
    layer = inner.payload
    assert (layer.ttl if family == 4 else layer.hlim) == 8
    assert (layer.tos if family == 4 else layer.tc) == 10 << 2
    if length:
        assert len(layer) == length
    assert bytes(type(layer)(bytes(layer))) == bytes(layer)
    for checked in (UDP, TCP, ICMP, ICMPv6EchoRequest):
        if checked in inner:
            field = "cksum" if checked is ICMPv6EchoRequest else "chksum"
            given = getattr(inner[checked], field)
            delattr(inner[checked], field)
            assert getattr(Ether(bytes(inner))[checked], field) == given
            break
    else:
        raise AssertionError(inner)
    if kind == "tcp":
        assert inner[TCP].flags == "SE"


@pytest.mark.parametrize("arguments,status,words", [
    (["--interface", "q", "--udp", "1.1.1.1:1", "1.1.1.2:1"], 1, ['no interface "q"', "1 (a)"]),
    (["--interface", "a", "--udp", "1.1.1.1", "1.1.1.2:1"], 1, ['"1.1.1.1" has no port']),
    (["--interface", "a", "--udp", "fd00::1:5", "[fd00::2]:1"], 1, ["brackets"]),
    (["--interface", "a", "--udp", "1.1.1.1:1", "[fd00::2]:1"], 1, ["one family"]),
    (["--interface", "a", "--udp", "1.1.1.1:1", "1.1.1.2:70000"], 1, ["has no port"]),
    (["--interface", "a", "--tcp", "1.1.1.1:1", "1.1.1.2:7", "--flags", "sny"], 1, ['"sny" is none of']),
    (["--interface", "a", "--icmp", "1.1.1.1", "1.1.1.2", "--length", "27"], 1, ["28 to 65535"]),
    (["--interface", "fabric", "--icmp", "1.1.1.1", "1.1.1.2"], 1, ["--hex or --read"]),
    (["--interface", "a", "--hex", "0g"], 1, ['"0g" is no hexadecimal']),
    (["--interface", "a", "--hex", "012"], 1, ["3 digits"]),
    (["--interface", "a", "--read", "/nonexistent.pcap"], 1, ["/nonexistent.pcap", "No such file"]),
    (["--interface", "a"], 64, ["one way"]),
    (["--interface", "a", "--hex", "00", "--icmp", "1.1.1.1", "1.1.1.2"], 64, ["one way"]),
    (["--interface", "a", "--icmp", "1.1.1.1"], 64, ["two ends"]),
    (["--interface", "a", "--icmp", "1.1.1.1", "1.1.1.2", "--vlan", "4095"], 64, ["1 to 4094"]),
])
def test_refused(tmp_path, arguments, status, words):
    process = trace(tmp_path, weft.tables(), *arguments, status=status)
    for word in words:
        assert word in process.stderr, process.stderr


def test_bad_tables_and_captures(tmp_path):
    process = trace(tmp_path, weft.tables() | {"what": 1}, "--interface", "a", "--hex", "00", status=1)
    assert "$.what" in process.stderr
    weft.write_pcap(tmp_path / "in.pcap", [b"\0" * 60])
    process = trace(tmp_path, weft.tables(), "--interface", "a", "--read", tmp_path / "in.pcap", "--packet", 2, status=1)
    assert "packet 2 is asked for, but it has 1" in process.stderr
