"""Sessions that share a flow: which do, in both directions, and that the packets are as without it."""

import pytest
import weft
from scapy.layers.inet import ICMP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether

FAMILIES = pytest.mark.parametrize("family", (4, 6))
VXLAN4 = ("vxlan", 4)
SERVER = {"protocol": 17, "port": 44444}
EVERY = {4: "0.0.0.0", 6: "::"}


def tables(document=None, **lists):
    """Interfaces with lists of fat flows."""
    document = document or weft.tables()
    for interface in document["interfaces"]:
        if interface["device"] in lists:
            interface["fat-flows"] = lists[interface["device"]]
    return document


def packet(family, source, destination, sport, dport, proto=UDP, **fields):
    return weft.ip(family, source, destination) / proto(sport=sport, dport=dport, **fields) / b"weft"


def ask(family, sport, server="b", client="a", proto=UDP, port=44444, **fields):
    return weft.routed(client, packet(
        family, weft.pod(family, client), weft.pod(family, server), sport, port, proto, **fields))


def answer(family, dport, server="b", client="a", proto=UDP, port=44444, **fields):
    return weft.routed(server, packet(
        family, weft.pod(family, server), weft.pod(family, client), port, dport, proto, **fields))


def flows(run):
    """Keys and packets of each flow's entries."""
    return {(flow["direction"], flow["source"], flow["source-port"], flow["destination"], flow["destination-port"]):
            flow["packets"] for flow in run.report["flows"]}


def delivered(frames, device):
    return [bytes(weft.delivered(device, frame[1])) for frame in frames]


@FAMILIES
@pytest.mark.parametrize("under", ("a", "b", "ab"))
def test_sessions_with_a_server_share_a_flow(replay, family, under):
    """The list may be the client's, the server's or both's."""
    clients = (1000, 2000, 3000, 65535)
    queries = [ask(family, port) for port in clients]
    answers = [answer(family, port) for port in clients]
    run = replay({"a": [(1 + n, frame) for n, frame in enumerate(queries)],
                  "b": [(1.5 + n, frame) for n, frame in enumerate(answers)]},
                 tables(**{device: [SERVER] for device in under}))
    a, b = weft.pod(family, "a"), weft.pod(family, "b")
    assert flows(run) == {("forward", a, 0, b, 44444): 4, ("reverse", b, 44444, a, 0): 4}
    assert run.frames("b") == delivered(queries, "b")
    assert run.frames("a") == delivered(answers, "a")


@FAMILIES
def test_other_sessions_have_their_own(replay, family):
    """Another port, another protocol, another interface; and both ends at the port, where nothing tells them apart."""
    frames = [ask(family, 1000, port=44445), ask(family, 1001, proto=TCP), ask(family, 44444)]
    run = replay({"a": frames, "c": [ask(family, 1002, server="d", client="c")]}, tables(b=[SERVER]))
    assert sorted(key[2:] for key in flows(run) if key[0] == "forward") == sorted([
        (1000, weft.pod(family, "b"), 44445), (1001, weft.pod(family, "b"), 44444), (44444, weft.pod(family, "b"), 44444),
        (1002, weft.pod(family, "d"), 44444)])


@FAMILIES
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda tunnel: "-".join(map(str, tunnel)))
def test_through_tunnels(replay, family, tunnel):
    """The server is here, its clients are behind a tunnel; or the other way round."""
    far = weft.behind(family, tunnel)
    b = weft.pod(family, "b")
    queries = [weft.remote(tunnel, packet(family, far, b, port, 44444)) for port in (1000, 2000)]
    answers = [weft.routed("b", packet(family, b, far, 44444, port)) for port in (1000, 2000)]
    run = replay({"fabric": [(1, queries[0]), (3, queries[1])], "b": [(2, answers[0]), (4, answers[1])]},
                 tables(b=[SERVER]))
    assert flows(run) == {("forward", far, 0, b, 44444): 2, ("reverse", b, 44444, far, 0): 2}
    # Outside, sessions still differ: the underlay spreads them.
    if tunnel[0] != "mpls-over-gre":
        assert len({row["udp.srcport"][0] for row in run.tshark("fabric", "udp.srcport")}) == 2
    queries = [weft.routed("a", packet(family, weft.pod(family, "a"), far, port, 44444)) for port in (1000, 2000)]
    answers = [weft.remote(tunnel, packet(family, far, weft.pod(family, "a"), 44444, port)) for port in (1000, 2000)]
    run = replay({"a": [(1, queries[0]), (3, queries[1])], "fabric": [(2, answers[0]), (4, answers[1])]},
                 tables(a=[SERVER]))
    a = weft.pod(family, "a")
    assert flows(run) == {("forward", a, 0, far, 44444): 2, ("reverse", far, 44444, a, 0): 2}


@FAMILIES
def test_two_nodes_agree(tmp_path, family):
    """What one node sends is taken by another whose pod b is behind this one's tunnel; and so is what comes back."""
    far = weft.behind(family, VXLAN4)
    width = 32 if family == 4 else 128
    other = tables(b=[SERVER])
    other["interfaces"][0] |= {"mac": weft.NEXT_HOP, "addresses": [weft.THERE[4]]}
    other["nexthops"] = [
        nexthop | {"source": weft.THERE[4], "destination": weft.HERE[4], "destination-mac": weft.FABRIC}
        if nexthop.get("source") == weft.HERE[4] else nexthop for nexthop in other["nexthops"]
        if nexthop.get("source") != weft.HERE[6]]
    numbers = {nexthop["id"] for nexthop in other["nexthops"]}
    other["routes"] = [route for route in other["routes"] if route["nexthop"] in numbers]
    other["routes"] += [{"vrf": 1, "prefix": f"{far}/{width}", "nexthop": weft.ENCAP["b"]}]
    for route in other["routes"]:
        if route["vrf"] == 1 and route["prefix"] == f"{weft.pod(family, 'a')}/{width}":
            route |= {"nexthop": weft.TUNNEL[VXLAN4], "label": 100}
    for nexthop in other["nexthops"]:
        nexthop.pop("inner-destination-mac", None)
    here = tables(a=[SERVER])
    for nexthop in here["nexthops"]:
        nexthop.pop("inner-destination-mac", None)
    a = weft.pod(family, "a")
    queries = [weft.routed("a", packet(family, a, far, port, 44444)) for port in (1000, 2000)]
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
    out = weft.replay(tmp_path / "1", {"a": queries}, here)
    arrived = out.frames("fabric")
    answers = [weft.routed("b", packet(family, far, a, 44444, port)) for port in (1000, 2000)]
    run = weft.replay(tmp_path / "2", {"fabric": [(1, arrived[0]), (3, arrived[1])],
                                       "b": [(2, answers[0]), (4, answers[1])]}, other)
    assert flows(run) == {("forward", a, 0, far, 44444): 2, ("reverse", far, 44444, a, 0): 2}
    back = run.frames("fabric")
    run = weft.replay(tmp_path / "3", {"a": [(1, queries[0]), (3, queries[1])],
                                       "fabric": [(2, back[0]), (4, back[1])]}, here)
    assert flows(run) == {("forward", a, 0, far, 44444): 2, ("reverse", far, 44444, a, 0): 2}
    assert len(run.frames("a")) == 2


@FAMILIES
def test_a_label_of_the_interface(replay, family):
    """MPLS to the pod itself, without a lookup of its address."""
    far, a = weft.behind(family, ("mpls-over-udp", 4)), weft.pod(family, "a")
    frames = [weft.remote(("mpls-over-udp", 4), packet(family, far, a, port, 44444), label=1001) for port in (1, 2)]
    run = replay({"fabric": frames}, tables(a=[SERVER]))
    assert flows(run) == {("forward", far, 0, a, 44444): 2, ("reverse", a, 44444, far, 0): 0}


@FAMILIES
def test_bridged(replay, family):
    frames = [Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / packet(
        family, weft.pod(family, "a"), weft.pod(family, "b"), port, 44444) for port in (1000, 2000)]
    back = [Ether(src=weft.MAC["b"], dst=weft.MAC["a"]) / packet(
        family, weft.pod(family, "b"), weft.pod(family, "a"), 44444, 1000)]
    run = replay({"a": [(1, frames[0]), (2, frames[1])], "b": [(3, back[0])]}, tables(b=[SERVER]))
    assert sorted(flows(run).values()) == [1, 2]


@FAMILIES
@pytest.mark.parametrize("port, expected", [(0, (0, 0)), (44444, (0, 44444))])
def test_remote_ends_are_ignored(replay, family, port, expected):
    """Every client of b in one flow, from here and from elsewhere."""
    b = weft.pod(family, "b")
    frames = [weft.remote(VXLAN4, packet(family, weft.behind(family, VXLAN4, host), b, 1000 + host, 44444))
              for host in (9, 10, 11)]
    run = replay({"fabric": frames, "a": [ask(family, 7)], "b": [(5, answer(family, 7))]},
                 tables(b=[{"protocol": 17, "port": port, "remote": "ignore"}]))
    assert flows(run) == {("forward", EVERY[family], expected[0], b, expected[1]): 4,
                          ("reverse", b, expected[1], EVERY[family], expected[0]): 1}
    assert run.frames("a") == delivered([answer(family, 7)], "a")


@FAMILIES
def test_local_end_is_ignored(replay, family):
    """A host with many addresses."""
    width = 32 if family == 4 else 128
    document = tables(b=[SERVER | {"local": "ignore"}])
    more = "10.1.0.77" if family == 4 else "fd01::77"
    document["routes"].append({"vrf": 1, "prefix": f"{more}/{width}", "nexthop": weft.ENCAP["b"]})
    a = weft.pod(family, "a")
    frames = [weft.routed("a", packet(family, a, address, 1, 44444)) for address in (more, weft.pod(family, "b"))]
    back = weft.routed("b", packet(family, more, a, 44444, 1))
    run = replay({"a": frames, "b": [(2, back)]}, document)
    assert flows(run) == {("forward", a, 0, EVERY[family], 44444): 2, ("reverse", EVERY[family], 44444, a, 0): 1}


@FAMILIES
def test_remote_ends_are_aggregated(replay, family):
    """By /30 (IPv6: /126), within the network of a tunnel only."""
    network, length = ("10.2.0.0/24", 30) if family == 4 else ("fd02::/64", 126)
    b = weft.pod(family, "b")
    hosts = (9, 11, 12, 15)
    frames = [weft.remote(VXLAN4, packet(family, weft.behind(family, VXLAN4, host), b, host, 44444)) for host in hosts]
    back = [weft.routed("b", packet(family, b, weft.behind(family, VXLAN4, host), 44444, host)) for host in hosts]
    run = replay({"fabric": [(1 + n, frame) for n, frame in enumerate(frames)], "b": [(9, f) for f in back],
                  "a": [ask(family, 5)]},
                 tables(b=[SERVER | {"remote": {"prefix": network, "length": length}}]))
    cut = [weft.behind(family, VXLAN4, host) for host in (8, 12)]
    assert flows(run) == {
        **{("forward", address, 0, b, 44444): 2 for address in cut},
        **{("reverse", b, 44444, address, 0): 2 for address in cut},
        ("forward", weft.pod(family, "a"), 5, b, 44444): 1, ("reverse", b, 44444, weft.pod(family, "a"), 5): 0}


@FAMILIES
def test_the_first_entry_that_fits_decides(replay, family):
    lists = [SERVER, {"protocol": 17, "remote": "ignore"}]
    run = replay({"a": [ask(family, 1), ask(family, 2), ask(family, 3, port=44445), ask(family, 4, port=44446)]},
                 tables(b=lists))
    b = weft.pod(family, "b")
    assert {key[1:]: packets for key, packets in flows(run).items() if key[0] == "forward"} == {
        (weft.pod(family, "a"), 0, b, 44444): 2, (EVERY[family], 0, b, 0): 2}


@FAMILIES
def test_policy_sees_the_first_packet(replay, family):
    """Ingress to b for sources ports up to 1999; the flow's later sessions go as the first one did, either way."""
    for first, passes in ((1000, 3), (3000, 0)):
        document = tables(b=[SERVER])
        document["interfaces"][2]["flags"] = ["policy", "bridging", "routing"]
        assert document["interfaces"][2]["device"] == "b"
        document["rules"] = [{"id": 1, "priority": 1, "direction": "ingress", "action": "allow", "protocol": 17,
                              "source-ports": ["0-1999"]}]
        run = replay({"a": [ask(family, port) for port in (first, 1500, 2500)], "b": [(2, answer(family, 2500))]},
                     document)
        assert len(run.frames("b")) == passes
        assert len(run.frames("a")) == (1 if passes else 0)
        assert run.drops == ({} if passes else {"policy_denied": 4})


@FAMILIES
def test_an_answer_without_a_question_is_a_flow_of_its_server(replay, family):
    document = tables(b=[SERVER])
    document["interfaces"][2]["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [{"id": 1, "priority": 1, "direction": "ingress", "action": "allow"}]
    run = replay({"b": [answer(family, 1000)], "a": [(2, ask(family, 1000))]}, document)
    assert run.drops == {"policy_denied": 2}


@FAMILIES
def test_tcp_goes_on_after_one_session_has_ended(replay, family):
    """FIN and RST end a session, not the flow: no state is followed, and the next session is not judged again."""
    document = tables(b=[{"protocol": 6, "port": 80}])
    steps = [("a", 1000, "S"), ("b", 1000, "SA"), ("a", 1000, "FA"), ("b", 1000, "FA"), ("a", 1001, "S"),
             ("b", 1001, "R"), ("a", 1002, "S"), ("b", 1002, "SA"), ("a", 1002, "A")]
    inputs = {"a": [], "b": []}
    for number, (side, port, flags) in enumerate(steps):
        make = ask if side == "a" else answer
        # The last one comes when a closed connection would long be forgotten.
        time = 1 + number + (60 if number == len(steps) - 1 else 0)
        inputs[side].append((time, make(family, port, proto=TCP, port=80, flags=flags)))
    run = replay(inputs, document)
    assert run.drops == {}
    assert list(flows(run).values()) in ([5, 4], [4, 5])
    bad = replay({"a": [ask(family, 1, proto=TCP, port=80, flags="SF")]}, document)
    assert bad.drops == {"tcp_flags": 1}


@FAMILIES
def test_fragments(replay, family):
    """The first fragment has the ports, the others follow it into the shared flow."""
    whole = weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"))
    if family == 4:
        parts = fragment(whole / UDP(sport=1000, dport=44444) / (b"x" * 2000), 1000)
    else:
        parts = fragment6(whole / IPv6ExtHdrFragment(id=9) / UDP(sport=1000, dport=44444) / (b"x" * 2000), 1200)
    frames = [weft.routed("a", part) for part in parts] + [ask(family, 2000)]
    run = replay({"a": frames}, tables(b=[SERVER]))
    assert flows(run)[("forward", weft.pod(family, "a"), 0, weft.pod(family, "b"), 44444)] == len(frames)


@FAMILIES
def test_errors_about_a_shared_flow_pass(replay, family):
    """The client's port is closed, it says so: an answer, which no rule has to allow."""
    document = tables(b=[SERVER])
    for interface in document["interfaces"][1:3]:
        interface["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [{"id": 1, "priority": 1, "direction": "egress", "action": "allow", "tag": 1, "protocol": 17},
                         {"id": 2, "priority": 1, "direction": "ingress", "action": "allow", "protocol": 17}]
    document["interfaces"][1]["tags"] = [1]
    reply = answer(family, 1000)
    quoted = bytes(weft.aged(reply[1]))
    error = (ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)) / quoted
    about = weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b")) / error)
    run = replay({"a": [(1, ask(family, 1000)), (3, about)], "b": [(2, reply)]}, document)
    assert run.drops == {}
    assert len(run.frames("b")) == 2


@FAMILIES
@pytest.mark.parametrize("entry", [SERVER, {"protocol": 17, "remote": "ignore"}, {"protocol": 17}])
def test_translated_sessions_share_nothing(replay, family, entry):
    """A service's flows keep their whole tuples, while sessions with the same pods share one; also when the shared flow
    was there first and would fit the service's address."""
    document = tables(a=[entry])
    service = {4: "10.96.0.1", 6: "fd96::1"}[family]
    document["services"] = [{"vrf": 1, "address": service, "protocol": "udp", "port": 44444,
                             "backends": [{"address": weft.pod(family, "b"), "port": 45555}]}]
    a, b = weft.pod(family, "a"), weft.pod(family, "b")
    via = [weft.routed("a", packet(family, a, service, port, 44444)) for port in (7, 8)]
    run = replay({"a": [(1, ask(family, 5)), (2, via[0]), (3, via[1]), (4, ask(family, 6)), (6, via[0])],
                  "b": [(5, answer(family, 7, port=45555)), (5.5, answer(family, 6))]}, document)
    assert [(row["udp.srcport"], row["udp.dstport"]) for row in run.tshark("b", "udp.srcport", "udp.dstport")] == [
        (["5"], ["44444"]), (["7"], ["45555"]), (["8"], ["45555"]), (["6"], ["44444"]), (["7"], ["45555"])]
    source = "ip.src" if family == 4 else "ipv6.src"
    assert [(row[source], row["udp.srcport"]) for row in run.tshark("a", source, "udp.srcport")] == [
        ([service], ["44444"]), ([b], ["44444"])]
    found = flows(run)
    assert found[("forward", a, 7, service, 44444)] == 2 and found[("forward", a, 8, service, 44444)] == 1
    assert found[("reverse", b, 45555, a, 7)] == 1
    assert sum(packets for key, packets in found.items() if key[0] == "forward" and key[2] == 0) == 2


@FAMILIES
def test_echo(replay, family):
    """Pings of all identifiers in one flow."""
    proto = 1 if family == 4 else 58
    frames = [weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"))
                          / weft.transport("echo", family, id=number)) for number in (1, 2, 3)]
    run = replay({"a": frames}, tables(b=[{"protocol": proto}]))
    assert flows(run)[("forward", weft.pod(family, "a"), 0, weft.pod(family, "b"), 0)] == 3


ROW = {"protocol": 17, "port": 44444}
BAD = [
    ("no protocol", [{"port": 44444}], "[0]", '"protocol" is missing', True),
    ("a port of ICMP", [{"protocol": 1, "port": 7}], "[0]", "ports flows know", True),
    ("unknown key", [ROW | {"source": "ignore"}], "[0].source", "unknown key", True),
    ("unknown word", [ROW | {"local": "keep"}], "[0].local", 'neither "ignore"', True),
    ("without length", [ROW | {"local": {"prefix": "10.0.0.0/8"}}], "[0].local", '"length" is missing', True),
    ("a length below the prefix's", [ROW | {"local": {"prefix": "10.0.0.0/8", "length": 7}}], "[0]", "8 to 31", False),
    ("a length that cuts nothing", [ROW | {"remote": {"prefix": "10.0.0.0/8", "length": 32}}], "[0]", "8 to 31", False),
    ("two families", [ROW | {"local": {"prefix": "10.0.0.0/8", "length": 9}, "remote": {
        "prefix": "fd00::/8", "length": 9}}], "[0]", "not of one family", False),
    ("twice", [ROW, ROW], "[1]", "twice", True),
    ("seventeen", [{"protocol": 17, "port": port} for port in range(17)], "", "at most 16", True),
]


@pytest.mark.parametrize("entries, place, reason, by_schema", [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_refused(replay, entries, place, reason, by_schema):
    document = tables(a=entries)
    run = replay({"a": "/nonexistent.pcap"}, document, expect_status=1)
    assert f"at $.interfaces[1].fat-flows{place} (" in run.stderr and reason in run.stderr, run.stderr
    assert bool(list(weft.SCHEMA.iter_errors(document))) == by_schema


def test_not_for_the_fabric(replay):
    document = tables(fabric=[ROW])
    run = replay({"a": "/nonexistent.pcap"}, document, expect_status=1)
    assert "$.interfaces[0].fat-flows" in run.stderr and "only virtual interfaces" in run.stderr
    assert list(weft.SCHEMA.iter_errors(document))
