"""Ports of kind af_xdp, to the fabric and to pods, with the program in the driver and in the kernel's stack."""
import contextlib
import json
import os
import pathlib

import pytest
from lab import TRAFFIC, ROUTER_MAC, Lab, Pod, Transfer, wait_for

MODES = ["native", "skb"]
FAMILIES = [4, 6]
families = pytest.mark.parametrize("family", FAMILIES)


def keys(mode):
    return f"port: af_xdp, xdp: {{mode: {mode}}}"


@pytest.fixture(scope="module", params=MODES)
def xdp_lab(request):
    """Two nodes, all ports of which are of that kind."""
    lab = Lab("--fabric", keys(request.param), "--pods", keys(request.param))
    lab.mode = request.param
    try:
        yield lab
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(scope="module")
def xdp_pods(xdp_lab):
    made = {name: xdp_lab.pod(node, name, network) for node, name, network in [
        ("n1", "blue1", "blue"), ("n2", "blue2", "blue"), ("n1", "blue1b", "blue"), ("n1", "green1", "green"),
        ("n2", "green2", "green")]}
    return {
        "vxlan": (made["blue1"], made["blue2"]),
        "mpls-over-udp": (made["green1"], made["green2"]),
        "one node": (made["blue1"], made["blue1b"]),
    }


WAYS = ["vxlan", "mpls-over-udp", "one node"]
ways = pytest.mark.parametrize("way", WAYS)


def test_programs_are_there(xdp_lab, xdp_pods):
    """In the mode that was asked for, on the fabric interface and on each pod's; none is of another kind."""
    for node in ("n1", "n2"):
        links = json.loads(xdp_lab.node(node).exec("ip", "-j", "-d", "link", "show", "type", "veth").stdout)
        modes = {link["ifname"]: link.get("xdp", {}).get("attached", [{}])[0].get("mode", link.get("xdp", {}).get("mode")) for link in links}
        assert len(modes) >= 2 and set(modes.values()) == {1 if xdp_lab.mode == "native" else 2}, modes
        assert {vif["port"] for vif in xdp_lab.weft(node, "vif")} == {"af_xdp"}


@ways
@families
def test_ping(xdp_pods, way, family):
    sender, receiver = xdp_pods[way]
    assert sender.reaches(receiver.address(family), count=1)
    assert sender.ping(receiver.address(family), count=50) == (50, 0)


@ways
@families
def test_largest_packet(xdp_pods, way, family):
    sender, receiver = xdp_pods[way]
    size = sender.mtu - (28 if family == 4 else 48)
    assert sender.ping(receiver.address(family), count=5, size=size, more=["-M", "do"]) == (5, 0)
    assert sender.ping(receiver.address(family), count=5, size=4000) == (5, 0), "in fragments"


@ways
@families
def test_udp_of_every_size(xdp_pods, way, family):
    sender, receiver = xdp_pods[way]
    address = receiver.address(family)
    largest = sender.mtu - (28 if family == 4 else 48)
    with receiver.serving("udp-echo", address, 6300 + family):
        outcome = sender.exec(TRAFFIC, "udp-sizes", address, 6300 + family, 1, largest)
    assert json.loads(outcome.stdout) == {"wrong": []}
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@ways
@families
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_tcp(xdp_pods, way, family, back):
    """With all of the pods' offloads as the kernel sets them: nobody has to turn any off."""
    sender, receiver = reversed(xdp_pods[way]) if back else xdp_pods[way]
    rate = Transfer(sender, receiver, family, 32 << 20).finish()
    print(f"TCP, {way}, IPv{family}: {rate:.2f} Gbit/s")
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


def test_many_streams(xdp_pods):
    sender, receiver = xdp_pods["vxlan"]
    there = Transfer(sender, receiver, 4, 4 << 20, streams=8)
    back = Transfer(receiver, sender, 6, 4 << 20, streams=8)
    there.finish()
    back.finish()
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@families
def test_gateway(xdp_pods, family):
    for sender, _ in xdp_pods.values():
        gateway = json.loads(sender.exec("ip", "-j", f"-{family}", "route", "show", "default").stdout)[0]["gateway"]
        assert sender.ping(gateway, count=10) == (10, 0), sender.name


def test_the_hosts_own_traffic(xdp_lab, xdp_pods):
    """What is not ours goes on to the host: echo, TCP, UDP, of other ports and in fragments."""
    host1, host2 = xdp_lab.n1, xdp_lab.n2
    for size in (56, 1400, 4000):
        output = host1.exec("ping", "-n", "-c", "10", "-i", "0.02", "-W", "2", "-s", size, "192.0.2.2").stdout
        assert "10 received" in output and "DUP!" not in output, output
    server = host2.start(TRAFFIC, "tcp-serve", "192.0.2.2", 7900, 1)
    assert '"listening"' in server.stdout.readline()
    sent = json.loads(host1.exec(TRAFFIC, "tcp-send", "192.0.2.2", 7900, 8 << 20, 1).stdout)
    results = [json.loads(line) for line in server.communicate(timeout=60)[0].splitlines()]
    assert [one["sha256"] for one in results if "sha256" in one] == [sent["sha256"]]
    echo = host2.start(TRAFFIC, "udp-echo", "192.0.2.2", 7901)
    assert '"listening"' in echo.stdout.readline()
    outcome = host1.exec(TRAFFIC, "udp-sizes", "192.0.2.2", 7901, 1400, 1700)
    assert json.loads(outcome.stdout) == {"wrong": []}


def test_the_host_answers_no_tunnel(xdp_lab, xdp_pods):
    """Nothing that the forwarder takes is seen by the host's UDP."""
    sender, receiver = xdp_pods["vxlan"]
    before = {node.name: node.counters() for node in (xdp_lab.n1, xdp_lab.n2)}
    assert sender.ping(receiver.address(4), count=20) == (20, 0)
    for node in (xdp_lab.n1, xdp_lab.n2):
        after = node.counters()
        for name in ("UdpNoPorts", "IcmpOutDestUnreachs", "IpForwDatagrams"):
            assert after.get(name, 0) == before[node.name].get(name, 0), f"{node.name} {name}"


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_the_forwarder_dies(xdp_lab, xdp_pods, signal):
    """Its programs go with it, the host's traffic goes on, and the next forwarder finds everything free."""
    sender, receiver = xdp_pods["vxlan"]
    assert sender.reaches(receiver.address(4))
    xdp_lab.tool("stop", "n1", "forwarder", signal)
    node = xdp_lab.n1

    def has_programs():
        return any("xdp" in link for link in json.loads(node.exec("ip", "-j", "-d", "link", "show").stdout))

    wait_for(lambda: not has_programs(), 5, "programs detached")
    assert "10 received" in node.exec("ping", "-n", "-c", "10", "-i", "0.02", "-W", "2", "192.0.2.2").stdout
    xdp_lab.tool("start", "n1", "forwarder")
    wait_for(lambda: xdp_lab.is_synchronized("n1"), 20, "the agent has told the new forwarder everything")
    assert has_programs()
    wait_for(lambda: sender.reaches(receiver.address(4), count=1, wait=1), 10, "the pods reach each other")
    Transfer(sender, receiver, 4, 4 << 20).finish()
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


def test_pods_come_and_go(xdp_lab, xdp_pods):
    """Traffic of others goes on meanwhile."""
    sender, receiver = xdp_pods["vxlan"]
    transfer = Transfer(sender, receiver, 4, 16 << 20, rate=8 << 20)
    for round in range(4):
        pod = xdp_lab.pod("n1", f"more{round}")
        assert pod.reaches(receiver.address(4), count=3)
        xdp_lab.delete(pod)
    transfer.finish()


def test_the_fabric_goes_down_and_up(xdp_lab, xdp_pods):
    sender, receiver = xdp_pods["vxlan"]
    xdp_lab.n1.exec("ip", "link", "set", "fab0", "down")
    assert not sender.reaches(receiver.address(4), count=2, wait=1)
    xdp_lab.n1.exec("ip", "link", "set", "fab0", "up")
    wait_for(lambda: sender.reaches(receiver.address(4), count=1, wait=1), 15, "the pods reach each other again")
    assert sender.ping(receiver.address(4), count=20) == (20, 0)


@pytest.fixture(scope="module", params=MODES)
def xdp_kernel(request):
    """A node of Weft, and the kernel's own VXLAN device as the other; (Weft's pod, the kernel's)."""
    lab = Lab("--kernel-peer", "02:00:00:00:0b:02", "--fabric", keys(request.param), "--pods", keys(request.param))
    try:
        pod = lab.pod("n1", "blue1", "blue")
        lab.tool("kernel-pod", "kernel", 5001, "02:00:00:00:0b:02", "10.1.2.10/24", "fd00:1::2:10/112")
        lab.tool("kernel-via", "kernel", "10.1.0.0/16", "10.1.0.1", ROUTER_MAC)
        lab.tool("kernel-via", "kernel", "fd00:1::/64", "fd00:1::1", ROUTER_MAC)
        yield pod, Pod(lab, "n2", "kernel")
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@families
@pytest.mark.parametrize("direction", ["weft to kernel", "kernel to weft"])
class TestKernelPeer:
    def test_ping(self, xdp_kernel, direction, family):
        sender, receiver = xdp_kernel if direction == "weft to kernel" else reversed(xdp_kernel)
        assert sender.reaches(receiver.address(family), count=1)
        assert sender.ping(receiver.address(family), count=30) == (30, 0)

    def test_tcp(self, xdp_kernel, direction, family):
        """The kernel leaves inner checksums, and where it may super-frames, to its device."""
        sender, receiver = xdp_kernel if direction == "weft to kernel" else reversed(xdp_kernel)
        rate = Transfer(sender, receiver, family, 32 << 20).finish()
        print(f"TCP {direction}, IPv{family}: {rate:.2f} Gbit/s")
        assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}

    def test_udp_of_every_size(self, xdp_kernel, direction, family):
        sender, receiver = xdp_kernel if direction == "weft to kernel" else reversed(xdp_kernel)
        largest = sender.mtu - (28 if family == 4 else 48)
        address = receiver.address(family)
        with receiver.serving("udp-echo", address, 6400 + family):
            outcome = sender.exec(TRAFFIC, "udp-sizes", address, 6400 + family, 1, largest)
        assert json.loads(outcome.stdout) == {"wrong": []}
        assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@contextlib.contextmanager
def made(*options, cores=None):
    """A lab, and a pod on each of its nodes."""
    before = os.environ.get("WEFT_LAB_CORES")
    if cores:
        os.environ["WEFT_LAB_CORES"] = cores
    lab = None
    try:
        lab = Lab(*options)
        yield lab, lab.pod("n1", "blue1", "blue"), lab.pod("n2", "blue2", "blue")
    finally:
        if cores:
            os.environ.pop("WEFT_LAB_CORES")
        if before is not None:
            os.environ["WEFT_LAB_CORES"] = before
        left = lab.down() if lab else ""
    assert left == "", f"left behind:\n{left}"


def opened(lab, node, device):
    """What the forwarder said when it opened an interface: a line for each time."""
    log = pathlib.Path(lab.folder, node, "forwarder.log").read_text(errors="replace")
    return [line for line in log.splitlines() if f"is {device}" in line and "af_xdp" in line]


def check(sender, receiver, size=4 << 20):
    for family in FAMILIES:
        address = receiver.address(family)
        assert sender.reaches(address, count=1)
        largest = sender.mtu - (28 if family == 4 else 48)
        for one in (56, largest // 2, largest):
            assert sender.ping(address, count=10, size=one, more=["-M", "do"]) == (10, 0), f"IPv{family}, {one} bytes"
        there = Transfer(sender, receiver, family, size, streams=4)
        back = Transfer(receiver, sender, family, size, streams=4)
        there.finish()
        back.finish()
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_workers_and_the_queues_of_the_fabric():
    """One queue: one worker receives, the other sends in its own way. Then two, which the forwarder finds by itself."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    with made("--fabric", keys("native"), "--pods", keys("native"), cores=cores) as (lab, sender, receiver):
        check(sender, receiver)
        for node in (lab.n1, lab.n2):
            node.exec("ethtool", "-L", "fab0", "rx", "2", "tx", "1")
        for node in ("n1", "n2"):
            wait_for(lambda: len(opened(lab, node, "fab0")) > 1, 10, "the interface opened anew")
            assert "queues=2" in opened(lab, node, "fab0")[-1], opened(lab, node, "fab0")
        for node in (lab.n1, lab.n2):
            node.exec("ethtool", "-L", "fab0", "rx", "2", "tx", "2")
        check(sender, receiver)
        # Fewer the kernel does not allow while queues have sockets.
        assert lab.n1.exec("ethtool", "-L", "fab0", "rx", "1", "tx", "1", check=False).returncode != 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mtu", [3000, 9000])
def test_large_packets(mode, mtu):
    """Frames of a place of 4 KiB, and of several places."""
    with made("--fabric", keys(mode), "--pods", keys(mode), "--mtu", mtu) as (lab, sender, receiver):
        assert sender.mtu == mtu - 50
        check(sender, receiver)


def test_busy_polling_and_copies():
    """Settings arrive at the sockets; what the forwarder cannot give is refused by name."""
    settings = "port: af_xdp, xdp: {mode: native, copy: copy, busy-poll: 20, busy-poll-budget: 16}"
    with made("--fabric", settings, "--pods", settings) as (lab, sender, receiver):
        check(sender, receiver)
        assert "zero-copy=false" in opened(lab, "n1", "fab0")[0] and "mode=native" in opened(lab, "n1", "fab0")[0]


def test_kinds_mixed():
    """Super-frames of AF_PACKET ports go to AF_XDP ones in segments."""
    with made("--fabric", keys("auto")) as (lab, sender, receiver):
        second = lab.pod("n1", "blue1b", "blue")
        check(sender, receiver)
        check(sender, second)
    with made("--pods", keys("auto")) as (lab, sender, receiver):
        check(sender, receiver)


def test_the_fabric_goes_away_and_comes_back():
    """A new interface of the old name is another one to the kernel: it gets a program and sockets of its own."""
    with made("--fabric", keys("native"), "--pods", keys("native")) as (lab, sender, receiver):
        check(sender, receiver, size=1 << 20)
        lab.n1.exec("ip", "link", "delete", "fab0")
        assert not sender.reaches(receiver.address(4), count=2, wait=1)
        lab.n1.exec("ip", "link", "add", "fab0", "mtu", 1550, "type", "veth", "peer", "name", "fab0", "mtu", 1550,
                    "netns", lab.n2.namespace)
        for number, node in enumerate((lab.n1, lab.n2), 1):
            node.exec("ip", "address", "add", f"192.0.2.{number}/24", "dev", "fab0")
            node.exec("ip", "link", "set", "fab0", "up")
        wait_for(lambda: sender.reaches(receiver.address(4), count=1, wait=1), 20, "the pods reach each other again")
        check(sender, receiver, size=1 << 20)
