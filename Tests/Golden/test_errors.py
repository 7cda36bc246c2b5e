"""What the router makes about packets that it drops: ICMP errors and TCP resets, and when it keeps silent."""

import pytest
import weft
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6,
                                IPv6ExtHdrFragment)
from scapy.layers.l2 import GRE, Ether

TUNNELS = list(weft.TUNNEL)
OVERHEAD = {("vxlan", 4): 50, ("vxlan", 6): 70, ("mpls-over-udp", 4): 32, ("mpls-over-udp", 6): 52,
            ("mpls-over-gre", 4): 28, ("mpls-over-gre", 6): 48}
UNREACHABLE = {"none": (0, 0), "port": (3, 4), "prohibited": (13, 1)}


def network(family, number):
    return f"10.{number}.0.5" if family == 4 else f"fd{number:02x}::5"


def error(family, message, packet, source=None, target=None):
    """The error as an IP packet."""
    source = source or weft.GATEWAY[family]
    target = target or packet[IP if family == 4 else IPv6].src
    quoted = bytes(packet)
    if family == 4:
        return IP(src=source, dst=target, id=0, flags="DF", ttl=64, tos=0xC0) / message / quoted[:548]
    return IPv6(src=source, dst=target, hlim=64) / message / quoted[:1232]


def exceeded(family):
    return ICMP(type=11, code=0) if family == 4 else ICMPv6TimeExceeded(code=0)


def unreachable(family, what):
    code = UNREACHABLE[what][family == 6]
    return ICMP(type=3, code=code) if family == 4 else ICMPv6DestUnreach(code=code)


def too_big(family, mtu):
    return ICMP(type=3, code=4, nexthopmtu=mtu) if family == 4 else ICMPv6PacketTooBig(mtu=mtu)


def told(frame, expected, interface="a"):
    weft.same(frame, Ether(src=weft.ROUTER, dst=weft.MAC[interface]) / expected)


def good(run, port):
    """tshark finds no fault in the checksums of what left."""
    for row in run.tshark(port, "icmp.checksum.status", "icmpv6.checksum.status", "ip.checksum.status"):
        assert (row["icmp.checksum.status"] + row["icmpv6.checksum.status"])[0] == "1"
        assert set(row["ip.checksum.status"][:1]) <= {"1"}


def udp(family, destination, size=4, source="a", **fields):
    header = weft.ip(family, weft.pod(family, source), destination, **fields)
    return header.__class__(bytes(header / weft.transport("udp", family, b"x" * size)))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ttl", [0, 1])
def test_ttl(replay, family, ttl):
    packets = [udp(family, weft.behind(family, tunnel), ttl=ttl) for tunnel in TUNNELS]
    packets.append(udp(family, weft.pod(family, "b"), ttl=ttl))
    run = replay({"a": [weft.routed("a", packet) for packet in packets]})
    assert run.drops == {"ttl_exceeded": len(packets)}
    for frame, packet in zip(run.sent.pop("a"), packets, strict=True):
        told(frame, error(family, exceeded(family), packet))
    assert set(run.sent) == {"a"}
    good(run, "a")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tunnel", TUNNELS)
def test_from_the_fabric(replay, tunnel, family):
    # The sender is behind the tunnel: so the answer goes there.
    packet = weft.ip(family, weft.behind(family, tunnel), weft.pod(family, "a"), ttl=1) / weft.transport("udp", family)
    run = replay({"fabric": [weft.remote(tunnel, packet)]})
    assert run.drops == {"ttl_exceeded": 1}
    inner = Ether(run.only("fabric"))[GRE if tunnel[0] == "mpls-over-gre" else UDP].payload.payload
    if tunnel[0] == "vxlan":
        assert (inner.src, inner.dst) == (weft.ROUTER, weft.REMOTE_ROUTER)
        inner = inner.payload
    assert bytes(inner) == bytes(error(family, exceeded(family), packet.__class__(bytes(packet))))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tunnel", TUNNELS)
def test_too_big_for_a_tunnel(replay, tunnel, family):
    mtu = 1500 - OVERHEAD[tunnel]
    headers = 28 if family == 4 else 48
    fits = udp(family, weft.behind(family, tunnel), mtu - headers)
    packet = udp(family, weft.behind(family, tunnel), mtu - headers + 1, **({"flags": "DF"} if family == 4 else {}))
    run = replay({"a": [weft.routed("a", fits), weft.routed("a", packet)]}, weft.tables(mtu=1500, pod_mtu=9000))
    assert run.drops == {"mtu_exceeded": 1}
    assert len(run.frames("fabric")) == 1 and len(run.frames("fabric")[0]) == 1514
    told(run.frames("a")[0], error(family, too_big(family, mtu), packet))
    assert len(run.frames("a")[0]) == (14 + 576 if family == 4 else 14 + 1280)
    good(run, "a")


@pytest.mark.parametrize("family", [4, 6])
def test_too_big_for_a_pod(replay, family):
    packet = udp(family, weft.pod(family, "b"), 1500)
    run = replay({"a": [weft.routed("a", packet), Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / packet]})
    assert run.drops == {"mtu_exceeded": 2}
    for frame in run.frames("a"):
        told(frame, error(family, too_big(family, 1500), packet))
    assert len(run.frames("a")) == 2


def test_mtu_below_the_least(replay):
    # IPv6 hosts need not believe less than 1280.
    packet = udp(6, weft.pod(6, "b"), 1300)
    run = replay({"a": [weft.routed("a", packet)]}, weft.tables(pod_mtu=1000))
    told(run.only("a"), error(6, too_big(6, 1280), packet))


@pytest.mark.parametrize("family", [4, 6])
def test_no_route(replay, family):
    packets = [udp(family, network(family, 99)),
               weft.ip(family, weft.pod(family, "a"), network(family, 98)) / weft.transport("tcp", family),
               weft.ip(family, weft.pod(family, "a"), network(family, 97)) / weft.transport("echo", family)]
    run = replay({"a": [weft.routed("a", packet) for packet in packets]})
    assert run.drops == {"no_route": 3}
    for frame, packet in zip(run.sent["a"], packets, strict=True):
        told(frame, error(family, unreachable(family, "none"), packet.__class__(bytes(packet))))
    good(run, "a")


@pytest.mark.parametrize("family", [4, 6])
def test_no_route_in_another_vrf(replay, family):
    # A leaked route leads to VRF 2, where there is none; the sender is told from its own gateway.
    tables = weft.tables()
    tables["routes"].append({"vrf": 1, "prefix": "10.77.0.0/16" if family == 4 else "fd4d::/16", "nexthop": weft.VRF2})
    packet = udp(family, network(family, 77))
    run = replay({"a": [weft.routed("a", packet)]}, tables)
    assert run.drops == {"no_route": 1}
    told(run.only("a"), error(family, unreachable(family, "none"), packet))


@pytest.mark.parametrize("family", [4, 6])
def test_closed_port_of_the_gateway(replay, family):
    packet = udp(family, weft.GATEWAY[family])
    run = replay({"a": [weft.routed("a", packet)]})
    assert run.drops == {"no_service": 1}
    told(run.only("a"), error(family, unreachable(family, "port"), packet))


@pytest.mark.parametrize("family", [4, 6])
def test_nearest_gateway(replay, family):
    # Of several addresses of the router, the one that shares the longest prefix with the sender.
    tables = weft.tables()
    width = 32 if family == 4 else 128
    for address in (("10.0.0.1", "10.1.0.129", "10.9.0.1", "9.1.0.1") if family == 4
                    else ("fd00::1", "fd01::8000", "fd09::1", "2001:db8::1")):
        tables["routes"].append({"vrf": 1, "prefix": f"{address}/{width}", "nexthop": weft.RECEIVE})
    # One that a later command takes away again would be closer.
    near = weft.pod(family, "b")
    tables["routes"] = [r for r in tables["routes"] if r["prefix"] != f"{near}/{width}" or r["vrf"] != 1]
    tables["routes"].append({"vrf": 1, "prefix": f"{near}/{width}", "nexthop": weft.RECEIVE})
    packet = udp(family, network(family, 99))
    run = replay({"a": [weft.routed("a", packet)]}, tables)
    told(run.only("a"), error(family, unreachable(family, "none"), packet, source=near))


@pytest.mark.parametrize("family", [4, 6])
def test_silent_without_a_gateway(replay, family):
    tables = weft.tables()
    tables["routes"] = [route for route in tables["routes"] if route["nexthop"] != weft.RECEIVE]
    run = replay({"a": [weft.routed("a", udp(family, network(family, 99)))]}, tables)
    assert (run.sent, run.drops) == ({}, {"no_route": 1})


def silent():
    for family in (4, 6):
        a = weft.pod(family, "a")
        inner = bytes(udp(family, weft.pod(family, "b")))
        if family == 4:
            for kind in (3, 4, 5, 11, 12):
                yield f"IPv4 about ICMP {kind}", IP(src=a, dst="10.99.0.5") / ICMP(type=kind) / inner
        else:
            for kind in (1, 2, 3, 4, 100, 127):
                yield f"IPv6 about ICMPv6 {kind}", IPv6(src=a, dst="fd63::5", nh=58) / (bytes([kind]) + bytes(7) + inner)
    big = IP(src=weft.pod(4, "a"), dst="10.99.0.5", id=9) / UDP(sport=1, dport=2) / (b"x" * 100)
    yield "IPv4 about a later fragment", fragment(big, 64)[1]
    yield "IPv6 about a later fragment", IPv6(src=weft.pod(6, "a"), dst="fd63::5") / IPv6ExtHdrFragment(
        offset=8, m=0, nh=17) / (b"x" * 64)


@pytest.mark.parametrize("packet", [pytest.param(packet, id=name) for name, packet in silent()])
def test_silent(replay, packet):
    run = replay({"a": [weft.routed("a", packet)]})
    assert (run.sent, run.drops) == ({}, {"no_route": 1})


def test_first_fragment_and_other_messages(replay):
    big = IP(src=weft.pod(4, "a"), dst="10.99.0.5", id=9) / UDP(sport=1, dport=2) / (b"x" * 100)
    packets = [fragment(big, 64)[0], IP(src=weft.pod(4, "a"), dst="10.99.0.5") / ICMP(type=13) / (b"t" * 12)]
    packets = [IP(bytes(packet)) for packet in packets]
    packets6 = [IPv6(src=weft.pod(6, "a"), dst="fd63::5") / ICMPv6EchoRequest(id=1)]
    packets6 = [IPv6(bytes(packet)) for packet in packets6]
    run = replay({"a": [weft.routed("a", packet) for packet in packets + packets6]})
    assert run.drops == {"no_route": 3}
    for frame, (family, packet) in zip(run.sent["a"], [(4, packets[0]), (4, packets[1]), (6, packets6[0])], strict=True):
        told(frame, error(family, unreachable(family, "none"), packet))


def test_sender_is_a_group(replay):
    # A frame that says to come from a group: an answer would go to all.
    frame = Ether(src="01:00:5e:00:00:01", dst=weft.ROUTER) / udp(4, "10.99.0.5")
    run = replay({"a": [frame]})
    assert run.sent == {} and run.drops == {"no_route": 1, "source_invalid": 1}


def test_limit(replay):
    # A burst of 100, then 1000 a second. (Whole batches, which have one time each.)
    frames = [weft.routed("a", udp(4, "10.99.0.5", size=index)) for index in range(160)]
    run = replay({"a": [(5, frame) for frame in frames] + [(5.05, frame) for frame in frames]})
    assert run.drops == {"no_route": 320}
    assert len(run.frames("a")) == 150
    for frame, sent in zip(run.frames("a"), frames[:100] + frames[:50], strict=True):
        told(frame, error(4, unreachable(4, "none"), sent[IP]))


# Policy


def policy(action, direction="egress"):
    tables = weft.tables()
    for interface in tables["interfaces"]:
        if interface["device"] in ("a", "b"):
            interface["flags"] = ["bridging", "routing", "policy"]
    tables["rules"] = [
        {"id": 1, "priority": 1, "direction": direction, "action": action, "protocol": 17},
        {"id": 2, "priority": 2, "direction": direction, "action": action, "protocol": 6},
        {"id": 3, "priority": 9, "direction": "ingress", "action": "allow"},
        {"id": 4, "priority": 9, "direction": "egress", "action": "allow"},
    ]
    return tables


@pytest.mark.parametrize("family", [4, 6])
def test_reject_udp(replay, family):
    packet = udp(family, weft.pod(family, "b"))
    # The second finds the flow as denied.
    run = replay({"a": [weft.routed("a", packet)] * 2}, policy("reject"))
    assert run.drops == {"policy_rejected": 2}
    for frame in run.frames("a"):
        told(frame, error(family, unreachable(family, "prohibited"), packet))
    assert len(run.frames("a")) == 2 and set(run.sent) == {"a"}
    assert replay({"a": [weft.routed("a", packet)]}, policy("deny")).sent == {}


@pytest.mark.parametrize("family", [4, 6])
def test_reject_tcp(replay, family):
    a, b = weft.pod(family, "a"), weft.pod(family, "b")

    def tcp(flags, data=b"", **fields):
        return weft.ip(family, a, b) / TCP(sport=1234, dport=80, flags=flags, **fields) / data

    def answer(**fields):
        header = (IP(src=b, dst=a, id=0, flags="DF", ttl=64) if family == 4 else IPv6(src=b, dst=a, hlim=64))
        return header / TCP(sport=80, dport=1234, window=0, **fields)

    rows = [(tcp("S", seq=1000), answer(flags="RA", seq=0, ack=1001)),
            (tcp("A", seq=1000, ack=77), answer(flags="R", seq=77)),
            (tcp("PA", b"weft", seq=1000, ack=78), answer(flags="R", seq=78)),
            (tcp("S", b"fast", seq=0xFFFFFFFE), answer(flags="RA", seq=0, ack=3))]
    for packet, expected in rows:
        run = replay({"a": [weft.routed("a", packet)]}, policy("reject"))
        assert run.drops == {"policy_rejected": 1}
        told(run.only("a"), expected)
        assert run.tshark("a", "tcp.checksum.status") == [{"tcp.checksum.status": ["1"]}]
    # A reset is not answered.
    run = replay({"a": [weft.routed("a", tcp("R", seq=5))]}, policy("reject"))
    assert run.sent == {}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tunnel", TUNNELS)
def test_reject_from_the_fabric(replay, tunnel, family):
    far, a = weft.behind(family, tunnel), weft.pod(family, "a")
    packet = weft.ip(family, far, a) / TCP(sport=1234, dport=80, flags="S", seq=1)
    run = replay({"fabric": [weft.remote(tunnel, packet)]}, policy("reject", "ingress"))
    assert run.drops == {"policy_rejected": 1}
    inner = Ether(run.only("fabric"))[GRE if tunnel[0] == "mpls-over-gre" else UDP].payload[IP if family == 4 else IPv6]
    assert (inner.src, inner.dst, inner[TCP].flags, inner[TCP].ack) == (a, far, "RA", 2)


# Translation


def test_translated_flow(replay):
    # The packet is translated when it turns out not to fit; the sender is told about the packet that it sent.
    tables = weft.tables(mtu=1500, pod_mtu=9000)
    tables["nat-pools"] = [{"id": 1, "vrf": 1, "first": "198.51.100.1"}]
    tables["source-nat"] = [{"id": 1, "vrf": 1, "priority": 1, "source": "10.1.0.0/24", "destination": "10.2.0.0/24",
                             "pool": 1}]
    packet = udp(4, weft.behind(4, ("vxlan", 4)), 1500, flags="DF")
    run = replay({"a": [weft.routed("a", packet)]}, tables)
    assert run.drops == {"mtu_exceeded": 1}
    told(run.only("a"), error(4, too_big(4, 1450), packet))
