"""What the router answers itself: ARP, neighbour solicitations, echo requests; and what it must leave unanswered."""

import pytest
import weft
from scapy.layers.inet import ICMP, IP, IPOption_NOP, IPOption_RR, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS, ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac
from scapy.pton_ntop import inet_ntop, inet_pton
import socket

VXLAN4 = ("vxlan", 4)
BROADCAST = "ff:ff:ff:ff:ff:ff"
families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


NO_ROUTE = "no route"


def with_and_without_defaults(rows):
    """Rows of name, frame, reason: in the tables as they are, and, but for addresses that have no route, with default
    routes."""
    for name, frame, reason in rows:
        yield pytest.param(frame, reason, weft.tables(), id=name)
        if name != NO_ROUTE:
            yield pytest.param(frame, reason, with_defaults(), id=f"{name}, default route")


def with_defaults():
    """A default route into a tunnel in VRF 1."""
    document = weft.tables()
    for prefix in ("0.0.0.0/0", "::/0"):
        document["routes"].append({"vrf": 1, "prefix": prefix, "nexthop": weft.TUNNEL[VXLAN4], "label": 100})
    return document


# --- ARP


def request(target, sender=None, source=None, destination=BROADCAST, **fields):
    sender = weft.pod(4, "a") if sender is None else sender
    return Ether(src=weft.MAC["a"], dst=destination) / ARP(
        op=fields.pop("op", 1), hwsrc=weft.MAC["a"] if source is None else source, psrc=sender, pdst=target, **fields)


ANSWERED = [
    ("gateway", weft.GATEWAY[4]),
    ("a pod on this node", weft.pod(4, "b")),
    ("behind VXLAN", weft.behind(4, VXLAN4)),
    ("behind MPLS-over-UDP", weft.behind(4, ("mpls-over-udp", 6))),
    ("behind an unresolved tunnel", "10.16.0.5"),
    ("through another VRF", "10.18.0.5"),
]


@pytest.mark.parametrize("target", [pytest.param(t, id=i) for i, t in ANSWERED])
@pytest.mark.parametrize("destination", [BROADCAST, weft.ROUTER], ids=["broadcast", "unicast"])
def test_arp_answered(replay, target, destination):
    run = replay({"a": [bytes(request(target, destination=destination)) + bytes(18)]})
    weft.same(run.only("a"), Ether(src=weft.ROUTER, dst=weft.MAC["a"]) / ARP(
        op=2, hwsrc=weft.ROUTER, psrc=target, hwdst=weft.MAC["a"], pdst=weft.pod(4, "a")))
    row = run.tshark("a", "arp.opcode", "arp.src.hw_mac", "arp.src.proto_ipv4", "arp.dst.hw_mac", "arp.dst.proto_ipv4")
    assert row == [{"arp.opcode": ["2"], "arp.src.hw_mac": [weft.ROUTER], "arp.src.proto_ipv4": [target],
                    "arp.dst.hw_mac": [weft.MAC["a"]], "arp.dst.proto_ipv4": [weft.pod(4, "a")]}]
    assert run.report["flows"] == []


def test_arp_probe_for_somebody_elses_address(replay):
    # RFC 5227: the prober learns that the address is taken.
    run = replay({"a": [request(weft.pod(4, "b"), sender="0.0.0.0")]})
    weft.same(run.only("a"), Ether(src=weft.ROUTER, dst=weft.MAC["a"]) / ARP(
        op=2, hwsrc=weft.ROUTER, psrc=weft.pod(4, "b"), hwdst=weft.MAC["a"], pdst="0.0.0.0"))


UNANSWERED = [
    ("own address", request(weft.pod(4, "a"), sender="10.1.0.77"), "arp_unknown"),
    ("probe for own address", request(weft.pod(4, "a"), sender="0.0.0.0"), "arp_unknown"),
    ("announcement", request(weft.pod(4, "a")), "arp_unknown"),
    ("announcement of another's address", request(weft.pod(4, "b"), sender=weft.pod(4, "b")), "arp_unknown"),
    ("announcement of the gateway's address", request(weft.GATEWAY[4], sender=weft.GATEWAY[4]), "arp_unknown"),
    (NO_ROUTE, request("203.0.113.5"), "arp_unknown"),
    ("discard route", request("10.17.0.5"), "arp_unknown"),
    ("translation to itself", request("10.19.0.5"), "arp_unknown"),
    ("reply", request(weft.pod(4, "b"), op=2), "arp_unknown"),
    ("RARP request", request(weft.pod(4, "b"), op=3), "arp_unknown"),
    ("hardware type 6", request(weft.GATEWAY[4], hwtype=6), "arp_malformed"),
    ("protocol IPv6", request(weft.GATEWAY[4], ptype=0x86DD), "arp_malformed"),
    ("hardware length 8", request(weft.GATEWAY[4], hwlen=8), "arp_malformed"),
    ("protocol length 16", request(weft.GATEWAY[4], plen=16), "arp_malformed"),
    ("sender is a group", request(weft.GATEWAY[4], source=BROADCAST), "arp_malformed"),
    ("sender is nobody", request(weft.GATEWAY[4], source="00:00:00:00:00:00"), "arp_malformed"),
    ("unknown MAC", request(weft.GATEWAY[4], destination="02:00:00:00:09:09"), "unknown_mac"),
]


@pytest.mark.parametrize("frame, reason, document", with_and_without_defaults(UNANSWERED))
def test_arp_unanswered(replay, frame, reason, document):
    run = replay({"a": [frame]}, document)
    assert (run.sent, run.drops) == ({}, {reason: 1})


def test_arp_between_pods_is_bridged(replay):
    # A pod that refreshes what it knows asks the other pod alone.
    frame = request(weft.pod(4, "b"), destination=weft.MAC["b"])
    weft.same(replay({"a": [bytes(frame) + bytes(18)]}).only("b"), frame)


def test_arp_from_the_fabric(replay):
    # A bare-metal server of the network asks for a pod: the router answers through the tunnel, the server's MAC inside.
    arp = Ether(src=weft.REMOTE_POD, dst=BROADCAST) / ARP(
        hwsrc=weft.REMOTE_POD, psrc=weft.behind(4, VXLAN4), pdst=weft.pod(4, "a"))
    run = replay({"fabric": [weft.tunneled(VXLAN4, arp)]})
    frame = Ether(run.only("fabric"))
    assert (frame[IP].src, frame[IP].dst, frame[UDP].dport) == (weft.HERE[4], weft.THERE[4], 4789)
    weft.same(bytes(frame)[50:], Ether(src=weft.ROUTER, dst=weft.REMOTE_POD) / ARP(
        op=2, hwsrc=weft.ROUTER, psrc=weft.pod(4, "a"), hwdst=weft.REMOTE_POD, pdst=weft.behind(4, VXLAN4)))


@pytest.mark.parametrize("target, reason", [
    # It is out there itself: whoever has it answers.
    (weft.behind(4, VXLAN4, 12), "arp_unknown"),
    (weft.pod(4, "a"), "nexthop_unresolved"),
])
def test_arp_from_the_fabric_unanswered(replay, target, reason):
    document = weft.tables()
    mac, sender = weft.REMOTE_POD, weft.behind(4, VXLAN4)
    if reason == "nexthop_unresolved":
        mac, sender = "02:00:00:00:02:77", "10.16.0.5"
    arp = Ether(src=mac, dst=BROADCAST) / ARP(hwsrc=mac, psrc=sender, pdst=target)
    run = replay({"fabric": [weft.tunneled(VXLAN4, arp)]}, document)
    assert (run.sent, run.drops) == ({}, {reason: 1})


# --- Neighbour solicitations


def solicitation(target, source=None, destination=None, link=None, options=None, hop_limit=255, **fields):
    group = in6_getnsma(inet_pton(socket.AF_INET6, target))
    destination = inet_ntop(socket.AF_INET6, group) if destination is None else destination
    link = in6_getnsmac(group) if link is None else link
    source = weft.pod(6, "a") if source is None else source
    message = ICMPv6ND_NS(tgt=target, **fields)
    options = ICMPv6NDOptSrcLLAddr(lladdr=weft.MAC["a"]) if options is None else options
    return Ether(src=weft.MAC["a"], dst=link) / IPv6(src=source, dst=destination, hlim=hop_limit) / message / options


def advertisement(target, to, mac, override):
    return Ether(src=weft.ROUTER, dst=mac) / IPv6(src=target, dst=to, hlim=255) / ICMPv6ND_NA(
        tgt=target, R=1, S=1, O=override) / ICMPv6NDOptDstLLAddr(lladdr=weft.ROUTER)


SOLICITED = [
    # What the router has itself overrides what was known, what it answers for others does not (RFC 4861, 7.2.4).
    ("gateway", weft.GATEWAY[6], 1),
    ("router's link-local address", weft.ROUTER_LINK_LOCAL, 1),
    ("a pod on this node", weft.pod(6, "b"), 0),
    ("behind VXLAN", weft.behind(6, VXLAN4), 0),
    ("behind MPLS-over-UDP", weft.behind(6, ("mpls-over-udp", 6)), 0),
    ("through another VRF", "fd12::5", 0),
]


@pytest.mark.parametrize("target, override", [pytest.param(t, o, id=i) for i, t, o in SOLICITED])
@pytest.mark.parametrize("source", [weft.pod(6, "a"), "fe80::1ff:fe00:101"], ids=["global", "link-local"])
@pytest.mark.parametrize("is_unicast", [False, True], ids=["multicast", "unicast"])
@pytest.mark.parametrize("document", [weft.tables(), with_defaults()], ids=["", "default-route"])
def test_solicitation_answered(replay, target, override, source, is_unicast, document):
    where = {"destination": target, "link": weft.ROUTER} if is_unicast else {}
    run = replay({"a": [solicitation(target, source, **where)]}, document)
    weft.same(run.only("a"), advertisement(target, source, weft.MAC["a"], override))
    row = run.tshark("a", "icmpv6.type", "icmpv6.checksum.status", "icmpv6.nd.na.target_address",
                     "icmpv6.opt.linkaddr", "ipv6.hlim", "icmpv6.nd.na.flag.r", "icmpv6.nd.na.flag.s")
    assert row == [{"icmpv6.type": ["136"], "icmpv6.checksum.status": ["1"], "icmpv6.nd.na.target_address": [target],
                    "icmpv6.opt.linkaddr": [weft.ROUTER], "ipv6.hlim": ["255"], "icmpv6.nd.na.flag.r": ["1"],
                    "icmpv6.nd.na.flag.s": ["1"]}]


UNSOLICITED = [
    ("duplicate address detection", solicitation(weft.pod(6, "a"), "::", options=b""), "nd_unknown"),
    ("duplicate address detection, link-local", solicitation("fe80::1ff:fe00:101", "::", options=b""), "nd_unknown"),
    ("duplicate address detection for another's", solicitation(weft.pod(6, "b"), "::", options=b""), "nd_unknown"),
    ("own address", solicitation(weft.pod(6, "a"), "fe80::1ff:fe00:101"), "nd_unknown"),
    ("own address from itself", solicitation(weft.pod(6, "b"), weft.pod(6, "b")), "nd_unknown"),
    (NO_ROUTE, solicitation("2001:db8:5::5"), "nd_unknown"),
    ("discard route", solicitation("fd11::5"), "nd_unknown"),
    ("another's link-local address", solicitation("fe80::1ff:fe00:102"), "nd_unknown"),
    ("hop limit 254", solicitation(weft.GATEWAY[6], hop_limit=254), "nd_malformed"),
    ("code 1", solicitation(weft.GATEWAY[6], code=1), "nd_malformed"),
    ("checksum", solicitation(weft.GATEWAY[6], cksum=0x1234), "nd_malformed"),
    ("option of length zero", solicitation(weft.GATEWAY[6], options=bytes([1, 0] + [0] * 6)), "nd_malformed"),
    ("option beyond the end", solicitation(weft.GATEWAY[6], options=bytes([1, 2] + [0] * 6)), "nd_malformed"),
    ("target is a group", solicitation("ff02::1", destination="ff02::1", link="33:33:00:00:00:01"), "nd_malformed"),
    ("target holds an IPv4 address", solicitation("::ffff:10.1.0.254"), "nd_malformed"),
    ("source is a group", solicitation(weft.GATEWAY[6], "ff02::5"), "nd_malformed"),
    ("source is loopback", solicitation(weft.GATEWAY[6], "::1"), "nd_malformed"),
    ("router solicitation", Ether(src=weft.MAC["a"], dst="33:33:00:00:00:02") / IPv6(
        src="fe80::1ff:fe00:101", dst="ff02::2", hlim=255) / ICMPv6ND_RS(), "multicast"),
    ("unsolicited advertisement", Ether(src=weft.MAC["a"], dst="33:33:00:00:00:01") / IPv6(
        src=weft.pod(6, "a"), dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=weft.pod(6, "a")), "multicast"),
]


@pytest.mark.parametrize("frame, reason, document", with_and_without_defaults(UNSOLICITED))
def test_solicitation_unanswered(replay, frame, reason, document):
    run = replay({"a": [frame]}, document)
    assert (run.sent, run.drops) == ({}, {reason: 1})


def test_solicitation_between_pods_is_bridged(replay):
    frame = solicitation(weft.pod(6, "b"), destination=weft.pod(6, "b"), link=weft.MAC["b"])
    weft.same(replay({"a": [frame]}).only("b"), frame)


def test_solicitation_from_the_fabric(replay):
    target, source = weft.pod(6, "a"), weft.behind(6, VXLAN4)
    group = in6_getnsma(inet_pton(socket.AF_INET6, target))
    inner = Ether(src=weft.REMOTE_POD, dst=in6_getnsmac(group)) / IPv6(
        src=source, dst=inet_ntop(socket.AF_INET6, group), hlim=255) / ICMPv6ND_NS(tgt=target)
    frame = replay({"fabric": [weft.tunneled(VXLAN4, inner)]}).only("fabric")
    weft.same(frame[50:], advertisement(target, source, weft.REMOTE_POD, 0))


# --- Echo


@families
@pytest.mark.parametrize("size", [0, 1, 2, 7, 56, 1001, 1452])
def test_echo(replay, family, size):
    payload = bytes(i * 7 & 0xFF for i in range(size))
    frame = weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.GATEWAY[family], ttl=1, tos=0x28)
                        / weft.transport("echo", family, payload))
    run = replay({"a": [frame]})
    reply = ICMP(type=0, id=77, seq=3) if family == 4 else ICMPv6EchoReply(id=77, seq=3)
    weft.same(run.only("a"), Ether(src=weft.ROUTER, dst=weft.MAC["a"]) / weft.ip(
        family, weft.GATEWAY[family], weft.pod(family, "a"), ttl=64, tos=0x28) / reply / payload)
    status = ["ip.checksum.status", "icmp.checksum.status"] if family == 4 else ["icmpv6.checksum.status"]
    assert run.tshark("a", *status) == [{name: ["1"] for name in status}]
    assert run.report["flows"] == []


@pytest.mark.parametrize("options", [[IPOption_NOP()] * 4, [IPOption_RR(routers=["0.0.0.0"] * 3), IPOption_NOP()],
                                     [IPOption_NOP()] * 40], ids=["nop", "record-route", "full"])
def test_echo_with_options(replay, options):
    def packet(source, destination, type, ttl):
        return IP(src=source, dst=destination, id=7, ttl=ttl, options=options) / ICMP(type=type, id=1, seq=1) / b"odd"
    run = replay({"a": [weft.routed("a", packet(weft.pod(4, "a"), weft.GATEWAY[4], 8, 9))]})
    weft.same(run.only("a"), Ether(src=weft.ROUTER, dst=weft.MAC["a"]) / packet(
        weft.GATEWAY[4], weft.pod(4, "a"), 0, 64))


def test_echo_behind_extension_headers(replay):
    def packet(source, destination, message, hops):
        return IPv6(src=source, dst=destination, hlim=hops) / IPv6ExtHdrDestOpt() / message / b"odd"
    run = replay({"a": [weft.routed("a", packet(weft.pod(6, "a"), weft.GATEWAY[6], ICMPv6EchoRequest(id=1), 9))]})
    weft.same(run.only("a"), Ether(src=weft.ROUTER, dst=weft.MAC["a"]) / packet(
        weft.GATEWAY[6], weft.pod(6, "a"), ICMPv6EchoReply(id=1), 64))


@pytest.mark.parametrize("document", [weft.tables(), with_defaults()], ids=["", "default-route"])
@pytest.mark.parametrize("source", ["fe80::1ff:fe00:101", weft.pod(6, "a")])
def test_echo_to_the_link_local_address(replay, document, source):
    frame = weft.routed("a", IPv6(src=source, dst=weft.ROUTER_LINK_LOCAL) / ICMPv6EchoRequest(id=5))
    weft.same(replay({"a": [frame]}, document).only("a"), Ether(src=weft.ROUTER, dst=weft.MAC["a"]) / IPv6(
        src=weft.ROUTER_LINK_LOCAL, dst=source) / ICMPv6EchoReply(id=5))


def test_echo_to_the_gateway_from_a_link_local_address(replay):
    frame = weft.routed("a", IPv6(src="fe80::5", dst=weft.GATEWAY[6]) / ICMPv6EchoRequest(id=5))
    weft.same(replay({"a": [frame]}).only("a"), Ether(src=weft.ROUTER, dst=weft.MAC["a"]) / IPv6(
        src=weft.GATEWAY[6], dst="fe80::5") / ICMPv6EchoReply(id=5))


@pytest.mark.parametrize("source, destination", [
    ("fe80::5", weft.behind(6, VXLAN4)), ("fe80::5", "2001:db8:5::5"), (weft.pod(6, "a"), "fe80::7"),
    ("fe80::5", "fe80::7"), ("fe80::5", weft.pod(6, "b")), ("febf:ffff::5", weft.pod(6, "b")),
])
def test_link_local_addresses_are_not_routed(replay, source, destination):
    # RFC 4291 section 2.5.6.
    frame = weft.routed("a", IPv6(src=source, dst=destination) / ICMPv6EchoRequest())
    run = replay({"a": [frame]}, with_defaults())
    assert (run.sent, run.drops) == ({}, {"link_local_routed": 1})


def test_link_local_addresses_are_bridged(replay):
    frame = Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / IPv6(src="fe80::5", dst="fe80::7") / ICMPv6EchoRequest()
    weft.same(replay({"a": [frame]}).only("b"), frame)


@families
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda t: f"{t[0]}-over-ipv{t[1]}")
def test_echo_from_the_fabric(replay, family, tunnel):
    # Answered through the tunnel behind which the asker is.
    source = weft.behind(family, tunnel)
    inner = weft.ip(family, source, weft.GATEWAY[family], ttl=9) / weft.transport("echo", family, b"odd")
    run = replay({"fabric": [weft.remote(tunnel, inner)]})
    frame = run.only("fabric")
    reply = ICMP(type=0, id=77, seq=3) if family == 4 else ICMPv6EchoReply(id=77, seq=3)
    answer = weft.ip(family, weft.GATEWAY[family], source, ttl=64) / reply / b"odd"
    start = 14 + (20 if tunnel[1] == 4 else 40) + (4 if tunnel[0] == "mpls-over-gre" else 8)
    if tunnel[0] == "vxlan":
        weft.same(frame[start + 8:], Ether(src=weft.ROUTER, dst=weft.REMOTE_ROUTER) / answer)
    else:
        assert frame[start + 4:] == bytes(answer)


@pytest.mark.parametrize("family, message", [
    (4, ICMP(type=0, id=1)), (4, ICMP(type=13)), (4, UDP(dport=53)), (6, ICMPv6EchoReply(id=1)), (6, UDP(dport=53)),
], ids=["reply", "timestamp", "udp", "reply6", "udp6"])
def test_nothing_else_is_served(replay, family, message):
    run = replay({"a": [weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.GATEWAY[family]) / message)]})
    # A closed UDP port is told of, see test_errors.py.
    assert len(run.sent.get("a", [])) == (UDP in message)
    assert (set(run.sent) - {"a"}, run.drops) == (set(), {"no_service": 1})


def test_fragmented_echo_is_not_served(replay):
    whole = weft.ip(4, weft.pod(4, "a"), weft.GATEWAY[4]) / weft.transport("echo", 4, b"x" * 2000)
    fragments = [weft.routed("a", part) for part in fragment(whole, fragsize=1000)]
    whole6 = weft.ip(6, weft.pod(6, "a"), weft.GATEWAY[6]) / IPv6ExtHdrFragment() / weft.transport("echo", 6)
    run = replay({"a": [*fragments, weft.routed("a", whole6)]})
    assert (run.sent, run.drops) == ({}, {"no_service": len(fragments) + 1})
