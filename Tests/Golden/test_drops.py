"""Frames of a pod that go no further, each with its reason, and near misses that go."""

import pytest
import weft
from scapy.layers.inet import IP, IPOption_NOP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrRouting
from scapy.layers.l2 import Dot1Q, Ether, LLC, STP

POD = {family: weft.pod(family, "a") for family in (4, 6)}
FAR = {family: weft.behind(family, ("vxlan", 4)) for family in (4, 6)}

# Drops of which the sender is told.
TOLD = {"ttl_exceeded", "mtu_exceeded", "no_route", "no_service"}


def packet(family, destination=None, source=None, **fields):
    return weft.ip(family, source or POD[family], destination or FAR[family], **fields) / weft.transport("udp", family)


def udp(**fields):
    return UDP(sport=weft.SOURCE_PORT, dport=weft.DESTINATION_PORT, **fields)


def extended_to(destination, count):
    """An IPv6 packet with so many extension headers."""
    packet = weft.ip(6, POD[6], destination)
    for _ in range(count):
        packet = packet / IPv6ExtHdrDestOpt()
    return IPv6(bytes(packet / weft.transport("udp", 6)))


def patched(packet, **bytes_at):
    """An IPv4 packet with bytes changed and the header checksum right."""
    data = bytearray(bytes(packet))
    for place, value in bytes_at.items():
        data[int(place[3:])] = value
    if data[0] >> 4 == 4 and data[0] & 15 == 5:
        data[10:12] = b"\0\0"
        total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, 20, 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        data[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(data)


def drops():
    to_router = Ether(src=weft.MAC["a"], dst=weft.ROUTER)
    # For what scapy does not know as an IP packet any more.
    raw4 = Ether(src=weft.MAC["a"], dst=weft.ROUTER, type=0x0800)
    raw6 = Ether(src=weft.MAC["a"], dst=weft.ROUTER, type=0x86DD)
    v4, v6 = packet(4), packet(6)
    # Ethernet
    yield "802.1Q", to_router / Dot1Q(vlan=5) / v4, "vlan_unexpected"
    yield "802.1Q priority tag", to_router / Dot1Q(vlan=0, prio=3) / v4, "vlan_unexpected"
    yield "802.1ad", Ether(src=weft.MAC["a"], dst=weft.ROUTER, type=0x88A8) / Dot1Q(vlan=5) / v4, "vlan_unexpected"
    yield "LLDP", Ether(dst="01:80:c2:00:00:0e", type=0x88CC) / (b"x" * 50), "ethertype_unknown"
    yield "spanning tree", Ether(dst="01:80:c2:00:00:00", type=38) / LLC() / STP(), "ethertype_unknown"
    yield "unknown MAC", Ether(src=weft.MAC["a"], dst="02:00:00:00:09:09") / v4, "unknown_mac"
    yield "MAC of another VRF", Ether(src=weft.MAC["a"], dst=weft.MAC["c"]) / v4, "unknown_mac"
    yield "own MAC", Ether(src=weft.MAC["a"], dst=weft.MAC["a"]) / v4, "hairpin"
    yield "broadcast MAC", Ether(src=weft.MAC["a"], dst="ff:ff:ff:ff:ff:ff") / v4, "multicast"
    yield "multicast MAC", Ether(src=weft.MAC["a"], dst="01:00:5e:00:00:05") / v6, "multicast"
    # IPv4
    yield "IPv4 version", raw4 / patched(v4, at_0=0x55), "ipv4_header"
    yield "IPv4 header length 4", raw4 / patched(v4, at_0=0x44), "ipv4_header"
    yield "IPv4 header beyond the frame", raw4 / (bytes([0x4F]) + bytes(v4)[1:28]), "ipv4_short"
    yield "IPv4 total length below the header", raw4 / patched(v4, at_2=0, at_3=19), "ipv4_length"
    yield "IPv4 total length beyond the frame", raw4 / patched(v4, at_2=0, at_3=33), "ipv4_length"
    yield "IPv4 checksum", to_router / IP(bytes(packet(4, chksum=0x1234))), "ipv4_checksum"
    yield "IPv4 checksum zero", to_router / packet(4, chksum=0), "ipv4_checksum"
    # IPv6
    yield "IPv6 version", raw6 / patched(v6, at_0=0x50), "ipv6_header"
    yield "IPv6 length beyond the frame", raw6 / patched(v6, at_4=0, at_5=13), "ipv6_length"
    yield "IPv6 too many extensions", to_router / extended_to(FAR[6], 9), "ipv6_extension"
    yield "IPv6 extension beyond the packet", raw6 / patched(extended_to(FAR[6], 1), at_41=9), "ipv6_extension"
    # Addresses
    for address in ("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.1.1.1", "240.0.0.1",
                    "255.255.255.255"):
        yield f"from {address}", to_router / packet(4, source=address), "source_invalid"
    for address in ("::", "::1", "ff02::1", "ff0e::1", "::ffff:10.1.0.1", "::10.1.0.1"):
        yield f"from {address}", to_router / packet(6, source=address), "source_invalid"
    for address in ("0.0.0.0", "0.1.2.3", "127.0.0.1", "240.0.0.1"):
        yield f"to {address}", to_router / packet(4, address), "destination_invalid"
    for address in ("::", "::1", "::ffff:10.2.0.9", "::10.2.0.9"):
        yield f"to {address}", to_router / packet(6, address), "destination_invalid"
    for address in ("224.0.0.1", "239.255.255.250", "255.255.255.255"):
        yield f"to {address}", to_router / packet(4, address), "multicast"
    for address in ("ff02::1", "ff0e::5"):
        yield f"to {address}", to_router / packet(6, address), "multicast"
    yield "from a link-local address", to_router / packet(6, source="fe80::1"), "link_local_routed"
    yield "multicast with a bad source", to_router / packet(4, "224.0.0.1", source="127.0.0.1"), "source_invalid"
    # TTL: tunnels, local
    for family in (4, 6):
        for ttl in (0, 1):
            for tunnel in weft.TUNNEL:
                yield f"IPv{family} TTL {ttl} to {tunnel[0]} over IPv{tunnel[1]}", to_router / packet(
                    family, weft.behind(family, tunnel), ttl=ttl), "ttl_exceeded"
            yield f"IPv{family} TTL {ttl} to a local pod", to_router / packet(
                family, weft.pod(family, "b"), ttl=ttl), "ttl_exceeded"
    # Transport
    for family in (4, 6):
        def of(payload, family=family, proto=17):
            number = {"proto": proto} if family == 4 else {"nh": proto}
            return to_router / weft.ip(family, POD[family], FAR[family], **number) / payload
        yield f"IPv{family} UDP length 7", of(UDP(len=7) / b"weft"), "transport_header"
        yield f"IPv{family} UDP length 0", of(UDP(len=0) / b"weft"), "transport_header"
        yield f"IPv{family} UDP length beyond", of(UDP(len=13) / b"weft"), "transport_header"
        yield f"IPv{family} TCP offset 4", of(TCP(dataofs=4) / b"weft", proto=6), "transport_header"
        yield f"IPv{family} TCP offset beyond", of(TCP(dataofs=15) / b"weft", proto=6), "transport_header"
    # Lookups
    for family, form in ((4, "10.{}.0.5"), (6, "fd{:02x}::5")):
        yield f"IPv{family} no route", to_router / packet(family, form.format(99)), "no_route"
        yield f"IPv{family} unresolved", to_router / packet(family, form.format(16)), "nexthop_unresolved"
        yield f"IPv{family} discard", to_router / packet(family, form.format(17)), "discard_nexthop"
        yield f"IPv{family} translation to itself", to_router / packet(family, form.format(19)), "nexthop_invalid"
        yield f"IPv{family} UDP to the gateway", to_router / packet(family, weft.GATEWAY[family]), "no_service"
        size = 1501 - (28 if family == 4 else 48)
        yield f"IPv{family} too large for the pod", to_router / weft.ip(
            family, POD[family], weft.pod(family, "b")) / weft.transport("udp", family, b"x" * size), "mtu_exceeded"


@pytest.mark.parametrize("frame, reason", [pytest.param(f, r, id=i) for i, f, r in drops()])
def test_drops(replay, frame, reason):
    run = replay({"a": [frame]})
    # What the sender is told is looked at in test_errors.py.
    told = run.sent.get("a", [])
    assert len(told) == (reason in TOLD)
    assert (set(run.sent) - {"a"}, run.drops) == (set(), {reason: 1})
    assert run.report["ports"]["a"] == {
        "rx-packets": 1, "rx-bytes": len(bytes(frame)), "tx-packets": len(told),
        "tx-bytes": sum(map(len, told)), "drops": 1}
    assert run.report["flows"] == [] or reason in ("ttl_exceeded", "mtu_exceeded", "hairpin")


def goes():
    """What looks like one of the above and is none."""
    to = {family: weft.pod(family, "b") for family in (4, 6)}
    yield "TTL 2", packet(4, to[4], ttl=2)
    yield "hop limit 2", packet(6, to[6], ttl=2)
    yield "TTL 255", packet(4, to[4], ttl=255)
    yield "eight extensions", extended_to(to[6], 8)
    yield "routing header", weft.ip(6, POD[6], to[6]) / IPv6ExtHdrRouting(type=4, segleft=0) / udp() / b"x"
    yield "from class A's end", packet(4, to[4], source="126.255.255.255")
    yield "from class C's end", packet(4, to[4], source="223.255.255.254")
    yield "from 1.0.0.0", packet(4, to[4], source="1.0.0.0")
    yield "from NAT64", packet(6, to[6], source="64:ff9b::10.0.0.1")
    yield "IPv4 options", weft.ip(4, POD[4], to[4], options=[IPOption_NOP()] * 40) / udp() / b"x"
    yield "UDP shorter than the packet", weft.ip(4, POD[4], to[4]) / udp(len=10) / b"weft"
    yield "UDP without checksum", weft.ip(4, POD[4], to[4]) / udp(chksum=0) / b"weft"
    yield "IPv4 checksum that comes out as zero", weft.ip(4, POD[4], to[4], id=checksum_id(to[4])) / udp() / b"weft"
    yield "unknown protocol", weft.ip(4, POD[4], to[4], proto=253) / b"weft"
    yield "no next header", weft.ip(6, POD[6], to[6], nh=59)
    yield "just fits", weft.ip(4, POD[4], to[4]) / weft.transport("udp", 4, b"x" * 1472)


def checksum_id(destination):
    """An identification that makes the header's checksum zero."""
    probe = IP(bytes(weft.ip(4, POD[4], destination, id=0) / udp() / b"weft"))
    return probe.chksum


@pytest.mark.parametrize("inner", [pytest.param(p, id=i) for i, p in goes()])
def test_goes(replay, inner):
    run = replay({"a": [weft.routed("a", inner)]})
    weft.same(run.only("b"), weft.delivered("b", inner))
    if inner.version == 4:
        assert run.tshark("b", "ip.checksum.status") == [{"ip.checksum.status": ["1"]}]
