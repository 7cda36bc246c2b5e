"""Super-frames and unfinished checksums: what a pod's kernel hands over whole leaves as the packets it stands for.

A replay of the packets one by one, as scapy builds them, says what has to come out.
"""

import subprocess

import pytest
import test_flood
import test_nat
import test_vlan
import weft
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import Ether
from scapy.utils import checksum
from test_vlan import DOUBLE, SINGLE, address, tagged

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
kinds = pytest.mark.parametrize("kind", ["tcp", "udp"])
tunnels = pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda tunnel: "-".join(map(str, tunnel)))
SIZE = 1000
ALL = {"a": SIZE, "b": SIZE, "fabric": SIZE}


def data(count):
    return bytes(index * 7 % 251 for index in range(count))


def pair(family, kind, count=4700, size=SIZE, source=None, destination=None, flags="PA", options=(), number=0, **fields):
    """A packet with `count` bytes of payload, and the packets that segmentation makes of it."""
    source, destination = source or weft.pod(family, "a"), destination or weft.pod(family, "b")

    def build(index, payload, is_last):
        header = weft.ip(family, source, destination, id=100 + index, **fields)
        if kind == "udp":
            layer = UDP(sport=weft.SOURCE_PORT + number, dport=weft.DESTINATION_PORT)
        else:
            layer = TCP(sport=weft.SOURCE_PORT + number, dport=weft.DESTINATION_PORT, seq=(0xFFFFF000 + index * size) & 0xFFFFFFFF, ack=5,
                        flags=flags if is_last else flags.replace("P", "").replace("F", "") or "A", options=list(options))
        packet = header / layer / payload
        return packet.__class__(bytes(packet))
    payload = data(count)
    parts = [payload[at:at + size] for at in range(0, count, size)]
    return build(0, payload, True), [build(n, part, n + 1 == len(parts)) for n, part in enumerate(parts)]


def together(packets):
    """At one time, so that they are one batch."""
    return [(1, packet) for packet in packets]


def without_outer_checksum(frame):
    """A tunnel packet over IPv4 without what segmentation adds: a UDP checksum, which must be good, and a number in the
    identification, which nobody looks at (DF)."""
    packet = Ether(frame)
    if not isinstance(packet[1], IP) or packet[1].src != weft.HERE[4]:
        return frame
    header = IP(frame[14:34])
    if not header.flags.DF:
        return frame
    given = header.chksum
    del header.chksum
    assert IP(bytes(header)).chksum == given
    header.id = 0
    rest = frame[34:]
    if header.proto == 17 and rest[6:8] != b"\0\0":
        pseudo = frame[26:34] + b"\0\x11" + rest[4:6]
        assert checksum(pseudo + rest) == 0
        rest = rest[:6] + b"\0\0" + rest[8:]
    return frame[:14] + bytes(IP(bytes(header))) + rest


def same_frames(got, expected):
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        weft.same(without_outer_checksum(one), without_outer_checksum(other))


def check(replay, port, target, whole, parts, tables_=None, super_frames=None, **options):
    """The same leaves by `target` for a super-frame as for its segments; by a port with offloads and by one without."""
    plain = replay({port: together(parts)}, tables_, **options)
    for ports in ({port: SIZE}, super_frames or ALL):
        run = replay({port: together(whole)}, tables_, super_frames=ports, **options)
        same_frames(run.frames(target), plain.frames(target))
        assert run.drops == plain.drops
        assert run.report["ports"][target]["tx-packets"] == plain.report["ports"][target]["tx-packets"]
    return plain


# --- from pod to pod, through tunnels


@families
@kinds
@pytest.mark.parametrize("count", [1001, 2000, 4700, 60000])
def test_to_a_pod(replay, family, kind, count):
    whole, parts = pair(family, kind, count)
    plain = check(replay, "a", "b", [weft.routed("a", whole)], [weft.routed("a", each) for each in parts])
    assert plain.frames("b") == [bytes(weft.delivered("b", each)) for each in parts]


@families
@kinds
@tunnels
@pytest.mark.parametrize("workers", [1, 3])
def test_into_tunnels(replay, family, kind, tunnel, workers):
    whole, parts = pair(family, kind, 9300, destination=weft.behind(family, tunnel), tos=0xB9)
    plain = check(replay, "a", "fabric", [weft.routed("a", whole)], [weft.routed("a", each) for each in parts],
                  workers=workers)
    assert len(plain.frames("fabric")) == 10


@families
@kinds
@tunnels
def test_out_of_tunnels(replay, family, kind, tunnel):
    """A UDP super-frame of the kernel: every segment begins with a tunnel header of its own."""
    if tunnel[0] == "mpls-over-gre":
        pytest.skip("GRE has no super-frames")
    _, parts = pair(family, kind, 4000, source=weft.behind(family, tunnel), destination=weft.pod(family, "a"), flags="A")
    frames = [weft.remote(tunnel, each) for each in parts]
    inside = [bytes(Ether(bytes(frame))[2].payload) for frame in frames]
    assert len({len(each) for each in inside}) == 1
    outer = Ether(bytes(frames[0]))
    del outer[2].len, outer[2].chksum
    if isinstance(outer[1], IP):
        del outer[1].len, outer[1].chksum
    else:
        del outer[1].plen
    outer[2].remove_payload()
    whole = outer / b"".join(inside)
    for workers in (1, 3):
        for ports in ({"fabric": len(inside[0])}, {"fabric": len(inside[0]), "a": SIZE}):
            run = replay({"fabric": [whole]}, super_frames=ports, workers=workers)
            expected = [bytes(weft.delivered("a", each)) for each in parts]
            # What was merged again is cut again, the identifications counted from the first.
            assert run.frames("a") == expected


@families
@tunnels
@pytest.mark.parametrize("size", [1, 7, 64, 999])
def test_odd_sizes(replay, family, tunnel, size):
    whole, parts = pair(family, "tcp", size * 20 + 1, size=size, destination=weft.behind(family, tunnel), flags="FPA")
    plain = replay({"a": together([weft.routed("a", each) for each in parts])})
    for ports in ({"a": size}, {"a": size, "fabric": size}):
        run = replay({"a": [weft.routed("a", whole)]}, super_frames=ports)
        same_frames(run.frames("fabric"), plain.frames("fabric"))


@families
@tunnels
@pytest.mark.parametrize("count", [4700, 1990, 2001])
def test_options_and_flags(replay, family, tunnel, count):
    """TCP options in every segment, CWR in the first alone, FIN and PSH in the last."""
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
    whole, parts = pair(family, "tcp", count, destination=weft.behind(family, tunnel), flags="FPCA", options=options)
    parts = [parts[0]] + [each.copy() for each in parts[1:]]
    for each in parts[1:]:
        each[TCP].flags = str(each[TCP].flags).replace("C", "")
        del each[TCP].chksum
    check(replay, "a", "fabric", [weft.routed("a", whole)], [weft.routed("a", each) for each in parts])


@families
@kinds
@tunnels
def test_unfinished_checksums(replay, family, kind, tunnel):
    """Without segmentation: the checksum is finished where the packet leaves, whatever stood in its field."""
    for destination, target in ((weft.behind(family, tunnel), "fabric"), (weft.pod(family, "b"), "b")):
        whole, _ = pair(family, kind, 501, destination=destination)
        broken = whole.copy()
        broken[kind.upper()].chksum = 0x1234
        check(replay, "a", target, [weft.routed("a", broken)], [weft.routed("a", whole)])


# --- what does not fit, and what has come too far


@families
@kinds
def test_too_big(replay, family, kind):
    """Segments that do not fit: none is sent, the sender is told, with the first segment quoted."""
    for target, document, mtu in (
            ("b", weft.tables(pod_mtu=1300), 1300),
            ("fabric", weft.tables(mtu=1400), 1400 - 50)):
        tunnel = ("vxlan", 4)
        destination = weft.pod(family, "b") if target == "b" else weft.behind(family, tunnel)
        size = mtu - (40 if family == 4 else 60) + 1 + (12 if kind == "udp" else 0)
        whole, parts = pair(family, kind, size * 3, size=size, destination=destination, flags="A")
        plain = replay({"a": [weft.routed("a", parts[0])]}, document)
        run = replay({"a": [weft.routed("a", whole)]}, document, super_frames={"a": size, "b": size, "fabric": size})
        assert run.frames(target) == []
        assert run.drops == {"mtu_exceeded": 3}
        error = Ether(run.only("a"))
        assert bytes(error) == plain.only("a")
        assert (error[ICMP].nexthopmtu if family == 4 else error[ICMPv6PacketTooBig].mtu) == mtu
        # One byte less fits.
        whole, parts = pair(family, kind, (size - 1) * 3, size=size - 1, destination=destination, flags="A")
        run = replay({"a": [weft.routed("a", whole)]}, document, super_frames={"a": size - 1})
        assert len(run.frames(target)) == 3


@families
@kinds
def test_time_exceeded(replay, family, kind):
    whole, parts = pair(family, kind, ttl=1)
    plain = replay({"a": [weft.routed("a", parts[0])]})
    run = replay({"a": [weft.routed("a", whole)]}, super_frames=ALL)
    assert run.drops == {"ttl_exceeded": 5}
    error = run.only("a")
    weft.same(error, plain.only("a"))
    assert (Ether(error)[ICMP].type == 11 if family == 4 else ICMPv6TimeExceeded in Ether(error))


@families
@tunnels
def test_outer_fragments(replay, family, tunnel):
    """A packet with an unfinished checksum goes in outer fragments where the tunnel allows that. Of a super-frame whose
    segments do not fit its sender is told, as it can make smaller ones; one whose segments fit goes."""
    document = weft.tables(mtu=1000)
    for nexthop in document["nexthops"]:
        if nexthop["action"] == "tunnel":
            nexthop["fragment"] = True
    far = weft.behind(family, tunnel)
    whole, _ = pair(family, "udp", 1000, destination=far)
    plain = check(replay, "a", "fabric", [weft.routed("a", whole)], [weft.routed("a", whole)], document)
    assert len(plain.frames("fabric")) == 2
    for kind in ("udp", "tcp"):
        whole, _ = pair(family, kind, 3000, destination=far, flags="A")
        run = replay({"a": [weft.routed("a", whole)]}, document, super_frames={"a": SIZE, "fabric": SIZE})
        assert run.drops == {"mtu_exceeded": 3} and len(run.frames("a")) == 1
        whole, parts = pair(family, kind, 3000, size=800, destination=far, flags="A")
        plain = replay({"a": together([weft.routed("a", each) for each in parts])}, document)
        run = replay({"a": [weft.routed("a", whole)]}, document, super_frames={"a": 800, "fabric": 800})
        assert len(run.frames("fabric")) == len(plain.frames("fabric")) == 4
        for one, other in zip(run.frames("fabric"), plain.frames("fabric"), strict=True):
            assert without_numbers(one) == without_numbers(other)


def without_numbers(frame):
    """A tunnel packet without DF: its identification and its checksums, which were checked, left out."""
    packet = Ether(frame)
    if isinstance(packet[1], IP):
        given = packet[1].chksum
        del packet[1].chksum
        assert Ether(bytes(packet))[1].chksum == given
        frame = frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]
        if packet[1].proto == 17:
            frame = frame[:40] + b"\0\0" + frame[42:]
    return frame


# --- rewritten, metered, tagged


@families
@kinds
@pytest.mark.parametrize("inside", ["b", "fabric"])
def test_services(replay, family, kind, inside):
    """Destination NAT there and back, with unfinished checksums and super-frames both ways."""
    virtual = "10.99.0.1" if family == 4 else "fd99::1"
    backend = weft.pod(family, "b") if inside == "b" else weft.behind(family, ("vxlan", 4))
    document = weft.tables()
    document["destination-nat"] = [
        {"vrf": 1, "protocol": kind, "address": virtual, "port": weft.DESTINATION_PORT, "target-vrf": 1,
         "target": backend, "target-port": weft.DESTINATION_PORT}]
    whole, parts = pair(family, kind, destination=virtual, flags="A")
    check(replay, "a", inside, [weft.routed("a", whole)], [weft.routed("a", each) for each in parts], document)
    if inside == "fabric":
        return
    small, _ = pair(family, kind, 10, destination=virtual, flags="A")
    back, back_parts = pair(family, kind, source=backend, destination=weft.pod(family, "a"), flags="A")
    for packet in (back, *back_parts):
        layer = packet[kind.upper()]
        layer.sport, layer.dport = layer.dport, layer.sport
        del layer.chksum
    first = (1, weft.routed("a", small))
    plain = replay({"a": [first], "b": [(2, weft.routed("b", each)) for each in back_parts]}, document)
    run = replay({"a": [first], "b": [(2, weft.routed("b", back))]}, document, super_frames=ALL)
    assert Ether(plain.frames("a")[0])[1].src == virtual
    same_frames(run.frames("a"), plain.frames("a"))


@families
@kinds
def test_source_nat(replay, family, kind):
    document = test_nat.source_nat()
    whole, parts = pair(family, kind, destination=test_nat.WORLD[family], flags="A")
    plain = check(replay, "a", "c", [weft.routed("a", whole)], [weft.routed("a", each) for each in parts], document)
    assert {Ether(frame)[1].src for frame in plain.frames("c")} == {test_nat.POOL[family]}


@families
@pytest.mark.parametrize("interface, key", [("a", "ingress-policer"), ("b", "egress-policer")])
@kinds
def test_policers(replay, family, interface, key, kind):
    """As many segments go on as conform."""
    document = weft.tables()
    document["policers"] = [{"id": 1, "unit": "packets", "rate": 1, "burst": 3}]
    next(each for each in document["interfaces"] if each["device"] == interface)[key] = 1
    whole, parts = pair(family, kind, flags="A")
    plain = check(replay, "a", "b", [weft.routed("a", whole)], [weft.routed("a", each) for each in parts], document)
    assert len(plain.frames("b")) == 3 and plain.drops == {"policed": 2}


@families
@kinds
def test_rules_mark(replay, family, kind):
    document = weft.tables()
    document["interfaces"][2]["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [{"id": 1, "priority": 1, "direction": "ingress", "action": "allow", "dscp": 46}]
    whole, parts = pair(family, kind, flags="A", tos=2)
    plain = check(replay, "a", "b", [weft.routed("a", whole)], [weft.routed("a", each) for each in parts], document)
    assert {(Ether(frame)[1].tos if family == 4 else Ether(frame)[1].tc) for frame in plain.frames("b")} == {46 << 2 | 2}


@families
@kinds
@pytest.mark.parametrize("number", [SINGLE, DOUBLE], ids=["802.1Q", "QinQ"])
def test_vlans(replay, family, kind, number):
    """In by a VLAN and out by one; the tags' priorities are those of the class."""
    document = test_vlan.tables()
    document["qos-classifiers"] = [{"id": 1, "default": 3, "pcp": [{"values": [5], "class": 5}]}]
    document["qos-marks"] = [{"id": 1, "classes": [{"class": 3, "pcp": 4}, {"class": 5, "dscp": 34}]}]
    for interface in document["interfaces"]:
        if interface["device"] == f"v{number}":
            interface |= {"qos-classifier": 1, "qos-marks": 1}
        if interface["device"] == "d":
            interface |= {"qos-classifier": 1, "qos-marks": 1}
    ports = {"a": SIZE, "d": SIZE}
    whole, parts = pair(family, kind, source=address(family, number), destination=weft.pod(family, "d"), flags="A")

    def frame(packet):
        return tagged(Ether(src=test_vlan.STATION[number], dst=weft.ROUTER) / packet, number, prio=5)
    check(replay, "a", "d", [frame(whole)], [frame(each) for each in parts], document, ports)
    whole, parts = pair(family, kind, source=weft.pod(family, "d"), destination=address(family, number), flags="A")
    plain = check(replay, "d", "a", [weft.routed("d", whole)], [weft.routed("d", each) for each in parts], document, ports)
    assert {each[14] >> 5 for each in plain.frames("a")} == {4}


@families
def test_clamped(replay, family):
    """A SYN with an unfinished checksum has its segment size lowered."""
    document = weft.tables(mtu=1000)
    document["interfaces"][1]["flags"] = ["bridging", "routing", "clamp-mss"]
    header = weft.ip(family, weft.pod(family, "a"), weft.behind(family, ("vxlan", 4)))
    syn = header / TCP(sport=1, dport=2, flags="S", options=[("MSS", 1460)])
    plain = check(replay, "a", "fabric", [weft.routed("a", syn)], [weft.routed("a", syn)], document)
    inner = Ether(plain.only("fabric")[50:])
    assert dict(inner[TCP].options)["MSS"] == 1000 - 50 - (40 if family == 4 else 60)


@families
def test_a_rejected_one(replay, family):
    """A reset answers the whole of it."""
    document = weft.tables()
    document["interfaces"][2]["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [{"id": 1, "priority": 1, "direction": "ingress", "action": "reject"}]
    whole, _ = pair(family, "tcp", flags="A")
    run = replay({"a": [weft.routed("a", whole)]}, document, super_frames=ALL)
    reset = Ether(run.only("a"))[TCP]
    assert (str(reset.flags), reset.seq) == ("R", 5) and run.drops == {"policy_rejected": 5}


# --- floods


@families
@kinds
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "policed"])
def test_floods(replay, family, kind, cut):
    """To an unknown MAC address: pods and tunnels get every segment, marked and cut as each one's interface says."""
    document = test_flood.tables(flags=["flood-unknown"])
    document["qos-marks"] = [{"id": 1, "classes": [{"class": 0, "dscp": 34}]}, {"id": 2, "classes": [
        {"class": 0, "dscp": 12}]}]
    document["policers"] = [{"id": 1, "unit": "packets", "rate": 1, "burst": 3}]
    for interface in document["interfaces"]:
        if interface["device"] == "b":
            interface |= {"qos-marks": 1} | ({"egress-policer": 1} if cut else {})
        if interface["device"] == "fabric":
            interface |= {"qos-marks": 2}
    whole, parts = pair(family, kind, flags="A")

    def frame(packet):
        return Ether(src=weft.MAC["a"], dst="02:00:00:00:09:09") / packet
    plain = replay({"a": together([frame(each) for each in parts])}, document)
    assert len(plain.frames("b")) == (3 if cut else 5)
    assert plain.frames("e") == [bytes(frame(each)) for each in parts]
    for ports in ({"a": SIZE}, {"a": SIZE, "b": SIZE, "e": SIZE, "fabric": SIZE}, {"a": SIZE, "b": SIZE}):
        run = replay({"a": [frame(whole)]}, document, super_frames=ports)
        for port in "be":
            same_frames(run.frames(port), plain.frames(port))
        # One after the other to each node, instead of to all in turn.
        def by_node(frames):
            return sorted(map(without_outer_checksum, frames), key=lambda each: IP(each[14:]).dst)
        assert by_node(run.frames("fabric")) == by_node(plain.frames("fabric"))


@families
@kinds
@tunnels
def test_floods_into_every_tunnel(replay, family, kind, tunnel):
    """MPLS carries the Ethernet header too; every segment has it."""
    document = test_flood.tables([test_flood.far(weft.TUNNEL[tunnel], 300)], flags=["flood-unknown"], groups=False)
    document["qos-marks"] = [{"id": 1, "classes": [{"class": 0, "dscp": 34, "outer-dscp": 12, "exp": 3}]}]
    document["interfaces"][0]["qos-marks"] = 1
    whole, parts = pair(family, kind, flags="A")

    def frame(packet):
        return Ether(src=weft.MAC["a"], dst="02:00:00:00:09:09") / packet
    plain = check(replay, "a", "fabric", [frame(whole)], [frame(each) for each in parts], document)
    assert len(plain.frames("fabric")) == 5


# --- the option


@pytest.mark.parametrize("value, reason", [
    ("a", "invalid"), ("a=", "invalid"), ("=5", "invalid"), ("a=0", "invalid"), ("a=65536", "invalid"), ("a=x", "invalid")])
def test_wrong_usage(tmp_path, value, reason):
    process = subprocess.run([str(weft.program), "replay", "--tables", "x", "--out", str(tmp_path), "--in", "a=x",
                              "--super-frames", value], capture_output=True, text=True)
    assert process.returncode == 64 and reason in process.stderr and "--super-frames" in process.stderr


def test_an_unknown_port(replay):
    run = replay({"a": "/nonexistent.pcap"}, super_frames={"z": 5}, expect_status=1)
    assert '--super-frames z=5: the tables have no interface with the device "z"' in run.stderr
