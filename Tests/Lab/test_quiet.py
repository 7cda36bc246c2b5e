"""The hosts' kernels see every packet of the forwarders' (AF_PACKET taps, it does not take): they must act on none."""
import os
import time

import pytest
from conftest import WAYS
from lab import Transfer, run


class Capture:
    """tcpdump on an interface of a node. It sees what arrives, and what the kernel sends; what the forwarder sends passes
    by it (PACKET_QDISC_BYPASS) and is seen where it arrives."""

    def __init__(self, node, interface, path):
        self.path = path
        self.process = node.start("tcpdump", "-i", interface, "-w", path, "-U", "--immediate-mode", "-s", "256", "-B", "16384")
        while "listening on" not in (line := self.process.stderr.readline()):
            assert line, f"tcpdump on {interface} of {node.name} did not start"

    def stop(self):
        # What has just passed may still be on its way through the kernel's buffer.
        size, steady = -1, 0
        while steady < 5:
            time.sleep(0.1)
            steady = steady + 1 if size == (size := os.stat(self.path).st_size) else 0
        self.process.terminate()
        self.process.wait(10)
        return self

    def fields(self, display_filter, *fields):
        """Of each packet that the filter lets through: the fields, a tuple."""
        arguments = [part for field in fields for part in ("-e", field)]
        output = run(
            "tshark", "-n", "-r", self.path, "-d", "udp.port==6635,mpls", "-Y", display_filter, "-T", "fields", *arguments).stdout
        return [tuple(line.split("\t")) for line in output.splitlines()]


def host_links(node):
    """Names and MAC addresses of the host's ends of pods' interfaces."""
    links = [line.split() for line in node.exec("ip", "-o", "link", "show", "type", "veth").stdout.splitlines()]
    return {
        words[1].rstrip(":").split("@")[0]: words[words.index("link/ether") + 1]
        for words in links if not words[1].startswith("fab0")
    }


@pytest.fixture(scope="module")
def captures(lab, pods, tmp_path_factory):
    """Everything on both fabric ends and on all host ends while pods of all kinds talk, from their first packet on."""
    folder = tmp_path_factory.mktemp("captures")
    running = {}
    for node in (lab.n1, lab.n2):
        for interface in ["fab0", *host_links(node)]:
            running[node.name, interface] = Capture(node, interface, folder / f"{node.name}-{interface}.pcap")
    for way in WAYS:
        sender, receiver = pods[way]
        for family in (4, 6):
            assert sender.ping(receiver.address(family), count=20) == (20, 0)
            Transfer(sender, receiver, family, 4 << 20).finish()
    # Addresses that nobody has, and a port that nobody listens at: the pods' own business.
    pods["vxlan"][0].ping("10.1.2.200", count=2, wait=1)
    pods["vxlan"][0].ping("10.1.1.200", count=2, wait=1)
    pods["vxlan"][0].ping("10.9.9.9", count=2, wait=1)
    # The control: to a datagram that is the host's own business, n1's kernel answers that nobody listens. The captures and
    # counters have to show that one.
    lab.n2.exec("python3", "-c", "import socket; socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 9))")
    return {key: capture.stop() for key, capture in running.items()}


def test_no_error_from_the_hosts(captures):
    """Neither port unreachable nor anything else, on the fabric."""
    for node in ("n1", "n2"):
        capture = captures[node, "fab0"]
        tunnelled = capture.fields("udp.dstport == 4789 || udp.dstport == 6635", "frame.number")
        assert len(tunnelled) > 80, "the capture saw the tunnels"
        # ICMP outside of any tunnel, told by the order of the headers: an error holds the packet that it is about.
        seen = capture.fields("icmp || icmpv6.type < 128", "frame.protocols", "ip.src", "icmp.type", "icmp.code", "udp.dstport")
        errors = [fields for fields in seen if fields[0].startswith(("eth:ethertype:ip:icmp", "eth:ethertype:ipv6:icmpv6"))]
        assert [fields[1:] for fields in errors] == [("192.0.2.1,192.0.2.2", "3", "3", "9")], node
        # Nor did a host's TCP answer what it was shown.
        protocols = {fields[0] for fields in capture.fields("tcp", "frame.protocols")}
        assert [one for one in protocols if one.startswith(("eth:ethertype:ip:tcp", "eth:ethertype:ipv6:tcp"))] == [], node


@pytest.mark.parametrize("protocol, request_type, reply_type, sequence, identifier", [
    ("icmp", 8, 0, "icmp.seq", "icmp.ident"),
    ("icmpv6", 128, 129, "icmpv6.echo.sequence_number", "icmpv6.echo.identifier"),
])
def test_each_echo_once(captures, protocol, request_type, reply_type, sequence, identifier):
    """Each echo request arrives at the second node once, and each reply at the first; nothing goes astray."""
    for node, kind, other in (("n2", request_type, reply_type), ("n1", reply_type, request_type)):
        seen = captures[node, "fab0"].fields(f"{protocol}.type == {kind}", identifier, sequence)
        assert len(seen) == len(set(seen)), f"{node}: an echo twice"
        # Two tunnels with 20 each; requests to nobody come on top.
        assert 40 <= len(seen) <= 46, f"{node}: {len(seen)} of {protocol} type {kind}"
        assert captures[node, "fab0"].fields(f"{protocol}.type == {other}", "frame.number") == []


def test_nothing_from_the_hosts_ends(lab, captures):
    """The host's end of a pod's interface sends nothing of its own: no ARP, no neighbour discovery, no MLD."""
    for node in (lab.n1, lab.n2):
        links = host_links(node)
        assert links
        for interface, mac in links.items():
            own = captures[node.name, interface].fields(f"eth.src == {mac}", "frame.protocols")
            assert own == [], f"{node.name} {interface}"
            assert len(captures[node.name, interface].fields("tcp", "frame.number")) > 20


def test_hosts_have_no_address_there(lab, captures):
    for node in (lab.n1, lab.n2):
        for interface in host_links(node):
            assert node.exec("ip", "-o", "address", "show", "dev", interface).stdout == ""


def test_counters(lab, captures):
    """What the kernels counted since the nodes were made."""
    quiet = [
        "IpForwDatagrams", "IpInAddrErrors", "IpOutNoRoutes", "IcmpOutDestUnreachs", "IcmpOutTimeExcds", "IcmpOutRedirects",
        "IcmpOutEchoReps", "UdpNoPorts", "Ip6OutForwDatagrams", "Icmp6OutDestUnreachs", "Icmp6OutTimeExcds",
        "Icmp6OutRedirects", "Icmp6OutNeighborAdvertisements", "TcpExtIPReversePathFilter", "IpExtInNoRoutes",
    ]
    for node in (lab.n1, lab.n2):
        counters = node.counters()
        control = {"IcmpOutDestUnreachs": 1, "UdpNoPorts": 1} if node is lab.n1 else {}
        assert {name: counters[name] for name in quiet if counters.get(name, 0)} == control, node.name


def test_no_martians(lab, captures):
    """log_martians is on in the lab: the kernel would say so in its log, by the interface's name."""
    outcome = run("dmesg", check=False)
    if outcome.returncode != 0:
        pytest.skip("the kernel's log cannot be read here")
    names = {"fab0"} | set(host_links(lab.n1)) | set(host_links(lab.n2))
    martians = [line for line in outcome.stdout.splitlines() if "martian" in line and any(name in line for name in names)]
    assert martians == []


def test_no_bad_checksum(pods, captures):
    for pair in pods.values():
        for pod in pair:
            assert pod.checksum_errors() == {}


def test_no_error_about_gre(lab, pods, tmp_path):
    """MPLS-over-GRE is the forwarder's, like the UDP tunnels; other GRE stays the host's, which may well answer."""
    program = "import socket, sys; socket.socket(2, 3, 47).sendto(bytes.fromhex(sys.argv[1]), ('192.0.2.1', 0))"

    def unknown_labels():
        return sum(drop["count"] for drop in lab.weft("n1", "drops") if drop["reason"] == "unknown_label")

    before = unknown_labels()
    capture = Capture(lab.n2, "fab0", tmp_path / "gre.pcap")
    for protocol in ("8847", "0800"):
        lab.n2.exec("python3", "-c", program, f"0000{protocol}" + "00063140" + "4500" + "00" * 30)
    time.sleep(0.5)
    quoted = [fields[0] for fields in capture.stop().fields("icmp", "gre.proto")]
    assert "0x8847" not in quoted
    assert unknown_labels() == before + 1
