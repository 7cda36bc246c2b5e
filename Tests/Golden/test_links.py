"""Tunnels over GRE and in fragments, the clamp on TCP's segment size, flows divided between several ways."""

import collections

import pytest
import weft
from scapy.layers.inet import IP, TCP, UDP, defragment
from scapy.layers.inet6 import IPv6, defragment6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Raw

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
tunnels = pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda t: f"{t[0]}-over-ipv{t[1]}")
underlays = pytest.mark.parametrize("underlay", [4, 6], ids=["over-ipv4", "over-ipv6"])

HEADER = {"vxlan": 30, "mpls-over-udp": 12, "mpls-over-gre": 8}


def room(tunnel, mtu):
    """Bytes of inner packet that fit."""
    return mtu - (20 if tunnel[1] == 4 else 40) - HEADER[tunnel[0]]


def flagged(document, *devices, flag="clamp-mss"):
    for interface in document["interfaces"]:
        if interface["device"] in devices:
            interface["flags"] = ["bridging", "routing", flag]
    return document


# GRE on the way in


@families
@underlays
@pytest.mark.parametrize("fields", [
    {}, {"chksum_present": 1}, {"key_present": 1, "key": 7}, {"seqnum_present": 1, "sequence_number": 9},
    {"chksum_present": 1, "key_present": 1, "key": 7, "seqnum_present": 1, "sequence_number": 9},
], ids=["plain", "checksum", "key", "sequence", "all"])
def test_gre_options(replay, family, underlay, fields):
    tunnel = ("mpls-over-gre", underlay)
    inner = weft.ip(family, weft.behind(family, tunnel), weft.pod(family, "a")) / weft.transport("udp", family)
    run = replay({"fabric": [weft.remote(tunnel, inner, gre=fields)]})
    weft.same(run.only("a"), weft.delivered("a", inner))


@underlays
@pytest.mark.parametrize("fields, proto, reason", [
    ({"chksum_present": 1, "chksum": 0x1234}, 0x8847, "outer_checksum"),
    ({"version": 1}, 0x8847, "outer_header"), ({"routing_present": 1}, 0x8847, "outer_header"),
    ({"recursion_control": 1}, 0x8847, "outer_header"), ({}, 0x8848, "not_tunnel"), ({}, 0x0800, "not_tunnel"),
], ids=["checksum", "version", "routing", "recursion", "multicast", "ip"])
def test_gre_drops(replay, underlay, fields, proto, reason):
    tunnel = ("mpls-over-gre", underlay)
    inner = weft.ip(4, weft.behind(4, tunnel), weft.pod(4, "a")) / weft.transport("udp", 4)
    frame = weft.remote(tunnel, inner, gre=fields)
    frame[GRE].proto = proto
    run = replay({"fabric": [frame]})
    assert (run.sent, run.drops) == ({}, {reason: 1})


@underlays
def test_gre_cut(replay, underlay):
    # Every length of the packet, the outer header's length mended: one reason each, or the packet.
    tunnel = ("mpls-over-gre", underlay)
    inner = weft.ip(4, weft.behind(4, tunnel), weft.pod(4, "a")) / weft.transport("udp", 4)
    whole = weft.remote(tunnel, inner, gre={"key_present": 1, "key": 1})
    start = 14 + (20 if underlay == 4 else 40)
    tail = bytes(whole)[start:]
    reasons = collections.Counter()
    frames = []
    for count in range(len(tail)):
        header = weft.ip(underlay, weft.THERE[underlay], weft.HERE[underlay], **(
            {"proto": 47} if underlay == 4 else {"nh": 47}))
        frames.append(Ether(src=weft.NEXT_HOP, dst=weft.FABRIC) / header / tail[:count])
        reasons["outer_short" if count < 8 else "mpls_short" if count <= 12 else
                "ipv4_short" if count < 32 else "ipv4_length"] += 1
    run = replay({"fabric": frames})
    assert (run.sent, run.drops) == ({}, dict(reasons))


# Fragments of the outer packet


def fragmenting(tunnel, mtu):
    document = weft.tables(mtu=mtu, pod_mtu=9000)
    for nexthop in document["nexthops"]:
        if nexthop["id"] == weft.TUNNEL[tunnel]:
            nexthop["fragment"] = True
    return document


def whole(frames, underlay):
    """The outer packet that the fragments make."""
    packets = [Ether(frame).payload for frame in frames]
    if underlay == 6:
        return defragment6(packets)
    (packet,) = list(defragment(packets))
    return packet


@tunnels
@pytest.mark.parametrize("size", [1501, 3000, 8999])
def test_outer_fragments(replay, tunnel, size):
    inner = weft.ip(4, weft.pod(4, "a"), weft.behind(4, tunnel)) / weft.transport("udp", 4, bytes(range(256)) * 40)
    inner = IP(bytes(inner)[:size])
    inner.len = size
    inner[UDP].len = size - 20
    del inner.chksum, inner[UDP].chksum
    inner = IP(bytes(inner))
    run = replay({"a": [weft.routed("a", inner)]}, fragmenting(tunnel, 1500))
    frames = run.frames("fabric")
    assert len(frames) > 1 and max(map(len, frames)) <= 1514
    assert run.drops == {}
    for row in run.tshark("fabric", "ip.checksum.status", "ip.flags.df") if tunnel[1] == 4 else []:
        assert (row["ip.checksum.status"][0], row["ip.flags.df"][0]) == ("1", "0")
    packet = whole(frames, tunnel[1])
    # As a whole it is what the other end would take.
    packet = packet.__class__(bytes(packet))
    if tunnel[1] == 4:
        del packet.chksum
    back = Ether(src=weft.NEXT_HOP, dst=weft.FABRIC) / packet
    last = bytes(back)[-size:]
    assert last == bytes(weft.aged(inner))
    if tunnel[1] == 6 and tunnel[0] != "mpls-over-gre":
        assert packet[UDP].chksum not in (0, None)
        good = packet.copy()
        del good[UDP].chksum
        assert IPv6(bytes(good))[UDP].chksum == packet[UDP].chksum


@tunnels
def test_what_fits_is_not_fragmented(replay, tunnel):
    size = room(tunnel, 1500)
    inner = weft.ip(4, weft.pod(4, "a"), weft.behind(4, tunnel)) / weft.transport("udp", 4, b"x" * (size - 28))
    run = replay({"a": [weft.routed("a", inner)] * 2}, fragmenting(tunnel, 1500))
    frames = run.frames("fabric")
    assert [len(frame) for frame in frames] == [1514, 1514]
    if tunnel[1] == 4:
        first, second = (Ether(frame)[IP] for frame in frames)
        assert first.flags == second.flags == 0 and first.id != second.id
        assert all(row["ip.checksum.status"][0] == "1" for row in run.tshark("fabric", "ip.checksum.status"))


@tunnels
def test_not_fragmented_when_the_sender_can_be_told(replay, tunnel):
    four = weft.ip(4, weft.pod(4, "a"), weft.behind(4, tunnel), flags="DF") / weft.transport("udp", 4, b"x" * 1500)
    six = weft.ip(6, weft.pod(6, "a"), weft.behind(6, tunnel)) / weft.transport("udp", 6, b"x" * 1500)
    run = replay({"a": [weft.routed("a", four), weft.routed("a", six)]}, fragmenting(tunnel, 1500))
    assert run.drops == {"mtu_exceeded": 2}
    assert len(run.frames("a")) == 2 and "fabric" not in run.sent


@tunnels
def test_least_ipv6_packets_pass_a_narrow_underlay(replay, tunnel):
    inner = weft.ip(6, weft.pod(6, "a"), weft.behind(6, tunnel)) / weft.transport("udp", 6, b"x" * 1232)
    assert len(inner) == 1280
    run = replay({"a": [weft.routed("a", inner)]}, fragmenting(tunnel, 1280))
    assert run.drops == {} and len(run.frames("fabric")) == 2
    assert bytes(whole(run.frames("fabric"), tunnel[1]))[-1280:] == bytes(weft.aged(inner))


# The clamp


def syn(family, source, destination, options, flags="S", extra=()):
    return weft.ip(family, source, destination, ttl=9) / TCP(
        sport=1000, dport=80, flags=flags, seq=7, options=[*extra, *options])


def mss(packet):
    return dict(option for option in packet[TCP].options if option[0] == "MSS").get("MSS")


def checked(run, port):
    for row in run.tshark(port, "tcp.checksum.status"):
        assert row["tcp.checksum.status"] == ["1"]


@families
@tunnels
@pytest.mark.parametrize("flags", ["S", "SA", "SEC"])
def test_clamp_out(replay, tunnel, family, flags):
    limit = room(tunnel, 1500) - (40 if family == 4 else 60)
    for announced in (limit - 1, limit, limit + 1, 8960):
        packet = syn(family, weft.pod(family, "a"), weft.behind(family, tunnel), [("MSS", announced)], flags)
        document = flagged(weft.tables(mtu=1500, pod_mtu=9000), "a")
        run = replay({"a": [weft.routed("a", packet)]}, document)
        expected = weft.aged(packet)
        expected[TCP].options = [("MSS", min(announced, limit))]
        del expected[TCP].chksum
        assert run.only("fabric")[-len(expected):] == bytes(expected)
        checked(run, "fabric")


@families
@tunnels
def test_clamp_in(replay, tunnel, family):
    # The segments that the pod will send go through the tunnel.
    limit = room(tunnel, 1500) - (40 if family == 4 else 60)
    packet = syn(family, weft.behind(family, tunnel), weft.pod(family, "a"), [("MSS", 8960)], "S")
    document = flagged(weft.tables(mtu=1500, pod_mtu=9000), "a")
    run = replay({"fabric": [weft.remote(tunnel, packet)]}, document)
    assert mss(Ether(run.only("a"))) == limit
    checked(run, "a")


@families
def test_clamp_between_pods(replay, family):
    packet = syn(family, weft.pod(family, "a"), weft.pod(family, "b"), [("MSS", 8960)])
    for device in ("a", "b"):
        run = replay({"a": [weft.routed("a", packet)]}, flagged(weft.tables(), device))
        assert mss(Ether(run.only("b"))) == (1460 if family == 4 else 1440)
        checked(run, "b")


@families
@pytest.mark.parametrize("before", range(8))
def test_clamp_at_any_place(replay, family, before):
    # Also at an odd one, where the value lies across two words of the checksum.
    packet = syn(family, weft.pod(family, "a"), weft.pod(family, "b"),
                 [("MSS", 0xABCD), ("SAckOK", b""), ("WScale", 7)], extra=[("NOP", None)] * before)
    run = replay({"a": [weft.routed("a", packet)]}, flagged(weft.tables(), "a"))
    assert mss(Ether(run.only("b"))) == (1460 if family == 4 else 1440)
    checked(run, "b")


@pytest.mark.parametrize("options, flags, device", [
    ([("MSS", 8960)], "S", "c"), ([("MSS", 8960)], "A", "a"), ([("MSS", 1000)], "S", "a"), ([], "S", "a"),
    ([("EOL", None), ("MSS", 8960)], "S", "a"), ([(253, b"xx")], "S", "a"),
], ids=["no flag", "no SYN", "small", "none", "after the end", "another option"])
def test_not_clamped(replay, options, flags, device):
    packet = syn(4, weft.pod(4, "a"), weft.pod(4, "b"), options, flags)
    run = replay({"a": [weft.routed("a", packet)]}, flagged(weft.tables(), device))
    weft.same(run.only("b"), weft.delivered("b", packet))


@pytest.mark.parametrize("options", ["02", "0200", "0201ffff", "0203ff00", "0205ffff0000", "01010102", "fdff0000"])
def test_malformed_options(replay, options):
    # Passed on as they are.
    raw = bytes.fromhex(options).ljust(8, b"\0")
    packet = IP(bytes(IP(src=weft.pod(4, "a"), dst=weft.pod(4, "b")) / TCP(sport=1, dport=2, flags="S", dataofs=7)
                      / Raw(raw)))
    run = replay({"a": [weft.routed("a", packet)]}, flagged(weft.tables(), "a"))
    weft.same(run.only("b"), weft.delivered("b", packet))


# ECMP

FAR = {4: "10.50.0.9", 6: "fd32::9"}
ECMP = 40


def divided(family, members, underlay=4, **changes):
    """10.50.0.0/24 and fd32::/64 by several tunnels, to 192.0.2.101 and so on."""
    document = weft.tables()
    for number in range(1, 9):
        here, there = ("192.0.2.1", f"192.0.2.{100 + number}") if underlay == 4 else (
            weft.HERE[6], f"2001:db8::1:{number}")
        document["nexthops"].append({
            "id": 50 + number, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": here,
            "destination": there, "destination-mac": weft.NEXT_HOP} | changes.get(f"n{number}", {}))
    # Before its members: the order does not matter.
    document["nexthops"].insert(0, {"id": ECMP, "action": "ecmp", "members": members})
    document["routes"] += [{"vrf": 1, "prefix": "10.50.0.0/24", "nexthop": ECMP},
                           {"vrf": 1, "prefix": "fd32::/64", "nexthop": ECMP}]
    return document


def member(number, weight=None, label=None):
    entry = {"nexthop": 50 + number, "label": 1000 + number if label is None else label}
    return entry | ({} if weight is None else {"weight": weight})


def ways(run, underlay=4):
    """Which member each flow's packets took, by the inner source port."""
    taken = {}
    for frame in run.frames("fabric"):
        packet = Ether(frame)
        number = int(packet[IP].dst.split(".")[3]) - 100 if underlay == 4 else int(packet[IPv6].dst[-1])
        inner = packet[UDP].payload
        assert inner.vni == 1000 + number
        port = inner[UDP].sport
        assert taken.setdefault(port, number) == number, "a flow took two ways"
    return taken


def flows(family, count=400, times=1):
    return [weft.routed("a", weft.ip(family, weft.pod(family, "a"), FAR[family])
                        / weft.transport("udp", family, sport=10000 + flow)) for flow in range(count)] * times


@families
@underlays
def test_flows_are_divided(replay, family, underlay):
    document = divided(family, [member(number) for number in (1, 2, 3, 4)], underlay)
    run = replay({"a": flows(family, times=2)}, document)
    assert run.drops == {}
    taken = ways(run, underlay)
    counts = collections.Counter(taken.values())
    # 100 each; 60 is more than four standard deviations off.
    assert len(taken) == 400 and set(counts) == {1, 2, 3, 4} and min(counts.values()) > 60


@families
def test_a_member_moves_only_its_own_flows(replay, family):
    four = ways(replay({"a": flows(family)}, divided(family, [member(n) for n in (1, 2, 3, 4)])))
    # In another order, too.
    three = ways(replay({"a": flows(family)}, divided(family, [member(n) for n in (4, 1, 3)])))
    assert {port for port in four if four[port] != three[port]} == {port for port in four if four[port] == 2}
    five = ways(replay({"a": flows(family)}, divided(family, [member(n) for n in (1, 2, 3, 4, 5)])))
    assert {port for port in four if four[port] != five[port]} == {port for port in five if five[port] == 5}


def test_weights(replay):
    document = divided(4, [member(1, 1), member(2, 3), member(3, 4)])
    document["limits"]["flows"] = 16384
    counts = collections.Counter(ways(replay({"a": flows(4, 1600)}, document)).values())
    assert [abs(counts[number] / 1600 - share) < 0.05 for number, share in ((1, 0.125), (2, 0.375), (3, 0.5))] == [
        True] * 3


def test_an_unresolved_member_is_passed_over(replay):
    members = [member(n) for n in (1, 2, 3, 4)]
    before = ways(replay({"a": flows(4)}, divided(4, members)))
    document = divided(4, members)
    for nexthop in document["nexthops"]:
        if nexthop["id"] == 53:
            del nexthop["destination-mac"]
    run = replay({"a": flows(4)}, document)
    after = ways(run)
    assert run.drops == {}
    moved = {port for port in before if before[port] != after[port]}
    assert moved == {port for port in before if before[port] == 3}
    assert {after[port] for port in moved} == {1, 2, 4}
    for nexthop in document["nexthops"]:
        nexthop.pop("destination-mac", None) if 51 <= nexthop["id"] <= 58 else None
    run = replay({"a": flows(4, 3)}, document)
    assert (run.sent, run.drops) == ({}, {"nexthop_unresolved": 3})


@families
def test_local_members(replay, family):
    document = divided(family, [{"nexthop": weft.ENCAP["b"]}, member(1)])
    run = replay({"a": flows(family, 100)}, document)
    assert len(run.frames("b")) + len(run.frames("fabric")) == 100
    assert min(len(run.frames("b")), len(run.frames("fabric"))) > 20


def test_bridged(replay):
    document = divided(4, [member(1), member(2)])
    document["bridge"].append({"vrf": 1, "mac": "02:00:00:00:03:03", "nexthop": ECMP})
    frames = []
    for frame in flows(4, 60):
        frame.dst = "02:00:00:00:03:03"
        frames.append(frame)
    taken = ways(replay({"a": frames}, document))
    assert set(taken.values()) == {1, 2}


@pytest.mark.parametrize("members, path, reason", [
    ([], "$.nexthops[0].members", "1 to 64 members"),
    ([{"nexthop": 51}], "$.nexthops[0].members[0]", '"label" is missing'),
    ([{"nexthop": 1, "label": 100}], "$.nexthops[0].members[0].label", "not a tunnel"),
    ([{"nexthop": weft.RECEIVE}], "$.nexthops[0].members[0].nexthop", "neither a tunnel nor an encap"),
    ([{"nexthop": ECMP}], "$.nexthops[0].members[0].nexthop", "there is no nexthop 40"),
    ([{"nexthop": 99}], "$.nexthops[0].members[0].nexthop", "there is no nexthop 99"),
    ([member(1), member(1)], "$.nexthops[0].members[1].nexthop", "stands at $.nexthops[0].members[0] already"),
    ([member(1, weight=0)], "$.nexthops[0].members[0].weight", "not within 1 to 65535"),
    ([member(1, label=1 << 24)], "$.nexthops[0].members[0].label", "not within"),
    ([member(1)] * 65, "$.nexthops[0].members[1].nexthop", "already"),
])
def test_bad_members(replay, members, path, reason):
    run = replay({"a": []}, divided(4, members), expect_status=1)
    assert f"at {path} " in run.stderr and reason in run.stderr, run.stderr


def test_a_route_to_several_ways_has_no_label(replay):
    document = divided(4, [member(1)])
    document["routes"][-1]["label"] = 5
    run = replay({"a": []}, document, expect_status=1)
    assert "nexthop 40 is not a tunnel" in run.stderr
