"""Broadcast, multicast, unknown unicast: copies, and who gets none."""

import pytest
import weft
from scapy.contrib.igmp import IGMP
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6MLReport2, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr,
    IPv6, IPv6ExtHdrHopByHop, RouterAlert,
)
from scapy.layers.l2 import ARP, Ether

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
VXLAN4, VXLAN6 = ("vxlan", 4), ("vxlan", 6)
BROADCAST = "ff:ff:ff:ff:ff:ff"
FLOOD, GROUP, MACGROUP, NESTED = 60, 61, 62, 63
# Tunnels to other nodes, by the last octet of their address.
FAR = {70: 12, 71: 13, 72: 14}
GROUPS = {4: ("239.1.2.3", "01:00:5e:01:02:03"), 6: ("ff0e::1:203", "33:33:00:01:02:03")}


def tables(members=None, flags=(), groups=True, **vrf):
    """VRF 1 with a, b and e, tunnels to three nodes, a list for broadcasts and one for a group."""
    document = weft.tables()
    document["limits"]["nexthops"] = 128
    document["vrfs"][0] |= vrf | ({"flags": list(flags)} if flags else {})
    document["interfaces"].append({"id": 5, "role": "virtual", "port": "pcap", "device": "e",
                                   "mac": "02:00:00:00:01:05", "vrf": 1})
    document["nexthops"].append({"id": 5, "action": "encap", "interface": 5, "destination-mac": "02:00:00:00:01:05"})
    for number, last in FAR.items():
        document["nexthops"].append({
            "id": number, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": weft.HERE[4],
            "destination": f"192.0.2.{last}", "destination-mac": weft.NEXT_HOP})
    if members is None:
        members = [local(1), local(2), local(5), far(70), far(71)]
    document["nexthops"].append({"id": FLOOD, "action": "multicast", "members": members})
    document["bridge"].append({"vrf": 1, "mac": BROADCAST, "nexthop": FLOOD})
    if groups:
        document["nexthops"] += [{"id": GROUP, "action": "multicast", "members": [local(2), far(71)]},
                                 {"id": MACGROUP, "action": "multicast", "members": [local(5)]}]
        for family, width in ((4, 32), (6, 128)):
            document["routes"].append({"vrf": 1, "prefix": f"{GROUPS[family][0]}/{width}", "nexthop": GROUP})
        document["bridge"] += [{"vrf": 1, "mac": "01:00:5e:01:02:04", "nexthop": MACGROUP},
                               {"vrf": 1, "mac": "33:33:00:01:02:04", "nexthop": MACGROUP}]
    return document


def local(nexthop):
    return {"nexthop": nexthop}


def far(nexthop, label=100, group=None):
    return {"nexthop": nexthop, "label": label} | ({} if group is None else {"group": group})


def udp(family, destination, source=None, size=4, **fields):
    return weft.ip(family, source or weft.pod(family, "a"), destination, **fields) / UDP(
        sport=weft.SOURCE_PORT, dport=weft.DESTINATION_PORT) / (b"x" * size)


def counts(run):
    return {port: len(frames) for port, frames in run.sent.items()}


def inside(frame, tunnel=VXLAN4):
    """What a tunnel packet carries, and where it goes."""
    outer = IP(frame[14:]) if tunnel[1] == 4 else IPv6(frame[14:])
    return outer.dst, frame[50 if tunnel[1] == 4 else 70:]


def from_far(inner, last=12, label=100):
    return Ether(src=weft.NEXT_HOP, dst=weft.FABRIC) / IP(src=f"192.0.2.{last}", dst=weft.HERE[4]) / UDP(
        sport=0xC001, dport=4789, chksum=0) / weft.VXLAN(flags=8, vni=label) / inner


# --- who gets copies


def bums():
    a4, a6 = weft.pod(4, "a"), weft.pod(6, "a")
    mac = weft.MAC["a"]
    yield "IPv4 broadcast", Ether(src=mac, dst=BROADCAST) / udp(4, "255.255.255.255")
    yield "IPv4 subnet broadcast", Ether(src=mac, dst=BROADCAST) / udp(4, "10.1.0.255")
    yield "IPv4 multicast", Ether(src=mac, dst="01:00:5e:09:09:09") / udp(4, "239.9.9.9")
    yield "IPv6 multicast", Ether(src=mac, dst="33:33:00:09:09:09") / udp(6, "ff0e::9:909")
    yield "mDNS", Ether(src=mac, dst="01:00:5e:00:00:fb") / udp(4, "224.0.0.251", ttl=1)
    yield "mDNS over IPv6", Ether(src=mac, dst="33:33:00:00:00:fb") / udp(6, "ff02::fb", ttl=1)
    yield "a protocol of its own", Ether(src=mac, dst="01:00:5e:00:00:12") / weft.ip(
        4, a4, "224.0.0.18", proto=253, ttl=255) / b"weft"
    yield "DHCP", Ether(src=mac, dst=BROADCAST) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(
        sport=68, dport=67) / BOOTP(chaddr=b"\2\0\0\0\1\1") / DHCP(options=[("message-type", "discover"), "end"])
    yield "IGMP", Ether(src=mac, dst="01:00:5e:01:02:03") / IP(
        src=a4, dst="239.1.2.3", ttl=1, options=[IPOption_Router_Alert()]) / IGMP(type=0x16, gaddr="239.1.2.3")
    yield "MLD", Ether(src=mac, dst="33:33:00:00:00:16") / IPv6(src="fe80::1", dst="ff02::16", hlim=1) / \
        IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLReport2()
    yield "MLD before an address", Ether(src=mac, dst="33:33:00:00:00:16") / IPv6(src="::", dst="ff02::16", hlim=1) / \
        IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLReport2()
    yield "router solicitation", Ether(src=mac, dst="33:33:00:00:00:02") / IPv6(
        src="fe80::1", dst="ff02::2", hlim=255) / ICMPv6ND_RS()
    yield "router advertisement", Ether(src=mac, dst="33:33:00:00:00:01") / IPv6(
        src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6ND_RA()
    yield "unsolicited advertisement", Ether(src=mac, dst="33:33:00:00:00:01") / IPv6(
        src=a6, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=a6, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    yield "duplicate address detection", Ether(src=mac, dst="33:33:ff:00:00:01") / IPv6(
        src="::", dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=a6)
    yield "solicitation for an unknown address", Ether(src=mac, dst="33:33:ff:00:00:77") / IPv6(
        src=a6, dst="ff02::1:ff00:77", hlim=255) / ICMPv6ND_NS(tgt="2001:db8:5::77") / ICMPv6NDOptSrcLLAddr(lladdr=mac)
    yield "ARP for an unknown address", Ether(src=mac, dst=BROADCAST) / ARP(hwsrc=mac, psrc=a4, pdst="203.0.113.7")
    yield "ARP announcement", Ether(src=mac, dst=BROADCAST) / ARP(hwsrc=mac, psrc=a4, pdst=a4)
    yield "ARP probe for its own address", Ether(src=mac, dst=BROADCAST) / ARP(hwsrc=mac, psrc="0.0.0.0", pdst=a4)
    yield "ARP answer to all", Ether(src=mac, dst=BROADCAST) / ARP(op=2, hwsrc=mac, psrc=a4, hwdst=BROADCAST, pdst=a4)


@pytest.mark.parametrize("frame", [pytest.param(f, id=i) for i, f in bums()])
def test_to_all(replay, frame):
    # Copies byte for byte, to each pod but the sender, and to each node.
    run = replay({"a": [frame]}, tables())
    assert counts(run) == {"b": 1, "e": 1, "fabric": 2}
    weft.same(run.frames("b")[0], frame)
    weft.same(run.frames("e")[0], frame)
    assert [(to, data) for to, data in map(inside, run.frames("fabric"))] == [
        ("192.0.2.12", bytes(frame)), ("192.0.2.13", bytes(frame))]
    rows = run.tshark("fabric", "vxlan.vni", "ip.checksum.status")
    assert [row["vxlan.vni"] for row in rows] == [["100"], ["100"]]
    assert all("0" not in row["ip.checksum.status"] for row in rows)
    assert (run.drops, run.report["flows"], run.report["made"]) == ({}, [], 3)


# A probe for a's address is one for somebody else's there, and answered.
@pytest.mark.parametrize("frame", [pytest.param(f, id=i) for i, f in bums() if i != "ARP probe for its own address"])
def test_from_another_node(replay, frame):
    # To each pod, and to no other node: they have had theirs from the first one.
    frame = frame.copy()
    frame.src = weft.REMOTE_POD
    run = replay({"fabric": [from_far(frame)]}, tables())
    assert counts(run) == {"a": 1, "b": 1, "e": 1}
    for port in "abe":
        weft.same(run.frames(port)[0], frame)


@pytest.mark.parametrize("frame", [pytest.param(f, id=i) for i, f in bums()])
def test_without_a_list(replay, frame):
    # As it has always been.
    run = replay({"a": [frame]}, weft.tables())
    assert run.sent == {}
    assert set(run.drops) <= {"multicast", "arp_unknown", "nd_unknown"} and sum(run.drops.values()) == 1


def test_other_vrfs_get_none(replay):
    frame = Ether(src=weft.MAC["c"], dst=BROADCAST) / udp(4, "255.255.255.255", weft.pod(4, "c"))
    run = replay({"c": [frame]}, tables())
    assert (run.sent, run.drops) == ({}, {"multicast": 1})


def test_nobody_else(replay):
    frame = Ether(src=weft.MAC["a"], dst=BROADCAST) / udp(4, "255.255.255.255")
    for members in ([], [local(1)]):
        run = replay({"a": [frame]}, tables(members, groups=False))
        assert (run.sent, run.drops) == ({}, {"flood_empty": 1})


def test_groups_of_the_link_go_no_further(replay):
    # IEEE 802.1Q clause 8.6.3, whatever is inside.
    frame = Ether(src=weft.MAC["a"], dst="01:80:c2:00:00:0e") / udp(4, "239.1.1.1")
    assert replay({"a": [frame]}, tables()).drops == {"multicast": 1}


def test_group_address_without_group_mac(replay):
    for mac in (weft.ROUTER, weft.MAC["b"]):
        frame = Ether(src=weft.MAC["a"], dst=mac) / udp(4, "239.1.1.1")
        assert replay({"a": [frame]}, tables()).drops == {"multicast": 1}


@pytest.mark.parametrize("frame, reason", [
    (Ether(src=weft.MAC["a"], dst=BROADCAST) / udp(4, "255.255.255.255", "127.0.0.1"), "source_invalid"),
    (Ether(src=weft.MAC["a"], dst=BROADCAST) / udp(4, "255.255.255.255", "239.1.1.1"), "source_invalid"),
    (Ether(src=weft.MAC["a"], dst="33:33:00:00:00:01") / udp(6, "ff02::1", "::1"), "source_invalid"),
    (Ether(src=weft.MAC["a"], dst="33:33:00:00:00:01") / udp(6, "ff02::1", "ff02::5"), "source_invalid"),
    (Ether(src=weft.MAC["a"], dst=BROADCAST) / udp(4, "255.255.255.255", chksum=1), "ipv4_checksum"),
    (Ether(src=weft.MAC["a"], dst=BROADCAST) / UDP(), "ethertype_unknown"),
    (Ether(src=weft.MAC["a"], dst=BROADCAST) / ARP(hwtype=6, pdst="10.1.0.9"), "arp_malformed"),
    (Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:77") / IPv6(
        src=weft.pod(6, "a"), dst="ff02::1:ff00:77", hlim=64) / ICMPv6ND_NS(tgt="2001:db8:5::77"), "nd_malformed"),
])
def test_what_is_wrong_is_not_copied(replay, frame, reason):
    run = replay({"a": [frame]}, tables())
    assert (run.sent, run.drops) == ({}, {reason: 1})


# --- groups


@families
def test_group_by_address(replay, family):
    address, mac = GROUPS[family]
    frame = Ether(src=weft.MAC["a"], dst=mac) / udp(family, address, ttl=1)
    run = replay({"a": [frame]}, tables())
    assert counts(run) == {"b": 1, "fabric": 1}
    weft.same(run.frames("b")[0], frame)
    assert inside(run.frames("fabric")[0]) == ("192.0.2.13", bytes(frame))


@families
def test_group_by_mac(replay, family):
    address, mac = ("239.1.2.4", "01:00:5e:01:02:04") if family == 4 else ("ff0e::1:204", "33:33:00:01:02:04")
    frame = Ether(src=weft.MAC["a"], dst=mac) / udp(family, address)
    run = replay({"a": [frame]}, tables())
    weft.same(run.only("e"), frame)


@families
def test_address_before_mac(replay, family):
    # Two groups with one MAC address: the address tells them apart.
    document = tables()
    address, mac = GROUPS[family]
    document["bridge"].append({"vrf": 1, "mac": mac, "nexthop": MACGROUP})
    other = "238.129.2.3" if family == 4 else "ff0e::2:1:203"
    frames = [Ether(src=weft.MAC["a"], dst=mac) / udp(family, group) for group in (address, other)]
    run = replay({"a": frames}, document)
    assert counts(run) == {"b": 1, "e": 1, "fabric": 1}
    weft.same(run.frames("b")[0], frames[0])
    weft.same(run.frames("e")[0], frames[1])


@families
def test_a_default_route_is_no_group(replay, family):
    document = tables()
    document["routes"].append({"vrf": 1, "prefix": "0.0.0.0/0" if family == 4 else "::/0", "nexthop": weft.ENCAP["b"]})
    group, mac = ("239.9.9.9", "01:00:5e:09:09:09") if family == 4 else ("ff0e::9", "33:33:00:00:00:09")
    run = replay({"a": [Ether(src=weft.MAC["a"], dst=mac) / udp(family, group)]}, document)
    assert counts(run) == {"b": 1, "e": 1, "fabric": 2}


@families
def test_group_discarded(replay, family):
    document = tables()
    mac = "01:00:5e:09:09:09" if family == 4 else "33:33:00:09:09:09"
    document["bridge"].append({"vrf": 1, "mac": mac, "nexthop": weft.DISCARD})
    frame = Ether(src=weft.MAC["a"], dst=mac) / udp(family, "239.9.9.9" if family == 4 else "ff0e::9:909")
    assert replay({"a": [frame]}, document).drops == {"discard_nexthop": 1}


def test_floods_are_policed_where_they_come_in(replay):
    document = tables()
    next(entry for entry in document["interfaces"] if entry["device"] == "a")["ingress-policer"] = 1
    document["policers"] = [{"id": 1, "unit": "packets", "rate": 1, "burst": 3}]
    run = replay({"a": [broadcast() for _ in range(10)]}, document)
    assert counts(run) == {"b": 3, "e": 3, "fabric": 6}
    assert run.drops == {"policed": 7}


# --- split horizon


def broadcast(mac=weft.MAC["a"], source=None):
    return Ether(src=mac, dst=BROADCAST) / udp(4, "255.255.255.255", source or weft.pod(4, "a"))


def test_a_tree_of_nodes(replay):
    # Groups 1 and 2: what comes from a node of one goes on to those of the other (edge replication).
    document = tables([local(1), far(70, group=1), far(71, group=2), far(72, group=2)], groups=False)
    for last, others in ((12, ["192.0.2.13", "192.0.2.14"]), (13, ["192.0.2.12"]), (14, ["192.0.2.12"])):
        run = replay({"fabric": [from_far(broadcast(weft.REMOTE_POD), last)]}, document)
        assert counts(run) == {"a": 1, "fabric": len(others)}
        assert [inside(frame)[0] for frame in run.frames("fabric")] == others


def test_never_back_to_the_node_it_came_from(replay):
    # Two tunnels to one node, in two groups.
    document = tables([local(1), far(70, group=1), far(70, label=200, group=2), far(71, group=2)], groups=False)
    run = replay({"fabric": [from_far(broadcast(weft.REMOTE_POD), 12)]}, document)
    assert [inside(frame)[0] for frame in run.frames("fabric")] == ["192.0.2.13"]


def test_a_node_without_a_tunnel_is_of_group_0(replay):
    document = tables([local(1), far(70), far(71, group=3)], groups=False)
    run = replay({"fabric": [from_far(broadcast(weft.REMOTE_POD), 99)]}, document)
    assert [inside(frame)[0] for frame in run.frames("fabric")] == ["192.0.2.13"]


def test_lists_in_lists(replay):
    document = tables([local(1), local(NESTED)], groups=False)
    # In the file the inner ones stand after the outer one.
    document["nexthops"] += [
        {"id": NESTED, "action": "multicast", "members": [local(2), local(64)]},
        {"id": 64, "action": "multicast", "members": [local(65), far(70, group=1)]},
        {"id": 65, "action": "multicast", "members": [local(5), far(71, label=7)]}]
    run = replay({"a": [broadcast()]}, document)
    assert counts(run) == {"b": 1, "e": 1, "fabric": 2}
    assert sorted(row["vxlan.vni"][0] for row in run.tshark("fabric", "vxlan.vni")) == ["100", "7"]
    # From a node that stands deep inside: of group 1, so to the other.
    run = replay({"fabric": [from_far(broadcast(weft.REMOTE_POD), 12)]}, document)
    assert counts(run) == {"a": 1, "b": 1, "e": 1, "fabric": 1}


# --- tunnels of every kind


@families
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda t: f"{t[0]}-over-ipv{t[1]}")
def test_every_tunnel(replay, family, tunnel):
    group, mac = ("239.9.9.9", "01:00:5e:09:09:09") if family == 4 else ("ff0e::9", "33:33:00:00:00:09")
    frame = Ether(src=weft.MAC["a"], dst=mac) / udp(family, group, size=100)
    run = replay({"a": [frame]}, tables([far(weft.TUNNEL[tunnel], 300)], groups=False))
    got = run.only("fabric")
    start = 14 + (20 if tunnel[1] == 4 else 40) + {"vxlan": 16, "mpls-over-udp": 12, "mpls-over-gre": 8}[tunnel[0]]
    # MPLS carries the Ethernet frame: an L2 label.
    weft.same(got[start:], frame)
    field = "vxlan.vni" if tunnel[0] == "vxlan" else "mpls.label"
    row = run.tshark("fabric", field, "udp.checksum.status", "ip.checksum.status", "eth.dst",
                     decode=["mpls.label==300,pwethnocw"])[0]
    assert (row[field], row["eth.dst"]) == (["300"], [weft.NEXT_HOP, mac])
    assert "0" not in row["udp.checksum.status"] + row["ip.checksum.status"]
    # The other end, to which the label is one of a bridge.
    if tunnel[0] != "vxlan":
        document = tables([local(2)], groups=False)
        document["nexthops"].append({"id": 66, "action": "l2-receive", "vrf": 1})
        document["labels"].append({"label": 300, "nexthop": 66})
        inner = frame.copy()
        inner.src = weft.REMOTE_POD
        weft.same(replay({"fabric": [weft.tunneled(tunnel, inner, label=300)]}, document).only("b"), inner)


@families
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda t: f"{t[0]}-over-ipv{t[1]}")
def test_tunnels_mtu(replay, family, tunnel):
    # What just fits each way, and one byte more: that copy is dropped, the others go.
    group, mac = ("239.9.9.9", "01:00:5e:09:09:09") if family == 4 else ("ff0e::9", "33:33:00:00:00:09")
    room = 1200 - (20 if tunnel[1] == 4 else 40) - {"vxlan": 30, "mpls-over-udp": 26, "mpls-over-gre": 22}[tunnel[0]]
    size = room - (28 if family == 4 else 48)
    for more, sent, drops in ((0, {"b": 1, "fabric": 1}, {}), (1, {"b": 1}, {"mtu_exceeded": 1})):
        document = weft.tables(mtu=1200)
        document["nexthops"].append({"id": FLOOD, "action": "multicast", "members": [
            far(weft.TUNNEL[tunnel], 300), local(2)]})
        document["bridge"].append({"vrf": 1, "mac": BROADCAST, "nexthop": FLOOD})
        run = replay({"a": [Ether(src=weft.MAC["a"], dst=mac) / udp(family, group, size=size + more)]}, document)
        assert (counts(run), run.drops) == (sent, drops)


def test_copies_that_cannot_go(replay):
    # Each for its own reason; the others go.
    document = tables([local(2), far(weft.UNRESOLVED), far(70)], groups=False)
    document["interfaces"][2]["mtu"] = 68
    run = replay({"a": [Ether(src=weft.MAC["a"], dst=BROADCAST) / udp(4, "255.255.255.255", size=100)]}, document)
    assert (counts(run), run.drops) == ({"fabric": 1}, {"mtu_exceeded": 1, "nexthop_unresolved": 1})


def test_too_many_copies(replay):
    # More than a packet may become: none is made.
    members = [far(70, label=n) for n in range(1, 65)]
    lists = [{"id": 80 + n, "action": "multicast", "members": [far(71, label=n * 64 + m) for m in range(1, 65)]}
             for n in range(33)]
    document = tables(members, groups=False)
    document["nexthops"] += lists
    frame = broadcast()
    run = replay({"a": [frame]}, document)
    assert counts(run) == {"fabric": 64}
    document["nexthops"] = [n | {"members": [local(80 + m) for m in range(33)]} if n["id"] == FLOOD else n
                            for n in document["nexthops"]]
    run = replay({"a": [frame]}, document)
    assert (run.sent, run.drops) == ({}, {"replication_full": 1})
    # In one batch what fits goes, what does not is dropped whole, each copy counted.
    document["nexthops"] = [n | {"members": [local(80 + m) for m in range(30)]} if n["id"] == FLOOD else n
                            for n in document["nexthops"]]
    run = replay({"a": [frame] * 32}, document)
    sent = len(run.frames("fabric"))
    assert sent % 1920 == 0 and 0 < sent < 32 * 1920
    assert run.drops == {"replication_full": 32 * 1920 - sent}


# --- unknown unicast


@families
def test_unknown_unicast(replay, family):
    frame = Ether(src=weft.MAC["a"], dst="02:00:00:00:09:09") / weft.ip(
        family, weft.pod(family, "a"), weft.pod(family, "b")) / weft.transport("udp", family)
    assert replay({"a": [frame]}, tables()).drops == {"unknown_mac": 1}
    run = replay({"a": [frame]}, tables(flags=["flood-unknown"]))
    assert counts(run) == {"b": 1, "e": 1, "fabric": 2}
    weft.same(run.frames("b")[0], frame)
    assert run.report["flows"] == []
    # Not what is known, and not from node to node.
    known = Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / frame.payload
    weft.same(replay({"a": [known]}, tables(flags=["flood-unknown"])).only("b"), known)
    run = replay({"fabric": [from_far(frame)]}, tables(flags=["flood-unknown"]))
    assert counts(run) == {"a": 1, "b": 1, "e": 1}


def test_unknown_unicast_arp(replay):
    frame = Ether(src=weft.MAC["a"], dst="02:00:00:00:09:09") / ARP(
        op=2, hwsrc=weft.MAC["a"], psrc=weft.pod(4, "a"), pdst="10.1.0.9")
    assert counts(replay({"a": [frame]}, tables(flags=["flood-unknown"]))) == {"b": 1, "e": 1, "fabric": 2}


def test_unknown_unicast_without_a_list(replay):
    document = tables(flags=["flood-unknown"])
    document["bridge"] = [entry for entry in document["bridge"] if entry["mac"] != BROADCAST]
    frame = Ether(src=weft.MAC["a"], dst="02:00:00:00:09:09") / udp(4, weft.pod(4, "b"))
    assert replay({"a": [frame]}, document).drops == {"unknown_mac": 1}


# --- flags of interfaces


def test_flags(replay):
    document = tables()
    for interface in document["interfaces"]:
        if interface["device"] == "e":
            interface["flags"] = ["routing"]
    run = replay({"a": [broadcast()]}, document)
    assert (counts(run), run.drops) == ({"b": 1, "fabric": 2}, {})
    run = replay({"e": [broadcast("02:00:00:00:01:05", "10.1.0.5")]}, document)
    assert (run.sent, run.drops) == ({}, {"bridging_off": 1})


@families
def test_anti_spoofing(replay, family):
    document = tables()
    document["interfaces"][1]["flags"] = ["bridging", "routing", "anti-spoofing"]
    group, mac = ("239.9.9.9", "01:00:5e:09:09:09") if family == 4 else ("ff0e::9", "33:33:00:00:00:09")
    good = Ether(src=weft.MAC["a"], dst=mac) / udp(family, group)
    bad = Ether(src=weft.MAC["a"], dst=mac) / udp(family, group, weft.pod(family, "b"))
    other = Ether(src=weft.MAC["b"], dst=mac) / udp(family, group)
    run = replay({"a": [good, bad, other]}, document)
    assert (counts(run), run.drops) == ({"b": 1, "e": 1, "fabric": 2}, {"spoofed_address": 1, "spoofed_mac": 1})


def test_anti_spoofing_lets_those_without_an_address_ask(replay):
    document = tables()
    document["interfaces"][1]["flags"] = ["bridging", "routing", "anti-spoofing"]
    frames = [f for i, f in bums() if i in ("DHCP", "MLD before an address", "duplicate address detection",
                                            "ARP probe for its own address", "ARP announcement")]
    run = replay({"a": frames}, document)
    assert (len(run.frames("b")), run.drops) == (5, {})


# --- VLANs


def test_copies_into_vlans(replay):
    document = tables([local(1), local(2), local(7), local(8)], groups=False)
    for number, keys in ((7, {"vlan": 5}), (8, {"vlan": 5, "inner-vlan": 6})):
        document["interfaces"].append({"id": number, "role": "virtual", "port": "vlan", "parent": 1, "vrf": 1,
                                       "device": f"v{number}", "mac": f"02:00:00:00:04:0{number}", **keys})
        document["nexthops"].append({"id": number, "action": "encap", "interface": number,
                                     "destination-mac": f"02:00:00:00:04:0{number}"})
    frame = bytes(broadcast("02:00:00:00:04:07", "10.1.0.7"))
    run = replay({"a": [frame[:12] + b"\x81\0\0\5" + frame[12:]]}, document)
    assert counts(run) == {"a": 2, "b": 1}
    weft.same(run.frames("b")[0], frame)
    assert sorted(run.frames("a")) == sorted([frame, frame[:12] + b"\x88\xa8\0\5\x81\0\0\6" + frame[12:]])


# --- tables


def test_refused(replay):
    def with_member(**member):
        return tables([local(1), member], groups=False)
    several = weft.changed(tables(groups=False), "nexthops", -1, "members", to=[local(1)] * 2)
    for document, path, reason in (
            (with_member(nexthop=weft.RECEIVE), "members[1].nexthop", "no encap, tunnel or multicast"),
            (with_member(nexthop=99), "members[1].nexthop", "no nexthop 99"),
            (with_member(nexthop=2, label=1), "members[1].label", "not a tunnel"),
            (with_member(nexthop=2, group=1), "members[1].group", "not a tunnel"),
            (with_member(nexthop=70), "members[1]", '"label" is missing'),
            (with_member(nexthop=70, label=1 << 24), "members[1].label", "not within"),
            (with_member(nexthop=70, label=1, group=65536), "members[1].group", "not within"),
            (several, "members[1].nexthop", "already"),
            (with_member(nexthop=FLOOD), "members[1].nexthop", "no nexthop 60"),
            (tables([far(70, label=n) for n in range(1, 66)], groups=False), "members", "up to 64")):
        run = replay({"a": []}, document, expect_status=1)
        place = [n["id"] for n in document["nexthops"]].index(FLOOD)
        assert f"at $.nexthops[{place}].{path} " in run.stderr and reason in run.stderr, run.stderr
    for row, table, key, reason in (
            ({"vrf": 1, "mac": BROADCAST, "nexthop": 1}, "bridge", ".mac", "a group address"),
            ({"vrf": 1, "mac": "02:00:00:00:07:07", "nexthop": FLOOD}, "bridge", ".mac", "one station's"),
            ({"vrf": 1, "prefix": "10.9.0.0/24", "nexthop": FLOOD}, "routes", "", "only one group's address"),
            ({"vrf": 1, "prefix": "239.0.0.0/8", "nexthop": FLOOD}, "routes", "", "only one group's address")):
        document = tables(groups=False)
        document["bridge"] = [entry for entry in document["bridge"] if entry["mac"] != BROADCAST]
        document[table].append(row)
        run = replay({"a": []}, document, expect_status=1)
        assert f"at $.{table}[{len(document[table]) - 1}]{key}" in run.stderr and reason in run.stderr, run.stderr


def test_lists_too_deep(replay):
    document = tables([local(81)], groups=False)
    document["nexthops"] += [{"id": 80 + n, "action": "multicast", "members": [local(81 + n) if n < 4 else local(2)]}
                             for n in range(1, 5)]
    assert "more than 4 deep" in replay({"a": []}, document, expect_status=1).stderr
