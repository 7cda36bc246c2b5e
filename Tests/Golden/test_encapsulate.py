"""From a pod into a tunnel: RFC 7348 (VXLAN), RFC 7510 (MPLS-over-UDP), RFC 4023 (MPLS-over-GRE), RFC 6040 (ECN), RFC 6438 (flow label)."""

import pytest
import weft
from scapy.layers.l2 import Ether

tunnels = pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda t: f"{t[0]}-over-ipv{t[1]}")
families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])

OUTER = {4: ["ip.src", "ip.dst", "ip.ttl", "ip.proto", "ip.flags.df", "ip.flags.mf", "ip.frag_offset", "ip.hdr_len",
             "ip.dsfield.dscp", "ip.dsfield.ecn"],
         6: ["ipv6.src", "ipv6.dst", "ipv6.hlim", "ipv6.nxt", "ipv6.tclass.dscp", "ipv6.tclass.ecn"]}


def shim_bytes(tunnel):
    return 22 if tunnel[0] == "vxlan" else 4


def header_bytes(tunnel):
    """Outer UDP or GRE header."""
    return 4 if tunnel[0] == "mpls-over-gre" else 8


def outer_bytes(tunnel):
    """Outer IP header to the inner IP packet."""
    return (20 if tunnel[1] == 4 else 40) + header_bytes(tunnel) + shim_bytes(tunnel)


def packet(tunnel, family, kind="udp", payload=b"weft", **fields):
    return weft.ip(family, weft.pod(family, "a"), weft.behind(family, tunnel), **fields) / weft.transport(
        kind, family, payload)


@tunnels
@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
@pytest.mark.parametrize("payload", [b"", b"odd", b"x" * 1200], ids=["empty", "odd", "long"])
def test_every_field(replay, tunnel, family, kind, payload):
    inner = packet(tunnel, family, kind, payload, tos=0xB8)
    run = replay({"a": [weft.routed("a", inner)]})
    frame = run.only("fabric")

    # What tshark reads, outermost header first.
    row = run.tshark(
        "fabric", "eth.src", "eth.dst", *OUTER[tunnel[1]], "udp.srcport", "udp.dstport", "udp.length",
        "udp.checksum", "udp.checksum.status", "ip.checksum.status", "vxlan.flags", "vxlan.vni", "mpls.label",
        "mpls.exp", "mpls.bottom", "mpls.ttl", "tcp.checksum.status", "icmp.checksum.status",
        "icmpv6.checksum.status", "frame.len", "ipv6.flow", "gre.proto", "gre.flags_and_version")[0]
    assert row["eth.src"][0] == weft.FABRIC
    assert row["eth.dst"][0] == weft.NEXT_HOP
    is_gre = tunnel[0] == "mpls-over-gre"
    proto = "47" if is_gre else "17"
    if tunnel[1] == 4:
        outer = {"ip.src": weft.HERE[4], "ip.dst": weft.THERE[4], "ip.ttl": "64", "ip.proto": proto, "ip.flags.df": "1",
                 "ip.flags.mf": "0", "ip.frag_offset": "0", "ip.hdr_len": "20", "ip.dsfield.dscp": "46",
                 "ip.dsfield.ecn": "0"}
    else:
        outer = {"ipv6.src": weft.HERE[6], "ipv6.dst": weft.THERE[6], "ipv6.hlim": "64", "ipv6.nxt": proto,
                 "ipv6.tclass.dscp": "46", "ipv6.tclass.ecn": "0"}
        assert int(row["ipv6.flow"][0], 16) != 0
    assert {name: row[name][0] for name in outer} == outer
    assert row["ip.checksum.status"] == ["1"] * ((tunnel[1] == 4) + (family == 4))
    if is_gre:
        assert [int(row[name][0], 16) for name in ("gre.proto", "gre.flags_and_version")] == [0x8847, 0]
    else:
        assert 0xC000 <= int(row["udp.srcport"][0]) <= 0xFFFF
        assert row["udp.dstport"][0] == ("4789" if tunnel[0] == "vxlan" else "6635")
        assert int(row["udp.length"][0]) == 8 + shim_bytes(tunnel) + len(bytes(inner))
    # RFC 7348: zero over IPv4. RFC 8200: a right one over IPv6. GRE has none.
    if is_gre:
        pass
    elif tunnel[1] == 4:
        assert int(row["udp.checksum"][0], 16) == 0
    else:
        assert row["udp.checksum.status"][0] == "1"
    if tunnel[0] == "vxlan":
        assert (row["vxlan.flags"], row["vxlan.vni"]) == (["0x0800"], ["100"])
        assert (row["eth.src"][1], row["eth.dst"][1]) == (weft.ROUTER, weft.REMOTE_ROUTER)
    else:
        shim = {"mpls.label": ["100"], "mpls.bottom": ["1"], "mpls.exp": ["0"], "mpls.ttl": ["64"]}
        assert {name: row[name] for name in shim} == shim
    status = {"udp": row["udp.checksum.status"][0 if is_gre else 1:], "tcp": row["tcp.checksum.status"],
              "echo": row["icmp.checksum.status"] if family == 4 else row["icmpv6.checksum.status"]}
    assert status[kind] == ["1"]

    # What is inside: the pod's packet, one hop further, byte for byte; reserved fields zero.
    start = 14 + outer_bytes(tunnel) - shim_bytes(tunnel)
    if tunnel[0] == "vxlan":
        assert frame[start:start + 8] == bytes([8, 0, 0, 0, 0, 0, 100, 0])
        assert frame[start + 8:] == bytes(Ether(src=weft.ROUTER, dst=weft.REMOTE_ROUTER) / weft.aged(inner))
    else:
        assert frame[start + 4:] == bytes(weft.aged(inner))


@tunnels
@families
@pytest.mark.parametrize("tos", [0x00, 0x01, 0x02, 0x03, 0xFC, 0xFD, 0xFE, 0xFF, 0x28, 0x2B])
def test_dscp_and_ecn_are_copied(replay, tunnel, family, tos):
    # RFC 6040 section 4.1, normal mode: the whole field, CE too.
    run = replay({"a": [weft.routed("a", packet(tunnel, family, tos=tos))]})
    frame = Ether(run.only("fabric"))
    assert (frame.payload.tos if tunnel[1] == 4 else frame.payload.tc) == tos
    if tunnel[1] == 4:
        assert run.tshark("fabric", "ip.checksum.status")[0]["ip.checksum.status"][0] == "1"


@tunnels
@families
def test_source_port_tells_flows_apart(replay, tunnel, family):
    # Two packets of each of 200 flows.
    packets = [weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.behind(family, tunnel))
                           / weft.transport("udp", family, sport=10000 + flow)) for flow in range(200)] * 2
    rows = replay({"a": packets}).tshark("fabric", "udp.srcport", "ipv6.flow")
    inner = [int(row["udp.srcport"][-1]) for row in rows]
    if tunnel == ("mpls-over-gre", 4):
        # Nothing tells flows apart; the inner packets are the routers' business.
        assert inner == [10000 + flow for flow in range(200)] * 2
        return
    # Over IPv6 the flow label is from the same hash.
    ports = [int(row["udp.srcport"][0]) for row in rows] if tunnel[0] != "mpls-over-gre" else [
        0xC000 | int(row["ipv6.flow"][0], 16) & 0x3FFF for row in rows]
    assert inner == [10000 + flow for flow in range(200)] * 2
    assert ports[:200] == ports[200:]
    assert all(0xC000 <= port <= 0xFFFF for port in ports)
    # 200 of 16,384 at random: fewer than 180 different ones would be no chance.
    assert len(set(ports)) > 180
    if tunnel[1] == 6:
        labels = [row["ipv6.flow"][0] for row in rows]
        assert labels[:200] == labels[200:] and len(set(labels)) > 180


@tunnels
@families
def test_mtu(replay, tunnel, family):
    # What fits the underlay's MTU to the byte goes, a byte more does not.
    room = 1500 - outer_bytes(tunnel)
    headers = (20 if family == 4 else 40) + 8
    packets = [weft.routed("a", packet(tunnel, family, payload=b"x" * (size - headers))) for size in (room, room + 1)]
    run = replay({"a": packets}, weft.tables(mtu=1500))
    assert [len(frame) for frame in run.frames("fabric")] == [1514]
    assert run.drops == {"mtu_exceeded": 1}
    # The sender is told, see test_errors.py.
    assert set(run.sent) == {"a", "fabric"}


@families
def test_bridged_frames_keep_their_header(replay, family):
    # To another pod's MAC of the same network: no hop, no change. The frame's own padding does not travel.
    inner = weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"), ttl=1) / weft.transport("udp", family, b"")
    frame = Ether(src=weft.MAC["a"], dst=weft.REMOTE_POD) / inner
    run = replay({"a": [bytes(frame) + b"\xee" * 10]})
    assert run.only("fabric")[14 + 20 + 8 + 8:] == bytes(frame)


def test_bridged_arp_travels(replay):
    from scapy.layers.l2 import ARP

    frame = Ether(src=weft.MAC["a"], dst=weft.REMOTE_POD) / ARP(
        op=1, hwsrc=weft.MAC["a"], psrc=weft.pod(4, "a"), pdst="10.1.0.9")
    run = replay({"a": [bytes(frame) + bytes(18)]})
    assert run.only("fabric")[14 + 20 + 8 + 8:] == bytes(frame)


@tunnels
@families
def test_fragments_take_one_path(replay, tunnel, family):
    # First and later fragments have no ports in common; they leave by one source port all the same.
    from scapy.layers.inet import fragment
    from scapy.layers.inet6 import IPv6ExtHdrFragment, fragment6

    whole = weft.ip(family, weft.pod(family, "a"), weft.behind(family, tunnel))
    if family == 4:
        fragments = fragment(whole / weft.transport("udp", 4, b"y" * 3000), fragsize=1000)
    else:
        fragments = fragment6(whole / IPv6ExtHdrFragment(id=9) / weft.transport("udp", 6, b"y" * 3000), 1280)
    assert len(fragments) > 2
    fragments = [fragment.__class__(bytes(fragment)) for fragment in fragments]
    run = replay({"a": [weft.routed("a", fragment) for fragment in fragments]})
    frames = run.frames("fabric")
    start = 14 + outer_bytes(tunnel)
    assert [frame[start:] for frame in frames] == [bytes(weft.aged(fragment)) for fragment in fragments]
    if tunnel[0] != "mpls-over-gre":
        assert len({frame[start - shim_bytes(tunnel) - 8:][:2] for frame in frames}) == 1


@families
def test_padding_of_short_frames_does_not_travel(replay, family):
    tunnel = ("mpls-over-udp", 4)
    inner = packet(tunnel, family, payload=b"")
    run = replay({"a": [bytes(weft.routed("a", inner)) + bytes(18)]})
    assert run.only("fabric")[14 + outer_bytes(tunnel):] == bytes(weft.aged(inner))
