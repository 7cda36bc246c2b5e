"""Pod to pod, all of it Weft: over VXLAN, over MPLS-over-UDP, and on one node."""
import json

import pytest
from conftest import WAYS
from lab import TRAFFIC, Transfer

FAMILIES = [4, 6]
ways = pytest.mark.parametrize("way", WAYS)
families = pytest.mark.parametrize("family", FAMILIES)


@ways
@families
def test_ping(pods, way, family):
    sender, receiver = pods[way]
    assert sender.reaches(receiver.address(family), count=1)
    assert sender.ping(receiver.address(family), count=30) == (30, 0)
    assert receiver.ping(sender.address(family), count=30) == (30, 0)


@ways
@families
def test_largest_packet(pods, way, family):
    sender, receiver = pods[way]
    size = sender.mtu - (28 if family == 4 else 48)
    assert sender.ping(receiver.address(family), count=5, size=size, more=["-M", "do"]) == (5, 0)


@ways
@families
def test_fragments(pods, way, family):
    """Echo requests of 4000 bytes and datagrams of about 3000: fragments find the way of the first."""
    sender, receiver = pods[way]
    address = receiver.address(family)
    assert sender.ping(address, count=5, size=4000) == (5, 0)
    with receiver.serving("udp-echo", address, 6100 + family):
        outcome = sender.exec(TRAFFIC, "udp-sizes", address, 6100 + family, 2990, 3010)
    assert json.loads(outcome.stdout) == {"wrong": []}


@ways
@families
def test_udp_of_every_size(pods, way, family):
    sender, receiver = pods[way]
    address = receiver.address(family)
    largest = sender.mtu - (28 if family == 4 else 48)
    with receiver.serving("udp-echo", address, 6200 + family):
        outcome = sender.exec(TRAFFIC, "udp-sizes", address, 6200 + family, 1, largest)
    assert json.loads(outcome.stdout) == {"wrong": []}
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@ways
@families
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_tcp(pods, way, family, back):
    sender, receiver = reversed(pods[way]) if back else pods[way]
    rate = Transfer(sender, receiver, family, 64 << 20).finish()
    print(f"TCP, {way}, IPv{family}: {rate:.2f} Gbit/s")
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@ways
def test_many_streams(pods, way):
    """Sixteen streams at once, eight of them each way."""
    sender, receiver = pods[way]
    there = Transfer(sender, receiver, 4, 4 << 20, streams=8)
    back = Transfer(receiver, sender, 6, 4 << 20, streams=8)
    there.finish()
    back.finish()
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@ways
@families
def test_ecn(pods, way, family):
    """TCP with congestion notification: the marks get through."""
    sender, receiver = pods[way]
    for pod in (sender, receiver):
        pod.exec("sysctl", "-qw", "net.ipv4.tcp_ecn=1")
    try:
        name = "IpExtInECT0Pkts" if family == 4 else "Ip6InECT0Pkts"
        before = receiver.counters().get(name, 0)
        Transfer(sender, receiver, family, 16 << 20).finish()
        assert receiver.counters().get(name, 0) > before + 100
    finally:
        for pod in (sender, receiver):
            pod.exec("sysctl", "-qw", "net.ipv4.tcp_ecn=2")
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@families
def test_gateway(pods, family):
    for sender, _ in pods.values():
        gateway = json.loads(sender.exec("ip", "-j", f"-{family}", "route", "show", "default").stdout)[0]["gateway"]
        assert sender.ping(gateway, count=10) == (10, 0), sender.name
        assert sender.ping(gateway, count=3, size=1000) == (3, 0), sender.name


def test_networks_do_not_meet(pods):
    blue, green = pods["vxlan"][0], pods["mpls-over-udp"][1]
    for family in FAMILIES:
        assert not blue.reaches(green.address(family), count=2, wait=1)
        assert not green.reaches(blue.address(family), count=2, wait=1)
