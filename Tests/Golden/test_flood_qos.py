"""Copies of floods: each is policed and marked by the interface that it leaves through, and by no other."""

import pytest
import test_flood
import weft
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether
from test_flood import BROADCAST, VXLAN4, families, far, from_far, inside, local, tables, udp


def dscp(packet):
    return (packet.tos if isinstance(packet, IP) else packet.tc) >> 2


def frame(family, size=4, value=46, mac=None):
    group = "255.255.255.255" if family == 4 else "ff0e::9:909"
    address = BROADCAST if family == 4 else "33:33:00:09:09:09"
    return Ether(src=mac or weft.MAC["a"], dst=address) / udp(family, group, size=size, tos=value << 2)


def with_dscp(packet, value):
    packet = Ether(bytes(packet))
    if isinstance(packet[1], IP):
        packet[1].tos = value << 2
        del packet[1].chksum
    else:
        packet[1].tc = value << 2
    return bytes(packet)


def document(members=None, **interfaces):
    result = tables(members)
    result["qos-classifiers"] = [{"id": 1, "dscp": [{"values": [46], "class": 5}]}]
    result["qos-marks"] = [
        {"id": 1, "classes": [{"class": 5, "dscp": 34, "outer-dscp": 40}]},
        {"id": 2, "classes": [{"class": 5, "dscp": 10}]}]
    result["policers"] = [{"id": 1, "unit": "packets", "rate": 1, "burst": 1},
                          {"id": 2, "rate": 8000, "burst": 1000}]
    for interface in result["interfaces"]:
        interface |= interfaces.get(interface["device"], {})
    return result


@families
def test_marks(replay, family):
    """Of one packet, every copy has the DSCP that its own interface gives it, the tunnels' too; one without marks has the
    packet's. Checksums are right."""
    one = frame(family)
    run = replay({"a": [one]}, document(a={"qos-classifier": 1}, b={"qos-marks": 2}, fabric={"qos-marks": 1}))
    weft.same(run.frames("b")[0], with_dscp(one, 10))
    weft.same(run.frames("e")[0], one)
    copies = run.frames("fabric")
    assert [data for _, data in map(inside, copies)] == [with_dscp(one, 34)] * 2
    assert [dscp(Ether(copy)[1]) for copy in copies] == [40, 40]
    assert all("0" not in row["ip.checksum.status"] for row in run.tshark("fabric", "ip.checksum.status"))
    # In another order of the list, and without a classifier.
    members = [far(70), local(5), local(2), far(71), local(1)]
    run = replay({"a": [one]}, document(members, a={"qos-classifier": 1}, b={"qos-marks": 2}, e={"qos-marks": 1}))
    weft.same(run.frames("b")[0], with_dscp(one, 10))
    weft.same(run.frames("e")[0], with_dscp(one, 34))
    assert [data for _, data in map(inside, run.frames("fabric"))] == [bytes(one)] * 2
    run = replay({"a": [one]}, document(b={"qos-marks": 2}))
    weft.same(run.frames("b")[0], one)


@families
def test_policers(replay, family):
    """What violates is dropped of the copies by that interface, and of no others; a shared one counts them all."""
    frames = [(1, frame(family))] * 3
    run = replay({"a": frames}, document(b={"egress-policer": 1}))
    assert test_flood.counts(run) == {"b": 1, "e": 3, "fabric": 6}
    assert run.drops == {"policed": 2}
    row = {row["id"]: row for row in run.report["policers"]}[1]
    assert (row["conforming-packets"], row["violating-packets"]) == (1, 2)
    run = replay({"a": frames}, document(b={"egress-policer": 1}, e={"egress-policer": 1}, fabric={"egress-policer": 1}))
    assert sum(test_flood.counts(run).values()) == 1
    assert run.drops == {"policed": 11}


@families
def test_bytes(replay, family):
    """A copy into a tunnel counts with the tunnel's headers."""
    one = frame(family, size=300)
    run = replay({"a": [one]}, document(b={"egress-policer": 2}, fabric={"egress-policer": 2}))
    row = {row["id"]: row for row in run.report["policers"]}[2]
    count = len(one)
    assert row["conforming-bytes"] + row["violating-bytes"] == 3 * count + 2 * 50
    assert row["conforming-packets"] == len(run.frames("b")) + len(run.frames("fabric"))


@families
def test_yellow(replay, family):
    """Yellow copies have the policer's DSCP, after the interface's marks; the others go as they are."""
    rows = document(a={"qos-classifier": 1}, b={"qos-marks": 2, "egress-policer": 1}, e={"egress-policer": 3})
    rows["policers"][0] |= {"kind": "single-rate-three-color", "excess-burst": 5, "yellow-dscp": 12}
    rows["policers"].append(rows["policers"][0] | {"id": 3, "yellow-dscp": 14})
    one = frame(family)
    run = replay({"a": [(1, one), (1, one)]}, rows)
    assert run.frames("b") == [with_dscp(one, 10), with_dscp(one, 12)]
    assert run.frames("e") == [bytes(one), with_dscp(one, 14)]
    assert {data for _, data in map(inside, run.frames("fabric"))} == {bytes(one)}


@families
@pytest.mark.parametrize("size", [4, 900])
def test_mirrors_see_the_copy(replay, family, size):
    """A mirror of what leaves gets what leaves, marked; a mirror of what comes in what came in."""
    rows = document(a={"qos-classifier": 1}, b={"qos-marks": 2}, fabric={"qos-marks": 1})
    rows["mirrors"] = [{"id": 1, "interface": weft.ENCAP["d"]}, {"id": 2, "interface": weft.ENCAP["c"]}]
    rows["interface-mirrors"] = [{"interface": weft.ENCAP["b"], "egress": 1}, {"interface": weft.ENCAP["a"], "ingress": 2}]
    one = frame(family, size=size)
    run = replay({"a": [(1, one), (1, one)]}, rows)
    assert run.frames("d") == run.frames("b") == [with_dscp(one, 10)] * 2
    assert run.frames("c") == run.frames("e") == [bytes(one)] * 2


@families
def test_from_another_node(replay, family):
    one = frame(family, mac=weft.REMOTE_POD)
    rows = document(fabric={"qos-classifier": 1}, b={"qos-marks": 2}, e={"egress-policer": 1})
    # The tunnel's DSCP is asked about.
    frames = []
    for outer in (46, 0):
        packet = from_far(one)
        packet[1].tos = outer << 2
        frames.append((1, packet))
    run = replay({"fabric": frames}, rows)
    assert run.frames("a") == [bytes(one)] * 2
    assert run.frames("b") == [with_dscp(one, 10), bytes(one)]
    assert run.frames("e") == [bytes(one)] and run.drops == {"policed": 1}


@families
@pytest.mark.parametrize("marks", [None, 34], ids=["plain", "marked"])
@pytest.mark.parametrize("workers", [1, 3])
def test_segments_that_were_merged(replay, family, marks, workers):
    """TCP segments to an unknown MAC address, from one node to pods and to a node of another split-horizon group: each
    arrives everywhere, whole and with a right checksum."""
    rows = document([local(1), local(2), far(70, group=1), far(71, group=2)],
                    fabric={"qos-classifier": 1} | ({"qos-marks": 1} if marks else {}), b={"qos-marks": 2} if marks else {})
    rows["vrfs"][0]["flags"] = ["flood-unknown"]
    header = weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, "b"))
    unknown = "02:00:00:00:09:09"
    inner = [bytes(Ether(src=weft.REMOTE_POD, dst=unknown) / header / TCP(
        sport=1, dport=2, flags="A", seq=1 + 100 * number) / (b"x" * 100)) for number in range(5)]
    frames = []
    for each in inner:
        packet = from_far(Ether(each))
        packet[1].tos = 46 << 2
        frames.append((1, packet))
    run = replay({"fabric": frames}, rows, workers=workers)
    assert run.frames("a") == inner
    assert run.frames("b") == ([with_dscp(each, 10) for each in inner] if marks else inner)
    assert [(to, data) for to, data in map(inside, run.frames("fabric"))] == [
        ("192.0.2.13", with_dscp(each, marks) if marks else each) for each in inner]
    for port in ("a", "b"):
        assert all(row["tcp.checksum.status"] == ["1"] for row in run.tshark(port, "tcp.checksum.status"))


@families
def test_merged_segments_are_cut(replay, family):
    """An interface's policer lets three of five segments by; the others' copies are whole."""
    rows = document([local(1), local(2), local(5)], b={"egress-policer": 1, "qos-marks": 2}, fabric={"qos-classifier": 1})
    rows["policers"][0]["burst"] = 3
    rows["vrfs"][0]["flags"] = ["flood-unknown"]
    header = weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, "b"))
    inner = [bytes(Ether(src=weft.REMOTE_POD, dst="02:00:00:00:09:09") / header / TCP(
        sport=1, dport=2, flags="A", seq=1 + 100 * number) / (b"x" * 100)) for number in range(5)]
    frames = []
    for each in inner:
        packet = from_far(Ether(each))
        packet[1].tos = 46 << 2
        frames.append((1, packet))
    run = replay({"fabric": frames}, rows)
    assert run.frames("a") == run.frames("e") == inner
    assert run.frames("b") == [with_dscp(each, 10) for each in inner[:3]]
    assert run.drops == {"policed": 2}


@families
def test_outer_fragments_of_a_copy(replay, family):
    """A marked copy that goes as fragments of the outer packet."""
    rows = document(a={"qos-classifier": 1}, fabric={"qos-marks": 1, "mtu": 600})
    for nexthop in rows["nexthops"]:
        if nexthop["id"] in (70, 71):
            nexthop["fragment"] = True
    one = frame(family, size=900)
    run = replay({"a": [one]}, rows)
    weft.same(run.frames("b")[0], one)
    parts = {}
    for each in run.frames("fabric"):
        outer = IP(each[14:])
        parts.setdefault(outer.dst, []).append((outer.frag, bytes(outer.payload)))
    assert sorted(parts) == ["192.0.2.12", "192.0.2.13"]
    for pieces in parts.values():
        assert len(pieces) > 1
        assert b"".join(data for _, data in sorted(pieces))[16:] == with_dscp(one, 34)


def test_arp_is_not_marked(replay):
    arp = Ether(src=weft.MAC["a"], dst=BROADCAST) / ARP(hwsrc=weft.MAC["a"], psrc=weft.pod(4, "a"), pdst="203.0.113.7")
    rows = document(a={"qos-classifier": 2}, b={"qos-marks": 2, "egress-policer": 1}, fabric={"qos-marks": 1})
    rows["qos-classifiers"].append({"id": 2, "default": 5})
    run = replay({"a": [(1, arp), (1, arp)]}, rows)
    assert run.frames("b") == [bytes(arp)] * 2
    assert [data for _, data in map(inside, run.frames("fabric"))] == [bytes(arp)] * 4


@families
def test_many_copies(replay, family):
    """As many copies as there may be, all marked."""
    one = frame(family)
    rows = document(a={"qos-classifier": 1}, b={"qos-marks": 2}, e={"qos-marks": 1})
    flood = next(nexthop for nexthop in rows["nexthops"] if nexthop["id"] == test_flood.FLOOD)
    flood["members"] = []
    for number in range(2048):
        if number % 64 == 0:
            list_ = {"id": 3000 + number // 64, "action": "multicast", "members": []}
            rows["nexthops"].append(list_)
            flood["members"].append({"nexthop": list_["id"]})
        rows["nexthops"].append({"id": 100 + number, "action": "encap", "interface": (2, 5)[number % 2],
                                 "destination-mac": weft.MAC["b"]})
        list_["members"].append({"nexthop": 100 + number})
    rows["limits"]["nexthops"] = 4096
    run = replay({"a": [one]}, rows)
    assert test_flood.counts(run) == {"b": 1024, "e": 1024}
    assert set(run.frames("b")) == {with_dscp(one, 10)} and set(run.frames("e")) == {with_dscp(one, 34)}
