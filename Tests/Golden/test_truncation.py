"""Each truncation length of one good packet of each kind: dropped for the one right reason, or forwarded as it should.

Two ways to cut: the frame alone, so that lengths inside it point beyond its end; and what follows a header, with the
lengths before the cut mended, so that each header in turn is what is too short.
"""

import struct

import pytest
import weft
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Ether

POD = {family: weft.pod(family, "a") for family in (4, 6)}
FAR = {family: weft.behind(family, ("vxlan", 4)) for family in (4, 6)}
# 8 and 16 bytes.
EXTENSIONS = IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]) / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])
NEIGHBOR = ICMPv6ND_NS(tgt=weft.GATEWAY[6]) / ICMPv6NDOptSrcLLAddr(lladdr=weft.MAC["a"])


def solicitation():
    return Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:fe") / IPv6(
        src=POD[6], dst="ff02::1:ff00:fe", hlim=255) / NEIGHBOR


def inner(family):
    return weft.ip(family, FAR[family], POD[family]) / weft.transport("udp", family)


def kinds():
    """Name, port, good frame, where the plain cut's reasons begin: (from length, reason)."""
    pod4 = [(0, "short_frame"), (14, "ipv4_short"), (34, "ipv4_length")]
    pod6 = [(0, "short_frame"), (14, "ipv6_short"), (54, "ipv6_length")]
    for kind in ("udp", "tcp", "echo"):
        yield f"ipv4-{kind}", "a", weft.routed("a", weft.ip(4, POD[4], FAR[4]) / weft.transport(kind, 4)), pod4
        yield f"ipv6-{kind}", "a", weft.routed("a", weft.ip(6, POD[6], FAR[6]) / weft.transport(kind, 6)), pod6
    yield "ipv6-extensions", "a", weft.routed(
        "a", weft.ip(6, POD[6], FAR[6]) / EXTENSIONS / weft.transport("udp", 6)), pod6
    yield "ipv6-fragment", "a", weft.routed(
        "a", weft.ip(6, POD[6], FAR[6]) / IPv6ExtHdrFragment(m=1, id=3) / (b"z" * 16)), pod6
    yield "echo-to-gateway", "a", weft.routed(
        "a", weft.ip(4, POD[4], weft.GATEWAY[4]) / weft.transport("echo", 4)), pod4
    yield "arp", "a", Ether(src=weft.MAC["a"], dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=weft.MAC["a"], psrc=POD[4], pdst=weft.GATEWAY[4]), [(0, "short_frame"), (14, "arp_malformed")]
    yield "neighbour-solicitation", "a", solicitation(), pod6
    for tunnel in weft.TUNNEL:
        for family in (4, 6):
            yield f"{tunnel[0]}-over-ipv{tunnel[1]}-ipv{family}", "fabric", weft.remote(tunnel, inner(family)), [
                (0, "short_frame"), (14, "outer_short")]


def reason_at(length, reasons):
    """The last entry that begins at or before `length`."""
    return [reason for start, reason in reasons if start <= length][-1]


def check(replay, port, frames):
    """`frames`: pairs of a frame and its reason (None: goes through or is answered), in one replay a reason, so that a
    count says it of each of them."""
    for reason in dict.fromkeys(reason for _, reason in frames):
        chosen = [bytes(frame) for frame, wanted in frames if wanted == reason]
        run = replay({port: chosen})
        assert run.drops == ({} if reason is None else {reason: len(chosen)}), [len(frame) for frame in chosen]


@pytest.mark.parametrize("port, frame, reasons", [pytest.param(p, f, r, id=i) for i, p, f, r in kinds()])
def test_cut_frame(replay, port, frame, reasons):
    frame = bytes(frame)
    cuts = [(frame[:length], reason_at(length, reasons)) for length in range(len(frame))]
    check(replay, port, [*cuts, (frame, None)])


def carriers():
    """Name, port, a function from payload to frame, a good payload, reasons by payload length; None: goes through."""
    def pod(family, proto):
        def build(payload):
            if family == 4:
                return weft.routed("a", IP(src=POD[4], dst=FAR[4], proto=proto) / payload)
            return weft.routed("a", IPv6(src=POD[6], dst=FAR[6], nh=proto) / payload)
        return build

    for family in (4, 6):
        number = 1 if family == 4 else 58
        udp, tcp, echo = (bytes(weft.ip(family, POD[family], FAR[family]) / weft.transport(kind, family))
                          [20 if family == 4 else 40:] for kind in ("udp", "tcp", "echo"))
        yield f"ipv{family}-udp", "a", pod(family, 17), udp, [(0, "transport_short"), (8, "transport_header")]
        # 12 bytes of options after the fixed 20.
        yield f"ipv{family}-tcp", "a", pod(family, 6), tcp, [
            (0, "transport_short"), (20, "transport_header"), (32, None)]
        yield f"ipv{family}-icmp", "a", pod(family, number), echo, [(0, "transport_short"), (8, None)]
        yield f"ipv{family}-sctp", "a", pod(family, 132), bytes(16), [(0, "transport_short"), (12, None)]
        yield f"ipv{family}-unknown", "a", pod(family, 253), bytes(4), [(0, None)]
    extended = bytes(IPv6() / EXTENSIONS / UDP(sport=1, dport=2) / b"weft")[40:]
    assert len(extended) == 8 + 16 + 12
    yield "ipv6-extensions", "a", pod(6, 0), extended, [
        (0, "ipv6_extension"), (24, "transport_short"), (32, "transport_header")]
    yield "ipv6-fragment", "a", pod(6, 44), bytes(IPv6() / IPv6ExtHdrFragment(m=1, id=3, nh=17) / b"12345678")[40:], [
        (0, "ipv6_extension"), (8, None)]
    # 8 bytes that claim 16.
    yield "ipv6-authentication", "a", pod(6, 51), bytes([59, 4]) + bytes(22), [(0, "ipv6_extension"), (24, None)]

    def solicit(payload):
        header = IPv6(src=POD[6], dst="ff02::1:ff00:fe", hlim=255, nh=58, plen=len(payload))
        if len(payload) >= 4:
            payload = payload[:2] + b"\0\0" + payload[4:]
            payload = payload[:2] + struct.pack("!H", in6_chksum(58, header, payload)) + payload[4:]
        return Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:fe") / header / payload

    # Without the option (24 bytes) it is good too; nothing at all is a multicast packet like another.
    yield "neighbour-solicitation", "a", solicit, bytes(solicitation())[54:], [
        (0, "multicast"), (1, "nd_malformed"), (24, None), (25, "nd_malformed")]

    for tunnel in weft.TUNNEL:
        # GRE has no length to mend: test_links.py.
        if tunnel[0] == "mpls-over-gre":
            continue
        name = f"{tunnel[0]}-over-ipv{tunnel[1]}"
        family = tunnel[1]
        link = Ether(src=weft.NEXT_HOP, dst=weft.FABRIC)
        outer = (lambda payload, link=link: link / IP(src=weft.THERE[4], dst=weft.HERE[4], proto=17) / payload
                 ) if family == 4 else (
            lambda payload, link=link: link / IPv6(src=weft.THERE[6], dst=weft.HERE[6], nh=17) / payload)
        whole = bytes(weft.remote(tunnel, inner(4)))[14 + (20 if family == 4 else 40):]
        yield f"{name}-udp", "fabric", outer, whole, [(0, "outer_short"), (8, "outer_udp_length")]

        port = 4789 if tunnel[0] == "vxlan" else 6635
        datagram = (lambda payload, outer=outer, port=port:
                    outer(UDP(sport=50000, dport=port, **({} if payload else {"chksum": 0})) / payload))
        for inside in (4, 6):
            start = [(0, "vxlan_short"), (8, "short_frame")] if tunnel[0] == "vxlan" else [(0, "mpls_short")]
            at = 22 if tunnel[0] == "vxlan" else 5
            begin = 22 if tunnel[0] == "vxlan" else 4
            header = 20 if inside == 4 else 40
            payload = bytes(weft.remote(tunnel, inner(inside)).getlayer(UDP).payload)
            yield f"{name}-ipv{inside}", "fabric", datagram, payload, [
                *start, (at, f"ipv{inside}_short"), (begin + header, f"ipv{inside}_length")]


@pytest.mark.parametrize("port, build, payload, reasons", [
    pytest.param(p, b, d, r, id=i) for i, p, b, d, r in carriers()])
def test_cut_payload(replay, port, build, payload, reasons):
    cuts = [(build(payload[:length]), reason_at(length, reasons)) for length in range(len(payload))]
    check(replay, port, [*cuts, (build(payload), None)])


def test_tcp_header_is_what_it_says():
    # The table above counts on it.
    assert TCP(bytes(weft.transport("tcp", 4))).dataofs == 8
