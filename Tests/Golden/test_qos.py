"""Forwarding classes by the marks that packets come with, marks where they go out; rules that mark; tunnels' own marks."""

import pytest
import weft
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

FAMILIES = pytest.mark.parametrize("family", (4, 6))
TUNNELS = pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda tunnel: "-".join(map(str, tunnel)))
VXLAN4 = ("vxlan", 4)
ECNS = (0, 1, 2)


def tables(classifier=None, marks=None, interfaces=(), document=None):
    """Classifier 1 and marks 1, and which interface has them: {"a": {"qos-classifier": 1}}."""
    document = document or weft.tables()
    if classifier is not None:
        document["qos-classifiers"] = [{"id": 1, **classifier}]
    if marks is not None:
        document["qos-marks"] = [{"id": 1, "classes": marks}]
    for interface in document["interfaces"]:
        interface |= dict(interfaces).get(interface["device"], {})
    return document


def field(packet):
    """DSCP and ECN of an IP header."""
    value = packet.tos if isinstance(packet, IP) else packet.tc
    return value >> 2, value & 3


def marked(packet, dscp):
    """The packet with another DSCP."""
    packet = packet.copy()
    if isinstance(packet, IP):
        packet.tos = dscp << 2 | packet.tos & 3
        del packet.chksum
    else:
        packet.tc = dscp << 2 | packet.tc & 3
    return packet.__class__(bytes(packet))


def packet(family, dscp, ecn=0, source=None, destination=None, kind="udp"):
    header = weft.ip(family, source or weft.pod(family, "a"), destination or weft.pod(family, "b"), tos=dscp << 2 | ecn)
    return header.__class__(bytes(header / weft.transport(kind, family)))


def headers(frame):
    """Outer and inner IP header, and the label between them or None."""
    outer = Ether(frame)
    layers = [layer for layer in layers_of(outer) if isinstance(layer, (IP, IPv6))]
    label = outer.getlayer(MPLS)
    return layers[0], layers[-1], label


def layers_of(packet):
    while packet:
        yield packet
        packet = packet.payload


@FAMILIES
@pytest.mark.parametrize("ecn", ECNS)
def test_class_by_dscp(replay, family, ecn):
    """46 to class 5, which goes out as 34; 10 and 12 to class 2, which stays; what is not told apart, to class 1."""
    classifier = {"default": 1, "dscp": [{"values": [46], "class": 5}, {"values": [10, 12], "class": 2}]}
    marks = [{"class": 5, "dscp": 34}, {"class": 1, "dscp": 0}]
    document = tables(classifier, marks, {"a": {"qos-classifier": 1}, "b": {"qos-marks": 1}})
    values = (46, 10, 12, 7, 0, 63)
    packets = [packet(family, value, ecn) for value in values]
    run = replay({"a": [weft.routed("a", each) for each in packets]}, document)
    expected = [marked(each, value) for each, value in zip(packets, (34, 10, 12, 0, 0, 0), strict=True)]
    assert run.frames("b") == [bytes(weft.delivered("b", each)) for each in expected]
    status = [row["ip.checksum.status"] for row in run.tshark("b", "ip.checksum.status")]
    assert status == [["1"] if family == 4 else []] * len(values)


@FAMILIES
def test_a_fixed_class(replay, family):
    document = tables({"default": 3}, [{"class": 3, "dscp": 9}, {"class": 0, "dscp": 1}],
                      {"a": {"qos-classifier": 1}, "b": {"qos-marks": 1}, "d": {"qos-marks": 1}})
    run = replay({"a": [weft.routed("a", packet(family, 46, 2))],
                  "c": [weft.routed("c", packet(family, 46, 2, weft.pod(family, "c"), weft.pod(family, "d")))]}, document)
    assert field(Ether(run.frames("b")[0])[1]) == (9, 2)
    # Without a classifier the class is 0.
    assert field(Ether(run.frames("d")[0])[1]) == (1, 2)


@FAMILIES
def test_bridged_packets_too(replay, family):
    document = tables({"default": 3}, [{"class": 3, "dscp": 9}], {"a": {"qos-classifier": 1}, "b": {"qos-marks": 1}})
    frame = Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / packet(family, 46, 1)
    run = replay({"a": [frame]}, document)
    weft.same(run.only("b"), Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / marked(frame[1], 9))


@FAMILIES
@TUNNELS
@pytest.mark.parametrize("ecn", ECNS)
def test_marks_of_tunnels(replay, family, tunnel, ecn):
    """By class: the tunnel's DSCP and the label's traffic class, the packet's own as it is or marked too. ECN is copied."""
    classifier = {"dscp": [{"values": [46], "class": 5}, {"values": [34], "class": 4}]}
    marks = [{"class": 5, "outer-dscp": 40, "exp": 5}, {"class": 4, "dscp": 36, "exp": 7}]
    document = tables(classifier, marks, {"a": {"qos-classifier": 1}, "fabric": {"qos-marks": 1}})
    far = weft.behind(family, tunnel)
    run = replay({"a": [weft.routed("a", packet(family, value, ecn, destination=far)) for value in (46, 34, 8)]}, document)
    expected = [((40, ecn), (46, ecn), 5), ((36, ecn), (36, ecn), 7), ((8, ecn), (8, ecn), 0)]
    for frame, (outside, inside, exp) in zip(run.frames("fabric"), expected, strict=True):
        outer, inner, label = headers(frame)
        assert (field(outer), field(inner)) == (outside, inside)
        assert label is None if tunnel[0] == "vxlan" else label.cos == exp
    if tunnel[1] == 4 or family == 4:
        assert all(set(row["ip.checksum.status"]) == {"1"} for row in run.tshark("fabric", "ip.checksum.status"))


@FAMILIES
@TUNNELS
def test_a_tunnel_of_its_own(replay, family, tunnel):
    """Pipe model: the tunnel has a DSCP of its own, until the interface has marks for the class."""
    document = tables({"dscp": [{"values": [46], "class": 5}]}, [{"class": 5, "outer-dscp": 40}],
                      {"a": {"qos-classifier": 1}, "fabric": {"qos-marks": 1}})
    for nexthop in document["nexthops"]:
        if nexthop["action"] == "tunnel":
            nexthop["outer-dscp"] = 24
    far = weft.behind(family, tunnel)
    # Twice each: the second one could go the short way.
    values = (46, 46, 8, 8)
    run = replay({"a": [(number, weft.routed("a", packet(family, value, 1, destination=far)))
                        for number, value in enumerate(values)]}, document)
    assert [(field(outer), field(inner)) for outer, inner, _ in map(headers, run.frames("fabric"))] == [
        ((40, 1), (46, 1))] * 2 + [((24, 1), (8, 1))] * 2
    plain = weft.tables()
    for nexthop in plain["nexthops"]:
        if nexthop["action"] == "tunnel":
            nexthop["outer-dscp"] = 24
    run = replay({"a": [(number, weft.routed("a", packet(family, 46, 1, destination=far))) for number in range(3)]}, plain)
    assert [(field(outer), field(inner)) for outer, inner, _ in map(headers, run.frames("fabric"))] == [
        ((24, 1), (46, 1))] * 3


@FAMILIES
@TUNNELS
def test_class_by_what_a_tunnel_says(replay, family, tunnel):
    """The label's traffic class, where there is one and a map for it, else the tunnel's DSCP; not the packet's own."""
    classifier = {"default": 1, "dscp": [{"values": [40], "class": 5}], "exp": [{"values": [5, 6], "class": 6}]}
    marks = [{"class": key, "dscp": key} for key in (1, 5, 6)]
    document = tables(classifier, marks, {"fabric": {"qos-classifier": 1}, "a": {"qos-marks": 1}})
    far, a = weft.behind(family, tunnel), weft.pod(family, "a")

    def frame(outer, exp):
        result = weft.remote(tunnel, packet(family, 46, 0, far, a), tos=outer << 2)
        if MPLS in result:
            result[MPLS].cos = exp
        return result
    rows = [(40, 5), (40, 0), (8, 6), (8, 3)]
    expected = [5, 5, 1, 1] if tunnel[0] == "vxlan" else [6, 1, 6, 1]
    run = replay({"fabric": [frame(*row) for row in rows]}, document)
    assert [field(Ether(each)[1])[0] for each in run.frames("a")] == expected
    # Without a map for labels, the DSCP counts.
    document["qos-classifiers"][0].pop("exp")
    run = replay({"fabric": [frame(*row) for row in rows]}, document)
    assert [field(Ether(each)[1])[0] for each in run.frames("a")] == [5, 5, 1, 1]


@FAMILIES
def test_merged_segments_have_one_class(replay, family):
    """Segments that follow each other but come with other labels' traffic classes are not merged, and each is marked."""
    tunnel = ("mpls-over-udp", 4)
    header = weft.ip(family, weft.behind(family, tunnel), weft.pod(family, "a"))
    frames = []
    for number, exp in enumerate((0, 0, 5, 5, 0)):
        frame = weft.remote(tunnel, header / TCP(sport=1, dport=2, flags="A", seq=1 + 100 * number) / (b"x" * 100))
        frame[MPLS].cos = exp
        frames.append(frame)
    document = tables({"exp": [{"values": [5], "class": 5}]}, [{"class": 5, "dscp": 46}],
                      {"fabric": {"qos-classifier": 1}, "a": {"qos-marks": 1}})
    run = replay({"fabric": [(1, frame) for frame in frames]}, document)
    assert [field(Ether(frame)[1])[0] for frame in run.frames("a")] == [0, 0, 46, 46, 0]


@FAMILIES
def test_rules_mark(replay, family):
    """A rule's DSCP is its flows', of both directions, and nobody else's; ECN stays."""
    document = weft.tables()
    document["interfaces"][2]["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [
        {"id": 1, "priority": 1, "direction": "ingress", "action": "allow", "protocol": 6, "dscp": 46},
        {"id": 2, "priority": 2, "direction": "ingress", "action": "allow"}]
    a, b = weft.pod(family, "a"), weft.pod(family, "b")
    asked = [(kind, packet(family, 10, ecn, a, b, kind)) for kind in ("tcp", "udp") for ecn in ECNS]
    header = weft.ip(family, b, a, tos=12 << 2 | 2)
    back = header.__class__(bytes(header / TCP(sport=weft.DESTINATION_PORT, dport=weft.SOURCE_PORT, flags="A")))
    run = replay({"a": [(1 + n, weft.routed("a", each)) for n, (_, each) in enumerate(asked)],
                  "b": [(20, weft.routed("b", back))]}, document)
    expected = [marked(each, 46) if kind == "tcp" else each for kind, each in asked]
    assert run.frames("b") == [bytes(weft.delivered("b", each)) for each in expected]
    weft.same(run.frames("a")[0], weft.delivered("a", marked(back, 46)))


@FAMILIES
@TUNNELS
def test_rules_mark_what_goes_into_tunnels(replay, family, tunnel):
    document = weft.tables()
    document["interfaces"][1]["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [{"id": 1, "priority": 1, "direction": "egress", "action": "allow", "dscp": 26}]
    far = weft.behind(family, tunnel)
    run = replay({"a": [(n, weft.routed("a", packet(family, 0, 2, destination=far))) for n in range(3)]}, document)
    assert [(field(outer), field(inner)) for outer, inner, _ in map(headers, run.frames("fabric"))] == [
        ((26, 2), (26, 2))] * 3


@FAMILIES
def test_the_later_mark_stays(replay, family):
    """The rule for where a flow goes after the rule for where it comes from; marks of the interface after both, a
    policer's yellow after all."""
    document = tables(None, [{"class": 0, "dscp": 3}])
    for interface in document["interfaces"][1:3]:
        interface["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [{"id": 1, "priority": 1, "direction": "egress", "action": "allow", "dscp": 1},
                         {"id": 2, "priority": 1, "direction": "ingress", "action": "allow", "dscp": 2}]
    frames = {"a": [weft.routed("a", packet(family, 46, 1))]}
    assert field(Ether(replay(frames, document).only("b"))[1]) == (2, 1)
    document["interfaces"][2]["qos-marks"] = 1
    assert field(Ether(replay(frames, document).only("b"))[1]) == (3, 1)
    document["policers"] = [{"id": 1, "kind": "single-rate-three-color", "unit": "packets", "rate": 1, "burst": 1,
                             "excess-burst": 5, "yellow-dscp": 4}]
    document["interfaces"][2]["egress-policer"] = 1
    run = replay({"a": [(1, frame) for frame in frames["a"] * 3]}, document)
    assert [field(Ether(frame)[1]) for frame in run.frames("b")] == [(3, 1), (4, 1), (4, 1)]


@FAMILIES
def test_what_the_router_makes_is_not_marked(replay, family):
    document = tables({"default": 5}, [{"class": 5, "dscp": 1}, {"class": 0, "dscp": 1}],
                      {"a": {"qos-classifier": 1, "qos-marks": 1}})
    echo = weft.ip(family, weft.pod(family, "a"), weft.GATEWAY[family], tos=46 << 2) / weft.transport("echo", family)
    run = replay({"a": [weft.routed("a", echo)]}, document)
    free = replay({"a": [weft.routed("a", echo)]})
    assert run.frames("a") == free.frames("a") != []


MAP = [{"values": [1], "class": 1}]
BAD = [
    ("classifier without id", "qos-classifiers", [{"dscp": MAP}], "[0]", '"id" is missing', True),
    ("class 16", "qos-classifiers", [{"id": 1, "default": 16}], "[0].default", "not within 0 to 15", True),
    ("DSCP 64", "qos-classifiers", [{"id": 1, "dscp": [{"values": [64], "class": 1}]}], "[0].dscp[0].values[0]",
     "not within 0 to 63", True),
    ("PCP 8", "qos-classifiers", [{"id": 1, "pcp": [{"values": [8], "class": 1}]}], "[0].pcp[0].values[0]",
     "not within 0 to 7", True),
    ("a value without class", "qos-classifiers", [{"id": 1, "exp": [{"values": [1]}]}], "[0].exp[0]",
     '"class" is missing', True),
    ("a value twice", "qos-classifiers", [{"id": 1, "exp": [{"values": [1, 2], "class": 1}, {"values": [2], "class": 3}]}],
     "[0].exp[1].values[0]", "has a class already", False),
    ("classifier twice", "qos-classifiers", [{"id": 1}, {"id": 1}], "[1].id", "$.qos-classifiers[0] already", False),
    ("classifier beyond the table", "qos-classifiers", [{"id": 4096}], "[0].id", "not within 0 to 4095", True),
    ("marks without classes", "qos-marks", [{"id": 1}], "[0]", '"classes" is missing', True),
    ("marks of EXP 8", "qos-marks", [{"id": 1, "classes": [{"class": 1, "exp": 8}]}], "[0].classes[0].exp",
     "not within 0 to 7", True),
    ("marks of DSCP 64", "qos-marks", [{"id": 1, "classes": [{"class": 1, "outer-dscp": 64}]}],
     "[0].classes[0].outer-dscp", "not within 0 to 63", True),
    ("a class twice", "qos-marks", [{"id": 1, "classes": [{"class": 1}, {"class": 1, "exp": 1}]}],
     "[0].classes[1].class", "stands here twice", False),
    ("an unknown mark", "qos-marks", [{"id": 1, "classes": [{"class": 1, "tos": 1}]}], "[0].classes[0].tos",
     "unknown key", True),
]


@pytest.mark.parametrize("table, entries, place, reason, by_schema",
                         [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_refused(replay, table, entries, place, reason, by_schema):
    document = weft.tables() | {table: entries}
    run = replay({"a": "/nonexistent.pcap"}, document, expect_status=1)
    assert f"at $.{table}{place} (" in run.stderr and reason in run.stderr, run.stderr
    assert bool(list(weft.SCHEMA.iter_errors(document))) == by_schema


@pytest.mark.parametrize("key", ("qos-classifier", "qos-marks"))
def test_references(replay, key):
    run = replay({"a": "/nonexistent.pcap"}, tables(None, None, {"a": {key: 3}}), expect_status=1)
    assert f"at $.interfaces[1].{key} (" in run.stderr and "3 in $.qos-" in run.stderr


def test_outer_dscp_of_a_tunnel(replay):
    document = weft.tables()
    document["nexthops"][4]["outer-dscp"] = 64
    run = replay({"a": "/nonexistent.pcap"}, document, expect_status=1)
    assert "at $.nexthops[4].outer-dscp (" in run.stderr and "not within 0 to 63" in run.stderr
