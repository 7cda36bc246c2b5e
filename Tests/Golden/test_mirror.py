"""Mirrors: copies of frames as they come in and go out, and of flows, to a local port or through VXLAN."""

import pytest
import test_vlan
import weft
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
VXLAN4 = ("vxlan", 4)


def tables(mirrors, interfaces=(), rules=None, static_nat=()):
    """Mirrors, and interfaces (device, ingress, egress) that name them; `d` is where local copies go."""
    document = weft.tables()
    document["mirrors"] = list(mirrors)
    document["interface-mirrors"] = []
    for device, ingress, egress in interfaces:
        entry = {"interface": 0 if device == "fabric" else weft.ENCAP[device]}
        document["interface-mirrors"].append(entry | {key: value for key, value in (("ingress", ingress),
                                                                                    ("egress", egress)) if value})
    if rules is not None:
        document["interfaces"][2]["flags"] = ["policy", "bridging", "routing"]
        document["rules"] = rules
    document["static-nat"] = list(static_nat)
    return document


LOCAL = {"id": 1, "interface": 4}


def packet(family, source="a", destination="b", kind="udp", **fields):
    return weft.ip(family, weft.pod(family, source), weft.pod(family, destination)) / weft.transport(
        kind, family, **fields)


@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
def test_ingress_as_it_came_in(replay, family, kind):
    inner = packet(family, kind=kind, payload=bytes(range(256)) * 4)
    run = replay({"a": [weft.routed("a", inner)]}, tables([LOCAL], [("a", 1, 0)]))
    assert set(run.sent) == {"b", "d"}
    weft.same(run.frames("d")[0], weft.routed("a", inner))
    weft.same(run.frames("b")[0], weft.delivered("b", inner))
    size = len(weft.routed("a", inner))
    assert run.report["mirrors"] == {"1": {"packets": 1, "bytes": size, "shortened": 0, "lost": 0}}


@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
def test_egress_as_it_goes_out(replay, family, kind):
    inner = packet(family, kind=kind, payload=bytes(range(256)) * 4)
    run = replay({"a": [weft.routed("a", inner)]}, tables([LOCAL], [("b", 0, 1)]))
    for port in "bd":
        weft.same(run.frames(port)[0], weft.delivered("b", inner))


@families
def test_both_and_each_to_its_own(replay, family):
    out, back = packet(family), packet(family, "b", "a")
    document = tables([LOCAL, {"id": 9, "interface": 3}], [("a", 1, 9)])
    run = replay({"a": [weft.routed("a", out)], "b": [(2, weft.routed("b", back))]}, document)
    weft.same(run.frames("d")[0], weft.routed("a", out))
    weft.same(run.frames("c")[0], weft.delivered("a", back))
    assert {port: len(frames) for port, frames in run.sent.items()} == {"a": 1, "b": 1, "c": 1, "d": 1}


@families
def test_translation_is_between_the_two(replay, family):
    outside = "203.0.113.5" if family == 4 else "2001:db8:5::5"
    nat = {"inside-vrf": 1, "inside": weft.pod(family, "a"), "outside-vrf": 1, "outside": outside}
    document = tables([LOCAL, {"id": 2, "interface": 3}], [("a", 1, 0), ("b", 0, 2)], static_nat=[nat])
    for kind in ("udp", "tcp", "echo"):
        inner = packet(family, kind=kind, payload=b"x" * 700)
        run = replay({"a": [weft.routed("a", inner)]}, document)
        weft.same(run.frames("d")[0], weft.routed("a", inner))
        assert run.frames("c") == run.frames("b")
        layer = Ether(run.frames("c")[0])[IP if family == 4 else IPv6]
        assert layer.src == outside


def test_icmp_errors_are_copied_as_they_came(replay):
    # What the error quotes is translated in the packet, not in the copy.
    from scapy.layers.inet import ICMP
    nat = {"inside-vrf": 1, "inside": weft.pod(4, "a"), "outside-vrf": 1, "outside": "203.0.113.5"}
    document = tables([LOCAL], [("b", 1, 0)], static_nat=[nat])
    first = packet(4, payload=b"q" * 900)
    quote = weft.ip(4, "203.0.113.5", weft.pod(4, "b"), ttl=63) / weft.transport("udp", 4, payload=b"q" * 900)
    error = weft.routed("b", weft.ip(4, weft.pod(4, "b"), "203.0.113.5") / ICMP(type=3, code=3) / bytes(quote)[:548])
    run = replay({"a": [weft.routed("a", first)], "b": [(2, error)]}, document)
    weft.same(run.frames("d")[0], error)
    assert Ether(run.frames("a")[0])[IP].dst == weft.pod(4, "a")


@families
@pytest.mark.parametrize("bytes_", [64, 65, 90, 300, 2000])
@pytest.mark.parametrize("way", ["ingress", "egress", "tunnel"])
def test_truncation(replay, family, bytes_, way):
    inner = packet(family, payload=bytes(range(250)) * 4)
    mirror = {"id": 1, "truncate": bytes_} | (
        {"nexthop": weft.TUNNEL["vxlan", family], "vni": 77} if way == "tunnel" else {"interface": 4})
    whole = bytes(weft.delivered("b", inner) if way == "egress" else weft.routed("a", inner))
    run = replay({"a": [weft.routed("a", inner)]}, tables([mirror], [("b", 0, 1) if way == "egress" else ("a", 1, 0)]))
    frame = run.frames("fabric")[0] if way == "tunnel" else run.frames("d")[0]
    if way == "tunnel":
        frame = bytes(Ether(frame)[VXLAN].payload)
    assert frame == whole[:bytes_]
    assert run.report["mirrors"]["1"]["bytes"] == len(frame)
    # The packet itself is whole.
    weft.same(run.frames("b")[0], weft.delivered("b", inner))


@families
@pytest.mark.parametrize("underlay", [4, 6])
def test_through_vxlan(replay, family, underlay):
    for size in (0, 1, 7, 800, 801):
        inner = packet(family, payload=b"z" * size)
        mirror = {"id": 5, "nexthop": weft.TUNNEL["vxlan", underlay], "vni": 0xABCDEF}
        run = replay({"a": [weft.routed("a", inner)]}, tables([mirror], [("a", 5, 5)]))
        row = run.tshark("fabric", "vxlan.vni", "udp.checksum.status", "ip.checksum.status", "udp.dstport", "ip.dst",
                         "ipv6.dst", "udp.length")[0]
        assert row["vxlan.vni"] == [str(0xABCDEF)]
        assert row["udp.dstport"][0] == "4789"
        assert (row["ip.dst"] if underlay == 4 else row["ipv6.dst"])[0] == weft.THERE[underlay]
        assert row["udp.checksum.status"][0] == ("3" if underlay == 4 else "1")
        assert "0" not in row["ip.checksum.status"] + row["udp.checksum.status"]
        outer = Ether(run.frames("fabric")[0])
        assert (outer.dst, outer.src) == (weft.NEXT_HOP, weft.FABRIC)
        weft.same(bytes(outer[VXLAN].payload), weft.routed("a", inner))
        assert len(run.frames("fabric")) == 1


def test_one_conversation_has_one_source_port(replay):
    mirror = {"id": 5, "nexthop": weft.TUNNEL["vxlan", 4], "vni": 1}
    run = replay({"a": [weft.routed("a", packet(4))], "b": [(2, weft.routed("b", packet(4, "b", "a")))]},
                 tables([mirror], [("a", 5, 5)]))
    ports = [Ether(frame)[UDP].sport for frame in run.frames("fabric")]
    assert len(ports) == 2 and len(set(ports)) == 1 and ports[0] >= 0xC000


@pytest.mark.parametrize("underlay", [4, 6])
def test_what_does_not_fit_the_underlay_is_shortened(replay, underlay):
    inner = packet(4, payload=b"z" * 1400)
    mirror = {"id": 5, "nexthop": weft.TUNNEL["vxlan", underlay], "vni": 1}
    document = tables([mirror], [("a", 5, 0)])
    document["interfaces"][0]["mtu"] = 1400
    run = replay({"a": [weft.routed("a", inner)]}, document)
    frame = run.frames("fabric")[0]
    assert len(frame) == 14 + 1400
    whole = bytes(weft.routed("a", inner))
    copy = bytes(Ether(frame)[VXLAN].payload)
    assert copy == whole[:len(copy)]
    assert run.report["mirrors"]["5"]["shortened"] == 1


def test_no_way_to_the_analyser(replay):
    mirror = {"id": 5, "nexthop": weft.UNRESOLVED, "vni": 1}
    run = replay({"a": [weft.routed("a", packet(4))]}, tables([mirror], [("a", 5, 0)]))
    assert set(run.sent) == {"b"}
    assert run.report["mirrors"]["5"] == {"packets": 0, "bytes": 0, "shortened": 0, "lost": 1}


def test_what_is_dropped_is_seen_all_the_same(replay):
    frames = [weft.routed("a", weft.ip(4, weft.pod(4, "a"), "198.51.100.1") / UDP()), Ether(dst=weft.ROUTER) / b"?",
              weft.routed("a", IP(src="10.1.0.1", dst="10.1.0.2", len=9999) / UDP())]
    run = replay({"a": frames}, tables([LOCAL], [("a", 1, 0)]))
    assert run.frames("d") == [bytes(frame) for frame in frames]
    assert sum(run.drops.values()) == 3


@families
def test_answers_are_copied(replay, family):
    # The question as it came, although the answer is written over it; and the answer.
    echo = weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.GATEWAY[family]) / weft.transport(
        "echo", family, payload=b"e" * 400))
    arp = Ether(src=weft.MAC["a"], dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=weft.MAC["a"], psrc=weft.pod(4, "a"), pdst=weft.pod(4, "b"))
    frames = [echo] + ([arp] if family == 4 else [])
    run = replay({"a": frames}, tables([LOCAL, {"id": 2, "interface": 3}], [("a", 1, 2)]))
    assert run.frames("d") == [bytes(frame) for frame in frames]
    assert run.frames("c") == run.frames("a") and len(run.frames("a")) == len(frames)


@families
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda tunnel: f"{tunnel[0]}-{tunnel[1]}")
def test_fabric_with_its_outer_headers(replay, family, tunnel):
    there = packet(family, "a", "b", payload=b"p" * 300)
    inner = weft.ip(family, weft.behind(family, tunnel), weft.pod(family, "a")) / weft.transport(
        "tcp", family, payload=b"in" * 200)
    back = weft.remote(tunnel, inner)
    there = weft.ip(family, weft.pod(family, "a"), weft.behind(family, tunnel)) / weft.transport("udp", family)
    run = replay({"fabric": [back], "a": [(2, weft.routed("a", there))]},
                 tables([LOCAL, {"id": 2, "interface": 3}], [("fabric", 1, 2)]))
    weft.same(run.frames("d")[0], back)
    assert run.frames("c") == run.frames("fabric") and len(run.frames("c")) == 1
    weft.same(run.frames("a")[0], weft.delivered("a", inner))


def rule(**fields):
    return {"id": 1, "priority": 1, "direction": "ingress", "action": "allow", **fields}


@families
def test_flow_in_both_directions(replay, family):
    out = [packet(family, payload=b"1"), packet(family, payload=b"2" * 900)]
    back = weft.ip(family, weft.pod(family, "b"), weft.pod(family, "a")) / UDP(
        sport=weft.DESTINATION_PORT, dport=weft.SOURCE_PORT) / b"3"
    other = packet(family, payload=b"no", dport=1)
    rules = [rule(mirror=1, protocol=17, **{"destination-ports": [weft.DESTINATION_PORT]}), rule() | {"id": 2}]
    run = replay({"a": [weft.routed("a", out[0]), weft.routed("a", other), (3, weft.routed("a", out[1]))],
                  "b": [(2, weft.routed("b", back))]}, tables([LOCAL], rules=rules))
    expected = [weft.routed("a", out[0]), weft.routed("b", back), weft.routed("a", out[1])]
    assert run.frames("d") == [bytes(frame) for frame in expected]


@families
@pytest.mark.parametrize("action", ["deny", "reject"])
def test_denied_flow(replay, family, action):
    frame = weft.routed("a", packet(family))
    run = replay({"a": [frame, frame]}, tables([LOCAL], rules=[rule(mirror=1, action=action)]))
    assert run.frames("d") == [bytes(frame)] * 2
    assert "b" not in run.sent


@families
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda tunnel: f"{tunnel[0]}-{tunnel[1]}")
def test_flow_from_a_tunnel(replay, family, tunnel):
    # Without the tunnel's headers; MPLS carries no Ethernet header, so it gets one.
    inner = [weft.ip(family, weft.behind(family, tunnel), weft.pod(family, "b")) / TCP(
        sport=1, dport=2, flags="A", seq=1 + 500 * index) / (b"abcde" * 100) for index in range(3)]
    run = replay({"fabric": [weft.remote(tunnel, part) for part in inner]},
                 tables([LOCAL], rules=[rule(mirror=1)]))
    source = weft.REMOTE_ROUTER if tunnel[0] == "vxlan" else weft.ROUTER
    # Though the segments are merged on their way.
    assert run.frames("d") == [bytes(Ether(src=source, dst=weft.ROUTER) / part) for part in inner]
    assert run.frames("b") == [bytes(weft.delivered("b", part)) for part in inner]


@families
def test_flow_before_translation(replay, family):
    outside = "203.0.113.5" if family == 4 else "2001:db8:5::5"
    nat = {"inside-vrf": 1, "inside": weft.pod(family, "a"), "outside-vrf": 1, "outside": outside}
    out = packet(family, payload=b"o" * 500)
    back = weft.ip(family, weft.pod(family, "b"), outside) / UDP(sport=weft.DESTINATION_PORT, dport=weft.SOURCE_PORT)
    run = replay({"a": [weft.routed("a", out)], "b": [(2, weft.routed("b", back))]},
                 tables([LOCAL], rules=[rule(mirror=1)], static_nat=[nat]))
    assert run.frames("d") == [bytes(weft.routed("a", out)), bytes(weft.routed("b", back))]


@families
def test_the_rule_that_lets_out_mirrors_too(replay, family):
    rules = [rule() | {"id": 2}, rule(direction="egress", mirror=1)]
    document = tables([LOCAL], rules=rules)
    document["interfaces"][1]["flags"] = ["policy", "bridging", "routing"]
    run = replay({"a": [weft.routed("a", packet(family))]}, document)
    assert set(run.sent) == {"b", "d"}


def test_copies_are_not_copied(replay):
    # The analyser's port is itself mirrored, to itself: one copy of what comes, none of copies.
    run = replay({"a": [weft.routed("a", packet(4))]}, tables([LOCAL], [("a", 1, 0), ("d", 1, 1)]))
    assert {port: len(frames) for port, frames in run.sent.items()} == {"b": 1, "d": 1}


@pytest.mark.parametrize("change,words", [
    ({"mirrors": [{"id": 0, "interface": 4}]}, ["$.mirrors[0].id", "0 is not within 1 to 1023"]),
    ({"mirrors": [{"id": 1, "interface": 40}]}, ["$.mirrors[0].interface", "there is no interface 40"]),
    ({"mirrors": [{"id": 1, "interface": 0}]}, ["$.mirrors[0].interface", "fabric interface"]),
    ({"mirrors": [{"id": 1, "interface": 4, "vni": 4}]}, ["$.mirrors[0].vni", "either an interface"]),
    ({"mirrors": [{"id": 1, "nexthop": 12, "vni": 4}]}, ["$.mirrors[0].nexthop", "not a VXLAN tunnel"]),
    ({"mirrors": [{"id": 1, "nexthop": 10}]}, ["$.mirrors[0]", '"vni" is missing']),
    ({"mirrors": [{"id": 1, "nexthop": 10, "vni": 1 << 24}]}, ["$.mirrors[0].vni"]),
    ({"mirrors": [LOCAL, LOCAL]}, ["$.mirrors[1].id", "mirror 1 stands at $.mirrors[0] already"]),
    ({"mirrors": [LOCAL | {"truncate": 63}]}, ["$.mirrors[0].truncate", "64 bytes and more"]),
    ({"mirrors": [LOCAL | {"size": 63}]}, ["$.mirrors[0].size", "unknown key"]),
    ({"mirrors": [LOCAL], "interface-mirrors": [{"interface": 1, "ingress": 2}]},
     ["$.interface-mirrors[0].ingress", "there is no mirror 2"]),
    ({"mirrors": [LOCAL], "interface-mirrors": [{"interface": 1}]}, ["$.interface-mirrors[0]", "name a mirror"]),
    ({"mirrors": [LOCAL], "interface-mirrors": [{"interface": 9, "egress": 1}]},
     ["$.interface-mirrors[0].interface", "no interface 9"]),
    ({"mirrors": [LOCAL], "interface-mirrors": [{"interface": 1, "egress": 1}] * 2},
     ["$.interface-mirrors[1].interface", "stands at"]),
    ({"rules": [rule(mirror=3)]}, ["$.rules[0].mirror", "there is no mirror 3"]),
])
def test_refused(replay, change, words):
    run = replay({"a": []}, weft.tables() | change, expect_status=1)
    for word in words:
        assert word in run.stderr, run.stderr


@families
@test_vlan.numbers
@pytest.mark.parametrize("watched", ["vlan", "port"])
def test_vlans(replay, family, number, watched):
    # Of a VLAN's interface its frames without tags, of the port's all of them, with tags.
    document = test_vlan.tables()
    document["mirrors"] = [LOCAL, {"id": 2, "interface": 3}]
    document["interface-mirrors"] = [{"interface": number - 5 if watched == "vlan" else 1, "ingress": 1, "egress": 2}]
    station = test_vlan.STATION[number]
    address = test_vlan.address(family, number)
    coming = Ether(src=station, dst=weft.ROUTER) / test_vlan.packet(family, address, weft.pod(family, "c"))
    going = test_vlan.packet(family, weft.pod(family, "d"), address)
    run = replay({"a": [test_vlan.tagged(coming, number)], "d": [(2, weft.routed("d", going))]}, document)
    out = Ether(src=weft.ROUTER, dst=station) / weft.aged(going)
    shown = (lambda frame: test_vlan.tagged(frame, number)) if watched == "port" else bytes
    weft.same(run.frames("d")[0], shown(coming))
    copies = [frame for frame in run.frames("c") if Ether(frame).dst == station]
    assert len(copies) == 1
    weft.same(copies[0], shown(out))
    weft.same(run.frames("a")[0], test_vlan.tagged(out, number))
    assert {name: row["packets"] for name, row in run.report["mirrors"].items()} == {"1": 1, "2": 1}
