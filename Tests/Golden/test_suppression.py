"""ARP requests and neighbour solicitations of a bridge: answered for stations that are known, else to all (RFC 9161)."""

import pytest
import weft
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
BROADCAST = "ff:ff:ff:ff:ff:ff"
FAR_MAC = "02:00:00:00:06:01"
FAR = {4: "10.1.0.66", 6: "fd01::66"}
FLOOD = 60


def tables(flags=("suppression",), flood=True):
    """b's address by its host route, a far station's by a neighbour entry."""
    document = weft.tables()
    document["vrfs"][0]["flags"] = list(flags)
    document["neighbors"] = [{"vrf": 1, "address": FAR[family], "mac": FAR_MAC} for family in (4, 6)]
    document["bridge"].append({"vrf": 1, "mac": FAR_MAC, "nexthop": weft.TUNNEL["vxlan", 4], "label": 100})
    if flood:
        document["nexthops"].append({"id": FLOOD, "action": "multicast", "members": [
            {"nexthop": 1}, {"nexthop": 2}, {"nexthop": weft.TUNNEL["vxlan", 4], "label": 100}]})
        document["bridge"].append({"vrf": 1, "mac": BROADCAST, "nexthop": FLOOD})
    return document


def ask(family, target, source=None, mac=weft.MAC["a"]):
    source = weft.pod(family, "a") if source is None else source
    if family == 4:
        return Ether(src=mac, dst=BROADCAST) / ARP(hwsrc=mac, psrc=source, pdst=target)
    question = ICMPv6ND_NS(tgt=target)
    if source != "::":
        question = question / ICMPv6NDOptSrcLLAddr(lladdr=mac)
    return Ether(src=mac, dst="33:33:ff:00:00:66") / IPv6(src=source, dst="ff02::1:ff00:66", hlim=255) / question


def answer(family, target, mac, router=False, override=True):
    if family == 4:
        return Ether(src=mac, dst=weft.MAC["a"]) / ARP(
            op=2, hwsrc=mac, psrc=target, hwdst=weft.MAC["a"], pdst=weft.pod(4, "a"))
    return Ether(src=mac, dst=weft.MAC["a"]) / IPv6(src=target, dst=weft.pod(6, "a"), hlim=255) / ICMPv6ND_NA(
        R=int(router), S=1, O=int(override), tgt=target) / ICMPv6NDOptDstLLAddr(lladdr=mac)


@families
def test_a_neighbour_entry(replay, family):
    run = replay({"a": [ask(family, FAR[family])]}, tables())
    weft.same(run.only("a"), answer(family, FAR[family], FAR_MAC))
    if family == 6:
        row = run.tshark("a", "icmpv6.nd.na.flag.r", "icmpv6.nd.na.flag.o", "icmpv6.checksum.status")[0]
        assert [int(row[f"icmpv6.nd.na.flag.{f}"][0] in ("1", "True")) for f in "ro"] == [0, 1]
        assert row["icmpv6.checksum.status"] == ["1"]


@families
def test_a_host_route(replay, family):
    run = replay({"a": [ask(family, weft.pod(family, "b"))]}, tables())
    weft.same(run.only("a"), answer(family, weft.pod(family, "b"), weft.MAC["b"]))


@families
def test_the_gateway_is_the_router(replay, family):
    run = replay({"a": [ask(family, weft.GATEWAY[family])]}, tables())
    weft.same(run.only("a"), answer(family, weft.GATEWAY[family], weft.ROUTER, router=True))


@families
def test_without_the_flag_the_router_answers(replay, family):
    run = replay({"a": [ask(family, weft.pod(family, "b"))]}, tables(flags=()))
    weft.same(run.only("a"), answer(family, weft.pod(family, "b"), weft.ROUTER, router=True, override=False))


def flooded(run, frame):
    assert {port: len(frames) for port, frames in run.sent.items()} == {"b": 1, "fabric": 1}
    weft.same(run.frames("b")[0], frame)
    weft.same(run.frames("fabric")[0][50:], frame)


@families
@pytest.mark.parametrize("target", ["nowhere", "behind a tunnel", "itself", "its own"])
def test_others_go_to_all(replay, family, target):
    where = {"nowhere": "203.0.113.5" if family == 4 else "2001:db8:9::5",
             # A subnet's route tells no station's MAC address.
             "behind a tunnel": weft.behind(family, ("vxlan", 4)),
             "itself": weft.pod(family, "a"), "its own": FAR[family]}[target]
    frame = ask(family, where)
    document = tables()
    if target == "its own":
        # The entry says that it is the asker's.
        for entry in document["neighbors"]:
            entry["mac"] = weft.MAC["a"]
    flooded(replay({"a": [frame]}, document), frame)


def test_duplicate_address_detection_goes_to_all(replay):
    # Whoever has the address defends it himself.
    frame = ask(6, FAR[6], source="::")
    flooded(replay({"a": [frame]}, tables()), frame)


def test_arp_probe_for_a_known_address(replay):
    run = replay({"a": [ask(4, FAR[4], source="0.0.0.0")]}, tables())
    weft.same(run.only("a"), Ether(src=FAR_MAC, dst=weft.MAC["a"]) / ARP(
        op=2, hwsrc=FAR_MAC, psrc=FAR[4], hwdst=weft.MAC["a"], pdst="0.0.0.0"))


@families
def test_a_mac_that_the_bridge_does_not_know(replay, family):
    # An answer would lead to where packets are dropped; where unknown MAC addresses are flooded it is good.
    document = tables()
    document["bridge"] = [entry for entry in document["bridge"] if entry["mac"] != FAR_MAC]
    frame = ask(family, FAR[family])
    flooded(replay({"a": [frame]}, document), frame)
    document["vrfs"][0]["flags"].append("flood-unknown")
    weft.same(replay({"a": [frame]}, document).only("a"), answer(family, FAR[family], FAR_MAC))


@families
def test_without_a_list_for_all(replay, family):
    # Known: answered. Routed: by the router. Else dropped, as ever.
    run = replay({"a": [ask(family, FAR[family]), ask(family, weft.behind(family, ("vxlan", 4))),
                        ask(family, "203.0.113.5" if family == 4 else "2001:db8:9::5")]}, tables(flood=False))
    got = run.frames("a")
    assert len(got) == 2
    weft.same(got[0], answer(family, FAR[family], FAR_MAC))
    weft.same(got[1], answer(family, weft.behind(family, ("vxlan", 4)), weft.ROUTER, router=True, override=False))
    assert run.drops == {"arp_unknown" if family == 4 else "nd_unknown": 1}


@families
def test_from_another_node(replay, family):
    # A station there asks for b: answered through the tunnel, with b's MAC address.
    frame = ask(family, weft.pod(family, "b"), source=FAR[family], mac=FAR_MAC)
    run = replay({"fabric": [weft.tunneled(("vxlan", 4), frame)]}, tables())
    out = run.only("fabric")
    assert (IP(out[14:]).dst, IP(out[14:])[UDP].dport) == (weft.THERE[4], 4789)
    inner = Ether(out[50:])
    assert (inner.src, inner.dst) == (weft.MAC["b"], FAR_MAC)
    if family == 4:
        assert (inner[ARP].op, inner[ARP].hwsrc, inner[ARP].psrc) == (2, weft.MAC["b"], weft.pod(4, "b"))
    else:
        assert (inner[ICMPv6ND_NA].tgt, inner[ICMPv6NDOptDstLLAddr].lladdr) == (weft.pod(6, "b"), weft.MAC["b"])


@families
def test_an_interface_that_only_routes(replay, family):
    # What it may not bridge to, it is not told of.
    document = tables()
    document["interfaces"][1]["flags"] = ["routing"]
    run = replay({"a": [ask(family, weft.pod(family, "b"))]}, document)
    weft.same(run.only("a"), answer(family, weft.pod(family, "b"), weft.ROUTER, router=True, override=False))


@families
def test_an_interface_that_only_bridges(replay, family):
    document = tables()
    document["interfaces"][1]["flags"] = ["bridging"]
    run = replay({"a": [ask(family, weft.pod(family, "b"))]}, document)
    weft.same(run.only("a"), answer(family, weft.pod(family, "b"), weft.MAC["b"]))
    frame = ask(family, weft.GATEWAY[family])
    flooded(replay({"a": [frame]}, document), frame)


@families
def test_vrfs_are_apart(replay, family):
    document = tables()
    document["vrfs"][1]["flags"] = ["suppression"]
    frame = ask(family, FAR[family], mac=weft.MAC["c"])
    run = replay({"c": [frame]}, document)
    assert (run.sent, run.drops) == ({}, {"arp_unknown" if family == 4 else "nd_unknown": 1})


def test_refused(replay):
    for row, key, reason in (
            ({"vrf": 9, "address": FAR[4], "mac": FAR_MAC}, "vrf", "no VRF 9"),
            ({"vrf": 1, "address": "224.0.0.1", "mac": FAR_MAC}, "address", "group address"),
            ({"vrf": 1, "address": "10.1.0.67", "mac": BROADCAST}, "mac", "group address"),
            ({"vrf": 1, "address": FAR[4], "mac": FAR_MAC}, "address", "already")):
        document = tables()
        document["neighbors"].append(row)
        run = replay({"a": []}, document, expect_status=1)
        assert f"at $.neighbors[2].{key} " in run.stderr and reason in run.stderr
