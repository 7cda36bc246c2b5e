"""The host's way into networks and theirs through the host, both families. 40 s."""
import json
import re

import pytest
from lab import ROUTER_MAC, Lab, Place, Pod, Transfer, run, wait_for

FAMILIES = [4, 6]
families = pytest.mark.parametrize("family", FAMILIES)
GATEWAY = {4: "10.1.0.1", 6: "fd00:1::1"}
GREEN = {4: "10.2.0.200", 6: "fd00:2::f:1"}
NETWORK = {4: "10.1.0.0/16", 6: "fd00:1::/64"}
NODE = {4: "198.51.100.1", 6: "2001:db8:9::1"}
OUTSIDE = {4: "198.51.100.2", 6: "2001:db8:9::2"}
PORTMAP = "/usr/lib/cni/portmap"


class Host(Place):
    """A node as an end of traffic, with its address in blue."""

    def __init__(self, node):
        super().__init__(node.lab, node.name, node.namespace)

    def address(self, family):
        return GATEWAY[family]

    ping = Pod.ping
    reaches = Pod.reaches
    serving = Pod.serving


class Outside(Host):
    """A server in the underlay that knows the node and no network."""

    def address(self, family):
        return OUTSIDE[family]


@pytest.fixture(scope="module")
def lab():
    lab = Lab("--blue", "host: {interface: weft0}", "--green", 'host: {addresses: [10.2.0.200, "fd00:2::f:1"], routes: []}')
    try:
        namespace = f"{lab.prefix}-p-out"
        run("ip", "netns", "add", namespace)
        lab.outside = Outside(Place(lab, "out", namespace))
        run("ip", "link", "add", "up0", "netns", lab.n1.namespace, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        for place, link, addresses in ((lab.n1, "up0", NODE), (lab.outside, "eth0", OUTSIDE)):
            place.exec("sysctl", "-qw", f"net.ipv6.conf.{link}.accept_dad=0")
            for address in addresses.values():
                place.exec("ip", "address", "add", f"{address}/{24 if '.' in address else 64}", "dev", link)
            place.exec("ip", "link", "set", link, "up")
            place.exec("ip", "link", "set", "lo", "up")
        yield lab
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(scope="module")
def host(lab):
    return Host(lab.n1)


@pytest.fixture(scope="module")
def pod(lab):
    return lab.pod("n1", "blue1")


@pytest.fixture(scope="module")
def others(lab):
    return lab.pod("n2", "blue2"), lab.pod("n1", "green1", "green"), lab.pod("n1", "red1", "red")


def links(node, name):
    return json.loads(node.exec("ip", "-j", "-d", "link", "show", "dev", name).stdout)[0]


@families
def test_ping(lab, host, pod, family):
    """Both ways, with the gateway's address; nobody asks for anybody's MAC address."""
    assert host.ping(pod.address(family), count=20) == (20, 0)
    assert pod.ping(GATEWAY[family], count=20) == (20, 0)
    size = pod.mtu - (28 if family == 4 else 48)
    assert host.ping(pod.address(family), count=5, size=size, more=["-M", "do"]) == (5, 0)
    neighbors = json.loads(host.exec("ip", "-j", "neighbour", "show", "dev", "weft0").stdout)
    assert sorted((one["dst"], one["lladdr"], one["state"]) for one in neighbors) == [
        ("169.254.1.1", ROUTER_MAC, ["PERMANENT"]), ("fe80::1", ROUTER_MAC, ["PERMANENT"])]
    mac = json.loads(pod.exec("ip", "-j", "neighbour", "show", GATEWAY[family]).stdout)[0]["lladdr"]
    assert mac == ROUTER_MAC


@families
@pytest.mark.parametrize("back", [False, True], ids=["host to pod", "pod to host"])
def test_tcp(host, pod, family, back):
    sender, receiver = (pod, host) if back else (host, pod)
    before = sum(row["drops"] for row in host.lab.weft("n1", "vif"))
    rate = Transfer(sender, receiver, family, 64 << 20).finish()
    print(f"TCP, {'pod to host' if back else 'host to pod'}, IPv{family}: {rate:.2f} Gbit/s")
    assert pod.checksum_errors() == {} and host.checksum_errors() == {}
    assert sum(row["drops"] for row in host.lab.weft("n1", "vif")) == before


def test_super_frames_pass_whole(host, pod):
    """64 KiB frames each way: fewer packets arrive at the interfaces than segments were sent."""
    for sender, receiver, device in ((host, pod, "eth0"), (pod, host, "weft0")):
        before = links_packets(receiver, device)
        Transfer(sender, receiver, 4, 32 << 20).finish()
        packets = links_packets(receiver, device) - before
        assert 0 < packets < (32 << 20) / pod.mtu / 4, (device, packets)


def links_packets(node, device):
    return json.loads(node.exec("ip", "-j", "-s", "link", "show", "dev", device).stdout)[0]["stats64"]["rx"]["packets"]


@families
def test_probes(host, pod, family):
    """As the kubelet probes: HTTP, an open port, a closed one; and the pod sees the gateway's address."""
    address = pod.address(family)
    server = pod.start("python3", "-u", "-m", "http.server", "8080", "--bind", address)
    url = f"http://[{address}]:8080/" if family == 6 else f"http://{address}:8080/"
    wait_for(lambda: host.exec("curl", "-sg", "-m", "2", "-o", "/dev/null", url, check=False).returncode == 0, 10, url)
    server.terminate()
    _, log = server.communicate(timeout=10)
    assert f"{GATEWAY[family]} - - " in log, log
    refused = host.exec("curl", "-sg", "-m", "5", url.replace("8080", "8081"), check=False)
    assert refused.returncode == 7, refused


@families
def test_green_by_an_address_of_its_own(lab, others, family):
    """addresses: the gateway stays the router's, the host has its own, also in sight of the other node's pods: no route."""
    _, green, _ = others
    green_host = Host(lab.n1)
    assert green_host.ping(green.address(family), count=5) == (5, 0)
    assert green.ping(GREEN[family], count=5) == (5, 0)
    assert green.ping({4: "10.2.0.1", 6: "fd00:2::1"}[family], count=5) == (5, 0)
    # routes: []: nothing else of the host, nor beyond.
    assert not green.reaches(NODE[family], count=1, wait=1)
    assert not green.reaches(OUTSIDE[family], count=1, wait=1)


@families
def test_a_network_without_a_host(others, family):
    _, _, red = others
    assert red.ping(GATEWAY[family], count=3) == (3, 0)  # the router's answer
    assert not red.reaches(NODE[family], count=1, wait=1)
    assert not red.reaches(OUTSIDE[family], count=1, wait=1)


@families
def test_out_through_the_host(lab, pod, family):
    """To a server in the underlay, which sees the node's address; large segments, hashed."""
    assert pod.ping(NODE[family], count=5) == (5, 0)
    assert pod.ping(OUTSIDE[family], count=5) == (5, 0)
    Transfer(pod, lab.outside, family, 16 << 20).finish()
    with lab.outside.serving("udp-echo", OUTSIDE[family], 6100):
        outcome = pod.exec("/usr/bin/python3", "-c", SEES, OUTSIDE[family], check=False)
    assert outcome.returncode == 0, outcome.stderr
    server = lab.outside.start("python3", "-u", "-m", "http.server", "8081", "--bind", OUTSIDE[family])
    url = f"http://{f'[{OUTSIDE[6]}]' if family == 6 else OUTSIDE[4]}:8081/"
    wait_for(lambda: pod.exec("curl", "-sg", "-m", "2", "-o", "/dev/null", url, check=False).returncode == 0, 10, url)
    server.terminate()
    assert f"{NODE[family]} - - " in server.communicate(timeout=10)[1]


SEES = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(5)
    s.sendto(b"hello", (sys.argv[1], 6100))
    assert s.recv(100) == b"hello"
"""


@families
def test_fragments(host, pod, family):
    assert pod.ping(GATEWAY[family], count=3, size=4000) == (3, 0)
    assert host.ping(pod.address(family), count=3, size=4000) == (3, 0)


def test_errors_come_from_the_gateway(pod):
    """Though the address is the host's, the router too sends its errors from it."""
    output = pod.exec("ping", "-n", "-c", "1", "-W", "2", "-t", "1", OUTSIDE[4], check=False).stdout
    assert f"From {GATEWAY[4]}" in output, output
    output = pod.exec("ping", "-n", "-c", "1", "-W", "2", "-t", "1", "10.1.2.99", check=False).stdout
    assert f"From {GATEWAY[4]}" in output, output


@pytest.mark.parametrize("family", [4])
def test_published_port(lab, pod, family):
    """Debian's portmap, its DNAT on the host: a server in the underlay reaches the pod by the node's address and port."""
    address = pod.address(family)
    config = {
        "cniVersion": "0.4.0", "name": "blue", "type": "portmap", "snat": False,
        "runtimeConfig": {"portMappings": [{"hostPort": 8088, "containerPort": 8080, "protocol": "tcp"}]},
        "prevResult": {
            "cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": f"/run/netns/{pod.namespace}"}],
            "ips": [{"version": "4", "address": f"{address}/16", "interface": 0}]}}

    def portmap(verb):
        environment = ["CNI_COMMAND=" + verb, "CNI_CONTAINERID=published", "CNI_NETNS=/run/netns/" + pod.namespace,
                       "CNI_IFNAME=eth0", "CNI_PATH=/usr/lib/cni"]
        return lab.n1.exec("env", *environment, "bash", "-c", f'exec {PORTMAP} <<< "$0"', json.dumps(config))

    portmap("ADD")
    try:
        server = pod.start("python3", "-u", "-m", "http.server", "8080", "--bind", address)
        url = f"http://{NODE[4]}:8088/"
        wait_for(lambda: lab.outside.exec("curl", "-s", "-m", "2", "-o", "/dev/null", url, check=False).returncode == 0, 10, url)
        # From the node itself too.
        assert lab.n1.exec("curl", "-s", "-m", "2", "-o", "/dev/null", url, check=False).returncode == 0
        server.terminate()
        log = server.communicate(timeout=10)[1]
        assert f"{OUTSIDE[4]} - - " in log, log
    finally:
        portmap("DEL")


def test_only_its_own_is_touched(lab):
    """Forwarding on that interface alone, a table of its own, routes of its own."""
    table = lab.n1.exec("nft", "list", "table", "inet", "weft-node1").stdout
    assert table.count("masquerade") == 2 and 'iifname "weft0" oifname != "weft0"' in table
    routes = lab.n1.exec("ip", "route", "show", "proto", "87").stdout.splitlines()
    assert [line.split()[:6] for line in routes] == [
        ["10.1.0.0/16", "via", "169.254.1.1", "dev", "weft0", "src"], ["10.2.0.0/16", "via", "169.254.1.1", "dev", "weft-green", "src"]]
    gateways = {one["network"]: one for one in lab.http("n1", "GET", "/v1/status")["gateways"]}
    assert gateways["blue"]["interface"] == "weft0" and "reason" not in gateways["blue"]
    assert gateways["green"]["routes"] == []


@families
def test_somebody_takes_parts_away(lab, host, pod, family):
    """A route or an address that goes is put back."""
    host.exec("ip", f"-{family}", "route", "del", NETWORK[family], "dev", "weft0")
    wait_for(lambda: pod.reaches(GATEWAY[family], count=1), 10, "the route is back")
    host.exec("ip", "address", "del", f"{GATEWAY[family]}/{32 if family == 4 else 128}", "dev", "weft0")
    wait_for(lambda: host.reaches(pod.address(family), count=1), 10, "the address is back")


def test_agent_restart_is_not_noticed(lab, host, pod):
    ping = host.start("ping", "-n", "-i", "0.05", "-c", "60", "-W", "1", pod.address(4))
    index = links(lab.n1, "weft0")["ifindex"]
    lab.tool("stop", "n1", "agent", "KILL")
    lab.tool("start", "n1", "agent")
    output, _ = ping.communicate(timeout=30)
    assert re.search(r"60 received", output), output
    assert links(lab.n1, "weft0")["ifindex"] == index


def test_forwarder_restart(lab, host, pod):
    index = links(lab.n1, "weft0")["ifindex"]
    lab.tool("stop", "n1", "forwarder", "KILL")
    lab.tool("start", "n1", "forwarder")
    wait_for(lambda: lab.is_synchronized("n1"), 20, "synchronized")
    for family in FAMILIES:
        wait_for(lambda: host.reaches(pod.address(family), count=1), 10, "the pod is reached again")
        assert pod.ping(OUTSIDE[family], count=3) == (3, 0)
    assert links(lab.n1, "weft0")["ifindex"] == index


def test_interface_deleted_by_hand(lab, host, pod):
    lab.n1.exec("ip", "link", "del", "weft0")
    for family in FAMILIES:
        wait_for(lambda: host.reaches(pod.address(family), count=1), 20, "made again")
        assert pod.ping(GATEWAY[family], count=3) == (3, 0)


def edit(lab, node, old, new):
    path = f"{lab.folder}/{node}/agent.yaml"
    with open(path) as file:
        text = file.read()
    assert old in text
    with open(path, "w") as file:
        file.write(text.replace(old, new))


def test_leaves_the_configuration(lab, host, pod):
    """Interface, routes and table go; what is not ours stays; then it comes back."""
    lab.n1.exec("nft", "add table inet other")
    lab.tool("stop", "n1", "agent")
    edit(lab, "n1", "host: {interface: weft0}", "dns: [10.96.0.11]")
    lab.tool("start", "n1", "agent")
    assert lab.n1.exec("ip", "link", "show", "weft0", check=False).returncode != 0
    assert lab.n1.exec("nft", "list", "tables").stdout.count("table inet weft") == 0
    assert "table inet other" in lab.n1.exec("nft", "list", "tables").stdout
    assert links(lab.n1, "weft-green")["linkinfo"]["info_kind"] == "tun"
    assert lab.n1.exec("ip", "route", "get", pod.address(4), check=False).stdout.find("weft0") < 0
    assert pod.ping(GATEWAY[4], count=3) == (3, 0)  # the router's
    lab.tool("stop", "n1", "agent")
    edit(lab, "n1", "dns: [10.96.0.11]", "host: {interface: weft0}")
    lab.tool("start", "n1", "agent")
    assert host.ping(pod.address(4), count=3) == (3, 0)
    lab.n1.exec("nft", "delete table inet other")


def http(lab, method, path, body):
    outcome = lab.tool("http", "n2", method, path, body, check=False)
    return outcome.returncode, outcome.stdout


def test_posted_gateway(lab, others):
    """As Tungsten Fabric's vrouter-port-control asks for it, on the other node."""
    blue2 = others[0]
    lab.tool("stop", "n2", "agent")
    edit(lab, "n2", "host: {interface: weft0}", "dns: [10.96.0.11]")
    lab.tool("start", "n2", "agent")
    body = [{"interface": "vgw1", "routing-instance": "default-domain:admin:blue:blue",
             "subnets": [{"ip-address": "10.1.0.0", "prefix-len": 16}],
             "routes": [{"ip-address": "192.0.2.0", "prefix-len": 24}]}]
    assert http(lab, "POST", "/gateway", json.dumps(body)) == (0, "{}\n")
    address = blue2.address(4)
    node2 = Host(lab.n2)
    assert node2.ping(address, count=3) == (3, 0)
    assert blue2.ping("192.0.2.2", count=3) == (3, 0)
    # It outlives the agent.
    lab.tool("stop", "n2", "agent")
    lab.tool("start", "n2", "agent")
    assert node2.ping(address, count=3) == (3, 0)
    for wrong, said in [
        ([{**body[0], "routing-instance": "red", "interface": "vgw2"}], "overlaps 10.1.0.0/16 of network blue"),
        ([{**body[0], "routing-instance": "none"}], "no network is named"),
        ([{**body[0], "interface": "a/b"}], "interface"),
        ([{**body[0], "interface": "lo"}], "is not this agent's"),
        ([{**body[0], "interface": "fab0"}], "the fabric's interface"),
        ([{**body[0], "subnets": [{"ip-address": "10.9.0.0", "prefix-len": 16}]}], "in no subnet"),
        ([{**body[0], "routes": [{"ip-address": "10.9.0.0", "prefix-len": 33}]}], "is no prefix"),
        ([{**body[0], "routes": [{"ip-address": "10.1.0.5", "prefix-len": 32}]}], "lies in the network itself"),
        ({}, "a list"),
    ]:
        status, answer = http(lab, "POST", "/gateway", json.dumps(wrong))
        assert status != 0 and said in answer, (wrong, answer)
    assert http(lab, "POST", "/gateway", json.dumps(body)) == (0, "{}\n")
    assert node2.ping(address, count=3) == (3, 0)
    # Another interface for the same network takes its place, also after a restart.
    assert http(lab, "POST", "/gateway", json.dumps([{**body[0], "interface": "vgw3"}])) == (0, "{}\n")
    assert lab.n2.exec("ip", "link", "show", "vgw1", check=False).returncode != 0
    assert node2.ping(address, count=3) == (3, 0)
    lab.tool("stop", "n2", "agent")
    lab.tool("start", "n2", "agent")
    assert lab.is_synchronized("n2") and node2.ping(address, count=3) == (3, 0)
    assert {row["device"] for row in lab.weft("n2", "vif") if row["role"] == "host"} == {"weft-green", "vgw3"}
    for _ in range(2):
        assert http(lab, "DELETE", "/gateway", '[{"interface": "vgw3"}]') == (0, "{}\n")
    assert lab.n2.exec("ip", "link", "show", "vgw3", check=False).returncode != 0
    assert not blue2.reaches("192.0.2.2", count=1, wait=1)
    status, answer = http(lab, "DELETE", "/gateway", '[{"interface": "weft-green"}]')
    assert status != 0 and "configuration" in answer
