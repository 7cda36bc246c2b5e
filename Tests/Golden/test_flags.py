"""Flags of interfaces: anti-spoofing, drop-new-flows, interfaces that only bridge or only route."""

import pytest
import weft
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6,
)
from scapy.layers.l2 import ARP, Ether

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
VXLAN4 = ("vxlan", 4)
BROADCAST = "ff:ff:ff:ff:ff:ff"
# What a makes of its MAC address, as RFC 4291 appendix A says.
LINK_LOCAL = "fe80::ff:fe00:101"


def flagged(*flags, device="a", base=("bridging", "routing")):
    document = weft.tables()
    for interface in document["interfaces"]:
        if interface["device"] == device:
            interface["flags"] = [*base, *flags]
    return document


def packet(family, source, destination, kind="udp", **fields):
    return weft.ip(family, source, destination) / weft.transport(kind, family, **fields)


# --- anti-spoofing


@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
def test_own_addresses_pass(replay, family, kind):
    inner = packet(family, weft.pod(family, "a"), weft.pod(family, "b"), kind)
    frames = [weft.routed("a", inner), Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / inner]
    run = replay({"a": frames}, flagged("anti-spoofing"))
    got = run.frames("b")
    assert len(got) == 2
    weft.same(got[0], weft.delivered("b", inner))
    weft.same(got[1], frames[1])


def spoofed():
    for family in (4, 6):
        mine, other = weft.pod(family, "a"), weft.pod(family, "b")
        far = weft.behind(family, VXLAN4)
        for kind in ("udp", "tcp", "echo"):
            yield (f"IPv{family} {kind} from another pod", weft.routed("a", packet(family, other, far, kind)),
                   "spoofed_address")
        yield f"IPv{family} from behind a tunnel", weft.routed("a", packet(family, far, other)), "spoofed_address"
        yield (f"IPv{family} from the gateway", weft.routed("a", packet(family, weft.GATEWAY[family], other)),
               "spoofed_address")
        nowhere = "203.0.113.9" if family == 4 else "2001:db8:9::9"
        yield f"IPv{family} from nowhere", weft.routed("a", packet(family, nowhere, other)), "spoofed_address"
        yield (f"IPv{family} bridged from another pod",
               Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / packet(family, far, other), "spoofed_address")
        yield (f"IPv{family} another MAC", Ether(src=weft.MAC["b"], dst=weft.ROUTER) / packet(family, mine, other),
               "spoofed_mac")
        yield (f"IPv{family} bridged, another MAC",
               Ether(src="02:00:00:00:09:09", dst=weft.MAC["b"]) / packet(family, mine, other), "spoofed_mac")
    yield "another's link-local address", weft.routed("a", packet(6, "fe80::ff:fe00:102", weft.GATEWAY[6])), \
        "spoofed_address"

    def arp(**fields):
        defaults = {"hwsrc": weft.MAC["a"], "psrc": weft.pod(4, "a"), "pdst": weft.GATEWAY[4]}
        return Ether(src=weft.MAC["a"], dst=fields.pop("dst", BROADCAST)) / ARP(**defaults | fields)
    yield "ARP from another's address", arp(psrc=weft.pod(4, "b")), "spoofed_address"
    yield "ARP from the gateway's address", arp(psrc=weft.GATEWAY[4], pdst=weft.pod(4, "b")), "spoofed_address"
    yield "ARP announcement of another's address", arp(psrc=weft.pod(4, "b"), pdst=weft.pod(4, "b")), \
        "spoofed_address"
    yield "ARP with another's MAC inside", arp(hwsrc=weft.MAC["b"]), "spoofed_mac"
    yield "ARP answer for another to a pod", arp(op=2, psrc=weft.GATEWAY[4], pdst=weft.pod(4, "b"),
                                                 dst=weft.MAC["b"]), "spoofed_address"
    yield "ARP answer from nobody", arp(op=2, psrc="0.0.0.0", pdst=weft.pod(4, "b"), dst=weft.MAC["b"]), \
        "spoofed_address"
    yield "ARP answer with another's MAC", arp(op=2, hwsrc=weft.MAC["c"], pdst=weft.pod(4, "b"), dst=weft.MAC["b"]), \
        "spoofed_mac"

    def solicit(source, option=weft.MAC["a"]):
        return Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:fe") / IPv6(
            src=source, dst="ff02::1:ff00:fe", hlim=255) / ICMPv6ND_NS(tgt=weft.GATEWAY[6]) / ICMPv6NDOptSrcLLAddr(
                lladdr=option)
    yield "solicitation from another's address", solicit(weft.pod(6, "b")), "spoofed_address"
    yield "solicitation with another's MAC", solicit(weft.pod(6, "a"), weft.MAC["b"]), "spoofed_mac"

    def advertise(target, option=weft.MAC["a"], source=weft.pod(6, "a")):
        return Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / IPv6(src=source, dst=weft.pod(6, "b"), hlim=255) / \
            ICMPv6ND_NA(tgt=target, S=1) / ICMPv6NDOptDstLLAddr(lladdr=option)
    yield "advertisement of another's address", advertise(weft.GATEWAY[6]), "spoofed_address"
    yield "advertisement with another's MAC", advertise(weft.pod(6, "a"), weft.MAC["c"]), "spoofed_mac"
    yield "advertisement from another", advertise(weft.pod(6, "a"), source=weft.pod(6, "b")), "spoofed_address"


@pytest.mark.parametrize("frame, reason", [pytest.param(f, r, id=i) for i, f, r in spoofed()])
def test_spoofed(replay, frame, reason):
    run = replay({"a": [frame]}, flagged("anti-spoofing"))
    assert (run.sent, run.drops, run.report["flows"]) == ({}, {reason: 1}, [])


def test_spoofers_do_not_ride_on_known_flows(replay):
    # a's flow is there and established; b sends a packet of it, and c (of another VRF) one with the same addresses.
    for family in (4, 6):
        inner = packet(family, weft.pod(family, "a"), weft.behind(family, VXLAN4))
        document = flagged("anti-spoofing")
        for interface in document["interfaces"][1:]:
            interface["flags"] = ["bridging", "routing", "anti-spoofing"]
        run = replay({"a": [(1, weft.routed("a", inner)), (2, weft.routed("a", inner))],
                      "b": [(3, Ether(src=weft.MAC["b"], dst=weft.ROUTER) / inner)]}, document)
        assert len(run.frames("fabric")) == 2
        assert run.drops == {"spoofed_address": 1}
        assert run.report["ports"]["b"]["drops"] == 1


@families
def test_answers_to_own_addresses_only(replay, family):
    # Before ARP or ND has given it an address, and afterwards: both are answered.
    if family == 4:
        ask = [Ether(src=weft.MAC["a"], dst=BROADCAST) / ARP(hwsrc=weft.MAC["a"], psrc=sender, pdst=weft.GATEWAY[4])
               for sender in (weft.pod(4, "a"), "0.0.0.0")]
    else:
        ask = [Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:fe") / IPv6(src=sender, dst="ff02::1:ff00:fe", hlim=255)
               / ICMPv6ND_NS(tgt=weft.GATEWAY[6]) / ICMPv6NDOptSrcLLAddr(lladdr=weft.MAC["a"])
               for sender in (weft.pod(6, "a"), LINK_LOCAL)]
    run = replay({"a": ask}, flagged("anti-spoofing"))
    assert [Ether(f).dst for f in run.frames("a")] == [weft.MAC["a"]] * 2
    assert run.drops == {}


def test_duplicate_address_detection_is_no_spoofing(replay):
    frame = Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:01") / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255) / \
        ICMPv6ND_NS(tgt=weft.pod(6, "a"))
    assert replay({"a": [frame]}, flagged("anti-spoofing")).drops == {"nd_unknown": 1}


@families
def test_more_addresses_by_routes(replay, family):
    # A subnet behind the pod is its own, but for what a longer prefix leads elsewhere.
    document = flagged("anti-spoofing")
    net, width = ("10.8.0.0/24", 32) if family == 4 else ("fd08::/64", 128)
    inside, outside = ("10.8.0.7", "10.8.0.8") if family == 4 else ("fd08::7", "fd08::8")
    document["routes"] += [{"vrf": 1, "prefix": net, "nexthop": weft.ENCAP["a"]},
                           {"vrf": 1, "prefix": f"{outside}/{width}", "nexthop": weft.ENCAP["b"]}]
    good, bad = (packet(family, source, weft.pod(family, "b")) for source in (inside, outside))
    run = replay({"a": [weft.routed("a", good), weft.routed("a", bad)]}, document)
    weft.same(run.only("b"), weft.delivered("b", good))
    assert run.drops == {"spoofed_address": 1}


@families
def test_shared_address_by_ecmp(replay, family):
    document = flagged("anti-spoofing")
    shared, width = ("10.8.0.1", 32) if family == 4 else ("fd08::1", 128)
    document["nexthops"].append({"id": 50, "action": "ecmp", "members": [
        {"nexthop": weft.ENCAP["a"]}, {"nexthop": weft.TUNNEL[VXLAN4], "label": 100}]})
    document["routes"].append({"vrf": 1, "prefix": f"{shared}/{width}", "nexthop": 50})
    inner = packet(family, shared, weft.pod(family, "b"))
    weft.same(replay({"a": [weft.routed("a", inner)]}, document).only("b"), weft.delivered("b", inner))


@families
def test_the_other_interface_is_not_guarded(replay, family):
    inner = packet(family, weft.pod(family, "a"), weft.behind(family, VXLAN4))
    run = replay({"b": [Ether(src=weft.MAC["b"], dst=weft.ROUTER) / inner]}, flagged("anti-spoofing"))
    assert len(run.frames("fabric")) == 1


# --- drop-new-flows


def turned(family, kind):
    """The answer to packet(pod a, behind the tunnel)."""
    ports = {"sport": weft.DESTINATION_PORT, "dport": weft.SOURCE_PORT}
    header = {"udp": UDP(**ports), "tcp": TCP(flags="A", **ports)}[kind]
    return weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, "a")) / header / b"answer"


@families
def test_no_new_flows(replay, family):
    # Neither from it nor to it, not locally and not from the fabric; pings of the gateway are no flows.
    out = weft.routed("a", packet(family, weft.pod(family, "a"), weft.behind(family, VXLAN4)))
    into = Ether(src=weft.MAC["b"], dst=weft.ROUTER) / packet(family, weft.pod(family, "b"), weft.pod(family, "a"))
    far = weft.remote(VXLAN4, turned(family, "udp"))
    ping = weft.routed("a", packet(family, weft.pod(family, "a"), weft.GATEWAY[family], "echo"))
    run = replay({"a": [out, ping], "b": [into], "fabric": [far]}, flagged("drop-new-flows"))
    assert {port: len(frames) for port, frames in run.sent.items()} == {"a": 1}
    assert (run.drops, run.report["flows"]) == ({"new_flow": 3}, [])
    assert {port: run.report["ports"][port]["drops"] for port in ("a", "b", "fabric")} == {
        "a": 1, "b": 1, "fabric": 1}


@families
def test_bridged_flows_are_flows(replay, family):
    frame = Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / packet(family, weft.pod(family, "a"), weft.pod(family, "b"))
    assert replay({"a": [frame]}, flagged("drop-new-flows")).drops == {"new_flow": 1}
    assert replay({"a": [frame]}, flagged("drop-new-flows", device="b")).drops == {"new_flow": 1}


# --- only bridging, only routing


def both(family):
    inner = packet(family, weft.pod(family, "a"), weft.pod(family, "b"))
    return weft.routed("a", inner), Ether(src=weft.MAC["a"], dst=weft.MAC["b"]) / inner


@families
@pytest.mark.parametrize("device", ["a", "b"], ids=["from", "to"])
def test_only_routing(replay, family, device):
    routed, bridged = both(family)
    run = replay({"a": [routed, bridged]}, flagged(base=["routing"], device=device))
    weft.same(run.only("b"), weft.delivered("b", packet(family, weft.pod(family, "a"), weft.pod(family, "b"))))
    assert run.drops == {"bridging_off": 1}


@families
@pytest.mark.parametrize("device", ["a", "b"], ids=["from", "to"])
def test_only_bridging(replay, family, device):
    routed, bridged = both(family)
    run = replay({"a": [routed, bridged]}, flagged(base=["bridging"], device=device))
    weft.same(run.only("b"), bridged)
    assert run.drops == {"routing_off": 1}


def test_only_bridging_asks_no_router(replay):
    arp = Ether(src=weft.MAC["a"], dst=BROADCAST) / ARP(hwsrc=weft.MAC["a"], psrc=weft.pod(4, "a"),
                                                        pdst=weft.GATEWAY[4])
    solicitation = Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:fe") / IPv6(
        src=weft.pod(6, "a"), dst="ff02::1:ff00:fe", hlim=255) / ICMPv6ND_NS(tgt=weft.GATEWAY[6])
    run = replay({"a": [arp, solicitation]}, flagged(base=["bridging"]))
    assert (run.sent, run.drops) == ({}, {"routing_off": 2})


def test_flags_that_do_not_go_together(replay):
    for device, flags, reason in (
            ("a", [], "neither bridges nor routes"), ("a", ["policy"], "neither bridges nor routes"),
            ("fabric", ["routing"], "a fabric interface has"),
            ("fabric", ["bridging", "routing", "anti-spoofing"], "a fabric interface has"),
            ("fabric", ["bridging", "routing", "drop-new-flows"], "a fabric interface has")):
        document = weft.tables()
        number = [i["device"] for i in document["interfaces"]].index(device)
        document["interfaces"][number]["flags"] = flags
        assert not weft.SCHEMA.is_valid(document)
        run = replay({"a": []}, document, expect_status=1)
        assert f"$.interfaces[{number}].flags" in run.stderr and reason in run.stderr
