"""DEL, CHECK, STATUS and GC: real plugin, agent and forwarder. 20 s."""
import concurrent.futures
import json
import threading
import uuid

import pytest
from lab import run

FOREIGN = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:09", "sandbox": "/run/netns/other"}],
           "ips": [{"address": "192.0.2.9/24", "interface": 0}]}


def plain(result, family):
    return result["ips"][(4, 6).index(family)]["address"].split("/")[0]


# MARK: DEL


def test_as_cri_does(node):
    """Stop, stop again, remove: with all it knows, the same, and with neither namespace nor result."""
    container = node.container("a")
    result = node.add(container)
    for netns, more in [(None, {"prevResult": result}), (None, {"prevResult": result}), ("", {})]:
        node.delete(container, node.configuration(**more), netns=netns)
        node.expect_nothing()
        assert container.link() is None


@pytest.mark.parametrize("netns", ["", "/run/netns/never-was", "/etc/passwd", "own", "gone", "another's"])
@pytest.mark.parametrize("previous", [None, FOREIGN], ids=["no result", "a foreign one"])
def test_whatever_it_is_told(node, netns, previous):
    container, other = node.container("a"), node.container("b")
    node.add(container)
    kept = node.add(other)
    if netns == "gone":
        container.end()
    path = {"own": f"/run/netns/{node.place.namespace}", "gone": container.netns, "another's": other.netns}.get(netns, netns)
    more = {"prevResult": previous} if previous else {}
    node.delete(container, node.configuration("1.0.0", **more), netns=path, arguments="nonsense")
    assert [one["container-id"] for one in node.attachments()] == [other.id]
    assert len(node.links()) == len(node.records()) == 1
    assert other.addresses() == {ip["address"] for ip in kept["ips"]}


def test_never_added(node):
    container = node.container("a")
    container.exec("ip", "link", "add", "eth0", "type", "bridge")
    for version in ["0.3.0", "1.1.0"]:
        node.delete(container, node.configuration(version))
    assert container.link(), "an interface that is somebody else's is gone"


def test_addresses_are_free_afterwards(node):
    configuration = node.configuration(settings={"network": "tiny"})
    for number in range(5):
        containers = [node.container(f"c{number}-{which}") for which in range(2)]
        for container in containers:
            node.add(container, configuration)
        for container in containers:
            node.delete(container, configuration)
    assert set(node.used().values()) == {0}


def test_a_late_one_harms_nobody(node):
    """The old sandbox's DEL comes when the same pod has a new one: also after the namespace's name or the interface has
    passed on to that, and though the old one is forgotten long since."""
    arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=" + str(uuid.uuid4())
    old = node.container("old")
    first = node.add(old, arguments=arguments)
    old.end()
    new = node.container("old")
    assert new.netns == old.netns and new.id != old.id
    result = node.add(new, arguments=arguments)
    assert {plain(first, 4)} != {plain(result, 4)}
    for _ in range(3):
        node.delete(old, node.configuration(prevResult=first), arguments=arguments)
        assert [one["container-id"] for one in node.attachments()] == [new.id]
        assert node.run("CHECK", new, node.configuration(prevResult=result)).status == 0
        assert new.ping(result["ips"][0]["gateway"])
    # The agent does not answer, and the plugin's files are another's: it still knows what is not its own.
    with node.without("agent"):
        node.delete(old, arguments=arguments)
    assert node.run("CHECK", new, node.configuration(prevResult=result)).status == 0
    node.delete(old, node.configuration(settings={"config-dir": f"{node.files}-other"}), arguments=arguments)
    assert node.run("CHECK", new, node.configuration(prevResult=result)).status == 0


@pytest.mark.parametrize("then", ["ADD", "DEL", "STATUS", "GC"])
def test_agent_down(node, then):
    """It succeeds, the interface is gone; the agent is told by the next run that reaches it, whichever verb that is."""
    container, other = node.container("a"), node.container("b")
    address = node.add(container)["ips"][0]["address"]
    with node.without("agent"):
        for _ in range(2):
            node.delete(container)
        assert container.link() is None and node.links() == set()
        assert node.records() == [f"{container.id}:eth0.deleted"]
    assert [one["container-id"] for one in node.attachments()] == [container.id]
    if then == "ADD":
        assert node.add(other, node.configuration(runtimeConfig={"ips": [address]}))["ips"][0]["address"] == address
    elif then == "DEL":
        node.delete(other)
    elif then == "STATUS":
        assert node.status().status == 0
    else:
        assert node.gc([]).status == 0
    assert container.id not in [one["container-id"] for one in node.attachments()] and not [
        name for name in node.records() if name.startswith(container.id)]


def test_after_a_reboot(node):
    """Interfaces and namespaces are gone, agent and plugin remember: DEL of each, without a namespace, frees all."""
    containers = [node.container(f"c{number}") for number in range(4)]
    for container in containers:
        node.add(container)
    with node.without("agent", "forwarder"):
        for container in containers:
            container.end()
    for container in containers[:2]:
        node.delete(container, netns="")
    assert node.gc([]).status == 0
    node.expect_nothing()


def test_lost_files(node):
    """config-dir is empty: by the agent's word, and without the agent's by the interface itself."""
    container = node.container("a")
    node.add(container)
    for name in node.records():
        (node.files / name).unlink()
    node.delete(container)
    node.expect_nothing()
    node.add(container)
    for name in node.records():
        (node.files / name).unlink()
    assert run("bash", "-c", "ip netns exec $0 curl -sf -X DELETE http://127.0.0.1:9091/v1/attachments/$1/eth0",
               node.place.namespace, container.id).returncode == 0
    node.delete(container)
    assert container.link() is None
    node.expect_nothing()


# MARK: CHECK


def check(node, container, result, version="1.1.0"):
    return node.run("CHECK", container, node.configuration(version, prevResult={**result, "cniVersion": version}))


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_check_passes(node, version):
    """After ADD, and with what other plugins added."""
    container = node.container("a")
    result = node.add(container, node.configuration(version))
    assert check(node, container, result, version).status == 0
    container.exec("ip", "link", "add", "other0", "type", "bridge")
    container.exec("ip", "link", "set", "other0", "up")
    container.exec("ip", "address", "add", "198.51.100.1/24", "dev", "other0")
    container.exec("ip", "address", "add", "198.51.100.9/32", "dev", "eth0")
    container.exec("ip", "route", "add", "203.0.113.0/24", "dev", "eth0")
    container.exec("ip", "-6", "route", "add", "2001:db8:99::/48", "dev", "eth0")
    result["interfaces"].append({"name": "other0", "sandbox": container.netns})
    result["ips"].append({"address": "198.51.100.1/24", "interface": 2, **({"version": "4"} if version < "1.0.0" else {})})
    assert check(node, container, result, version).status == 0


@pytest.mark.parametrize("command, word", [
    ("ip address delete {v4}/16 dev eth0", "{v4}"), ("ip -6 address delete {v6}/64 dev eth0", "{v6}"),
    ("ip route delete default", "0.0.0.0/0"), ("ip -6 route delete default", "::/0"), ("ip link set eth0 down", "down"),
    ("ip link delete eth0", "eth0"), ("ip link set eth0 mtu 1600", "1600"),
    ("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:77; ip link set eth0 up", "02:00:00:00:00:77"),
    ("ip link delete eth0; ip link add eth0 type veth peer name x", "veth|other end|address")])
def test_check_names_what_is_wrong(node, command, word):
    container = node.container("a")
    result = node.add(container)
    words = {"v4": plain(result, 4), "v6": plain(result, 6)}
    container.exec("bash", "-c", command.format(**words))
    outcome = check(node, container, result)
    assert outcome.code == 105, outcome
    assert any(one in outcome.text for one in word.format(**words).split("|")), outcome


def test_check_of_the_other_end(node):
    container = node.container("a")
    result = node.add(container)
    host = result["interfaces"][0]["name"]
    node.place.exec("ip", "link", "set", host, "down")
    outcome = check(node, container, result)
    assert outcome.code == 105 and host in outcome.text
    node.place.exec("ip", "link", "set", host, "up")
    assert check(node, container, result).status == 0


def test_check_without_agent_or_forwarder(node):
    container = node.container("a")
    result = node.add(container)
    with node.without("agent"):
        assert check(node, container, result).code == 11
    assert check(node, container, result).status == 0
    with node.without("forwarder"):
        outcome = check(node, container, result)
        assert outcome.code == 11 and "forwarder" in outcome.text
    assert check(node, container, result).status == 0


def test_check_without_a_result(node):
    container = node.container("a")
    node.add(container)
    outcome = node.run("CHECK", container)
    assert outcome.code == 7 and "prevResult" in outcome.text
    assert check(node, container, FOREIGN).code in (7, 105)


# MARK: STATUS


def test_status(node):
    assert node.status().status == 0 and node.status().stdout == ""
    unknown = node.status(node.configuration(settings={"network": "none"}))
    assert unknown.code == 50 and "none" in unknown.text
    with node.without("forwarder"):
        assert node.status().code == 51
    with node.without("agent"):
        assert node.status().code == 50


# MARK: GC


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_garbage(node, key):
    """What is listed stays, the rest goes with its addresses; another configuration's stay."""
    containers = [node.container(f"c{number}") for number in range(4)]
    for container in containers:
        node.add(container)
    node.add(containers[0], interface="net1")
    stranger = node.container("stranger")
    node.add(stranger, node.configuration(name="another"))
    kept = [(containers[0], "eth0"), (containers[1], "eth0")]
    assert node.gc(kept, key=key).status == 0
    assert sorted((one["container-id"], one["interface"]) for one in node.attachments()) == sorted(
        [(one.id, interface) for one, interface in kept] + [(stranger.id, "eth0")])
    assert len(node.links()) == len(node.records()) == len(node.vifs()) == 3
    assert set(node.used().values()) == {0, 3}
    assert containers[0].link("net1") is None and containers[2].link() is None and containers[1].link()
    # An interface's name is part of the key.
    assert node.gc([(containers[0], "eth1"), (containers[1], "eth0")], key=key).status == 0
    assert len(node.attachments()) == 2
    assert node.gc([], key=key).status == 0
    assert [one["container-id"] for one in node.attachments()] == [stranger.id]


def test_garbage_without_a_list(node):
    container = node.container("a")
    node.add(container)
    for more in [{}, {"cni.dev/valid-attachments": None}, {"cni.dev/valid-attachments": {}},
                 {"cni.dev/valid-attachments": [{"containerID": "x"}]}, {"cni.dev/attachments": "x"}]:
        outcome = node.gc([], {**node.configuration(), **more}, key=None)
        assert outcome.code == 7, outcome
    assert len(node.attachments()) == len(node.links()) == len(node.records()) == 1


def test_garbage_that_nobody_remembers(node):
    """Without a record: goes once its namespace is gone, stays while that is there."""
    one, two = node.container("one"), node.container("two")
    for container in (one, two):
        node.add(container)
    saved = {name: (node.files / name).read_text() for name in node.records()}
    for name in saved:
        (node.files / name).unlink()
    two.end()
    assert node.gc([]).status == 0
    assert [each["container-id"] for each in node.attachments()] == [one.id]
    for name, text in saved.items():
        (node.files / name).write_text(text)


def test_garbage_leaves_virtual_machines_alone(node):
    """A port of a compute driver has no namespace and no record, and is none of the plugin's business."""
    port, instance = str(uuid.uuid4()), str(uuid.uuid4())
    node.place.exec("ip", "tuntap", "add", "dev", "tapvm0", "mode", "tap")
    node.place.exec("ip", "link", "set", "tapvm0", "up")
    body = {"id": port, "instance-id": instance, "ip-address": "10.1.1.66", "ip6-address": "None", "vn-id": "blue",
            "display-name": "vm", "mac-address": "02:00:00:00:66:66", "vm-project-id": "", "tx-vlan-id": -1,
            "rx-vlan-id": -1, "type": 0, "system-name": "tapvm0"}
    try:
        node.lab.tool("http", "n1", "POST", "/port", json.dumps(body))
        container = node.container("a")
        node.add(container)
        before = [one for one in node.attachments() if one["id"] == port]
        assert len(before) == 1
        assert node.gc([]).status == 0 and node.gc([], key="cni.dev/attachments").status == 0
        assert node.attachments() == before
        assert json.loads(node.lab.tool("http", "n1", "GET", f"/port/{port}").stdout)["system-name"] == "tapvm0"
        assert "tapvm0" in node.links()
    finally:
        node.lab.tool("http", "n1", "DELETE", f"/port/{port}", check=False)
        node.place.exec("ip", "link", "delete", "tapvm0")


def test_garbage_beside_adds(node):
    """GC with a list that has those that are being made: all of them are whole afterwards. With a list that has not, each
    is whole or gone, and DEL leaves nothing."""
    containers = [node.container(f"c{number}") for number in range(16)]
    done = threading.Event()

    def collect(kept):
        while not done.is_set():
            assert node.gc(kept).status == 0

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        collector = pool.submit(collect, [(container, "eth0") for container in containers])
        results = list(pool.map(node.add, containers))
        done.set()
        collector.result()
    for container, result in zip(containers, results):
        assert check(node, container, result).status == 0
    for container in containers:
        node.delete(container)
    done.clear()
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        collector = pool.submit(collect, [])
        outcomes = list(pool.map(lambda container: node.run("ADD", container), containers))
        done.set()
        collector.result()
    assert all(outcome.status == 0 or outcome.json["msg"] for outcome in outcomes)
    for container in containers:
        node.delete(container)
        assert container.link() is None
