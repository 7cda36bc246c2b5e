#!/usr/bin/python3
"""Writes good packets of every kind for the fuzzer to start from: seeds.py FOLDER"""
import pathlib
import struct
import sys

from scapy.all import (
    ARP, Ether, ICMP, ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IP, IPOption, IPv6, IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN, Raw, SCTP, SCTPChunkData, TCP, UDP, fragment)
from scapy.contrib.mpls import MPLS
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
    data = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:09:09") / four() / TCP(flags="PA") / Raw(b"x" * 5000))
    yield "unknown-gso", bytes([POD]) + frame(data, virtio(1, 1, 54, 1200, 34, 16))
    yield "unknown-gso-tag", bytes([POD]) + frame(
        data[:12] + b"\x81\0\0\x64" + data[12:], virtio(1, 1, 58, 1200, 38, 16))
    yield "fragments", bytes([POD]) + b"".join(frame(pod() / part) for part in fragment(four() / UDP() / Raw(b"x" * 3000), 1400))
    # Large segments of a pod, their checksums unfinished, to every tunnel and to a pod without virtio-net headers.
    for to in ["10.1.1.3", *(f"10.1.2.{tunnel}" for tunnel in range(8))]:
        header = virtio(1, 1, 54, 1400, 34, 16)
        yield f"gso-{to}", bytes([POD]) + frame(pod() / four(to) / TCP(flags="PA") / Raw(b"x" * 5000), header)
    for tunnel in range(8):
        header = virtio(1, 4, 74, 1380, 54, 16)
        yield f"gso6-{tunnel}", bytes([POD]) + frame(pod() / six(f"fd00:1::2:{tunnel}") / TCP(flags="A") / Raw(b"x" * 5000), header)
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


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (folder / name).write_bytes(data)
