"""ADD: real plugin, agent and forwarder. 25 s."""
import concurrent.futures
import json
import os
import time

import cni_results
import pytest
from cni import PLUGIN, VERSIONS
from lab import run


def defaults(container, family):
    return [route for route in container.ip(f"-{family}", "route", "show") if route["dst"] == "default"]


def expect_refused(node, outcome, code, *words):
    """Refused with a reason, and nothing is left of it."""
    assert outcome.code == code, outcome
    for word in words:
        assert word in outcome.text, outcome
    node.expect_nothing()


# MARK: results


@pytest.mark.parametrize("version", VERSIONS)
def test_results(node, libcni, version):
    """By a schema of the version, by libcni's own types up to 1.0.0, and held against the kernel."""
    container = node.container("a")
    result = node.add(container, node.configuration(version))
    cni_results.check(result, version)
    if version != "1.1.0":
        read = run("bash", "-c", 'exec "$0" result <<<"$1"', libcni, json.dumps(result)).stdout
        assert json.loads(read) == result
    host, inner = result["interfaces"]
    assert inner["name"] == "eth0" and inner["sandbox"] == container.netns and "sandbox" not in host
    assert [ip["interface"] for ip in result["ips"]] == [1, 1]
    link = container.link()
    assert (link["address"], link["mtu"]) == (inner["mac"], 1500) and "UP" in link["flags"]
    outer = json.loads(node.place.exec("ip", "-j", "link", "show", host["name"]).stdout)[0]
    assert outer["address"] == host["mac"]
    if version == "1.1.0":
        assert host["mtu"] == inner["mtu"] == 1500
    assert container.addresses() == {ip["address"] for ip in result["ips"]}
    for family, index in ((4, 0), (6, 1)):
        assert [route["gateway"] for route in defaults(container, family)] == [result["ips"][index]["gateway"]]
    assert [route["dst"] for route in result["routes"]] == ["0.0.0.0/0", "::/0"]
    assert result["dns"] == {"nameservers": ["10.96.0.10"]}
    node.delete(container, node.configuration(version, prevResult=result if version >= "0.4.0" else None))


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.parametrize("name", ["weft-cni", "contrail-k8s-cni"])
def test_by_libcni(node, libcni, tmp_path, version, name):
    """A runtime's library runs the list as docs/cni.md gives it: ADD, CHECK, DEL, DEL. Under the field's name too."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / name).symlink_to(PLUGIN)
    versions = {"cniVersion": version} if version != "1.0.0" else {
        "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}
    section = "contrail" if name.startswith("contrail") else "weft"
    path = tmp_path / "10-weft.conflist"
    path.write_text(json.dumps({**versions, "name": node.network_name, "plugins": [
        {"type": name, section: node.section(), "capabilities": {"ips": True, "mac": True}}]}))
    container = node.container("a")

    def libcni_run(verb, check=True):
        return node.place.exec(
            libcni, verb, path, tmp_path / "bin", tmp_path / "cache", container.id, container.netns, "eth0",
            "IgnoreUnknown=1;K8S_POD_NAME=a;K8S_POD_NAMESPACE=default", json.dumps({"ips": ["10.1.1.77/16"]}),
            check=check, env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})

    result = json.loads(libcni_run("add").stdout)
    cni_results.check(result, version)
    assert "10.1.1.77/16" in container.addresses()
    if version >= "0.4.0":
        libcni_run("check")
        container.exec("ip", "address", "delete", "10.1.1.77/16", "dev", "eth0")
        outcome = libcni_run("check", check=False)
        assert outcome.returncode != 0 and "10.1.1.77" in outcome.stdout
    libcni_run("del")
    assert container.link() is None
    libcni_run("del")


# MARK: the interface


@pytest.mark.parametrize("network, families", [("four", (4,)), ("six", (6,)), ("blue", (4, 6))])
def test_families(node, network, families):
    one, two = node.container("one"), node.container("two")
    configuration = node.configuration(settings={"network": network})
    node.add(one, configuration)
    result = node.add(two, configuration)
    assert {6 if ":" in ip["address"] else 4 for ip in result["ips"]} == set(families)
    for family in (4, 6):
        assert len(defaults(one, family)) == (family in families)
    for ip in result["ips"]:
        assert one.ping(ip["address"].split("/")[0]) and one.ping(ip["gateway"])


def test_ipv6_does_not_wait(node):
    """Duplicate address detection is over when ADD answers: no address is tentative, the first packet goes out."""
    other = node.container("other")
    address = node.add(other)["ips"][1]["address"].split("/")[0]
    for number in range(5):
        container = node.container(f"c{number}")
        node.add(container)
        flags = [one for link in container.ip("-6", "address", "show", "dev", "eth0") for one in link["addr_info"] if one]
        assert len(flags) == 2 and not [one for one in flags if one.get("tentative") or one.get("dadfailed")]
        assert container.ping(address, count=1)


def test_routes_dns_and_mtu_of_the_network(node):
    container = node.container("a")
    result = node.add(container, node.configuration(settings={"network": "routed"}))
    assert [(route["dst"], route["gw"]) for route in result["routes"]] == [
        ("192.168.7.0/24", "10.7.0.1"), ("10.77.0.0/16", "10.7.0.9"), ("2001:db8:7::/48", "fd00:7::1")]
    assert result["dns"]["nameservers"] == ["10.7.0.53", "fd00:7::53"]
    assert container.link()["mtu"] == 1400 and result["interfaces"][1]["mtu"] == 1400
    assert defaults(container, 4) == defaults(container, 6) == []
    routes = {(route["dst"], route.get("gateway")) for family in (4, 6) for route in container.ip(f"-{family}", "route")}
    assert {("192.168.7.0/24", "10.7.0.1"), ("10.77.0.0/16", "10.7.0.9"), ("2001:db8:7::/48", "fd00:7::1")} <= routes


@pytest.mark.parametrize("asked, got", [(1300, 1300), (9000, 1500), ("1400", 1400)])
def test_mtu(node, asked, got):
    container = node.container("a")
    result = node.add(container, node.configuration(settings={"mtu": asked}))
    assert container.link()["mtu"] == got == result["interfaces"][1]["mtu"]


def test_several_interfaces(node):
    """eth0 has the default routes and keeps them; each interface is in its own network; each goes by its own DEL."""
    container, far = node.container("a"), node.container("far")
    green = node.configuration(settings={"network": "green"})
    one = node.add(container)
    two = node.add(container, green, interface="net1")
    three = node.add(container, node.configuration(settings={"network": "routed"}), interface="net2")
    assert two["routes"] == [] and len(three["routes"]) == 3
    assert [route["dev"] for route in defaults(container, 4) + defaults(container, 6)] == ["eth0", "eth0"]
    address = node.add(far, green)["ips"][0]["address"].split("/")[0]
    assert container.ping(address)
    for interface, result in (("eth0", one), ("net1", two), ("net2", three)):
        outcome = node.run("CHECK", container, node.configuration(prevResult=result), interface=interface)
        assert outcome.status == 0, outcome
    node.delete(container, green, interface="net1")
    assert container.link("net1") is None and container.link("net2") and container.addresses() == {
        ip["address"] for ip in one["ips"]}
    node.delete(container)
    assert len(node.attachments()) == 2 and len(node.links()) == 2


# MARK: what is asked for


@pytest.mark.parametrize("runtime, args, environment, got", [
    (["10.1.1.201", "fd00:1::1:201"], ["10.1.1.202"], "IP=10.1.1.203", {"10.1.1.201/16", "fd00:1::1:201/64"}),
    (None, ["10.1.1.202/16", "fd00:1::1:202/64"], "IP=10.1.1.203", {"10.1.1.202/16", "fd00:1::1:202/64"}),
    ([], None, "IP=10.1.1.203,fd00:1::1:203", {"10.1.1.203/16", "fd00:1::1:203/64"})])
@pytest.mark.parametrize("upper", [False, True], ids=["", "capitalised"])
def test_addresses_asked_for(node, runtime, args, environment, got, upper):
    container = node.container("a")
    more = {}
    if runtime is not None:
        more["runtimeConfig"] = {"IPs" if upper else "ips": runtime}
    if args is not None:
        more["args"] = {"cni": {"ips": args}}
    result = node.add(container, node.configuration(**more), arguments=f"IgnoreUnknown=1;{environment}")
    assert container.addresses() == got == {ip["address"] for ip in result["ips"]}


@pytest.mark.parametrize("runtime, args, environment, got", [
    ("02:aa:00:00:00:01", "02:aa:00:00:00:02", "MAC=02:aa:00:00:00:03", "02:aa:00:00:00:01"),
    (None, "02:aa:00:00:00:02", "MAC=02:aa:00:00:00:03", "02:aa:00:00:00:02"),
    ("", None, "MAC=02:AA:00:00:00:03", "02:aa:00:00:00:03")])
def test_mac_asked_for(node, runtime, args, environment, got):
    container, other = node.container("a"), node.container("b")
    more = {"runtimeConfig": {"mac": runtime}} if runtime is not None else {}
    if args:
        more["args"] = {"cni": {"mac": args}}
    result = node.add(container, node.configuration(**more), arguments=environment)
    assert container.link()["address"] == got == result["interfaces"][1]["mac"]
    address = node.add(other)["ips"][0]["address"].split("/")[0]
    assert container.ping(address)


@pytest.mark.parametrize("more, arguments, code, word", [
    ({"runtimeConfig": {"ips": ["10.9.9.9"]}}, "", 101, "10.9.9.9"), ({"runtimeConfig": {"ips": ["10.1.0.1"]}}, "", 101, "10.1.0.1"),
    ({"runtimeConfig": {"ips": ["x"]}}, "", 7, "runtimeConfig.ips"), ({"args": {"cni": {"ips": "10.1.1.2"}}}, "", 7, "args.cni.ips"),
    ({}, "IP=1.2.3", 4, "CNI_ARGS"), ({}, "MAC=01:00:5e:00:00:01", 4, "CNI_ARGS"), ({"runtimeConfig": {"mac": "x"}}, "", 7, "runtimeConfig.mac"),
    ({}, "FOO=1", 4, "FOO"), ({}, "FOO", 4, "FOO"), ({"weft": {"network": "none", "log-file": ""}}, "", 7, "none")])
def test_wishes_that_cannot_be(node, more, arguments, code, word):
    if "weft" in more:
        more = {"weft": {**node.section(), **more["weft"]}}
    container = node.container("a")
    expect_refused(node, node.run("ADD", container, node.configuration(**more), arguments=arguments), code, word)
    assert container.link() is None


def test_an_address_in_use(node):
    one, two = node.container("one"), node.container("two")
    address = node.add(one)["ips"][0]["address"]
    used = node.used()
    outcome = node.run("ADD", two, node.configuration(runtimeConfig={"ips": [address]}))
    assert outcome.code == 100 and address.split("/")[0] in outcome.text
    assert two.link() is None and node.used() == used and len(node.links()) == len(node.records()) == 1


def test_what_runtimes_send(node):
    """podman's, containerd's and CRI's input with all that is for others: taken."""
    container = node.container("a")
    runtime = {"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
               "bandwidth": {"IngressRate": 1000000, "IngressBurst": 1000, "EgressRate": 0, "EgressBurst": 0},
               "dns": {"Servers": ["10.96.0.10"], "Searches": ["cluster.local"], "Options": None}, "ips": None,
               "mac": None, "aliases": {"n": ["a"]}, "cgroupPath": "/x"}
    configuration = node.configuration(
        runtimeConfig=runtime, capabilities={"portMappings": True}, args={"cni": {"ips": None}, "labels": [1]}, ipMasq=True,
        dns={"nameservers": None}, ipam={}, name_ö="ü🌐", filler="x" * 65536, cniVersions=["1.0.0", "1.1.0"])
    arguments = "K8S_POD_UID=5c1c9f56-7a0b-4a64-9d5b-7b1f2a3c4d5e;IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=x;FOO=;K8S_POD_NAME=a;K8S_POD_NAMESPACE=ns"
    node.add(container, configuration, arguments=arguments)
    attachment = node.attachments()[0]
    assert (attachment["pod-name"], attachment["pod-namespace"]) == ("a", "ns")
    assert attachment["pod-uid"] == "5c1c9f56-7a0b-4a64-9d5b-7b1f2a3c4d5e"


def test_chained_after_another(node):
    """prevResult of a plugin before: its entries stay first, interface indices go on behind them."""
    container = node.container("a")
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "dummy0", "sandbox": container.netns, "mac": "02:00:00:00:00:09"}],
                "ips": [{"address": "198.51.100.2/24", "interface": 0}], "routes": [{"dst": "198.51.100.0/24"}],
                "dns": {"nameservers": ["198.51.100.53"], "search": ["x.example"]}}
    result = node.add(container, node.configuration("1.0.0", prevResult=previous))
    cni_results.check(result, "1.0.0")
    assert [one["name"] for one in result["interfaces"]][::2] == ["dummy0", "eth0"]
    assert [ip.get("interface") for ip in result["ips"]] == [0, 2, 2]
    assert result["ips"][0] == previous["ips"][0] and result["routes"][0] == previous["routes"][0]
    assert result["dns"] == {"nameservers": ["198.51.100.53", "10.96.0.10"], "search": ["x.example"]}
    check = node.run("CHECK", container, node.configuration("1.0.0", prevResult=result))
    assert check.status == 0, check


# MARK: failures


def test_namespaces_that_cannot_be(node):
    container = node.container("a")
    own = f"/run/netns/{node.place.namespace}"
    for path, word in [("/run/netns/none-of-that", "none-of-that"), ("/etc/passwd", "/etc/passwd"), ("/proc/self/ns/mnt", "ns/mnt"),
                       (own, "own"), ("/proc/self/ns/net", "own"), ("/run/netns", "/run/netns")]:
        expect_refused(node, node.run("ADD", container, netns=path), 8, word)


def test_interface_that_exists(node):
    container = node.container("a")
    container.exec("ip", "link", "add", "eth0", "type", "bridge")
    expect_refused(node, node.run("ADD", container), 4, "eth0")
    assert container.link()["linkinfo"]["info_kind"] == "bridge"


def test_the_same_again(node):
    """An ADD for what is there is refused and harms nothing."""
    container = node.container("a")
    result = node.add(container)
    before = (node.attachments(), node.records(), node.links(), container.addresses())
    outcome = node.run("ADD", container)
    assert outcome.code == 4
    assert before == (node.attachments(), node.records(), node.links(), container.addresses())
    assert container.ping(result["ips"][0]["gateway"])
    assert node.run("CHECK", container, node.configuration(prevResult=result)).status == 0


@pytest.mark.parametrize("network, count", [("tiny", 2)])
def test_half_a_pool_is_empty(node, network, count):
    """IPv6 addresses have run out, IPv4's have not: ADD fails and leaves nothing of the half that it had."""
    configuration = node.configuration(settings={"network": network})
    containers = [node.container(f"c{number}") for number in range(count + 1)]
    for container in containers[:-1]:
        node.add(container, configuration)
    before = (node.used(), node.records(), node.links())
    for _ in range(3):
        outcome = node.run("ADD", containers[-1], configuration)
        assert outcome.code == 102 and "fd00:5::1:1" in outcome.text
        assert (node.used(), node.records(), node.links()) == before and containers[-1].link() is None
    status = node.status(configuration)
    assert status.code == 50 and "no free address" in status.text
    assert node.status().status == 0
    node.delete(containers[0], configuration)
    assert node.status(configuration).status == 0
    node.add(containers[-1], configuration)


def test_agent_down(node):
    """Told at once, with code 11, and nothing is left; STATUS says 50."""
    container = node.container("a")
    with node.without("agent"):
        began = time.monotonic()
        outcome = node.run("ADD", container)
        assert time.monotonic() - began < 2
        assert outcome.code == 11 and "weft-agent" in outcome.text
        assert container.link() is None and node.links() == set() and node.records() == []
        assert node.status().code == 50
    node.add(container)


def test_agent_hangs(node):
    """It accepts and says nothing: ADD ends after poll-timeout, and DEL cleans up once it answers."""
    container = node.container("a")
    pid = int((node.files.parent / "agent.pid").read_text())
    os.kill(pid, 19)
    try:
        began = time.monotonic()
        outcome = node.run("ADD", container, node.configuration(settings={"poll-timeout": 1}))
        assert 1 <= time.monotonic() - began < 4 and outcome.code == 11
        assert container.link() is None and node.links() == set()
    finally:
        os.kill(pid, 18)
    node.delete(container)


def test_forwarder_down(node):
    """It is waited for as long as poll-timeout says, then nothing is left; one that comes back meanwhile is enough."""
    container = node.container("a")
    with node.without("forwarder"):
        outcome = node.run("ADD", container, node.configuration(settings={"poll-timeout": 1}))
        assert outcome.code == 11 and "forwarder" in outcome.text
        assert container.link() is None and node.links() == set() and node.records() == [] and node.attachments() == []
        status = node.status()
        assert status.code == 51 and "forwarder" in status.text
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(node.run, "ADD", container, node.configuration(settings={"poll-timeout": 20}))
            time.sleep(0.5)
            node.lab.tool("start", node.name, "forwarder")
            assert waiting.result().status == 0, waiting.result()
            node.lab.tool("stop", node.name, "forwarder")


def test_an_impostor_at_the_agent_s_port(node):
    """What listens there is no agent: code 5, and nothing is left behind."""
    container = node.container("a")
    program = (
        "import socket\ns = socket.create_server(('127.0.0.1', 9099))\nprint('ready', flush=True)\n"
        "while True:\n c = s.accept()[0]; c.recv(4096); c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\nno\\n'); c.close()")
    server = node.place.start("python3", "-c", program)
    assert server.stdout.readline() == "ready\n"
    outcome = node.run("ADD", container, node.configuration(settings={"vrouter-port": 9099}))
    assert outcome.code == 5 and "9099" in outcome.text and container.link() is None and node.links() == set()
    node.expect_nothing()


def test_two_requests(node, tmp_path):
    """ADD asks the agent twice on one connection, and does not ask again: the second answer comes when it forwards."""
    container, other = node.container("a"), node.container("b")
    address = node.add(other)["ips"][0]["address"].split("/")[0]
    trace = tmp_path / "trace"
    outcome = node.run("ADD", container, before=["strace", "-f", "-e", "trace=connect,sendto", "-s", "60", "-o", str(trace)])
    assert outcome.status == 0, outcome
    assert container.ping(address, count=1)
    lines = trace.read_text().splitlines()
    assert len([line for line in lines if " connect(" in line]) == 1
    requests = [line.split('"')[1].split(" HTTP")[0] for line in lines if '"POST ' in line or '"GET ' in line or '"DELETE ' in line]
    assert requests == ["POST /v1/attachments", f"POST /v1/attachments/{container.id}/eth0/activate"]


def test_hundred_at_once(node):
    """In parallel, without an error, distinct addresses; each reaches the next one; DEL in parallel too."""
    containers = [node.container(f"m{number}") for number in range(100)]
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        results = list(pool.map(node.add, containers))
        assert len({ip["address"] for result in results for ip in result["ips"]}) == 200
        assert len({result["interfaces"][1]["mac"] for result in results}) == 100
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        following = [results[(number + 1) % 100]["ips"][number % 2]["address"].split("/")[0] for number in range(100)]
        assert all(pool.map(lambda container, address: container.ping(address), containers, following))
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        list(pool.map(node.delete, containers))
    assert node.attachments() == []
