"""Rules: which flows may begin between pods, and from and to the fabric. Replies pass without a rule of their own."""

import pytest
import weft
from scapy.layers.inet import ICMP, TCP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.layers.l2 import Ether

VXLAN4 = ("vxlan", 4)
FAMILIES = pytest.mark.parametrize("family", (4, 6))


def tables(*rules, under="b", tags=None, sets=()):
    """Interfaces `under` the policy, and rules."""
    document = weft.tables()
    for interface in document["interfaces"]:
        if interface["device"] in under:
            interface["flags"] = ["policy", "bridging", "routing"]
        if interface["device"] in (tags or {}):
            interface["tags"] = tags[interface["device"]]
    document["address-sets"] = [{"id": number, **entry} for number, entry in enumerate(sets)]
    document["rules"] = [{"id": number, "priority": 100, "direction": "ingress", "action": "allow", **rule}
                         for number, rule in enumerate(rules)]
    return document


def syn(family, source="a", destination="b", port=80, flags="S", sport=weft.SOURCE_PORT):
    """A frame of a pod with a TCP segment for another pod, or for an address."""
    target = weft.pod(family, destination) if len(destination) == 1 else destination
    packet = weft.ip(family, weft.pod(family, source), target)
    return weft.routed(source, packet / TCP(sport=sport, dport=port, flags=flags, seq=1))


def reply(family, source="b", destination="a", port=80):
    target = weft.pod(family, destination) if len(destination) == 1 else destination
    packet = weft.ip(family, weft.pod(family, source), target)
    return weft.routed(source, packet / TCP(sport=port, dport=weft.SOURCE_PORT, flags="SA", seq=1, ack=2))


def outcome(tmp_path, document, **inputs):
    """Frames that left, by port, and drops by reason."""
    run = weft.replay(tmp_path, inputs, document)
    return {port: len(frames) for port, frames in run.sent.items()}, run.drops


@FAMILIES
def test_interfaces_without_the_flag_are_free(tmp_path, family):
    sent, drops = outcome(tmp_path, tables(under=""), a=[syn(family)])
    assert (sent, drops) == ({"b": 1}, {})


@FAMILIES
@pytest.mark.parametrize("under", ("a", "b", "ab"))
def test_what_no_rule_allows_is_denied(tmp_path, family, under):
    sent, drops = outcome(tmp_path, tables(under=under), a=[syn(family), syn(family)])
    assert (sent, drops) == ({}, {"policy_denied": 2})


@FAMILIES
def test_an_allowed_flow_has_replies(tmp_path, family):
    """Ingress to b for TCP 80, and nothing else: b's answer needs no rule, a flow that b begins does."""
    document = tables({"protocol": 6, "destination-ports": [80]}, under="ab")
    document["rules"].append({"id": 7, "priority": 1, "direction": "egress", "action": "allow", "tag": 5})
    document["interfaces"][1]["tags"] = [5]
    assert document["interfaces"][1]["device"] == "a"
    frames = {
        "a": [(1.000, syn(family)), (1.002, syn(family, port=81)), (1.004, syn(family, flags="A"))],
        "b": [(1.001, reply(family)), (1.003, syn(family, "b", "a"))],
    }
    run = weft.replay(tmp_path, frames, document)
    assert run.drops == {"policy_denied": 2}
    weft.same(run.frames("b")[0], weft.delivered("b", frames["a"][0][1][1]))
    weft.same(run.frames("b")[1], weft.delivered("b", frames["a"][2][1][1]))
    weft.same(run.frames("a")[0], weft.delivered("a", frames["b"][0][1][1]))
    assert len(run.frames("b")) == 2 and len(run.frames("a")) == 1


@FAMILIES
def test_both_ends_are_asked(tmp_path, family):
    allow = {"in": {"direction": "ingress"}, "out": {"direction": "egress"}}
    for rules, passes in ((("in",), False), (("out",), False), (("in", "out"), True)):
        directory = tmp_path / "-".join(rules)
        directory.mkdir()
        sent, _ = outcome(directory, tables(*(allow[rule] for rule in rules), under="ab"), a=[syn(family)])
        assert sent == ({"b": 1} if passes else {}), rules


@FAMILIES
def test_lowest_priority_number_decides(tmp_path, family):
    document = tables(
        {"priority": 30}, {"priority": 20, "action": "deny", "protocol": 6, "destination-ports": ["80-89"]},
        {"priority": 10, "protocol": 6, "destination-ports": [85]})
    sent, drops = outcome(tmp_path, document, a=[syn(family, port=port) for port in (79, 80, 85, 89, 90)])
    assert (sent, drops) == ({"b": 3}, {"policy_denied": 2})


@FAMILIES
def test_address_sets(tmp_path, family):
    """Remote nodes' pods by set, with an exception and an exception from that."""
    prefix = "10.2.0.{}/{}" if family == 4 else "fd02::{:x}/{}"
    width = 32 if family == 4 else 128
    members = [prefix.format(0, width - 8), prefix.format(9, width)]
    document = tables({"remote-sets": [0]}, sets=[
        {"name": "remote", "members": members, "except": [prefix.format(8, width - 3)]}])
    hosts = (7, 8, 9, 15, 16)
    frames = [
        weft.remote(VXLAN4, weft.ip(family, weft.behind(family, VXLAN4, host), weft.pod(family, "b"))
                    / TCP(sport=1000 + host, dport=80, flags="S"))
        for host in hosts]
    run = weft.replay(tmp_path, {"fabric": frames}, document)
    source = "ip.src" if family == 4 else "ipv6.src"
    assert [row[source] for row in run.tshark("b", source)] == [
        [weft.behind(family, VXLAN4, host)] for host in (7, 9, 16)]
    assert run.drops == {"policy_denied": 2}


@FAMILIES
def test_egress_to_the_fabric(tmp_path, family):
    far, other = weft.behind(family, VXLAN4), weft.behind(family, ("mpls-over-udp", 4))
    network = "10.2.0.0/24" if family == 4 else "fd02::/64"
    document = tables({"direction": "egress", "remote-prefix": network}, under="a")
    sent, drops = outcome(tmp_path, document, a=[syn(family, destination=far), syn(family, destination=other)])
    assert (sent, drops) == ({"fabric": 1}, {"policy_denied": 1})


@FAMILIES
def test_tags_and_vrfs(tmp_path, family):
    """c and d have the addresses of a and b in another VRF."""
    document = tables({"tag": 4}, {"vrf": 2, "protocol": 6, "destination-ports": [90]}, under="bd",
                      tags={"b": [3, 4], "d": [3]})
    sent, drops = outcome(
        tmp_path, document, a=[syn(family, port=90), syn(family, port=91)],
        c=[syn(family, "c", "d", port=90), syn(family, "c", "d", port=91)])
    assert (sent, drops) == ({"b": 2, "d": 1}, {"policy_denied": 1})


@FAMILIES
def test_protocol_and_source_port(tmp_path, family):
    document = tables({"protocol": 17}, {"protocol": 6, "source-ports": ["5000-5999"]})
    header = weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"))
    frames = [weft.routed("a", header / weft.transport("udp", family))]
    frames += [syn(family, sport=port) for port in (4999, 5000, 5999, 6000)]
    sent, drops = outcome(tmp_path, document, a=frames)
    assert (sent, drops) == ({"b": 3}, {"policy_denied": 2})


@FAMILIES
def test_icmp_type(tmp_path, family):
    proto, request = (1, 8) if family == 4 else (58, 128)
    document = tables({"protocol": proto, "icmp-type": request, "icmp-code": 0}, under="ab")
    document["rules"].append({"id": 9, "priority": 1, "direction": "egress", "action": "allow", "tag": 5})
    document["interfaces"][1]["tags"] = [5]
    there = weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"))
    back = weft.ip(family, weft.pod(family, "b"), weft.pod(family, "a"))
    if family == 4:
        answer, odd = ICMP(type=0, id=77, seq=3), ICMP(type=13, id=78)
    else:
        answer, odd = ICMPv6EchoReply(id=77, seq=3), ICMPv6EchoRequest(id=78, code=1)
    frames = {
        "a": [(1.0, weft.routed("a", there / weft.transport("echo", family))), (1.2, weft.routed("a", there / odd))],
        "b": [(1.1, weft.routed("b", back / answer / b"weft"))],
    }
    run = weft.replay(tmp_path, frames, document)
    assert {port: len(frames) for port, frames in run.sent.items()} == {"a": 1, "b": 1}
    assert run.drops == {"policy_denied": 1}


@FAMILIES
def test_tcp_flags(tmp_path, family):
    """Connections may begin, packets of connections that nobody saw begin may not."""
    document = tables({"protocol": 6, "tcp-flags": {"mask": 18, "value": 2}})
    sent, drops = outcome(tmp_path, document, a=[
        syn(family, flags="S", port=80), syn(family, flags="A", port=81), syn(family, flags="A", port=80)])
    assert (sent, drops) == ({"b": 2}, {"policy_denied": 1})


@FAMILIES
def test_bridged_frames_are_asked_about_too(tmp_path, family):
    frames = [Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / syn(family, port=port)[1] for port in (80, 81)]
    document = tables({"protocol": 6, "destination-ports": [80]})
    sent, drops = outcome(tmp_path, document, a=frames)
    assert (sent, drops) == ({"b": 1}, {"policy_denied": 1})


@FAMILIES
def test_rejected_is_counted_apart(tmp_path, family):
    run = weft.replay(tmp_path, {"a": [syn(family)]}, tables({"action": "reject"}), conserve=False)
    assert run.drops == {"policy_rejected": 1}
    assert run.frames("b") == []


@FAMILIES
def test_fragments_follow_their_first(tmp_path, family):
    """Ports are in the first fragment alone."""
    from scapy.layers.inet import UDP, fragment
    from scapy.layers.inet6 import IPv6ExtHdrFragment, fragment6
    document = tables({"protocol": 17, "destination-ports": [80]})
    frames = []
    for port in (80, 81):
        header = weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"), id=port)
        payload = UDP(sport=5, dport=port) / (b"x" * 2000)
        if family == 4:
            pieces = fragment(header / payload, 1000)
        else:
            pieces = fragment6(header / IPv6ExtHdrFragment(id=port) / payload, 1000)
        frames += [weft.routed("a", piece) for piece in pieces]
    sent, drops = outcome(tmp_path, document, a=frames)
    half = len(frames) // 2
    assert half >= 2 and (sent, drops) == ({"b": half}, {"policy_denied": half})


@pytest.mark.parametrize("count", (1000, 10000))
def test_many_rules(tmp_path, count):
    """A rule for each port; the last one's is found, and a set of many addresses."""
    members = [f"10.{2 if host % 2 else 7}.{host >> 8 & 255}.{host & 255}/32" for host in range(1, 5000, 2)]
    rules = [{"protocol": 6, "destination-ports": [port + 1], "remote-sets": [0]} for port in range(count)]
    document = tables(*rules, sets=[{"members": members}])
    frames = [
        weft.remote(VXLAN4, weft.ip(4, weft.behind(4, VXLAN4, host), weft.pod(4, "b"))
                    / TCP(sport=1000, dport=port, flags="S"))
        for host, port in ((9, 1), (9, count), (8, count), (9, count + 1))]
    run = weft.replay(tmp_path, {"fabric": frames}, document)
    assert [row["tcp.dstport"] for row in run.tshark("b", "tcp.dstport")] == [["1"], [str(count)]]
    assert run.drops == {"policy_denied": 2}
