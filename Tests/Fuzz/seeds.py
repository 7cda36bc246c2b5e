#!/usr/bin/python3
"""Writes good packets and tables of every kind for the fuzzers to start from: seeds.py FOLDER

FOLDER/packet.corpus, FOLDER/services.corpus and FOLDER/tables.corpus get an input each, FOLDER/tables.dict the words of TABLES.json."""
import copy
import json
import pathlib
import struct
import sys

from scapy.all import (
    ARP, Ether, ICMP, ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IP, IPOption, IPv6, IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN, Raw, SCTP, SCTPChunkData, TCP, UDP, fragment)
from scapy.contrib.mpls import MPLS
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DHCP6_Rebind, DHCP6_Solicit, DHCP6OptClientId, DHCP6OptIA_NA, DHCP6OptIAAddress, DHCP6OptOptReq, DUID_LL)
from scapy.layers.inet6 import ICMPv6ND_RS
from scapy.layers.l2 import GRE
from scapy.layers.vxlan import VXLAN

ROUTER = "00:00:5e:00:01:00"
POD, FABRIC_VIRTIO, FABRIC_PLAIN = 1, 4, 5


def virtio(flags=0, gso=0, header=0, size=0, start=0, offset=0):
    return struct.pack("<BBHHHH", flags, gso, header, size, start, offset)


def frame(packet, header=virtio()):
    data = bytes(packet)
    return struct.pack("<H", len(data)) + header + data


def pod(source=POD):
    return Ether(src=f"02:00:00:00:00:0{source}", dst=ROUTER)


def four(to="10.1.2.0", **fields):
    return IP(src="10.1.1.1", dst=to, **fields)


def six(to="fd00:1::2:0", **fields):
    return IPv6(src="fd00:1::1:1", dst=to, **fields)


def underlay(isv6=False, port=4789):
    ether = Ether(src="02:00:00:00:0f:02", dst="02:00:00:00:0f:01")
    ip = IPv6(src="2001:db8::2", dst="2001:db8::1") if isv6 else IP(src="192.0.2.2", dst="192.0.2.1", flags="DF")
    return ether / ip / UDP(sport=0xC123, dport=port)


def vxlan(inner, isv6=False):
    return underlay(isv6) / VXLAN(vni=5001, flags=8) / Ether(src=ROUTER, dst=ROUTER) / inner


def mpls(inner, label=1002, isv6=False):
    return underlay(isv6, 6635) / MPLS(label=label, s=1, ttl=64) / inner


def gre(inner, label=1002, isv6=False, **fields):
    header = underlay(isv6).copy()
    header[UDP].underlayer.remove_payload()
    header[IPv6 if isv6 else IP].setfieldval("nh" if isv6 else "proto", 47)
    return header / GRE(proto=0x8847, **fields) / MPLS(label=label, s=1, ttl=64) / inner


def incoming(isv6=False):
    return IPv6(src="fd00:1::2:0", dst="fd00:1::1:1") if isv6 else IP(src="10.1.2.0", dst="10.1.1.1")


def seeds():
    text = Raw(b"payload " * 8)
    for name, packet in {
        "arp": Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.1.1.1", pdst="10.1.0.1"),
        "ns": Ether(src="02:00:00:00:00:01", dst="33:33:ff:00:00:01") / IPv6(src="fd00:1::1:1", dst="ff02::1:ff00:1", hlim=255)
        / ICMPv6ND_NS(tgt="fd00:1::1") / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:01"),
        "echo": pod() / four("10.1.0.1") / ICMP() / text, "echo6": pod() / six("fd00:1::1") / ICMPv6EchoRequest() / text,
        "udp": pod() / four() / UDP(sport=1, dport=2) / text, "udp6": pod() / six() / UDP(sport=1, dport=2) / text,
        "tcp": pod() / four("10.1.2.2") / TCP(options=[("MSS", 1460)]) / text, "tcp6": pod() / six("fd00:1::2:3") / TCP() / text,
        "local": pod() / four("10.1.1.3") / TCP() / text, "sctp": pod() / four() / SCTP() / SCTPChunkData(data=b"abc"),
        "options": pod() / four(options=[IPOption(b"\x94\x04\x00\x00")]) / UDP() / text,
        "extensions": pod() / six() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / IPv6ExtHdrDestOpt() / UDP() / text,
        "fragment6": pod() / six() / IPv6ExtHdrFragment(offset=0, m=1, id=7) / UDP() / text,
        "bridged": Ether(src="02:00:00:00:00:01", dst="02:00:00:00:02:00") / four() / UDP() / text,
    }.items():
        for source in (1, 3):
            yield f"{name}-{source}", bytes([source]) + frame(packet)
    # Bridged: to all, to a group, to nobody known; with tags.
    for name, packet in {
        "broadcast": Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / four("255.255.255.255") / UDP() / text,
        "group": Ether(src="02:00:00:00:00:01", dst="01:00:5e:01:02:03") / four("239.1.2.3") / UDP() / text,
        "group6": Ether(src="02:00:00:00:00:01", dst="33:33:00:00:00:01") / six("ff0e::1") / UDP() / text,
        "unknown": Ether(src="02:00:00:00:00:01", dst="02:00:00:00:09:09") / four() / UDP() / text,
        "neighbor": Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.1.1.1", pdst="10.1.1.9"),
        "resolve": pod() / four("10.1.3.9") / UDP() / text,
    }.items():
        for source in (1, 2, 3):
            packet.src = f"02:00:00:00:00:0{source}"
            yield f"{name}-{source}", bytes([source]) + frame(packet)
        data = bytes(packet)
        yield f"{name}-tag", bytes([POD]) + frame(data[:12] + b"\x81\0\0\x64" + data[12:])
        yield f"{name}-tags", bytes([FABRIC_PLAIN]) + frame(data[:12] + b"\x88\xa8\0\x64\x81\0\0\7" + data[12:])
        yield f"{name}-vxlan", bytes([FABRIC_VIRTIO]) + frame(underlay() / VXLAN(vni=5001, flags=8) / data)
        yield f"{name}-l2", bytes([FABRIC_PLAIN]) + frame(underlay(port=6635) / MPLS(label=1004, s=1, ttl=64) / data)
    for number, packet in enumerate(questions()):
        yield f"question-{number}", bytes([2]) + frame(packet)
    answer = pod(2) / IP(src="10.1.1.2", dst="10.1.1.1") / UDP(sport=67, dport=68) / text
    yield "rogue", bytes([2]) + frame(answer)
    data = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:09:09") / four() / TCP(flags="PA") / Raw(b"x" * 5000))
    yield "unknown-gso", bytes([POD]) + frame(data, virtio(1, 1, 54, 1200, 34, 16))
    yield "unknown-gso-tag", bytes([POD]) + frame(
        data[:12] + b"\x81\0\0\x64" + data[12:], virtio(1, 1, 58, 1200, 38, 16))
    yield "fragments", bytes([POD]) + b"".join(frame(pod() / part) for part in fragment(four() / UDP() / Raw(b"x" * 3000), 1400))
    # Large segments of a pod, their checksums unfinished, to every tunnel and to a pod without virtio-net headers.
    for to in ["10.1.1.3", *(f"10.1.2.{tunnel}" for tunnel in range(16)), "10.1.3.1", "10.1.4.1"]:
        header = virtio(1, 1, 54, 1400, 34, 16)
        yield f"gso-{to}", bytes([POD]) + frame(pod() / four(to) / TCP(flags="PA") / Raw(b"x" * 5000), header)
    for tunnel in range(16):
        header = virtio(1, 4, 74, 1380, 54, 16)
        yield f"gso6-{tunnel}", bytes([POD]) + frame(pod() / six(f"fd00:1::2:{tunnel:x}") / TCP(flags="A") / Raw(b"x" * 5000), header)
        header = virtio(1, 5, 42, 1000, 34, 6)
        yield f"uso-{tunnel}", bytes([POD]) + frame(pod() / four(f"10.1.2.{tunnel}") / UDP() / Raw(b"x" * 5000), header)
    for fabric in (FABRIC_VIRTIO, FABRIC_PLAIN):
        for outer6 in (False, True):
            for inner6 in (False, True):
                inner = incoming(inner6) / UDP() / text
                name = f"{fabric}-{int(outer6)}{int(inner6)}"
                yield f"vxlan-{name}", bytes([fabric]) + frame(vxlan(inner, outer6))
                yield f"mpls-{name}", bytes([fabric]) + frame(mpls(inner, isv6=outer6))
                yield f"label-{name}", bytes([fabric]) + frame(mpls(inner, 1003, outer6))
                # Segments that follow each other, for coalescing.
                segments = [
                    vxlan(incoming(inner6) / TCP(flags="A", seq=1 + 64 * number) / text, outer6) for number in range(4)]
                yield f"train-{name}", bytes([fabric]) + b"".join(frame(segment) for segment in segments)
            arp = (
                underlay(outer6) / VXLAN(vni=5001, flags=8) / Ether(src="02:00:00:00:02:00", dst="ff:ff:ff:ff:ff:ff")
                / ARP(psrc="10.1.2.0", pdst="10.1.1.1"))
            yield f"arp-{fabric}-{int(outer6)}", bytes([fabric]) + frame(arp)
            # With a checksum to finish beyond its end, which an ARP packet has no business with.
            yield f"arp-checksum-{fabric}-{int(outer6)}", bytes([fabric]) + frame(arp, virtio(1, 0, 0, 0, len(arp) + 1, 0))
            # A UDP super-frame: three tunnel packets of one length behind one outer header.
            part = bytes((VXLAN(vni=5001, flags=8) / Ether(src=ROUTER, dst=ROUTER) / incoming() / UDP() / text))
            packet = underlay(outer6) / Raw(part * 3)
            headers = 62 if outer6 else 42
            yield f"super-{fabric}-{int(outer6)}", bytes([fabric]) + frame(
                packet, virtio(1, 5, headers, len(part), headers - 8, 6))
            yield f"gre-{fabric}-{int(outer6)}", bytes([fabric]) + frame(gre(incoming() / UDP() / text, isv6=outer6))
            yield f"gre-options-{fabric}-{int(outer6)}", bytes([fabric]) + frame(
                gre(incoming(True) / TCP(flags="S") / text, 1003, outer6, chksum_present=1, key_present=1, seqnum_present=1))
    yield from conversations()


def answered(source, target, sport, dport, proto, **fields):
    ip = IPv6(src=source, dst=target) if ":" in source else IP(src=source, dst=target)
    return ip / proto(sport=sport, dport=dport, **fields) / Raw(b"answer")


def then(interface):
    """Ends a batch: what follows came in by another interface, or later."""
    return b"\xff\xff" + bytes([interface])


def reporting(source, target, error):
    """An ICMP error."""
    return (IPv6(src=source, dst=target) if ":" in source else IP(src=source, dst=target)) / error


def conversations():
    """Services, NAT, sessions that share a flow, errors about them, fragments in the wrong order, SYNs with options."""
    text = Raw(b"payload " * 8)
    syn = {"flags": "S", "options": [("NOP", None), ("MSS", 8960), ("WScale", 7)]}
    for isv6 in (False, True):
        name = "6" if isv6 else "4"
        own = six if isv6 else four
        service, world = ("fd96::1", "2001:db8:100::9") if isv6 else ("10.96.0.1", "198.51.100.9")
        outside = "2001:db8:113::77" if isv6 else "203.0.113.77"
        pod2 = "fd00:1::1:2" if isv6 else "10.1.1.2"
        first = "fd00:1::1:1" if isv6 else "10.1.1.1"
        yield f"service-tcp-{name}", b"\1" + frame(pod() / own(service) / TCP(dport=80, sport=999, **syn))
        yield f"service-udp-{name}", b"\1" + frame(pod() / own(service) / UDP(dport=80, sport=999) / text)
        yield f"service-sctp-{name}", b"\1" + frame(
            pod() / own(service) / SCTP(dport=80, sport=999) / SCTPChunkData(data=b"abc"))
        yield f"source-nat-{name}", b"\1" + b"".join(
            frame(pod() / own(world) / proto(sport=999, dport=443)) for proto in (TCP, UDP))
        ping = ICMPv6EchoRequest if isv6 else ICMP
        yield f"source-nat-echo-{name}", b"\1" + frame(pod() / own(world) / ping(id=9, seq=1) / text)
        yield f"floating-{name}", b"\6" + frame(
            Ether(src="02:00:00:00:00:06", dst=ROUTER) / answered(world, outside, 1000, 80, TCP, **syn))
        # The pod answers, and hears that nobody wants it; so does a client of a service.
        back = answered(pod2, world, 80, 1000, TCP, flags="SA")
        error = ICMPv6DestUnreach(code=4) if isv6 else ICMP(type=3, code=3)
        yield f"floating-error-{name}", b"\6" + frame(
            Ether(src="02:00:00:00:00:06", dst=ROUTER) / answered(world, outside, 1000, 80, TCP, **syn)) + then(2) + frame(
                pod(2) / back) + then(6) + frame(Ether(src="02:00:00:00:00:06", dst=ROUTER) / reporting(
                    world, outside, error / Raw(bytes(answered(outside, world, 80, 1000, TCP, flags="SA")))))
        backends = ("fd00:1::1:2", "fd00:1::1:3") if isv6 else ("10.1.1.2", "10.1.1.3")
        yield f"service-error-{name}", b"\1" + frame(pod() / own(service) / UDP(dport=80, sport=998) / text) + b"".join(
            then(number) + frame(pod(number) / answered(backend, first, 8000 + number, 998, UDP)) + frame(
                pod(number) / reporting(backend, first, error / Raw(bytes(
                    answered(first, backend, 998, 8000 + number, UDP)))))
            for number, backend in ((2, backends[0]), (3, backends[1])))
        # Known flows, and checksums to finish on the short way.
        for number, to in enumerate((*backends, "fd00:1::2:0" if isv6 else "10.1.2.0", "fd00:1::2:2" if isv6 else "10.1.2.2")):
            start = 54 if isv6 else 34
            udp = frame(pod() / own(to) / UDP(sport=77, dport=78) / text, virtio(1, 0, 0, 0, start, 6))
            yield f"known-{name}-{number}", b"\1" + udp + then(1) + udp + udp + then(1) + udp * 4
        for port, proto in ((53, UDP), (443, TCP), (5000, UDP), (5001, UDP), (9, SCTP)):
            to = "fd00:1::1:3" if isv6 else "10.1.1.3"
            yield f"shared-{name}-{port}", b"\1" + b"".join(
                frame(pod() / own(to) / proto(sport=sport, dport=port)) for sport in (1, 2, 3))
            yield f"shared-back-{name}-{port}", b"\3" + b"".join(
                frame(pod(3) / answered(to, first, port, dport, proto)) for dport in (1, 2, 3))
        for to in (("fd00:1::2:c", "fd00:1::2:f") if isv6 else ("10.1.2.12", "10.1.2.15")):
            yield f"too-large-{name}-{to.replace(':', '_')}", b"\1" + frame(pod() / own(to) / UDP() / Raw(b"x" * 1200)) + frame(
                pod() / own(to) / UDP() / Raw(b"x" * 1460))
        for to in (("fd00:1::3:1", "fd00:1::4:1") if isv6 else ("10.1.3.1", "10.1.4.1")):
            yield f"ecmp-{name}-{to.replace(':', '_')}", b"\2" + b"".join(
                frame(pod(2) / own(to) / UDP(sport=sport)) for sport in range(8))
        yield f"clamp-{name}", b"\2" + frame(pod(2) / own(to) / TCP(dport=80, **syn))
        yield f"reject-{name}", b"\1" + frame(pod() / own(pod2) / TCP(dport=25, **syn)) + frame(
            pod() / own("fd00:2::1" if isv6 else "10.7.0.1") / UDP(dport=25) / text)
        marked = {"tc": 0x49} if isv6 else {"tos": 0x49}
        yield f"marked-{name}", bytes([5]) + b"".join(
            frame(mpls(own(first, **marked) / UDP(sport=sport) / text)) for sport in range(24))
    parts = [frame(pod() / part) for part in fragment(four("10.96.0.1") / UDP(dport=80) / Raw(b"x" * 3000), 1000)]
    yield "fragments-to-service", b"\1" + b"".join(parts)
    yield "fragments-backwards", b"\1" + b"".join(reversed(parts))


def tables():
    """TABLES.json of many kinds, small and large."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "Golden"))
    import weft
    full = weft.tables()
    yield "golden", full
    pods = [interface for interface in full["interfaces"] if interface["role"] == "virtual"][:2]
    # One table more in each, so that a mutation has little to destroy.
    small = {"vrfs": [{"id": 1, "name": "blue"}], "interfaces": [*copy.deepcopy(pods), full["interfaces"][0]],
             "nexthops": [{"id": 1, "action": "encap", "interface": 1, "destination-mac": weft.MAC["a"]},
                          {"id": 2, "action": "encap", "interface": 2, "destination-mac": weft.MAC["b"]},
                          {"id": 3, "action": "vrf-translate", "vrf": 1}, {"id": 4, "action": "receive"}],
             "routes": [{"vrf": 1, "prefix": prefix, "nexthop": nexthop} for prefix, nexthop in (
                 ("10.1.0.1/32", 1), ("10.1.0.2/32", 2), ("fd01::2/128", 2), ("10.1.0.254/32", 4))],
             "vnis": [{"vni": 100, "nexthop": 3}], "labels": [{"label": 100, "nexthop": 3}],
             "bridge": [{"vrf": 1, "mac": weft.MAC["a"], "nexthop": 1}]}
    for interface in small["interfaces"]:
        interface["port"] = "packet"
    for interface in full["interfaces"]:
        interface["port"] = "packet"
    yield "small", small

    def more(**additions):
        result = copy.deepcopy(small)
        for key, value in additions.items():
            result[key.replace("_", "-")] = value
        return result
    tunnel = {"id": 9, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": "192.0.2.1",
              "destination": "192.0.2.2", "destination-mac": weft.NEXT_HOP, "fragment": True, "outer-dscp": 8}
    tunneled = more(nexthops=[*small["nexthops"], tunnel, tunnel | {
        "id": 10, "encapsulation": "mpls-over-gre", "source": "2001:db8::1", "destination": "2001:db8::2"},
        {"id": 11, "action": "ecmp", "members": [{"nexthop": 9, "label": 7, "weight": 3}, {"nexthop": 1}]}])
    tunneled["routes"] = small["routes"] + [{"vrf": 1, "prefix": "10.2.0.0/16", "nexthop": 9, "label": 7},
                                            {"vrf": 1, "prefix": "fd02::/16", "nexthop": 11}]
    yield "tunnels", tunneled
    yield "limits", more(limits={"interfaces": 8, "vrfs": 8, "nexthops": 32, "routes": 32, "route-nodes": 64, "bridge": 8,
                                 "flows": 16})
    policy = more(address_sets=[{"id": 1, "name": "pods", "members": ["10.0.0.0/8"], "except": ["10.1.0.0/16"]}], rules=[
        {"id": 1, "name": "web", "priority": 1, "direction": "ingress", "action": "allow", "tag": 1, "vrf": 1,
         "remote-sets": [1], "remote-prefix": "10.1.0.0/16", "protocol": 6, "source-ports": ["1024-65535"],
         "destination-ports": [80, 443], "tcp-flags": {"mask": 2, "value": 2}, "log": True, "dscp": 1},
        {"id": 2, "priority": 2, "direction": "egress", "action": "reject", "protocol": 1, "icmp-type": 8, "icmp-code": 0},
        {"id": 3, "priority": 3, "direction": "egress", "action": "allow", "policer": 1}])
    for interface in policy["interfaces"][:2]:
        interface |= {"flags": ["policy", "bridging", "routing", "clamp-mss"], "tags": [1, 2]}
    policy["policers"] = [{"id": 1, "unit": "packets", "rate": 10, "burst": 1}]
    yield "policy", policy
    nat = more(nat_pools=[{"id": 0, "name": "out", "vrf": 2, "first": "203.0.113.1", "last": "203.0.113.9",
                           "first-port": 2000, "last-port": 2999, "block-ports": 64}],
               source_nat=[{"id": 1, "priority": 1, "vrf": 1, "source": "10.0.0.0/8", "destination": "192.0.2.0/24",
                            "egress": 2, "pool": 0}],
               static_nat=[{"inside-vrf": 1, "inside": "10.1.0.1", "outside-vrf": 2, "outside": "203.0.113.50"}],
               destination_nat=[{"vrf": 1, "address": "10.1.0.9", "protocol": "udp", "port": 53, "target-vrf": 1,
                                 "target": "10.1.0.2", "target-port": 5353}],
               services=[{"vrf": 1, "address": "10.1.0.2", "protocol": "udp", "port": 53, "name": "dns",
                          "local-only": True, "pool": 0, "affinity": 60, "hairpin": "169.254.0.1", "backends": [
                              {"address": "10.1.0.1", "port": 8080, "vrf": 1, "weight": 1, "local": True},
                              {"address": "10.1.0.3", "port": 8080, "draining": True}]}])
    nat["vrfs"] = small["vrfs"] + [{"id": 2, "name": "out"}]
    yield "nat", nat
    qos = more(policers=[
        {"id": 1, "name": "gold", "kind": "single-rate-three-color", "rate": 1000, "burst": 1500, "excess-burst": 3000,
         "color-aware": True, "yellow-dscp": 12},
        {"id": 2, "kind": "two-rate-three-color", "unit": "packets", "rate": 1, "burst": 1, "peak-rate": 2, "peak-burst": 2}],
        qos_classifiers=[{"id": 1, "default": 1, "dscp": [{"values": [46], "class": 5}],
                          "pcp": [{"values": [5], "class": 5}], "exp": [{"values": [5], "class": 5}]}],
        qos_marks=[{"id": 1, "classes": [{"class": 5, "dscp": 46, "outer-dscp": 46, "exp": 5, "pcp": 5}]}])
    qos["interfaces"][0] |= {"ingress-policer": 1, "egress-policer": 2, "qos-classifier": 1, "qos-marks": 1}
    qos["interfaces"][1]["fat-flows"] = [
        {"protocol": 17, "port": 53, "local": "ignore", "remote": {"prefix": "10.0.0.0/8", "length": 16}}, {"protocol": 6}]
    yield "qos", qos
    # One thing each, and hardly more than that: a mutation hits it.
    least = {"vrfs": [{"id": 1, "name": "b"}], "interfaces": [
        {"id": 1, "role": "virtual", "port": "packet", "device": "a", "mac": weft.MAC["a"], "vrf": 1}]}
    for key, value in {
            "mtu": 68, "flags": ["policy", "routing", "clamp-mss"], "tags": [1, 2, 3, 4, 5, 6, 7, 8],
            "fat-flows": [{"protocol": 17, "port": 53, "local": "ignore", "remote": {"prefix": "10.0.0.0/8", "length": 16}},
                          {"protocol": 6, "remote": {"prefix": "fd00::/8", "length": 64}}]}.items():
        document = copy.deepcopy(least)
        document["interfaces"][0][key] = value
        yield f"least-{key}", document
    encap = {"id": 1, "action": "encap", "interface": 1, "destination-mac": weft.MAC["a"]}
    for key, entry, more in (
            ("nexthops", encap, {}), ("labels", {"label": 16, "nexthop": 1}, {"nexthops": [encap]}),
            ("vnis", {"vni": 1, "nexthop": 1}, {"nexthops": [encap]}),
            ("routes", {"vrf": 1, "prefix": "10.0.0.0/8", "nexthop": 1}, {"nexthops": [encap]}),
            ("routes", {"vrf": 1, "prefix": "fd00::/8", "nexthop": 1}, {"nexthops": [{"id": 1, "action": "receive"}]}),
            ("bridge", {"vrf": 1, "mac": weft.MAC["a"], "nexthop": 1}, {"nexthops": [encap]}),
            ("nexthops", {"id": 2, "action": "ecmp", "members": [{"nexthop": 1, "weight": 2}]}, {"nexthops": [encap]}),
            *((table, value, {}) for table, values in (*policy.items(), *nat.items(), *qos.items())
              for value in values if table in ("address-sets", "rules", "nat-pools", "source-nat", "static-nat",
                                               "destination-nat", "services", "policers", "qos-classifiers", "qos-marks"))):
        document = copy.deepcopy(least)
        if 2 in entry.values():
            document["vrfs"].append({"id": 2, "name": "out"})
        for name, entries in more.items():
            document.setdefault(name, []).extend(entries)
        entry = {name: value for name, value in entry.items() if name not in ("pool", "remote-sets", "policer")}
        document.setdefault(key, []).append(entry)
        yield f"least-{key}-{entry.get('id', '')}{len(str(entry))}", document


def questions():
    """What a machine asks for an address and a router with."""
    mac = "02:00:00:00:0d:01"
    options = [("message-type", "request"), ("requested_addr", "10.1.1.9"), ("server_id", "10.1.0.1"),
               ("param_req_list", [1, 3, 6, 15, 26, 119, 121]), ("max_dhcp_size", 1500), ("client_id", b"\1" + b"x" * 20)]
    for kind in ("discover", "request", "inform"):
        yield (Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
               / BOOTP(chaddr=bytes.fromhex(mac.replace(":", "")), xid=7)
               / DHCP(options=[("message-type", kind), *options[1:], (52, b"\3"), "end"]))
    six = Ether(src=mac, dst="33:33:00:01:00:02") / IPv6(src="fe80::ff:fe00:d01", dst="ff02::1:2")
    client = DHCP6OptClientId(duid=DUID_LL(lladdr=mac))
    association = DHCP6OptIA_NA(iaid=9, ianaopts=[DHCP6OptIAAddress(addr="fd00::9", preflft=1, validlft=2)])
    for message in (DHCP6_Solicit(trid=1), DHCP6_Rebind(trid=2)):
        yield six / UDP(sport=546, dport=547) / message / client / association / DHCP6OptOptReq(reqopts=[23, 24])
    yield (Ether(src=mac, dst="33:33:00:00:00:02") / IPv6(src="fe80::ff:fe00:d01", dst="ff02::2", hlim=255)
           / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=mac))


def services():
    """Frames, and what is in them, behind an octet that says which."""
    for packet in questions():
        yield b"\0" + bytes(packet)
        if packet.haslayer(UDP):
            yield (b"\1" if packet.haslayer(IP) else b"\2") + bytes(packet[UDP].payload)
        else:
            yield b"\3" + bytes(packet[ICMPv6ND_RS])


def words():
    """What a schema knows: keys and the words of enumerations."""
    found = set()

    def walk(value):
        if isinstance(value, dict):
            found.update(value.get("properties", {}))
            found.update(word for word in value.get("enum", []) if isinstance(word, str))
            for entry in value.values():
                walk(entry)
        elif isinstance(value, list):
            for entry in value:
                walk(entry)
    walk(json.loads((pathlib.Path(__file__).resolve().parents[2] / "docs/tables.schema.json").read_text()))
    return sorted(found)


def main(folder):
    for name in ("packet", "tables", "services"):
        (folder / f"{name}.corpus").mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (folder / "packet.corpus" / name).write_bytes(data)
        # The same to each of two workers that hand over to each other.
        for worker in (0x80, 0xC0):
            (folder / "packet.corpus" / f"{name}-{worker:x}").write_bytes(bytes([data[0] | worker]) + data[1:])
    for number, data in enumerate(services()):
        (folder / "services.corpus" / f"seed{number}").write_bytes(data)
    for name, document in tables():
        (folder / "tables.corpus" / f"{name}.json").write_text(json.dumps(document))
    quoted = [f'"\\"{word}\\""' for word in words()]
    (folder / "tables.dict").write_text("\n".join([*quoted, '"{"', '"["', '"null"', '"true"', '"4294967295"', ""]))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
