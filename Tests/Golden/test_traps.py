"""The flag dhcp: what is left to the agent, and what does not come in."""

import pytest
import weft
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_Solicit, DHCP6OptClientId, DUID_LL
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether

MAC, ROUTER = weft.MAC["a"], weft.ROUTER
BROADCAST = "ff:ff:ff:ff:ff:ff"
OWN = "fe80::ff:fe00:101"
SERVERS = "ff02::1:2"


def tables(*flags, floods=True, device="a"):
    """Interface a has the flag; broadcasts go to b and to the other node."""
    document = weft.tables()
    interface = next(interface for interface in document["interfaces"] if interface["device"] == device)
    interface["flags"] = ["bridging", "routing", "dhcp", *flags]
    if floods:
        document["nexthops"].append({"id": 40, "action": "multicast", "members": [
            {"nexthop": weft.ENCAP["a"]}, {"nexthop": weft.ENCAP["b"]},
            {"nexthop": weft.TUNNEL["vxlan", 4], "label": 100, "group": 1}]})
        document["bridge"].append({"vrf": 1, "mac": BROADCAST, "nexthop": 40})
    return document


def discover(payload=0, source="0.0.0.0", destination="255.255.255.255", to=BROADCAST, mac=MAC, sport=68, **fields):
    options = [("message-type", "discover")] + [(224, b"x" * 200)] * (payload // 202) + ["end"]
    return Ether(src=mac, dst=to) / IP(src=source, dst=destination, **fields) / UDP(sport=sport, dport=67) / BOOTP(
        chaddr=bytes.fromhex(mac.replace(":", ""))) / DHCP(options=options)


def solicit(destination=SERVERS, to="33:33:00:01:00:02", source=OWN, sport=546):
    return Ether(src=MAC, dst=to) / IPv6(src=source, dst=destination) / UDP(sport=sport, dport=547) / DHCP6_Solicit(
        trid=1) / DHCP6OptClientId(duid=DUID_LL(lladdr=MAC))


def router_solicitation(source=OWN, to="33:33:00:00:00:02", destination="ff02::2"):
    return Ether(src=MAC, dst=to) / IPv6(src=source, dst=destination, hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(
        lladdr=MAC)


TRAPPED = {
    "discover": discover(),
    "discover of 1,500 bytes": discover(1100),
    "a request to the gateway": discover(source=weft.pod(4, "a"), destination=weft.GATEWAY[4], to=ROUTER),
    "a request to another server, routed": discover(source=weft.pod(4, "a"), destination="10.2.0.9", to=ROUTER),
    "a request to another server, bridged": discover(source=weft.pod(4, "a"), destination=weft.pod(4, "b"),
                                                     to=weft.MAC["b"]),
    "from a relay agent's port": discover(source=weft.pod(4, "a"), sport=67),
    "IP options": Ether(bytes(Ether(src=MAC, dst=BROADCAST) / IP(
        src="0.0.0.0", dst="255.255.255.255", options=[b"\1\1\1\1"]) / UDP(sport=68, dport=67) / b"weft")),
    "solicit": solicit(),
    "solicit to one server": solicit(destination=weft.ROUTER_LINK_LOCAL, to=ROUTER),
    "solicit behind extension headers": Ether(src=MAC, dst="33:33:00:01:00:02") / IPv6(
        src=OWN, dst=SERVERS) / IPv6ExtHdrDestOpt() / UDP(sport=546, dport=547) / b"weft",
    "router solicitation": router_solicitation(),
    "router solicitation from nobody": Ether(src=MAC, dst="33:33:00:00:00:02") / IPv6(
        src="::", dst="ff02::2", hlim=255) / ICMPv6ND_RS(),
    "router solicitation to the router": router_solicitation(to=ROUTER, destination=weft.ROUTER_LINK_LOCAL),
}


@pytest.mark.parametrize("name", TRAPPED)
@pytest.mark.parametrize("flags", [(), ("anti-spoofing",)], ids=["", "anti-spoofing"])
def test_left_to_the_agent_and_to_nobody_else(replay, name, flags):
    frame = bytes(TRAPPED[name])
    # Padding is not part of it.
    run = replay({"a": [frame + bytes(4)]}, tables(*flags))
    assert run.sent == {} and run.drops == {} and run.report["flows"] == []
    assert run.report["events"] == [{"event": "trap", "interface": 1, "vrf": 1, "frame": frame.hex()}]
    assert run.report["ports"]["a"]["trapped"] == 1


def test_without_the_flag_they_are_flooded(replay):
    run = replay({"a": [bytes(discover())]}, tables(device="b"), conserve=False)
    weft.same(run.frames("b")[0], discover())
    assert "events" not in run.report


REFUSED = {
    "an offer": (Ether(src=MAC, dst=BROADCAST) / IP(src=weft.pod(4, "a"), dst="255.255.255.255") / UDP(
        sport=67, dport=68) / BOOTP(op=2) / DHCP(options=[("message-type", "offer"), "end"]), "rogue_dhcp"),
    "an offer to one, bridged": (Ether(src=MAC, dst=weft.MAC["b"]) / IP(src=weft.pod(4, "a"), dst=weft.pod(4, "b"))
                                 / UDP(sport=67, dport=68) / b"weft", "rogue_dhcp"),
    "an offer to one, routed": (Ether(src=MAC, dst=ROUTER) / IP(src=weft.pod(4, "a"), dst=weft.pod(4, "b"))
                                / UDP(sport=67, dport=68) / b"weft", "rogue_dhcp"),
    "an advertise": (Ether(src=MAC, dst="33:33:00:00:00:01") / IPv6(src=OWN, dst="ff02::1") / UDP(
        sport=547, dport=546) / DHCP6_Advertise(), "rogue_dhcp"),
    "a router advertisement": (Ether(src=MAC, dst="33:33:00:00:00:01") / IPv6(src=OWN, dst="ff02::1", hlim=255)
                               / ICMPv6ND_RA(), "rogue_router"),
    "a router advertisement behind a fragment header": (
        Ether(src=MAC, dst="33:33:00:00:00:01") / IPv6(src=OWN, dst="ff02::1", hlim=255) / IPv6ExtHdrFragment(m=1, nh=58)
        / ICMPv6ND_RA(), "rogue_router"),
    "a discover of more than there is room for": (discover(2400), "trap_unfit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_does_not_come_in(replay, name):
    frame, reason = REFUSED[name]
    run = replay({"a": [bytes(frame)]}, tables())
    assert run.sent == {} and run.drops == {reason: 1}
    assert "events" not in run.report


def test_first_fragments_do_not_pass_for_something_else(replay):
    offer = IP(src=weft.pod(4, "a"), dst="255.255.255.255", id=9) / UDP(sport=67, dport=68) / (b"x" * 600)
    ask = IP(src="0.0.0.0", dst="255.255.255.255", id=10) / UDP(sport=68, dport=67) / (b"x" * 600)
    frames = [Ether(src=MAC, dst=BROADCAST) / fragment(packet, 400)[0] for packet in (offer, ask)]
    run = replay({"a": [bytes(frame) for frame in frames]}, tables())
    assert run.drops == {"rogue_dhcp": 1, "trap_unfit": 1}


def test_answers_do_not_ride_on_a_flow(replay):
    # b, which does not have the flag, asks a, which has it and answers; a's port keeps silent whatever flow is there.
    ask = weft.routed("b", IP(src=weft.pod(4, "b"), dst=weft.pod(4, "a")) / UDP(sport=68, dport=67) / b"weft")
    answer = weft.routed("a", IP(src=weft.pod(4, "a"), dst=weft.pod(4, "b")) / UDP(sport=67, dport=68) / b"weft")
    run = replay({"b": [(1, bytes(ask)), (3, bytes(ask))], "a": [(2, bytes(answer)), (4, bytes(answer))]}, tables())
    assert set(run.sent) == {"a"} and len(run.frames("a")) == 2
    assert run.drops == {"rogue_dhcp": 2}


def test_other_packets_go_their_way(replay):
    inner = weft.ip(4, weft.pod(4, "a"), weft.pod(4, "b")) / weft.transport("udp", 4)
    question = Ether(src=MAC, dst="33:33:ff:00:00:fe") / IPv6(
        src=weft.pod(6, "a"), dst="ff02::1:ff00:fe", hlim=255) / ICMPv6ND_NS(tgt=weft.GATEWAY[6]) / ICMPv6NDOptSrcLLAddr(
        lladdr=MAC)
    run = replay({"a": [bytes(weft.routed("a", inner)), bytes(question)]}, tables())
    weft.same(run.frames("b")[0], weft.delivered("b", inner))
    assert len(run.frames("a")) == 1 and run.drops == {}


def test_one_interface_has_its_share(replay):
    # 100 at once and 50 in a second: of 400 in two seconds 200, of the other's two both.
    document = tables()
    next(i for i in document["interfaces"] if i["device"] == "b")["flags"] = ["bridging", "routing", "dhcp"]
    frames = [(1 + index / 200, bytes(discover())) for index in range(400)]
    other = discover(mac=weft.MAC["b"])
    run = replay({"a": frames, "b": [(1.5, bytes(other)), (2.5, bytes(other))]}, document)
    assert run.report["ports"]["b"]["trapped"] == 2
    trapped = run.report["ports"]["a"]["trapped"]
    assert 195 <= trapped <= 201 and run.drops == {"trap_rate": 400 - trapped}


def test_workers_do_the_same(replay):
    frames = [bytes(frame) for frame in TRAPPED.values()] + [bytes(frame) for frame, _ in REFUSED.values()]
    one, two = replay({"a": frames}, tables()), replay({"a": frames}, tables(), workers=2)
    assert two.drops == one.drops
    assert two.report["ports"]["a"] == one.report["ports"]["a"]
    assert sorted(event["frame"] for event in two.report["events"]) == sorted(
        event["frame"] for event in one.report["events"])
