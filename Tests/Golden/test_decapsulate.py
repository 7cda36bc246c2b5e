"""From a tunnel to a pod."""

import pytest
import weft
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether
from weft import FABRIC, MPLS, NEXT_HOP, VXLAN

tunnels = pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda t: f"{t[0]}-over-ipv{t[1]}")
families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])

VXLAN4 = ("vxlan", 4)
MPLS4 = ("mpls-over-udp", 4)


def packet(family, to="a", kind="udp", payload=b"weft", **fields):
    return weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, to), **fields) / weft.transport(
        kind, family, payload)


@tunnels
@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
@pytest.mark.parametrize("payload", [b"", b"odd", b"x" * 1200], ids=["empty", "odd", "long"])
def test_routed(replay, tunnel, family, kind, payload):
    inner = packet(family, kind=kind, payload=payload)
    run = replay({"fabric": [weft.remote(tunnel, inner)]})
    weft.same(run.only("a"), weft.delivered("a", inner))
    row = run.tshark("a", "eth.src", "eth.dst", "ip.ttl", "ipv6.hlim", "ip.checksum.status", "udp.checksum.status",
                     "tcp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status")[0]
    assert (row["eth.src"], row["eth.dst"]) == ([weft.ROUTER], [weft.MAC["a"]])
    assert row["ip.ttl"] + row["ipv6.hlim"] == ["63"]
    assert row["ip.checksum.status"] == (["1"] if family == 4 else [])
    assert (row["udp.checksum.status"] + row["tcp.checksum.status"] + row["icmp.checksum.status"]
            + row["icmpv6.checksum.status"]) == ["1"]


@tunnels
@families
def test_label_of_an_interface(replay, tunnel, family):
    # VNI or label 1001 is interface a's: no lookup, even for an address that has no route.
    nowhere = {4: "203.0.113.5", 6: "2001:db8:5::5"}[family]
    inner = weft.ip(family, weft.behind(family, VXLAN4), nowhere) / weft.transport("udp", family)
    run = replay({"fabric": [weft.remote(tunnel, inner, 1001)]})
    weft.same(run.only("a"), weft.delivered("a", inner))


@tunnels
@families
def test_vrfs_with_the_same_addresses(replay, tunnel, family):
    # The same packet to VNI or label 100 and 200: to a, and to c which has a's address in another VRF.
    inner = packet(family)
    run = replay({"fabric": [weft.remote(tunnel, inner, label) for label in (100, 200, 100)]})
    assert {port: len(frames) for port, frames in run.sent.items()} == {"a": 2, "c": 1}
    weft.same(run.frames("c")[0], weft.delivered("c", inner))


@families
def test_bridged(replay, family):
    # To the pod's own MAC: no hop, no change but the padding's end.
    inner = Ether(src=weft.REMOTE_POD, dst=weft.MAC["a"]) / packet(family, ttl=1, payload=b"")
    frame = weft.tunneled(VXLAN4, bytes(inner) + b"\xee" * 10)
    weft.same(replay({"fabric": [frame]}).only("a"), inner)


@tunnels
def test_frame_padding_is_no_payload(replay, tunnel):
    frame = bytes(weft.remote(tunnel, packet(4, payload=b""))) + bytes(30)
    weft.same(replay({"fabric": [frame]}).only("a"), weft.delivered("a", packet(4, payload=b"")))


# RFC 6040 figure 4, normal mode. Rows: inner Not-ECT, ECT(1), ECT(0), CE; columns: outer in the same order; None: drop.
ECN = {(0, 0): 0, (0, 1): 0, (0, 2): 0, (0, 3): None,
       (1, 0): 1, (1, 1): 1, (1, 2): 1, (1, 3): 3,
       (2, 0): 2, (2, 1): 1, (2, 2): 2, (2, 3): 3,
       (3, 0): 3, (3, 1): 3, (3, 2): 3, (3, 3): 3}


# MPLS carries no frames to bridge.
@pytest.mark.parametrize("tunnel, is_bridged", [
    pytest.param(tunnel, is_bridged, id=f"{tunnel[0]}-over-ipv{tunnel[1]}-{'bridged' if is_bridged else 'routed'}")
    for tunnel in weft.TUNNEL for is_bridged in (False, True) if not is_bridged or tunnel[0] == "vxlan"])
@families
def test_ecn(replay, tunnel, family, is_bridged):
    frames, expected = [], []
    for (inner, outer), merged in ECN.items():
        # The outer DSCP is not the inner packet's.
        data = packet(family, tos=0x28 | inner)
        if is_bridged:
            frames.append(weft.tunneled(tunnel, Ether(src=weft.REMOTE_POD, dst=weft.MAC["a"]) / data, tos=0xB8 | outer))
        else:
            frames.append(weft.remote(tunnel, data, tos=0xB8 | outer))
        if merged is not None:
            data = packet(family, tos=0x28 | merged)
            expected.append(Ether(src=weft.REMOTE_POD, dst=weft.MAC["a"]) / data if is_bridged
                            else weft.delivered("a", data))
    run = replay({"fabric": frames})
    assert run.drops == {"ecn_invalid": 1}
    assert len(run.frames("a")) == len(expected)
    for frame, wanted in zip(run.frames("a"), expected, strict=True):
        weft.same(frame, wanted)


@tunnels
@families
def test_fragments(replay, tunnel, family):
    # First and later fragments reach the pod alike, though the later ones have no ports.
    from scapy.layers.inet import fragment
    from scapy.layers.inet6 import fragment6

    whole = weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, "a"))
    if family == 4:
        fragments = fragment(whole / weft.transport("udp", 4, b"y" * 3000), fragsize=1000)
    else:
        fragments = fragment6(whole / IPv6ExtHdrFragment(id=9) / weft.transport("udp", 6, b"y" * 3000), 1280)
    fragments = [part.__class__(bytes(part)) for part in fragments]
    for label in (100, 1001):
        run = replay({"fabric": [weft.remote(tunnel, part, label) for part in fragments]})
        for frame, part in zip(run.frames("a"), fragments, strict=True):
            weft.same(frame, weft.delivered("a", part))


@families
def test_tcp_segments_come_out_as_they_came(replay, family):
    # Ten segments without a gap, in one batch: whatever is merged inside, the capture shows segments.
    from scapy.layers.inet import TCP

    segments = []
    for index in range(10):
        tcp = TCP(sport=weft.SOURCE_PORT, dport=weft.DESTINATION_PORT, seq=1000 + 1000 * index, ack=5,
                  flags="PA" if index == 9 else "A",
                  options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 2))])
        segments.append(weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, "a"), id=100 + index) / tcp
                        / (bytes([index]) * 1000))
    segments = [segment.__class__(bytes(segment)) for segment in segments]
    run = replay({"fabric": [weft.remote(VXLAN4, segment) for segment in segments]})
    frames = run.frames("a")
    assert len(frames) == 10
    for frame, segment in zip(frames, segments, strict=True):
        weft.same(frame, weft.delivered("a", segment))
    assert run.report["ports"]["a"]["tx-packets"] == 10
    forward = [flow for flow in run.report["flows"] if flow["direction"] == "forward"]
    assert [(flow["packets"], flow["bytes"]) for flow in forward] == [(10, sum(len(bytes(s)) for s in segments))]


@pytest.mark.parametrize("tunnel", [("vxlan", 6), ("mpls-over-udp", 6)], ids=["vxlan", "mpls-over-udp"])
def test_zero_checksum_over_ipv6(replay, tunnel):
    # Allowed for tunnels: RFC 6935, RFC 6936.
    weft.same(replay({"fabric": [weft.remote(tunnel, packet(4), chksum=0)]}).only("a"), weft.delivered("a", packet(4)))


def test_vxlan_reserved_bits_are_ignored(replay):
    # RFC 7348 section 5: "MUST be set to zero on transmission and ignored on receipt".
    frame = bytearray(bytes(weft.remote(VXLAN4, packet(4), chksum=0)))
    at = 14 + 20 + 8
    frame[at], frame[at + 1], frame[at + 3], frame[at + 7] = 0xFF, 0xAA, 0xBB, 0xCC
    weft.same(replay({"fabric": [bytes(frame)]}).only("a"), weft.delivered("a", packet(4)))


def test_outer_options(replay):
    from scapy.layers.inet import IPOption_NOP

    frame = weft.remote(VXLAN4, packet(4), options=[IPOption_NOP()] * 4)
    assert Ether(bytes(frame)).payload.ihl == 6
    weft.same(replay({"fabric": [frame]}).only("a"), weft.delivered("a", packet(4)))


def raw(tunnel, payload, **udp):
    """A tunnel packet with any payload."""
    port = 4789 if tunnel[0] == "vxlan" else 6635
    return Ether(src=NEXT_HOP, dst=FABRIC) / weft.ip(tunnel[1], weft.THERE[tunnel[1]], weft.HERE[tunnel[1]]) / UDP(
        sport=50000, dport=port, **udp) / payload


def patched(frame, **bytes_at):
    """Bytes of a frame changed: at_15=1."""
    data = bytearray(bytes(frame))
    for place, value in bytes_at.items():
        data[int(place[3:])] = value
    return bytes(data)


def drops():
    v4 = packet(4)
    good = {tunnel: weft.remote(tunnel, v4) for tunnel in weft.TUNNEL}
    for tunnel in weft.TUNNEL:
        name = f"{tunnel[0]}-over-ipv{tunnel[1]}"
        family = tunnel[1]
        unknown = "unknown_vni" if tunnel[0] == "vxlan" else "unknown_label"
        limit = 0xFFFFFF if tunnel[0] == "vxlan" else 0xFFFFF
        for label in (0, 99, 101, limit):
            yield f"{name}: {unknown} {label}", weft.remote(tunnel, v4, label), unknown
        yield f"{name}: discard", weft.remote(tunnel, v4, 1002), "discard_nexthop"
        yield f"{name}: another MAC", weft.remote(tunnel, v4, mac="02:00:00:00:ff:09"), "outer_not_ours"
        yield f"{name}: broadcast MAC", weft.remote(tunnel, v4, mac="ff:ff:ff:ff:ff:ff"), "outer_not_ours"
        other = {4: "192.0.2.7", 6: "2001:db8::7"}[family]
        yield f"{name}: another address", weft.remote(tunnel, v4, destination=other), "outer_not_ours"
        if tunnel[0] != "mpls-over-gre":
            yield f"{name}: wrong outer UDP checksum", weft.remote(tunnel, v4, chksum=0x1234), "outer_checksum"
            yield f"{name}: UDP length 7", patched(good[tunnel], **{f"at_{14 + (20 if family == 4 else 40) + 5}": 7}), (
                "outer_udp_length")
            yield f"{name}: UDP length beyond", patched(
                good[tunnel], **{f"at_{14 + (20 if family == 4 else 40) + 4}": 4}), "outer_udp_length"
        vlan = bytes(good[tunnel])
        yield f"{name}: VLAN tag", vlan[:12] + b"\x81\x00\x00\x05" + vlan[12:], "vlan_unexpected"
        yield f"{name}: service VLAN tag", vlan[:12] + b"\x88\xa8\x00\x05" + vlan[12:], "vlan_unexpected"
        # Out of one tunnel and into another: never.
        back = weft.ip(4, "10.4.0.9", weft.behind(4, tunnel)) / weft.transport("udp", 4)
        yield f"{name}: hairpin", weft.remote(tunnel, back), "hairpin"
        for family_inside in (4, 6):
            for ttl in (0, 1):
                yield f"{name}: inner IPv{family_inside} TTL {ttl}", weft.remote(
                    tunnel, packet(family_inside, ttl=ttl)), "ttl_exceeded"
            nowhere = {4: "203.0.113.5", 6: "2001:db8:5::5"}[family_inside]
            yield f"{name}: inner IPv{family_inside} no route", weft.remote(
                tunnel, weft.ip(family_inside, weft.behind(family_inside, tunnel), nowhere)
                / weft.transport("udp", family_inside)), "no_route"
            source = {4: "127.0.0.1", 6: "::1"}[family_inside]
            yield f"{name}: inner IPv{family_inside} source", weft.remote(
                tunnel, weft.ip(family_inside, source, weft.pod(family_inside, "a"))
                / weft.transport("udp", family_inside)), "source_invalid"
            yield f"{name}: inner IPv{family_inside} too large for the pod", weft.remote(
                tunnel, packet(family_inside, payload=b"x" * 1480)), "mtu_exceeded"

    yield "VXLAN without I", patched(weft.remote(VXLAN4, v4, chksum=0), at_42=0), "vxlan_flags"
    yield "VXLAN all flags but I", patched(weft.remote(VXLAN4, v4, chksum=0), at_42=0xF7), "vxlan_flags"
    yield "VXLAN inner VLAN", weft.tunneled(VXLAN4, Ether(dst=weft.ROUTER) / Dot1Q(vlan=5) / v4), "vlan_unexpected"
    yield "VXLAN inner unknown MAC", weft.tunneled(
        VXLAN4, Ether(dst="02:00:00:00:09:09") / v4), "unknown_mac"
    yield "VXLAN inner MAC of the other VRF", weft.tunneled(
        VXLAN4, Ether(dst=weft.MAC["c"]) / v4), "unknown_mac"
    yield "VXLAN inner MAC back into the fabric", weft.tunneled(
        VXLAN4, Ether(dst=weft.REMOTE_POD) / v4), "hairpin"
    yield "VXLAN inner broadcast", weft.tunneled(VXLAN4, Ether(dst="ff:ff:ff:ff:ff:ff") / v4), "multicast"
    yield "VXLAN of an interface, inner broadcast", weft.tunneled(
        VXLAN4, Ether(dst="ff:ff:ff:ff:ff:ff") / v4, 1001), "multicast"
    yield "VXLAN inner LLDP", weft.tunneled(VXLAN4, Ether(dst=weft.ROUTER, type=0x88CC) / (b"x" * 50)), (
        "ethertype_unknown")
    yield "VXLAN alone", raw(VXLAN4, VXLAN(flags=8, vni=100)), "short_frame"
    yield "MPLS two labels", raw(MPLS4, MPLS(label=100, s=0) / MPLS(label=100, s=1) / v4), "mpls_stack"
    yield "MPLS alone", raw(MPLS4, MPLS(label=100, s=1)), "mpls_short"
    yield "MPLS neither IPv4 nor IPv6", raw(MPLS4, MPLS(label=100, s=1) / (b"\x10" + bytes(60))), "ethertype_unknown"
    yield "MPLS inner IPv4 checksum", raw(
        MPLS4, MPLS(label=100, s=1) / weft.ip(4, "10.2.0.9", "10.1.0.1", chksum=1) / b"x"), "ipv4_checksum"

    first = bytes(good[VXLAN4])
    outer = IP(src=weft.THERE[4], dst=weft.HERE[4], proto=17)
    mine = Ether(src=NEXT_HOP, dst=FABRIC)
    yield "first outer fragment", mine / IP(bytes(outer / first[34:50])).__class__(
        src=weft.THERE[4], dst=weft.HERE[4], proto=17, flags="MF") / first[34:66], "outer_fragment"
    yield "later outer fragment", mine / IP(
        src=weft.THERE[4], dst=weft.HERE[4], proto=17, frag=4) / first[66:], "outer_fragment"
    yield "outer IPv6 fragment", mine / IPv6(src=weft.THERE[6], dst=weft.HERE[6]) / IPv6ExtHdrFragment(m=1) / UDP(
        sport=50000, dport=4789) / first[42:], "outer_fragment"
    yield "fragment for another", mine / IP(
        src=weft.THERE[4], dst="192.0.2.7", proto=17, frag=4) / first[66:], "outer_not_ours"
    yield "outer IPv4 checksum", patched(good[VXLAN4], at_24=1, at_25=1), "outer_checksum"
    yield "outer IPv4 version", patched(good[VXLAN4], at_14=0x55), "outer_header"
    yield "outer IPv4 header length", patched(good[VXLAN4], at_14=0x44), "outer_header"
    yield "outer IPv4 total length 19", patched(good[VXLAN4], at_16=0, at_17=19), "outer_header"
    yield "outer IPv6 version", patched(good["vxlan", 6], at_14=0x40), "outer_header"

    # The host's own traffic.
    for name, data in (
        ("TCP", IP(src=weft.THERE[4], dst=weft.HERE[4]) / weft.transport("tcp", 4)),
        ("UDP", IP(src=weft.THERE[4], dst=weft.HERE[4]) / UDP(sport=4789, dport=53) / b"x"),
        ("echo", IP(src=weft.THERE[4], dst=weft.HERE[4]) / weft.transport("echo", 4)),
        ("TCP over IPv6", IPv6(src=weft.THERE[6], dst=weft.HERE[6]) / weft.transport("tcp", 6)),
    ):
        yield f"the host's {name}", mine / data, "not_tunnel"
    from scapy.layers.l2 import ARP
    yield "the host's ARP", Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=weft.HERE[4]), "not_tunnel"


@pytest.mark.parametrize("frame, reason", [pytest.param(f, r, id=i) for i, f, r in drops()])
def test_drops(replay, frame, reason):
    run = replay({"fabric": [frame]})
    # What the sender is told, through the tunnel that it is behind, is looked at in test_errors.py.
    told = reason in ("ttl_exceeded", "mtu_exceeded", "no_route")
    assert len(run.sent.get("fabric", [])) == told
    assert (set(run.sent) - {"fabric"}, run.drops) == (set(), {reason: 1})
    assert run.report["ports"]["fabric"]["drops"] == 1
