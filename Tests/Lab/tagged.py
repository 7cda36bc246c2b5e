#!/usr/bin/python3
"""What containers in a virtual machine do, with 802.1Q tags put on and taken off here: the kernel need not know them.

    tagged.py ping VLAN MAC ADDRESS TO [COUNT]   echo requests to TO, IPv4 or IPv6: prints how many were answered
    tagged.py serve VLAN MAC ADDRESS...          answers echo requests until its standard input ends; prints "ready" first
    tagged.py bridge VLAN INTERFACE              frames of INTERFACE go out with the tag and the reverse; likewise

On eth0. VLAN 0 is no tag. Everything goes to the virtual router's MAC address.
"""
import select
import socket
import struct
import sys
import threading

from scapy.all import (
    ICMP, IP, AsyncSniffer, Dot1Q, Ether, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, Raw, conf, sendp)

ROUTER = "00:00:5e:00:01:00"
conf.verb = 0


def frame(vlan, mac, packet):
    head = Ether(src=mac, dst=ROUTER)
    return (head / Dot1Q(vlan=vlan) if vlan else head) / packet


def tag(received):
    return received[Dot1Q].vlan if received.haslayer(Dot1Q) else 0


def ping(vlan, mac, address, to, count=3):
    is_v6 = ":" in to
    answered = set()
    done = threading.Event()

    def see(received):
        if tag(received) != vlan or received[Ether].dst != mac:
            return
        if is_v6 and received.haslayer(ICMPv6EchoReply) and received[IPv6].src == to:
            answered.add(received[ICMPv6EchoReply].seq)
        elif not is_v6 and received.haslayer(ICMP) and received[ICMP].type == 0 and received[IP].src == to:
            answered.add(received[ICMP].seq)
        if len(answered) == count:
            done.set()

    sniffer = AsyncSniffer(iface="eth0", prn=see, store=False, started_callback=lambda: started.set())
    started = threading.Event()
    sniffer.start()
    started.wait(5)
    for number in range(1, count + 1):
        if is_v6:
            packet = IPv6(src=address, dst=to) / ICMPv6EchoRequest(id=vlan + 1, seq=number, data=b"x" * 40)
        else:
            packet = IP(src=address, dst=to) / ICMP(id=vlan + 1, seq=number) / Raw(b"x" * 40)
        sendp(frame(vlan, mac, packet), iface="eth0")
        done.wait(0.05)
    done.wait(1.5)
    sniffer.stop()
    print(len(answered))


def serve(vlan, mac, *addresses):
    def answer(received):
        if tag(received) != vlan or received[Ether].dst != mac:
            return
        if received.haslayer(ICMPv6EchoRequest) and received[IPv6].dst in addresses:
            asked = received[ICMPv6EchoRequest]
            packet = IPv6(src=received[IPv6].dst, dst=received[IPv6].src) / ICMPv6EchoReply(
                id=asked.id, seq=asked.seq, data=asked.data)
        elif received.haslayer(ICMP) and received[ICMP].type == 8 and received[IP].dst in addresses:
            packet = IP(src=received[IP].dst, dst=received[IP].src) / ICMP(
                type=0, id=received[ICMP].id, seq=received[ICMP].seq) / received[ICMP].payload
        else:
            return
        sendp(frame(vlan, mac, packet), iface="eth0")

    sniffer = AsyncSniffer(iface="eth0", prn=answer, store=False, started_callback=lambda: print("ready", flush=True))
    sniffer.start()
    select.select([sys.stdin], [], [])
    sys.stdin.read()
    sniffer.stop()


def bridge(vlan, inner):
    """As a VLAN interface of the kernel would, where the kernel has none."""
    def open_socket(name):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        sock.bind((name, 0))
        sock.setsockopt(263, 1, struct.pack("iHH8s", socket.if_nametoindex(name), 1, 0, b""))  # promiscuous
        return sock

    def receive(sock):
        """A frame, and its tag, which the kernel takes out of it; None for one that went out by the interface."""
        data, more, _, address = sock.recvmsg(65536, 256)
        if address[2] == socket.PACKET_OUTGOING:
            return None, 0
        for level, kind, value in more:
            if (level, kind) == (263, 8):
                status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", value[:20])
                if status & 0x10:  # TP_STATUS_VLAN_VALID
                    return data, tci & 0xFFF
        return data, 0

    outside, inside = open_socket("eth0"), open_socket(inner)
    print("ready", flush=True)
    while True:
        ready = select.select([outside, inside, sys.stdin], [], [])[0]
        if sys.stdin in ready:
            return
        if inside in ready:
            data, _ = receive(inside)
            if data:
                outside.send(data[:12] + struct.pack("!HH", 0x8100, vlan) + data[12:])
        if outside in ready:
            data, seen = receive(outside)
            if data and seen == vlan:
                inside.send(data)


if __name__ == "__main__":
    command, vlan, mac, *rest = sys.argv[1:]
    if command == "bridge":
        bridge(int(vlan), mac)
    elif command == "ping":
        ping(int(vlan), mac, rest[0], rest[1], *(int(count) for count in rest[2:]))
    else:
        serve(int(vlan), mac, *rest)
