"""Where packets end: the host, subnets whose hosts' MAC addresses are asked for, VNIs and labels that only bridge or only
route, interfaces out of which copies go and no more."""

import pytest
import weft
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
tunnels = pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda t: f"{t[0]}-over-ipv{t[1]}")
HOST_MAC = "02:00:00:00:07:01"
HOST = {4: "10.1.0.253", 6: "fd01::fd"}
SUBNET = {4: "10.40.0.0/24", 6: "fd28::/64"}
INSIDE = {4: "10.40.0.{}", 6: "fd28::{:x}"}


def packet(family, source, destination, kind="udp", **fields):
    return weft.ip(family, source, destination, **fields) / weft.transport(kind, family)


# --- the host


def with_host():
    document = weft.tables()
    document["interfaces"].append({"id": 9, "role": "host", "port": "pcap", "device": "host", "mac": HOST_MAC,
                                   "vrf": 1})
    document["nexthops"].append({"id": 50, "action": "receive", "interface": 9})
    document["routes"] += [{"vrf": 1, "prefix": f"{HOST[4]}/32", "nexthop": 50},
                           {"vrf": 1, "prefix": f"{HOST[6]}/128", "nexthop": 50}]
    return document


@families
@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
@pytest.mark.parametrize("ttl", [1, 64])
def test_to_the_host(replay, family, kind, ttl):
    # It has arrived: its TTL is as it was.
    inner = packet(family, weft.pod(family, "a"), HOST[family], kind, ttl=ttl)
    run = replay({"a": [weft.routed("a", inner)]}, with_host())
    weft.same(run.only("host"), Ether(src=weft.ROUTER, dst=HOST_MAC) / inner)


@families
def test_known_flows_to_the_host(replay, family):
    inner = packet(family, weft.pod(family, "a"), HOST[family], ttl=1)
    run = replay({"a": [weft.routed("a", inner)] * 3}, with_host())
    assert run.frames("host") == [bytes(Ether(src=weft.ROUTER, dst=HOST_MAC) / inner)] * 3


@families
def test_from_the_host(replay, family):
    inner = packet(family, HOST[family], weft.pod(family, "a"))
    run = replay({"host": [Ether(src=HOST_MAC, dst=weft.ROUTER) / inner]}, with_host())
    weft.same(run.only("a"), weft.delivered("a", inner))


@families
@tunnels
def test_to_the_host_from_another_node(replay, family, tunnel):
    inner = packet(family, weft.behind(family, tunnel), HOST[family], ttl=1)
    run = replay({"fabric": [weft.remote(tunnel, inner)]}, with_host())
    weft.same(run.only("host"), Ether(src=weft.ROUTER, dst=HOST_MAC) / inner)


def test_the_hosts_address_is_the_routers(replay):
    document = with_host()
    arp = Ether(src=weft.MAC["a"], dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=weft.MAC["a"], psrc=weft.pod(4, "a"), pdst=HOST[4])
    assert Ether(replay({"a": [arp]}, document).only("a"))[ARP].hwsrc == weft.ROUTER
    ns = Ether(src=weft.MAC["a"], dst="33:33:ff:00:00:fd") / IPv6(
        src=weft.pod(6, "a"), dst="ff02::1:ff00:fd", hlim=255) / ICMPv6ND_NS(
            tgt=HOST[6]) / ICMPv6NDOptSrcLLAddr(lladdr=weft.MAC["a"])
    advertisement = Ether(replay({"a": [ns]}, document).only("a"))[ICMPv6ND_NA]
    assert (advertisement.R, advertisement.O) == (1, 1)
    # The host's own probe for it stays unanswered.
    arp = Ether(src=HOST_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=HOST_MAC, psrc="0.0.0.0", pdst=HOST[4])
    assert replay({"host": [arp]}, document).drops == {"arp_unknown": 1}


# --- resolve


def with_subnet():
    document = weft.tables()
    document["nexthops"].append({"id": 50, "action": "resolve", "interface": 2})
    for family in (4, 6):
        document["routes"].append({"vrf": 1, "prefix": SUBNET[family], "nexthop": 50})
    return document


def asked(run):
    return [(event["vrf"], event["interface"], event["address"]) for event in run.report.get("events", [])
            if event["event"] == "resolve"]


@families
def test_resolve(replay, family):
    # Dropped, and the agent is asked: for each address once a second.
    def to(number):
        return weft.routed("a", packet(family, weft.pod(family, "a"), INSIDE[family].format(number)))
    run = replay({"a": [(1, to(1)), (1.1, to(1)), (1.2, to(2)), (1.9, to(1)), (2.1, to(1)), (2.15, to(2))]},
                 with_subnet())
    one, two = INSIDE[family].format(1), INSIDE[family].format(2)
    assert asked(run) == [(1, 2, one), (1, 2, two), (1, 2, one)]
    assert (run.sent, run.drops, run.report["flows"]) == ({}, {"nexthop_unresolved": 6}, [])


@families
def test_resolved(replay, family):
    # The route that the agent sets is longer.
    document = with_subnet()
    document["nexthops"].append({"id": 51, "action": "encap", "interface": 2, "destination-mac": "02:00:00:00:08:01"})
    document["routes"].append({"vrf": 1, "prefix": INSIDE[family].format(1) + ("/32" if family == 4 else "/128"),
                               "nexthop": 51})
    inner = packet(family, weft.pod(family, "a"), INSIDE[family].format(1))
    run = replay({"a": [weft.routed("a", inner)]}, document)
    weft.same(run.only("b"), Ether(src=weft.ROUTER, dst="02:00:00:00:08:01") / weft.aged(inner))
    assert asked(run) == []


@families
@tunnels
def test_resolve_from_another_node(replay, family, tunnel):
    inner = packet(family, weft.behind(family, tunnel), INSIDE[family].format(7))
    run = replay({"fabric": [weft.remote(tunnel, inner)]}, with_subnet())
    assert asked(run) == [(1, 2, INSIDE[family].format(7))]


def test_the_subnet_is_behind_the_router(replay):
    # For pods of other interfaces; not for those that are on the subnet themselves.
    def arp(device):
        return Ether(src=weft.MAC[device], dst="ff:ff:ff:ff:ff:ff") / ARP(
            hwsrc=weft.MAC[device], psrc=weft.pod(4, device), pdst=INSIDE[4].format(3))
    assert Ether(replay({"a": [arp("a")]}, with_subnet()).only("a"))[ARP].hwsrc == weft.ROUTER
    assert replay({"b": [arp("b")]}, with_subnet()).drops == {"arp_unknown": 1}


# --- VNIs and labels that only bridge, or only route


def ends(action):
    document = weft.tables()
    document["nexthops"].append({"id": 50, "action": action, "vrf": 1})
    document["vnis"].append({"vni": 500, "nexthop": 50})
    document["labels"].append({"label": 500, "nexthop": 50})
    return document


@families
@tunnels
@pytest.mark.parametrize("action", ["l2-receive", "l3-receive"])
def test_layers(replay, family, tunnel, action):
    inner = packet(family, weft.behind(family, tunnel), weft.pod(family, "a"))
    routed = Ether(src=weft.REMOTE_ROUTER, dst=weft.ROUTER) / inner
    bridged = Ether(src=weft.REMOTE_POD, dst=weft.MAC["a"]) / inner
    if tunnel[0] != "vxlan" and action == "l3-receive":
        run = replay({"fabric": [weft.tunneled(tunnel, inner, label=500)]}, ends(action))
        return weft.same(run.only("a"), weft.delivered("a", inner))
    run = replay({"fabric": [weft.tunneled(tunnel, routed, label=500), weft.tunneled(tunnel, bridged, label=500)]},
                 ends(action))
    if action == "l2-receive":
        weft.same(run.only("a"), bridged)
        assert run.drops == {"routing_off": 1}
    else:
        weft.same(run.only("a"), weft.delivered("a", inner))
        assert run.drops == {"bridging_off": 1}


@pytest.mark.parametrize("tunnel", [t for t in weft.TUNNEL if t[0] != "vxlan"], ids=lambda t: f"{t[0]}-over-ipv{t[1]}")
def test_l2_label_cut(replay, tunnel):
    # Cut anywhere behind the label.
    inner = bytes(Ether(src=weft.REMOTE_POD, dst=weft.MAC["a"]) / packet(4, weft.behind(4, tunnel), weft.pod(4, "a")))
    run = replay({"fabric": [weft.tunneled(tunnel, inner[:count], label=500) for count in range(1, len(inner))]},
                 ends("l2-receive"))
    assert run.sent == {}
    assert run.drops == {"short_frame": 13, "ipv4_short": 20, "ipv4_length": len(inner) - 34}


@pytest.mark.parametrize("action, reason", [("l3-receive", "bridging_off"), ("l2-receive", "routing_off")])
def test_layers_and_questions(replay, action, reason):
    # Only routing: no broadcasts of a bridge. Only bridging: the router does not answer, nor is there a list for all.
    arp = Ether(src=weft.REMOTE_POD, dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=weft.REMOTE_POD, psrc=weft.behind(4, ("vxlan", 4)), pdst=weft.pod(4, "a"))
    run = replay({"fabric": [weft.tunneled(("vxlan", 4), arp, label=500)]}, ends(action))
    if action == "l2-receive":
        assert (run.sent, run.drops) == ({}, {reason: 1})
    else:
        assert len(run.frames("fabric")) == 1
    frame = Ether(src=weft.REMOTE_POD, dst="ff:ff:ff:ff:ff:ff") / packet(
        4, weft.behind(4, ("vxlan", 4)), "255.255.255.255")
    run = replay({"fabric": [weft.tunneled(("vxlan", 4), frame, label=500)]}, ends(action))
    assert run.drops == {"bridging_off" if action == "l3-receive" else "multicast": 1}


# --- monitoring


def test_nothing_comes_in_by_monitoring(replay):
    document = weft.tables()
    document["interfaces"].append({"id": 9, "role": "monitoring", "port": "pcap", "device": "probe", "mac": HOST_MAC})
    frames = [Ether(src=HOST_MAC, dst=weft.ROUTER) / packet(4, weft.pod(4, "a"), weft.pod(4, "b")),
              Ether(src=HOST_MAC, dst=weft.MAC["a"]) / packet(6, weft.pod(6, "a"), weft.pod(6, "b")),
              Ether(src=HOST_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.1.0.9", pdst=weft.GATEWAY[4])]
    run = replay({"probe": frames}, document)
    assert (run.sent, run.drops) == ({}, {"monitoring_port": 3})


# --- tables


def test_refused(replay):
    host = {"id": 9, "role": "host", "port": "pcap", "device": "h", "mac": HOST_MAC, "vrf": 1}
    probe = {"id": 10, "role": "monitoring", "port": "pcap", "device": "p", "mac": HOST_MAC}
    for row, key, reason in (
            ({"action": "receive", "interface": 1}, "interface", "leaves by a host interface"),
            ({"action": "receive", "interface": 99}, "interface", "no interface 99"),
            ({"action": "resolve", "interface": 0}, "interface", "virtual or host"),
            ({"action": "resolve", "interface": 10}, "interface", "virtual or host"),
            ({"action": "encap", "interface": 10, "destination-mac": HOST_MAC}, "interface", "virtual"),
            ({"action": "l2-receive", "vrf": 9}, "vrf", "no VRF 9"),
            ({"action": "l3-receive", "interface": 1}, "interface", "no such key")):
        document = weft.tables()
        document["interfaces"] += [host, probe]
        document["nexthops"].append({"id": 50} | row)
        run = replay({"a": []}, document, expect_status=1)
        place = len(document["nexthops"]) - 1
        assert f"at $.nexthops[{place}].{key} " in run.stderr and reason in run.stderr, run.stderr
    for change, key, reason in (({"vrf": 1}, "vrf", "belong to no VRF"), ({"flags": ["routing"]}, "flags", "copies"),
                                ({"tags": [1]}, "tags", "only virtual"), ({"addresses": ["192.0.2.7"]}, "addresses", "")):
        document = weft.tables()
        document["interfaces"].append(probe | change)
        run = replay({"a": []}, document, expect_status=1)
        assert f"at $.interfaces[5].{key} " in run.stderr and reason in run.stderr, run.stderr
        assert not weft.SCHEMA.is_valid(document)
    for table, row, reason in (
            ("routes", {"vrf": 1, "prefix": "10.9.0.0/24", "nexthop": 50}, "VNIs and labels"),
            ("bridge", {"vrf": 1, "mac": HOST_MAC, "nexthop": 50}, "only to an interface or a tunnel"),
            ("vnis", {"vni": 600, "nexthop": weft.RECEIVE}, "only at a VRF")):
        document = ends("l2-receive")
        document[table].append(row)
        run = replay({"a": []}, document, expect_status=1)
        assert f"at $.{table}[{len(document[table]) - 1}]" in run.stderr and reason in run.stderr, run.stderr
