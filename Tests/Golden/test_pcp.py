"""Priorities of VLAN tags (IEEE 802.1Q): classes by them, marks of them, and what becomes of them otherwise."""

import pytest
import test_vlan
import weft
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Ether
from test_vlan import DOUBLE, SERVICE, SINGLE, STATION, TAGS, address, families, numbers, packet, ports, tagged

BY_PCP = [{"id": 1, "default": 1, "pcp": [{"values": [2], "class": 2}, {"values": [5, 6], "class": 5}]}]
TO_DSCP = [{"id": 1, "classes": [{"class": key, "dscp": 10 + key} for key in (1, 2, 5)]}]


def tables(port="a", marks=TO_DSCP, **interfaces):
    """Classifier 1 by priority, marks 1, and what interfaces have of them."""
    document = test_vlan.on(port)
    document["qos-classifiers"], document["qos-marks"] = BY_PCP, marks
    for interface in document["interfaces"]:
        interface |= interfaces.get(interface["device"], {})
    return document


def dscp(frame):
    inner = Ether(frame)[1]
    return (inner.tos if isinstance(inner, IP) else inner.tc) >> 2


def tag(frame, number=0):
    """Priority, drop eligibility and VLAN of a frame's tag."""
    value = int.from_bytes(frame[14 + 4 * number:16 + 4 * number], "big")
    return value >> 13, value >> 12 & 1, value & 0xFFF


def with_dei(frame):
    return frame[:14] + bytes([frame[14] | 0x10]) + frame[15:]


@families
@numbers
@ports
@pytest.mark.parametrize("workers", [1, 3])
def test_class_by_priority(replay, family, number, port, workers):
    """By the outer tag's priority, whichever worker has the flow. DSCP 46 is not asked about."""
    document = tables(port, **{f"v{number}": {"qos-classifier": 1}, "d": {"qos-marks": 1}})
    frames, expected = [], {}
    for source, (prio, key) in enumerate([(0, 1), (2, 2), (5, 5), (6, 5), (7, 1), (2, 2)]):
        inner = weft.ip(family, address(family, number), weft.pod(family, "d"), tos=46 << 2) / weft.transport(
            "udp", family, sport=1000 + source)
        # The inner tag's would be another class.
        tags = [(TAGS[number][0][0], prio << 13 | 100), *((proto, 1 << 13 | vlan) for proto, vlan in TAGS[number][1:])]
        frames.append(tagged(Ether(src=STATION[number], dst=weft.ROUTER) / inner, None, tags=tags))
        expected[1000 + source] = 10 + key
    run = replay({port: [(1, frame) for frame in frames]}, document, workers=workers)
    assert {Ether(frame).sport: dscp(frame) for frame in run.frames("d")} == expected


@families
def test_each_vlan_has_its_own(replay, family):
    """Frames of one batch on one port: those of a VLAN by its classifier and its policer, the port's by the port's."""
    document = tables(v10={"qos-classifier": 1, "ingress-policer": 1}, v11={"qos-classifier": 2}, d={"qos-marks": 1})
    document["qos-classifiers"] = [*BY_PCP, {"id": 2, "default": 5}]
    document["policers"] = [{"id": 1, "unit": "packets", "rate": 1, "burst": 2}]
    frames = [tagged(Ether(src=STATION[number], dst=weft.ROUTER) / packet(
        family, address(family, number), weft.pod(family, "d"), sport=1000 + number), number, prio=2)
              for number in (SINGLE, DOUBLE, SERVICE, SINGLE, SINGLE)]
    run = replay({"a": [(1, frame) for frame in frames]}, document)
    assert [(Ether(frame).sport, dscp(frame)) for frame in run.frames("d")] == [
        (1010, 12), (1011, 15), (1012, 0), (1010, 12)]
    assert run.drops == {"policed": 1}
    assert run.report["ports"]["v10"]["drops"] == 1


@families
@pytest.mark.parametrize("tags", [[(0x8100, 5 << 13)], [(0x88A8, 5 << 13), (0x8100, 2 << 13)]], ids=["one", "two"])
def test_priority_tags(replay, family, tags):
    """Tags with a priority and no VLAN count for the port's interface, with VLANs and without."""
    document = weft.tables()
    document["qos-classifiers"], document["qos-marks"] = BY_PCP, TO_DSCP
    document["interfaces"][1] |= {"qos-classifier": 1}
    document["interfaces"][2] |= {"qos-marks": 1}
    frame = weft.routed("a", packet(family, weft.pod(family, "a"), weft.pod(family, "b")))
    frames = {"a": [(1, tagged(frame, None, tags=tags)), (1, frame)]}
    assert [dscp(each) for each in replay(frames, document).frames("b")] == [15, 11]
    # Another VLAN is nobody's.
    run = replay({"a": [tagged(frame, None, tags=[(0x8100, 5)])]}, document)
    assert run.drops == {"vlan_unknown": 1}


@families
@numbers
def test_marks(replay, family, number):
    """The priority of the tag, of two the outer one's, by class; what has no mark leaves with 0."""
    document = tables(marks=[{"id": 1, "classes": [{"class": 5, "pcp": 6}, {"class": 2, "pcp": 3, "dscp": 9}]}],
                      d={"qos-classifier": 2}, **{f"v{number}": {"qos-marks": 1}})
    document["qos-classifiers"] = [{"id": 2, "dscp": [{"values": [46], "class": 5}, {"values": [10], "class": 2}]}]
    packets = [weft.ip(family, weft.pod(family, "d"), address(family, number), tos=value << 2) / weft.transport(
        "udp", family) for value in (46, 10, 0)]
    run = replay({"d": [(1, weft.routed("d", each)) for each in packets]}, document)
    frames = run.frames("a")
    assert [tag(frame) for frame in frames] == [(6, 0, 100), (3, 0, 100), (0, 0, 100)]
    count = len(TAGS[number])
    if count == 2:
        assert [tag(frame, 1) for frame in frames] == [(0, 0, 7)] * 3
    bare = [frame[:12] + frame[12 + 4 * count:] for frame in frames]
    assert [dscp(frame) for frame in bare] == [46, 9, 0]
    weft.same(bare[0], Ether(src=weft.ROUTER, dst=STATION[number]) / weft.aged(packets[0]))
    if number == SINGLE:
        assert [row["vlan.priority"] for row in run.tshark("a", "vlan.priority")] == [["6"], ["3"], ["0"]]
    if number == SERVICE:
        rows = run.tshark("a", "ieee8021ad.priority", "ieee8021ad.dei")
        assert [row["ieee8021ad.priority"] for row in rows] == [["6"], ["3"], ["0"]]


@families
@pytest.mark.parametrize("workers", [1, 3])
def test_from_vlan_to_vlan(replay, family, workers):
    """Bridged, a frame keeps priority and drop eligibility; routed, it has 0; a mark sets the priority alone."""
    def run(mac, marks):
        document = tables(marks=[{"id": 1, "classes": [{"class": 0, "pcp": 1}]}], v11=marks)
        inner = packet(family, address(family, SINGLE), address(family, DOUBLE))
        frame = with_dei(tagged(Ether(src=STATION[SINGLE], dst=mac) / inner, SINGLE, prio=5))
        return tag(replay({"a": [frame]}, document, workers=workers).only("a"))
    assert run(STATION[DOUBLE], {}) == (5, 1, 100)
    assert run(weft.ROUTER, {}) == (0, 0, 100)
    assert run(STATION[DOUBLE], {"qos-marks": 1}) == (1, 1, 100)
    assert run(weft.ROUTER, {"qos-marks": 1}) == (1, 0, 100)


def test_floods(replay):
    """Each copy has the priority that its interface gives it; ARP is no IP packet, but has a tag too."""
    document = tables(marks=[{"id": 1, "classes": [{"class": 5, "pcp": 6, "dscp": 46}]}],
                      v10={"qos-classifier": 1}, v12={"qos-marks": 1})
    members = [{"nexthop": 40 + number} for number in TAGS] + [{"nexthop": weft.ENCAP["d"]}]
    document["nexthops"].append({"id": 90, "action": "multicast", "members": members})
    document["bridge"].append({"vrf": 2, "mac": "ff:ff:ff:ff:ff:ff", "nexthop": 90})
    source = Ether(src=STATION[SINGLE], dst="ff:ff:ff:ff:ff:ff")
    arp = source / ARP(hwsrc=STATION[SINGLE], psrc=address(4, SINGLE), pdst="203.0.113.7")
    inner = packet(4, address(4, SINGLE), "255.255.255.255")
    for frame in (arp, source / inner):
        run = replay({"a": [tagged(frame, SINGLE, prio=5)]}, document)
        assert [(frame[12:14].hex(), tag(frame)) for frame in run.frames("a")] == [
            ("88a8", (5, 0, 100)), ("88a8", (6, 0, 100)), ("9100", (5, 0, 100))]
        weft.same(run.frames("d")[0], frame)


@families
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda tunnel: "-".join(map(str, tunnel)))
def test_underlay(replay, family, tunnel):
    """The tag of an underlay in a VLAN: marked on the way out, asked about on the way in; the packet's own is not it."""
    document = weft.tables()
    document["qos-classifiers"] = [*BY_PCP, {"id": 2, "default": 5}]
    document["qos-marks"] = [*TO_DSCP, {"id": 2, "classes": [{"class": 5, "pcp": 7, "dscp": 33}]}]
    here = {4: "198.51.100.1", 6: "2001:db8:30::1"}[tunnel[1]]
    document["interfaces"].append({
        "id": 9, "role": "fabric", "port": "vlan", "parent": 0, "device": "fabric.30", "mac": weft.FABRIC, "mtu": 8000,
        "addresses": [here], "vlan": 30, "qos-classifier": 1, "qos-marks": 2})
    document["interfaces"][1] |= {"qos-classifier": 2, "qos-marks": 1}
    for nexthop in document["nexthops"]:
        if nexthop["id"] == weft.TUNNEL[tunnel]:
            nexthop |= {"interface": 9, "source": here}
    far = weft.behind(family, tunnel)
    out = packet(family, weft.pod(family, "a"), far)
    frame = replay({"a": [weft.routed("a", out)]}, document).only("fabric")
    assert tag(frame) == (7, 0, 30)
    back = weft.remote(tunnel, packet(family, far, weft.pod(family, "a")), destination=here)
    run = replay({"fabric": [(1, tagged(back, None, tags=[(0x8100, prio << 13 | 30)])) for prio in (2, 5, 7)]}, document)
    assert [dscp(frame) for frame in run.frames("a")] == [12, 15, 11]


@families
@pytest.mark.parametrize("kind", ["single-rate-three-color", "two-rate-three-color"])
def test_drop_eligible(replay, family, kind):
    """To a colour-aware policer such a frame is yellow, whatever there would be room for; to another it is as any."""
    more = {"excess-burst": 100} if kind.startswith("single") else {"peak-rate": 1, "peak-burst": 100}
    for aware in (True, False):
        document = tables(v10={"ingress-policer": 1})
        document["policers"] = [{"id": 1, "kind": kind, "unit": "packets", "rate": 1, "burst": 100, "yellow-dscp": 7,
                                 "color-aware": aware, **more}]
        inner = packet(family, address(family, SINGLE), weft.pod(family, "d"))
        frame = tagged(Ether(src=STATION[SINGLE], dst=weft.ROUTER) / inner, SINGLE, prio=3)
        run = replay({"a": [(1, frame), (1, with_dei(frame)), (1, frame)]}, document)
        assert [dscp(each) for each in run.frames("d")] == [0, 7 if aware else 0, 0]


def test_what_the_router_makes(replay):
    """Answers and errors have priority 0."""
    document = tables(marks=[{"id": 1, "classes": [{"class": 5, "pcp": 6}]}],
                      v10={"qos-classifier": 1, "qos-marks": 1})
    ask = Ether(src=STATION[SINGLE], dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=STATION[SINGLE], psrc=address(4, SINGLE), pdst=weft.GATEWAY[4])
    inner = weft.ip(4, address(4, SINGLE), weft.pod(4, "d"), ttl=1) / weft.transport("udp", 4)
    for frame in (ask, Ether(src=STATION[SINGLE], dst=weft.ROUTER) / inner):
        assert tag(replay({"a": [tagged(frame, SINGLE, prio=5)]}, document).only("a")) == (0, 0, 100)
