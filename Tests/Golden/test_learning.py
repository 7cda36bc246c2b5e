"""MAC addresses learned from packets: local and behind VXLAN, ageing, moves, damping, limits. Time is the packets'."""

import pytest
import weft
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
underlays = pytest.mark.parametrize("underlay", [4, 6], ids=["over-ipv4", "over-ipv6"])
BROADCAST = "ff:ff:ff:ff:ff:ff"
FLOOD = 60
# Tunnels by underlay and node.
NODE = {(4, 12): 70, (4, 13): 71, (6, 12): 72, (6, 13): 73}


def node(underlay, last):
    return f"192.0.2.{last}" if underlay == 4 else f"2001:db8::{last:x}"


def station(number):
    return f"02:00:00:00:05:{number:02x}"


def address(family, number):
    return f"10.1.0.{100 + number}" if family == 4 else f"fd01::{100 + number:x}"


def tables(ports="ab", flags=("learning",), limit=None, **vrf):
    document = weft.tables()
    document["limits"] |= {"nexthops": 128}
    document["vrfs"][0] |= {"flags": list(flags)} | vrf
    for interface in document["interfaces"]:
        if interface["device"] in ports:
            interface["flags"] = ["bridging", "routing", "learning"]
            if limit is not None:
                interface["mac-limit"] = limit
    for (underlay, last), number in NODE.items():
        document["nexthops"].append({
            "id": number, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": weft.HERE[underlay],
            "destination": node(underlay, last), "destination-mac": weft.NEXT_HOP})
    document["nexthops"].append({"id": FLOOD, "action": "multicast", "members": [
        {"nexthop": 1}, {"nexthop": 2}, {"nexthop": 70, "label": 100}, {"nexthop": 71, "label": 100}]})
    document["bridge"].append({"vrf": 1, "mac": BROADCAST, "nexthop": FLOOD})
    return document


def frame(family, number, to=BROADCAST, destination=None):
    """From a station; to a group or to another one."""
    if to == BROADCAST and family == 6:
        to, destination = "33:33:00:00:00:01", "ff02::1"
    destination = destination or ("255.255.255.255" if to == BROADCAST else address(family, 99))
    return Ether(src=station(number), dst=to) / weft.ip(family, address(family, number), destination) / \
        weft.transport("udp", family)


def remote(inner, last=12, underlay=4, vni=100):
    outer = IP(src=node(4, last), dst=weft.HERE[4]) if underlay == 4 else IPv6(src=node(6, last), dst=weft.HERE[6])
    return Ether(src=weft.NEXT_HOP, dst=weft.FABRIC) / outer / UDP(sport=0xC001, dport=4789) / weft.VXLAN(
        flags=8, vni=vni) / inner


def events(run):
    return [(event["event"], event.get("mac"), event.get("nexthop")) for event in run.report.get("events", [])]


def learned(run):
    return {entry["mac"]: (entry["nexthop"], entry["label"]) for entry in run.report.get("learned", [])}


@families
def test_local(replay, family):
    # Before it is heard of it is unknown; afterwards it is where it was heard of.
    ask = frame(family, 2, to=station(1))
    run = replay({"b": [(1, ask), (3, ask)], "a": [(2, frame(family, 1))]}, tables())
    assert run.drops == {"unknown_mac": 1}
    weft.same(run.frames("a")[0], ask)
    assert learned(run) == {station(1): (1, 0), station(2): (2, 0)}
    assert events(run) == [("learned", station(2), 2), ("learned", station(1), 1)]


@families
@underlays
def test_behind_a_tunnel(replay, family, underlay):
    answer = frame(family, 2, to=station(1))
    run = replay({"fabric": [(1, remote(frame(family, 1), 13, underlay))], "b": [(2, answer)]}, tables())
    assert learned(run)[station(1)] == (NODE[underlay, 13], 100)
    out = run.only("fabric") if len(run.sent) == 1 else run.frames("fabric")[-1]
    outer = IP(out[14:]) if underlay == 4 else IPv6(out[14:])
    assert (outer.dst, outer[UDP].dport) == (node(underlay, 13), 4789)
    weft.same(out[50 if underlay == 4 else 70:], answer)


@pytest.mark.parametrize("kind", ["arp", "unicast", "routed"])
def test_by_every_kind_of_packet(replay, kind):
    one = {"arp": Ether(src=station(1), dst=BROADCAST) / ARP(hwsrc=station(1), psrc=address(4, 1), pdst="10.1.0.9"),
           "unicast": frame(4, 1, to=weft.MAC["b"]),
           "routed": frame(4, 1, to=weft.ROUTER, destination=weft.pod(4, "b"))}[kind]
    assert learned(replay({"a": [one]}, tables())) == {station(1): (1, 0)}
    assert learned(replay({"fabric": [remote(one)]}, tables())) == {station(1): (70, 100)}


def test_what_is_not_learned(replay):
    group = frame(4, 1)
    group.src = "01:00:5e:00:00:05"
    zero = frame(4, 1)
    zero.src = "00:00:00:00:00:00"
    router = frame(4, 1)
    router.src = weft.ROUTER
    assert learned(replay({"a": [group, zero, router]}, tables())) == {}
    # Without the flags; from a node that there is no tunnel to; from a VNI of another VRF.
    assert learned(replay({"a": [frame(4, 1)]}, tables(ports="b"))) == {}
    assert learned(replay({"fabric": [remote(frame(4, 1))]}, tables(flags=()))) == {}
    assert learned(replay({"fabric": [remote(frame(4, 1), last=99)]}, tables())) == {}
    assert learned(replay({"fabric": [remote(frame(4, 1), vni=200)]}, tables())) == {}
    # MPLS carries no MAC addresses.
    packet = weft.ip(4, weft.behind(4, ("mpls-over-udp", 4)), weft.pod(4, "a")) / weft.transport("udp", 4)
    assert learned(replay({"fabric": [weft.remote(("mpls-over-udp", 4), packet)]}, tables())) == {}


def test_known_flows_do_not_hide_stations(replay):
    # The flow is known, and takes the short way where nothing is learned; its sender moves, which is seen.
    packet = Ether(src=station(1), dst=weft.ROUTER) / weft.ip(4, address(4, 1), weft.pod(4, "b")) / \
        weft.transport("udp", 4)
    document = tables(ports="")
    document["routes"].append({"vrf": 1, "prefix": f"{address(4, 1)}/32", "nexthop": 70, "label": 100})
    run = replay({"fabric": [(1, remote(packet)), (2, remote(packet)), (3, remote(packet, last=13))]}, document)
    assert len(run.frames("b")) == 3
    assert events(run) == [("learned", station(1), 70), ("moved", station(1), 71)]


def test_set_entries_stay(replay):
    # The agent's word counts for more than a packet's.
    document = tables()
    document["bridge"].append({"vrf": 1, "mac": station(1), "nexthop": 2})
    run = replay({"a": [(1, frame(4, 1)), (2, frame(4, 1))], "fabric": [(3, remote(frame(4, 1)))],
                  "b": [(4, frame(4, 2, to=station(1)))]}, document)
    assert learned(run) == {station(2): (2, 0)}
    assert run.drops == {"hairpin": 1}


@families
def test_ages(replay, family):
    ask = frame(family, 2, to=station(1))
    run = replay({"a": [(1, frame(family, 1))], "b": [(10, ask), (310, ask), (311.5, ask)]}, tables())
    # 300 seconds after it was heard of it is forgotten, be it asked for or not.
    assert len([f for f in run.frames("a") if f == bytes(ask)]) == 1
    assert run.drops == {"unknown_mac": 2}
    assert ("aged", station(1), 1) in events(run)
    assert learned(run) == {station(2): (2, 0)}


def test_packets_keep_it_young(replay):
    # Of a packet each second the forwarder's tables hear every third second at most.
    heard = [(t, frame(4, 1)) for t in range(1, 40)]
    ask = frame(4, 2, to=station(1))
    run = replay({"a": heard, "b": [(48, ask), (50.5, ask)]}, tables(ageing=10))
    assert len([f for f in run.frames("a") if f == bytes(ask)]) == 1
    assert run.drops == {"unknown_mac": 1}
    assert [e for e in events(run) if e[1] == station(1)] == [("learned", station(1), 1), ("aged", station(1), 1)]


@families
def test_moves(replay, family):
    ask = frame(family, 2, to=station(1))
    run = replay({"a": [(1, frame(family, 1))], "fabric": [(3, remote(frame(family, 1)))], "b": [(2, ask), (4, ask)]},
                 tables())
    assert bytes(ask) in run.frames("a") and run.frames("fabric")[-1].endswith(bytes(ask))
    assert events(run) == [("learned", station(1), 1), ("learned", station(2), 2), ("moved", station(1), 70)]
    entry = next(e for e in run.report["learned"] if e["mac"] == station(1))
    assert (entry["moves"], entry["damped"]) == (1, False)


def test_moves_back_at_once(replay):
    # Each move is seen, however fast it comes.
    run = replay({"a": [(1, frame(4, 1)), (1.002, frame(4, 1))], "b": [(1.001, frame(4, 1)), (1.003, frame(4, 1))]},
                 tables())
    assert [e[0] for e in events(run)] == ["learned", "moved", "moved", "moved"]


def flapping(start, count, step=1.0):
    """A station seen in two places by turns."""
    ports = {"a": [], "b": []}
    for number in range(count):
        ports["ab"[number % 2]].append((start + number * step, frame(4, 1)))
    return ports


def test_damped(replay):
    # RFC 7432 section 15.1: five moves in 180 seconds, and no more.
    run = replay(flapping(1, 20), tables())
    assert [e[0] for e in events(run)] == ["learned"] + ["moved"] * 5 + ["damped"]
    entry, = run.report["learned"]
    assert (entry["nexthop"], entry["moves"], entry["damped"]) == (2, 5, True)


def test_damped_stays_where_it_is(replay):
    ports = flapping(1, 8)
    document = tables()
    ask = frame(4, 3, to=station(1))
    document["interfaces"].append({"id": 5, "role": "virtual", "port": "pcap", "device": "e",
                                   "mac": "02:00:00:00:01:05", "vrf": 1})
    run = replay(ports | {"e": [(20, ask)]}, document)
    assert bytes(ask) in run.frames("b") and bytes(ask) not in run.frames("a")


def test_slow_moves_are_moves(replay):
    # Six, but never more than five within the time.
    run = replay(flapping(1, 12, step=40), tables())
    assert [e[0] for e in events(run)] == ["learned"] + ["moved"] * 11
    run = replay(flapping(1, 12, step=40), tables(**{"moves": 2}))
    assert "damped" in [e[0] for e in events(run)]


def test_damping_ends(replay):
    # Quiet elsewhere for as long as moves are counted: it may move again.
    ports = flapping(1, 8, step=1)
    ports["a"].append((100, frame(4, 1)))
    run = replay({p: list(f) for p, f in ports.items()}, tables(**{"move-seconds": 60}))
    assert [e[0] for e in events(run)] == ["learned"] + ["moved"] * 5 + ["damped", "moved"]
    entry, = run.report["learned"]
    assert (entry["nexthop"], entry["damped"]) == (1, False)


def test_configured_moves(replay):
    run = replay(flapping(1, 6), tables(moves=1))
    assert [e[0] for e in events(run)] == ["learned", "moved", "damped"]


def test_limit_of_an_interface(replay):
    frames = [(1 + n / 10, frame(4, n)) for n in range(1, 9)]
    run = replay({"a": frames}, tables(limit=3))
    assert set(learned(run)) == {station(1), station(2), station(3)}
    # Told once a second.
    assert [e[0] for e in events(run)] == ["learned"] * 3 + ["refused"]
    assert len(run.frames("b")) == 8, "packets go all the same"
    assert learned(replay({"a": frames}, tables(limit=0))) == {}
    # A move to where there is no room is none.
    run = replay({"a": [(1, frame(4, 1))], "b": [(2, frame(4, 2)), (3, frame(4, 1))]}, tables(limit=1))
    assert learned(run) == {station(1): (1, 0), station(2): (2, 0)}


def test_limit_of_tunnels(replay):
    frames = [(n, remote(frame(4, n))) for n in range(1, 9)]
    run = replay({"fabric": frames}, tables(**{"mac-limit": 2}))
    assert set(learned(run)) == {station(1), station(2)}


def test_a_quarter_of_the_bridge_is_not_for_learning(replay):
    document = tables()
    document["limits"]["bridge"] = 20
    taken = len(document["bridge"])
    run = replay({"a": [(n, frame(4, n)) for n in range(1, 20)]}, document)
    assert len(learned(run)) == 15 - taken


def test_in_a_vlan(replay):
    # Behind an interface of a VLAN, not behind its parent.
    document = tables(ports="")
    document["interfaces"].append({
        "id": 9, "role": "virtual", "port": "vlan", "parent": 1, "vlan": 7, "device": "a.7", "mac": station(0),
        "vrf": 1, "flags": ["bridging", "learning"]})
    document["nexthops"].append({"id": 9, "action": "encap", "interface": 9, "destination-mac": station(0)})
    one = bytes(frame(4, 1))
    run = replay({"a": [one[:12] + b"\x81\0\0\7" + one[12:]]}, document)
    assert learned(run) == {station(1): (9, 0)}


def test_many_in_one_batch(replay):
    # A batch's packets are forwarded, then what they tell is written down.
    frames = [(1, frame(4, n)) for n in range(1, 33)]
    run = replay({"a": frames}, tables())
    assert len(learned(run)) == 32
    assert events(run) == [("learned", station(n), 1) for n in range(1, 33)]


def test_same_input_same_output(replay):
    inputs = flapping(1, 30) | {"fabric": [(n + 0.5, remote(frame(4, n % 7))) for n in range(1, 60)]}
    reports = [replay(inputs, tables()).report for _ in range(2)]
    assert reports[0] == reports[1] and reports[0]["learned"]


def test_refused(replay):
    for keys, path, reason in (
            ({"ageing": 9}, "ageing", "not within"), ({"ageing": 1_000_001}, "ageing", "not within"),
            ({"moves": 0}, "moves", "not within"), ({"move-seconds": 0}, "move-seconds", "not within"),
            ({"mac-limit": -1}, "mac-limit", "not within"), ({"flags": ["snooping"]}, "flags[0]", "none of"),
            ({"flags": ["learning", "learning"]}, "flags[1]", "twice")):
        document = weft.tables()
        document["vrfs"][0] |= keys
        run = replay({"a": []}, document, expect_status=1)
        assert f"at $.vrfs[0].{path} " in run.stderr and reason in run.stderr
        assert not weft.SCHEMA.is_valid(document)
    for flags, key, reason in (
            (["routing", "learning"], "flags", "goes with bridging"),
            (["bridging", "learning", "anti-spoofing"], "flags", "not with anti-spoofing"),
            (["bridging"], "mac-limit", "does not learn")):
        document = weft.tables()
        document["interfaces"][1] |= {"flags": flags} | ({"mac-limit": 1} if key == "mac-limit" else {})
        run = replay({"a": []}, document, expect_status=1)
        assert f"at $.interfaces[1].{key} " in run.stderr and reason in run.stderr
