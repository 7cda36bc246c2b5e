"""Debian's plugins chained after ours, run by libcni as a runtime does: ADD, CHECK, DEL. With veths and with TAP
interfaces in pods. 12 s."""
import json
import os

import pytest
from cni import PLUGIN, PLUGINS

PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
LIMITS = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000}


class Chain:
    """A list of plugins on a node, with ours first."""

    def __init__(self, node, libcni, folder, *plugins, capabilities=None, network="four", version="1.0.0"):
        self.node, self.libcni, self.capabilities = node, libcni, capabilities or {}
        self.path, self.cache = folder / "list.conflist", folder / "cache"
        self.path.write_text(json.dumps({"cniVersion": version, "name": node.network_name, "plugins": [
            {"type": "weft-cni", "weft": node.section(network=network)}, *plugins]}))

    def run(self, verb, container, check=True):
        return self.node.place.exec(
            self.libcni, verb, self.path, f"{PLUGIN.parent}:{PLUGINS}", self.cache, container.id, container.netns, "eth0",
            "IgnoreUnknown=1", json.dumps(self.capabilities), check=check,
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})

    def add(self, container):
        return json.loads(self.run("add", container).stdout)


@pytest.fixture
def any_node(request, kind):
    """A node with veths to pods, or with TAP interfaces in them."""
    made = request.getfixturevalue("cni_node" if kind == "veth" else "tap_node")
    yield made
    made.clean()
    made.expect_nothing()


kinds = pytest.mark.parametrize("kind", ["veth", "tap"])


def rules(node, table="nat", family=4):
    return node.place.exec("iptables-save" if family == 4 else "ip6tables-save", "-t", table).stdout


def check_with_portmap(chain, container):
    """portmap 1.1.1 looks for IPv6 rules also where there is no IPv6 address, and with the IPv4 address where there is
    one, whichever plugin is the first."""
    outcome = chain.run("check", container, check=False)
    assert outcome.returncode == 0 or outcome.stdout.startswith("could not check ipv6 dnat"), outcome.stdout


@kinds
def test_portmap(any_node, libcni, tmp_path, kind):
    """It translates the node's port to the pod's address, and takes that back."""
    container = any_node.container("a")
    chain = Chain(any_node, libcni, tmp_path, {"type": "portmap", "capabilities": {"portMappings": True}}, capabilities=PORTS)
    address = chain.add(container)["ips"][0]["address"].split("/")[0]
    assert f"--dport 8080 -j DNAT --to-destination {address}:80" in rules(any_node)
    check_with_portmap(chain, container)
    for _ in range(2):
        chain.run("del", container)
    assert container.id not in rules(any_node) and "DNAT --to" not in rules(any_node)


@kinds
def test_portmap_of_both_families(any_node, libcni, tmp_path, kind):
    container = any_node.container("a")
    chain = Chain(any_node, libcni, tmp_path, {"type": "portmap", "capabilities": {"portMappings": True}},
                  capabilities=PORTS, network="blue")
    result = chain.add(container)
    for ip, family, form in zip(result["ips"], (4, 6), ("{}:80", "[{}]:80")):
        assert f"DNAT --to-destination {form.format(ip['address'].split('/')[0])}" in rules(any_node, family=family)
    check_with_portmap(chain, container)
    chain.run("del", container)
    assert "DNAT --to" not in rules(any_node) + rules(any_node, family=6)


@kinds
def test_firewall(any_node, libcni, tmp_path, kind):
    container = any_node.container("a")
    chain = Chain(any_node, libcni, tmp_path, {"type": "firewall", "backend": "iptables"}, network="blue")
    result = chain.add(container)
    address = result["ips"][0]["address"].split("/")[0]
    assert f"-s {address}/32 -j ACCEPT" in rules(any_node, "filter")
    chain.run("check", container)
    for _ in range(2):
        chain.run("del", container)
    assert address not in rules(any_node, "filter")


@kinds
def test_tuning(any_node, libcni, tmp_path, kind):
    """Sysctls and a smaller MTU; CHECK of ours lets them be. What it may not change is the MAC address: see below."""
    container, other = any_node.container("a"), any_node.container("b")
    chain = Chain(any_node, libcni, tmp_path, {
        "type": "tuning", "sysctl": {"net.ipv4.conf.eth0.log_martians": "1"}, "mtu": 1300}, network="blue")
    result = chain.add(container)
    assert container.link()["mtu"] == 1300
    assert container.exec("cat", "/proc/sys/net/ipv4/conf/eth0/log_martians").stdout.strip() == "1"
    chain.run("check", container)
    any_node.add(other)
    assert other.ping(result["ips"][0]["address"].split("/")[0])
    for _ in range(2):
        chain.run("del", container)


@kinds
def test_tuning_of_the_mac_address(any_node, libcni, tmp_path, kind):
    """The forwarder sends to the address that it was told: CHECK says so, and ours takes one itself."""
    container = any_node.container("a")
    chain = Chain(any_node, libcni, tmp_path, {"type": "tuning", "mac": "02:aa:00:00:00:01"}, network="blue")
    chain.add(container)
    outcome = chain.run("check", container, check=False)
    assert outcome.returncode != 0 and "MAC address" in outcome.stdout
    chain.run("del", container)


@kinds
def test_sbr(any_node, libcni, tmp_path, kind):
    """It moves the routes to a table of their own; CHECK of ours finds them there."""
    container, other = any_node.container("a"), any_node.container("b")
    chain = Chain(any_node, libcni, tmp_path, {"type": "sbr"}, network="blue")
    result = chain.add(container)
    assert not [route for route in container.ip("route") if route["dst"] == "default"]
    assert [route["gateway"] for route in container.ip("route", "show", "table", "all") if route["dst"] == "default"] == [
        "10.1.0.1", "fd00:1::1"]
    chain.run("check", container)
    any_node.add(other)
    assert other.ping(result["ips"][0]["address"].split("/")[0])
    chain.run("del", container)
    # sbr 1.1.1 itself fails where the interface is gone.
    outcome = chain.run("del", container, check=False)
    assert outcome.returncode == 0 or 'plugin type="sbr" failed (delete): Failed to get link eth0' in outcome.stdout


def test_bandwidth_with_veths(cni_node, libcni, tmp_path):
    container = cni_node.container("a")
    chain = Chain(cni_node, libcni, tmp_path, {"type": "bandwidth", **LIMITS}, network="blue")
    host = chain.add(container)["interfaces"][0]["name"]
    assert "tbf" in cni_node.place.exec("tc", "qdisc", "show", "dev", host).stdout
    chain.run("check", container)
    for _ in range(2):
        chain.run("del", container)
    cni_node.clean()
    cni_node.expect_nothing()


def test_bandwidth_with_taps(tap_node, libcni, tmp_path):
    """It wants a veth; what was made before it failed goes by DEL."""
    container = tap_node.container("a")
    chain = Chain(tap_node, libcni, tmp_path, {"type": "bandwidth", **LIMITS}, network="blue")
    outcome = chain.run("add", container, check=False)
    assert outcome.returncode != 0 and "container interface eth0 has no veth peer" in outcome.stdout
    chain.run("del", container)
    tap_node.clean()
    tap_node.expect_nothing()


@kinds
def test_all_of_them(any_node, libcni, tmp_path, kind):
    """One list with portmap, tuning and firewall, in the version that the list says."""
    for version in ("0.4.0", "1.0.0"):
        container = any_node.container(f"v{version.replace('.', '')}")
        chain = Chain(any_node, libcni, tmp_path, {"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}},
                      {"type": "firewall", "backend": "iptables"}, {"type": "portmap", "capabilities": {"portMappings": True}},
                      capabilities=PORTS, version=version)
        assert chain.add(container)["cniVersion"] == version
        check_with_portmap(chain, container)
        for _ in range(2):
            chain.run("del", container)
