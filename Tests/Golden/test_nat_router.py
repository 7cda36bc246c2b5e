"""Addresses that lead to the router itself, to its host, or nowhere: answers come from the address that was asked."""

import pytest
import test_nat
import weft
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, IPerror6, IPv6
from scapy.layers.l2 import Ether

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
VIRTUAL = {4: "10.99.0.1", 6: "fd99::1"}
HOST = {4: "10.1.0.200", 6: "fd01::200"}
HOST_MAC = "02:00:00:00:0b:09"


def tables(kind, target):
    document = weft.tables()
    document["destination-nat"] = [
        {"vrf": 1, "protocol": kind, "address": VIRTUAL[family], "port": 80, "target-vrf": 1, "target": target[family],
         "target-port": 8080} for family in (4, 6)]
    return document


def asked(family, kind, **fields):
    return test_nat.made(family, weft.pod(family, "a"), VIRTUAL[family], kind, dport=80, **fields)


def from_tunnel(family, packet):
    return weft.remote(("vxlan", 4), packet)


def inner(frame):
    """A frame, or what a VXLAN packet over IPv4 carries."""
    packet = Ether(frame)
    return Ether(frame[50:]) if UDP in packet and packet[UDP].dport == 4789 else packet


@families
@pytest.mark.parametrize("port", ["a", "fabric"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("offloads", [False, True], ids=["plain", "offloads"])
def test_refused_connection(replay, family, port, workers, offloads):
    """A reset from the address and port that the client knows."""
    source = weft.pod(family, "a") if port == "a" else weft.behind(family, ("vxlan", 4))
    packet = test_nat.made(family, source, VIRTUAL[family], "tcp", dport=80)
    frame = weft.routed("a", packet) if port == "a" else from_tunnel(family, packet)
    run = replay({port: [frame]}, tables("tcp", weft.GATEWAY), workers=workers,
                 super_frames={port: 1400} if offloads else None)
    answer = inner(run.only(port))
    assert (answer[1].src, answer[1].dst) == (VIRTUAL[family], source)
    assert (answer[TCP].sport, answer[TCP].dport, str(answer[TCP].flags)) == (80, weft.SOURCE_PORT, "R")
    assert run.drops == {"no_service": 1} and run.report["flows"] == []
    if port == "a":
        assert run.tshark("a", "tcp.checksum.status")[0]["tcp.checksum.status"] == ["1"]


@families
@pytest.mark.parametrize("offloads", [False, True], ids=["plain", "offloads"])
@pytest.mark.parametrize("target, code, code6", [(weft.GATEWAY, 3, 4), ({4: "172.16.0.1", 6: "fd77::1"}, 0, 0)],
                         ids=["the router", "nowhere"])
def test_refused_datagram(replay, family, target, code, code6, offloads):
    """The error quotes the packet as it was sent, byte for byte."""
    packet = asked(family, "udp")
    run = replay({"a": [weft.routed("a", packet)]}, tables("udp", target), super_frames={"a": 1400} if offloads else None)
    answer = Ether(run.only("a"))
    error = answer[ICMP] if family == 4 else answer[ICMPv6DestUnreach]
    assert error.code == (code if family == 4 else code6)
    quote = bytes(error)[8:]
    assert quote == bytes(packet)
    assert (error[IPerror if family == 4 else IPerror6].dst, error[UDPerror].dport) == (VIRTUAL[family], 80)
    assert run.drops == {"no_service" if target is weft.GATEWAY else "no_route": 1}


@families
@pytest.mark.parametrize("port", ["c", "fabric"])
@pytest.mark.parametrize("workers", [1, 3])
def test_echo(replay, family, port, workers):
    """An address outside that stands for the router's inside: its echo replies come from outside."""
    document = test_nat.tables(static_nat=[
        {"inside-vrf": 1, "inside": weft.GATEWAY[f], "outside-vrf": 2, "outside": test_nat.FLOATING[f]} for f in (4, 6)])
    source = weft.pod(family, "c") if port == "c" else weft.behind(family, ("vxlan", 4))
    packet = test_nat.made(family, source, test_nat.FLOATING[family], "echo", payload=b"x" * 99)
    frame = weft.routed("c", packet) if port == "c" else weft.remote(("vxlan", 4), packet, label=200)
    run = replay({port: [frame]}, document, workers=workers)
    answer = inner(run.only(port))
    assert (answer[1].src, answer[1].dst) == (test_nat.FLOATING[family], source)
    reply = answer[ICMP] if family == 4 else answer[ICMPv6EchoReply]
    assert (reply.type, reply.id) == (0 if family == 4 else 129, weft.SOURCE_PORT)
    assert bytes(reply)[8:] == b"x" * 99
    again = (IP if family == 4 else IPv6)(bytes(answer[1]))
    layer = again[ICMP] if family == 4 else again[ICMPv6EchoReply]
    name = "chksum" if family == 4 else "cksum"
    given = getattr(layer, name)
    delattr(layer, name)
    rebuilt = again.__class__(bytes(again))
    assert getattr(rebuilt[ICMP if family == 4 else ICMPv6EchoReply], name) == given
    assert run.drops == {} and run.report["flows"] == []


@families
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("workers", [1, 3])
def test_to_the_host_and_back(replay, family, kind, workers):
    """The host behind the router's address has a flow, which takes its answers back."""
    document = tables(kind, HOST)
    document["interfaces"].append({"id": 9, "role": "host", "port": "pcap", "device": "host", "mac": HOST_MAC, "vrf": 1})
    document["nexthops"].append({"id": 59, "action": "receive", "interface": 9})
    for f, width in ((4, 32), (6, 128)):
        document["routes"].append({"vrf": 1, "prefix": f"{HOST[f]}/{width}", "nexthop": 59})
    packet = asked(family, kind)
    back = test_nat.made(family, HOST[family], weft.pod(family, "a"), kind, sport=8080, dport=weft.SOURCE_PORT)
    run = replay({"a": [(1, weft.routed("a", packet))], "host": [(2, Ether(src=HOST_MAC, dst=weft.ROUTER) / back)]},
                 document, workers=workers)
    there, here = Ether(run.frames("host")[0]), Ether(run.frames("a")[0])
    layer = TCP if kind == "tcp" else UDP
    assert (there[1].dst, there[layer].dport) == (HOST[family], 8080)
    assert (here[1].src, here[layer].sport, here[layer].dport) == (VIRTUAL[family], 80, weft.SOURCE_PORT)
    assert run.drops == {}
