"""Weft on one side, the kernel's own VXLAN device (drivers/net/vxlan) on the other."""
import json

import pytest
from lab import TRAFFIC, ROUTER_MAC, Transfer

DIRECTIONS = ["weft to kernel", "kernel to weft"]
FAMILIES = [4, 6]


def ends(kernel_pods, direction):
    weft, kernel = kernel_pods
    return (weft, kernel) if direction == "weft to kernel" else (kernel, weft)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", DIRECTIONS)
class TestKernelPeer:
    def test_ping(self, kernel_pods, direction, family):
        sender, receiver = ends(kernel_pods, direction)
        assert sender.reaches(receiver.address(family), count=1)
        assert sender.ping(receiver.address(family), count=30) == (30, 0)

    def test_largest_packet(self, kernel_pods, direction, family):
        """As large as the MTU says, not to be fragmented."""
        sender, receiver = ends(kernel_pods, direction)
        size = sender.mtu - (28 if family == 4 else 48)
        assert sender.ping(receiver.address(family), count=5, size=size, more=["-M", "do"]) == (5, 0)
        assert sender.ping(receiver.address(family), count=1, size=size + 1, more=["-M", "do"], wait=1)[0] == 0

    def test_tcp(self, kernel_pods, direction, family):
        """With all offloads on: the kernel's large segments and unfinished checksums."""
        sender, receiver = ends(kernel_pods, direction)
        rate = Transfer(sender, receiver, family, 64 << 20).finish()
        print(f"TCP {direction}, IPv{family}: {rate:.2f} Gbit/s")
        assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}

    def test_udp_of_every_size(self, kernel_pods, direction, family):
        sender, receiver = ends(kernel_pods, direction)
        largest = sender.mtu - (28 if family == 4 else 48)
        address = receiver.address(family)
        with receiver.serving("udp-echo", address, 6000 + family):
            outcome = sender.exec(TRAFFIC, "udp-sizes", address, 6000 + family, 1, largest)
        assert json.loads(outcome.stdout) == {"wrong": []}
        assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


def test_arp_through_the_tunnel(kernel_lab, kernel_pods):
    """The kernel's side asks for Weft's pods with ARP and neighbour solicitations through the tunnel."""
    weft, kernel = kernel_pods
    kernel.exec("ip", "address", "add", "10.1.2.11/16", "dev", "eth0", "noprefixroute")
    kernel.exec("ip", "address", "add", "fd00:1::2:11/64", "dev", "eth0", "nodad", "noprefixroute")
    address4, address6 = weft.address(4), weft.address(6)
    kernel.exec("ip", "route", "add", f"{address4}/32", "dev", "eth0", "src", "10.1.2.11")
    kernel.exec("ip", "route", "add", f"{address6}/128", "dev", "eth0", "src", "fd00:1::2:11")
    try:
        assert kernel.ping(address4, count=5) == (5, 0)
        assert kernel.ping(address6, count=5) == (5, 0)
        neighbours = json.loads(kernel.exec("ip", "-j", "neighbour", "show", "dev", "eth0").stdout)
        found = {one["dst"]: one.get("lladdr") for one in neighbours}
        assert found[address4] == ROUTER_MAC and found[address6] == ROUTER_MAC
    finally:
        kernel.exec("ip", "route", "delete", f"{address4}/32", "dev", "eth0")
        kernel.exec("ip", "route", "delete", f"{address6}/128", "dev", "eth0")
        kernel.exec("ip", "address", "delete", "10.1.2.11/16", "dev", "eth0")
        kernel.exec("ip", "address", "delete", "fd00:1::2:11/64", "dev", "eth0")


def test_the_host_keeps_out_of_it(kernel_lab, kernel_pods):
    """The kernel of Weft's node was shown every tunnel packet, and said nothing to any."""
    counters = kernel_lab.n1.counters()
    for name in ("IcmpOutDestUnreachs", "UdpNoPorts", "IpForwDatagrams", "Ip6OutForwDatagrams", "Icmp6OutDestUnreachs"):
        assert counters.get(name, 0) == 0, name
