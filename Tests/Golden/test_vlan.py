"""Interfaces of VLANs (IEEE 802.1Q, 802.1ad): tagged frames of another interface's port."""

import pytest
import weft
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
VXLAN4 = ("vxlan", 4)
PARENT, FABRIC = 1, 0
# Interfaces of VLANs: id, device, MAC, and the tags of its frames as scapy writes them.
SINGLE, DOUBLE, SERVICE, OLD = 10, 11, 12, 13
STATION = {number: f"02:00:00:00:03:{number:02x}" for number in (SINGLE, DOUBLE, SERVICE, OLD)}
TAGS = {
    SINGLE: [(0x8100, 100)],
    DOUBLE: [(0x88A8, 100), (0x8100, 7)],
    SERVICE: [(0x88A8, 100)],
    OLD: [(0x9100, 100), (0x8100, 7)],
}


def address(family, number):
    return f"10.3.0.{number}" if family == 4 else f"fd03::{number:x}"


def tables(parent=PARENT, **more):
    """With interfaces of VLANs on a's port, or the fabric's, in VRF 2, each with a station behind it."""
    document = weft.tables()
    for number in TAGS:
        keys = {SINGLE: {"vlan": 100}, DOUBLE: {"vlan": 100, "inner-vlan": 7}, SERVICE: {"vlan": 100, "tpid": "0x88a8"},
                OLD: {"vlan": 100, "inner-vlan": 7, "tpid": "0x9100"}}[number]
        document["interfaces"].append({
            "id": number - 5, "role": "virtual", "port": "vlan", "parent": parent, "device": f"v{number}",
            "mac": STATION[number], "vrf": 2, **keys, **more})
        document["nexthops"].append({"id": 40 + number, "action": "encap", "interface": number - 5,
                                     "destination-mac": STATION[number]})
        for family, width in ((4, 32), (6, 128)):
            document["routes"].append({"vrf": 2, "prefix": f"{address(family, number)}/{width}",
                                       "nexthop": 40 + number})
        document["bridge"].append({"vrf": 2, "mac": STATION[number], "nexthop": 40 + number})
    document["limits"]["interfaces"] = 32
    document["limits"]["nexthops"] = 128
    return document


def tagged(frame, number, prio=0, tags=None):
    """A frame with an interface's tags behind the MAC addresses."""
    data = bytes(frame)
    middle = b""
    for proto, vlan in TAGS[number] if tags is None else tags:
        middle += proto.to_bytes(2, "big") + (prio << 13 | vlan).to_bytes(2, "big")
    return data[:12] + middle + data[12:]


def packet(family, source, destination, kind="udp", **fields):
    return weft.ip(family, source, destination) / weft.transport(kind, family, **fields)


numbers = pytest.mark.parametrize("number", TAGS, ids=["802.1Q", "QinQ", "802.1ad", "9100"])
ports = pytest.mark.parametrize("port", ["a", "fabric"], ids=["on-a-pod", "on-the-fabric"])


def on(port):
    return tables(PARENT if port == "a" else FABRIC)


@families
@numbers
@ports
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
def test_in(replay, family, number, port, kind):
    # To a pod of the same VRF.
    inner = packet(family, address(family, number), weft.pod(family, "d"), kind)
    frame = tagged(Ether(src=STATION[number], dst=weft.ROUTER) / inner, number, prio=5)
    run = replay({port: [frame]}, on(port))
    weft.same(run.only("d"), weft.delivered("d", inner))
    counters = run.report["ports"]
    assert (counters[f"v{number}"]["rx-packets"], counters[port]["rx-packets"]) == (1, 0)
    assert counters[f"v{number}"]["rx-bytes"] == len(frame) - 4 * len(TAGS[number])


@families
@numbers
@ports
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
def test_out(replay, family, number, port, kind):
    inner = packet(family, weft.pod(family, "d"), address(family, number), kind)
    run = replay({"d": [weft.routed("d", inner)]}, on(port))
    frame = run.only(port)
    weft.same(frame, tagged(Ether(src=weft.ROUTER, dst=STATION[number]) / weft.aged(inner), number))
    row = run.tshark(port, "vlan.id", "ieee8021ad.id", "ip.checksum.status", "udp.checksum.status",
                     "tcp.checksum.status")[0]
    if number in (SINGLE, DOUBLE):
        assert row["vlan.id"] == (["100"] if number == SINGLE else ["7"])
        assert row["ieee8021ad.id"] == ([] if number == SINGLE else ["100"])
    for name in ("ip", "udp", "tcp"):
        assert row[f"{name}.checksum.status"] in ([], ["1"])
    counters = run.report["ports"]
    assert (counters[f"v{number}"]["tx-packets"], counters[port]["tx-packets"]) == (1, 0)


@families
@numbers
def test_bridged(replay, family, number):
    inner = packet(family, address(family, number), weft.pod(family, "d"))
    frame = Ether(src=STATION[number], dst=weft.MAC["d"]) / inner
    weft.same(replay({"a": [tagged(frame, number)]}, tables()).only("d"), frame)
    back = Ether(src=weft.MAC["d"], dst=STATION[number]) / packet(
        family, weft.pod(family, "d"), address(family, number))
    weft.same(replay({"d": [back]}, tables()).only("a"), tagged(back, number))


@families
def test_from_one_vlan_to_another(replay, family):
    # Out of the port that it came in by: no loop, they are two interfaces.
    inner = packet(family, address(family, SINGLE), address(family, DOUBLE))
    run = replay({"a": [tagged(Ether(src=STATION[SINGLE], dst=weft.ROUTER) / inner, SINGLE)]}, tables())
    weft.same(run.only("a"), tagged(Ether(src=weft.ROUTER, dst=STATION[DOUBLE]) / weft.aged(inner), DOUBLE))


@families
@numbers
def test_between_a_vlan_and_a_tunnel(replay, family, number):
    out = packet(family, address(family, number), weft.behind(family, VXLAN4))
    back = packet(family, weft.behind(family, VXLAN4), address(family, number))
    run = replay({"fabric": [(1, tagged(Ether(src=STATION[number], dst=weft.ROUTER) / out, number)),
                             (2, weft.remote(VXLAN4, back, label=200))]}, on("fabric"))
    frames = run.frames("fabric")
    assert len(frames) == 2
    weft.same(frames[0][50:], Ether(src=weft.ROUTER, dst=weft.REMOTE_ROUTER) / weft.aged(out))
    weft.same(frames[1], tagged(Ether(src=weft.ROUTER, dst=STATION[number]) / weft.aged(back), number))


def test_answers_have_tags(replay):
    ask = Ether(src=STATION[DOUBLE], dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=STATION[DOUBLE], psrc=address(4, DOUBLE), pdst=weft.GATEWAY[4])
    run = replay({"a": [tagged(ask, DOUBLE)]}, tables())
    weft.same(run.only("a"), tagged(Ether(src=weft.ROUTER, dst=STATION[DOUBLE]) / ARP(
        op=2, hwsrc=weft.ROUTER, psrc=weft.GATEWAY[4], hwdst=STATION[DOUBLE], pdst=address(4, DOUBLE)), DOUBLE))
    ask = Ether(src=STATION[SINGLE], dst="33:33:ff:00:00:fe") / IPv6(
        src=address(6, SINGLE), dst="ff02::1:ff00:fe", hlim=255) / ICMPv6ND_NS(
            tgt=weft.GATEWAY[6]) / ICMPv6NDOptSrcLLAddr(lladdr=STATION[SINGLE])
    frame = replay({"a": [tagged(ask, SINGLE)]}, tables()).only("a")
    assert (Ether(frame)[Dot1Q].vlan, Ether(frame)[ICMPv6ND_NA].tgt) == (100, weft.GATEWAY[6])
    # An ICMP error: TTL.
    inner = weft.ip(4, address(4, SINGLE), weft.pod(4, "d"), ttl=1) / weft.transport("udp", 4)
    frame = replay({"a": [tagged(Ether(src=STATION[SINGLE], dst=weft.ROUTER) / inner, SINGLE)]}, tables()).only("a")
    assert (Ether(frame)[Dot1Q].vlan, Ether(frame).dst) == (100, STATION[SINGLE])
    assert frame[18 + 20] == 11


@families
def test_the_parents_frames(replay, family):
    # Without a tag, and with a priority alone.
    inner = packet(family, weft.pod(family, "a"), weft.pod(family, "b"))
    frame = weft.routed("a", inner)
    frames = [frame, tagged(frame, None, prio=3, tags=[(0x8100, 0)]),
              tagged(frame, None, prio=3, tags=[(0x88A8, 0), (0x8100, 0)])]
    run = replay({"a": frames}, tables())
    got = run.frames("b")
    assert len(got) == 3
    for one in got:
        weft.same(one, weft.delivered("b", inner))
    assert run.report["ports"]["a"]["rx-packets"] == 3


@families
def test_inner_priority_tag(replay, family):
    # QinQ whose inner tag is a priority: the outer VLAN's.
    inner = packet(family, address(family, SERVICE), weft.pod(family, "d"))
    frame = tagged(Ether(src=STATION[SERVICE], dst=weft.ROUTER) / inner, None, tags=[(0x88A8, 100), (0x8100, 0)])
    weft.same(replay({"a": [frame]}, tables()).only("d"), weft.delivered("d", inner))


def drops():
    inner = packet(4, address(4, SINGLE), weft.pod(4, "d"))
    frame = Ether(src=STATION[SINGLE], dst=weft.ROUTER) / inner

    def with_tags(*tags):
        return tagged(frame, None, tags=tags)
    yield "another VLAN", with_tags((0x8100, 101)), "vlan_unknown"
    yield "VLAN 4095", with_tags((0x8100, 4095)), "vlan_unknown"
    yield "another type", with_tags((0x9100, 100)), "vlan_unknown"
    yield "another outer VLAN", with_tags((0x88A8, 101), (0x8100, 7)), "vlan_unknown"
    # Of the outer VLAN alone, whose packets have no second tag.
    yield "another inner VLAN", with_tags((0x88A8, 100), (0x8100, 8)), "vlan_unexpected"
    yield "second tag of one", with_tags((0x8100, 100), (0x8100, 7)), "vlan_unexpected"
    yield "three tags", with_tags((0x88A8, 100), (0x8100, 7), (0x8100, 9)), "vlan_unexpected"
    yield "priority, then another VLAN", with_tags((0x8100, 0), (0x8100, 101)), "vlan_unknown"
    yield "cut in the tag", with_tags((0x8100, 100))[:16], "short_frame"
    yield "cut in the second tag", with_tags((0x88A8, 100), (0x8100, 7))[:20], "vlan_unexpected"


@pytest.mark.parametrize("frame, reason", [pytest.param(f, r, id=i) for i, f, r in drops()])
@ports
def test_drops(replay, frame, reason, port):
    run = replay({port: [frame]}, on(port))
    assert (run.sent, run.drops) == ({}, {reason: 1})


def test_every_length(replay):
    # Cut anywhere: dropped, and never the end of the program.
    whole = tagged(Ether(src=STATION[DOUBLE], dst=weft.ROUTER) / packet(4, address(4, DOUBLE), weft.pod(4, "d")),
                   DOUBLE)
    run = replay({"a": [whole[:count] for count in range(1, len(whole))]}, tables())
    assert run.sent == {} and sum(run.drops.values()) == len(whole) - 1


@families
def test_flags_are_the_subinterfaces(replay, family):
    # The parent is guarded, its VLANs are not, and the other way round.
    other = packet(family, address(family, DOUBLE), weft.pod(family, "d"))
    frame = tagged(Ether(src=STATION[SINGLE], dst=weft.ROUTER) / other, SINGLE)
    document = tables()
    document["interfaces"][1]["flags"] = ["bridging", "routing", "anti-spoofing"]
    assert len(replay({"a": [frame]}, document).frames("d")) == 1
    document = tables(flags=["bridging", "routing", "anti-spoofing"])
    assert replay({"a": [frame]}, document).drops == {"spoofed_address": 1}
    mine = weft.routed("a", packet(family, weft.pod(family, "b"), weft.pod(family, "b")))
    assert len(replay({"a": [mine]}, document).frames("b")) == 1


@families
def test_clamp_is_the_subinterfaces(replay, family):
    def syn(source):
        return weft.ip(family, source, weft.pod(family, "d")) / TCP(
            sport=1, dport=2, flags="S", options=[("MSS", 1460)])
    document = tables(mtu=600, flags=["bridging", "routing", "clamp-mss"])
    run = replay({"a": [tagged(Ether(src=STATION[SINGLE], dst=weft.ROUTER) / syn(address(family, SINGLE)), SINGLE)]},
                 document)
    got = Ether(run.only("d"))
    assert dict(got[TCP].options)["MSS"] == 600 - (40 if family == 4 else 60)


@families
def test_mtu(replay, family):
    size = 576 - (28 if family == 4 else 48)
    for more, drops in ((0, {}), (1, {"mtu_exceeded": 1})):
        inner = packet(family, weft.pod(family, "d"), address(family, DOUBLE), payload=b"x" * (size + more))
        run = replay({"d": [weft.routed("d", inner)]}, tables(mtu=576))
        assert run.drops == drops


# --- an underlay in a VLAN


def underlay(tags=((0x8100, 30),)):
    document = weft.tables()
    keys = {"vlan": tags[0][1]} | ({"inner-vlan": tags[1][1]} if len(tags) > 1 else {})
    document["interfaces"].append({
        "id": 9, "role": "fabric", "port": "vlan", "parent": 0, "device": "fabric.30", "mac": weft.FABRIC, "mtu": 8000,
        "addresses": ["198.51.100.1", "2001:db8:30::1"], **keys})
    document["nexthops"] += [
        {"id": 50 + family, "action": "tunnel", "encapsulation": "vxlan", "interface": 9,
         "source": {4: "198.51.100.1", 6: "2001:db8:30::1"}[family],
         "destination": {4: "198.51.100.2", 6: "2001:db8:30::2"}[family], "destination-mac": weft.NEXT_HOP}
        for family in (4, 6)]
    document["routes"] += [{"vrf": 1, "prefix": f"10.30.{family}.0/24", "nexthop": 50 + family, "label": 100}
                           for family in (4, 6)]
    return document


@families
@pytest.mark.parametrize("tags", [((0x8100, 30),), ((0x88A8, 30), (0x8100, 31))], ids=["802.1Q", "QinQ"])
def test_tunnels_in_a_vlan(replay, family, tags):
    source, destination = (("198.51.100.1", "198.51.100.2") if family == 4 else ("2001:db8:30::1", "2001:db8:30::2"))
    out = packet(4, weft.pod(4, "a"), f"10.30.{family}.9")
    run = replay({"a": [weft.routed("a", out)]}, underlay(tags))
    frame = run.only("fabric")
    bare = frame[:12] + frame[12 + 4 * len(tags):]
    assert frame == tagged(bare, None, tags=tags)
    outer = Ether(bare)
    assert (outer.payload.src, outer.payload.dst, outer[UDP].dport) == (source, destination, 4789)
    header = 50 if family == 4 else 70
    weft.same(bare[header:], Ether(src=weft.ROUTER, dst=weft.ROUTER) / weft.aged(out))
    row = run.tshark("fabric", "vxlan.vni", "udp.checksum.status")[0]
    assert row["vxlan.vni"] == ["100"] and "0" not in row["udp.checksum.status"]
    back = packet(4, f"10.30.{family}.9", weft.pod(4, "a"))
    bare = Ether(src=weft.NEXT_HOP, dst=weft.FABRIC) / weft.ip(family, destination, source) / UDP(
        sport=0xC000, dport=4789) / weft.VXLAN(flags=8, vni=100) / Ether(src=weft.ROUTER, dst=weft.ROUTER) / back
    run = replay({"fabric": [tagged(bare, None, tags=tags)]}, underlay(tags))
    weft.same(run.only("a"), weft.delivered("a", back))
    # Untagged it is for the parent, whose addresses are others.
    assert replay({"fabric": [bare]}, underlay(tags)).drops == {"outer_not_ours": 1}


# --- tables


def test_refused(replay):
    row = {"id": 9, "role": "virtual", "port": "vlan", "parent": 1, "vlan": 5, "device": "v", "mac": weft.MAC["c"],
           "vrf": 2}
    bad = [
        ({"vlan": 0}, "vlan", "not within 1 to 4094"), ({"vlan": 4095}, "vlan", "not within 1 to 4094"),
        ({"inner-vlan": 0}, "inner-vlan", "not within"), ({"tpid": "0x88b5"}, "tpid", "none of"),
        ({"tpid": 33024}, "tpid", "string is expected"), ({"parent": 9}, "parent", "no interface 9"),
        ({"parent": 77}, "parent", "no interface 77"), ({"port": "pcap"}, "parent", "only a port of kind vlan"),
        ({"mtu": 1501}, None, "above 1500"),
        ({"role": "fabric", "addresses": ["192.0.2.7"], "vrf": ...}, "parent", "interface 1 is virtual"),
    ]
    for change, key, reason in bad:
        document = weft.tables()
        document["interfaces"].append({k: v for k, v in (row | change).items() if v is not ...})
        run = replay({"a": []}, document, expect_status=1)
        path = f"$.interfaces[5]{'.' + key if key else ''}"
        assert f"at {path} " in run.stderr and reason in run.stderr, (change, run.stderr)
    for missing in ("parent", "vlan"):
        document = weft.tables()
        document["interfaces"].append({k: v for k, v in row.items() if k != missing})
        assert f'"{missing}" is missing' in replay({"a": []}, document, expect_status=1).stderr
        assert not weft.SCHEMA.is_valid(document)
    # Twice, and a VLAN of a VLAN.
    for second, key in ({"id": 10, "device": "w"}, "vlan"), ({"id": 10, "device": "w", "parent": 9}, "parent"):
        document = weft.tables()
        document["interfaces"] += [row, row | second]
        assert f"$.interfaces[6].{key}" in replay({"a": []}, document, expect_status=1).stderr


def test_a_vlan_has_no_capture_of_its_own(replay):
    run = replay({f"v{SINGLE}": []}, tables(), expect_status=1)
    assert f'no interface with the device "v{SINGLE}"' in run.stderr


@families
def test_scapy_reads_the_tags(replay, family):
    inner = packet(family, weft.pod(family, "d"), address(family, DOUBLE))
    frame = Ether(replay({"d": [weft.routed("d", inner)]}, tables()).only("a"))
    assert (frame[Dot1AD].vlan, frame[Dot1Q].vlan, frame[Raw].load) == (100, 7, b"weft")
