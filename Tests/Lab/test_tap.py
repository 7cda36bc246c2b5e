"""Pods whose interfaces are TAP interfaces in their namespaces, with one queue and with one for each of two workers."""
import concurrent.futures
import contextlib
import json
import os
import subprocess
import time

import pytest
from lab import LAB, ROOT, TRAFFIC, Lab, Transfer, run, wait_for

FAMILIES = [4, 6]
families = pytest.mark.parametrize("family", FAMILIES)
WAYS = ["vxlan", "mpls-over-udp", "one node"]
ways = pytest.mark.parametrize("way", WAYS)
CORES = sorted(os.sched_getaffinity(0))[:2]
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
#: As tools/lab chooses it.
PLUGIN = os.environ.get("WEFT_CNI") or next(
    str(path) for path in (ROOT / ".build-static/release/weft-cni", ROOT / ".build/release/weft-cni") if path.exists())
#: Keys of the agent's pods, and the forwarder's cores.
KINDS = {"one queue": ("port: tap", None), "a queue a worker": ("port: tap, queues: 0", CORES)}


@contextlib.contextmanager
def made(pods, *options, cores=None):
    """A lab with pods of that kind; what it leaves is an error."""
    before = os.environ.pop("WEFT_LAB_CORES", None)
    if cores:
        os.environ["WEFT_LAB_CORES"] = ",".join(map(str, cores))
    lab = None
    try:
        lab = Lab("--pods", pods, *options)
        yield lab
    finally:
        os.environ.pop("WEFT_LAB_CORES", None)
        if before is not None:
            os.environ["WEFT_LAB_CORES"] = before
        left = lab.down() if lab else ""
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(scope="module", params=[
    "one queue", pytest.param("a queue a worker", marks=needs_two_cores)])
def tap_lab(request):
    pods, cores = KINDS[request.param]
    with made(pods, cores=cores) as lab:
        lab.queues = 2 if cores else 1
        yield lab


@pytest.fixture(scope="module")
def tap_pods(tap_lab):
    made = {name: tap_lab.pod(node, name, network) for node, name, network in [
        ("n1", "blue1", "blue"), ("n2", "blue2", "blue"), ("n1", "blue1b", "blue"), ("n1", "green1", "green"),
        ("n2", "green2", "green")]}
    return {
        "vxlan": (made["blue1"], made["blue2"]),
        "mpls-over-udp": (made["green1"], made["green2"]),
        "one node": (made["blue1"], made["blue1b"]),
    }


def link(pod, name="eth0"):
    return json.loads(pod.exec("ip", "-j", "-d", "link", "show", name).stdout)[0]


def vif(lab, pod):
    """The forwarder's line of a pod's interface."""
    path = f"/run/netns/{pod.namespace}"
    return next((row for row in lab.weft(pod.node, "vif") if row.get("netns") == path), None)


def is_synchronized(lab, node):
    return lambda: lab.is_synchronized(node)


def test_what_a_pod_gets(tap_lab, tap_pods):
    """A TAP interface of its own that stays, with all that a veth would have; nothing on the host."""
    for pod in tap_lab.pods.values():
        interface = link(pod)
        data = interface["linkinfo"]["info_data"]
        assert interface["linkinfo"]["info_kind"] == "tun" and data["type"] == "tap"
        assert data["vnet_hdr"] and data["persist"] and data["multi_queue"] == (tap_lab.queues > 1)
        assert "LOWER_UP" in interface["flags"] and "UP" in interface["flags"]
        [attachment] = [one for one in tap_lab.attachments(pod.node) if one["netns"] == f"/run/netns/{pod.namespace}"]
        assert interface["address"] == attachment["mac"] and interface["mtu"] == attachment["mtu"]
        assert interface["ifalias"] == attachment["host-interface"]
        assert attachment["tap"] == {"queues": 0 if tap_lab.queues > 1 else 1}
        row = vif(tap_lab, pod)
        assert (row["port"], row["device"], row["netns-device"], row["link"]) == (
            "tap", attachment["host-interface"], "eth0", "up")
        addresses = json.loads(pod.exec("ip", "-j", "address", "show", "eth0").stdout)[0]["addr_info"]
        assert {one["scope"] for one in addresses if one["family"] == "inet6"} == {"global", "link"}
        for family in FAMILIES:
            routes = json.loads(pod.exec("ip", "-j", f"-{family}", "route", "show", "default").stdout)
            assert [route["dev"] for route in routes] == ["eth0"]
    for node in (tap_lab.n1, tap_lab.n2):
        names = {one["ifname"] for one in json.loads(node.exec("ip", "-j", "link").stdout)}
        assert names == {"lo", "fab0"}
        queues = {data.get("numqueues") for data in [link(pod)["linkinfo"]["info_data"] for pod in tap_lab.pods.values()]}
        assert tap_lab.queues == 1 or queues == {2}


def test_check_and_its_complaints(tap_lab, tap_pods):
    """CHECK takes the result of ADD, and says what is wrong."""
    pod = tap_lab.pod("n1", "checked")
    result = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": pod.mac, "sandbox": f"/run/netns/{pod.namespace}"}],
              "ips": [{"interface": 0, "address": f"{pod.address(4)}/16"}, {"interface": 0, "address": f"{pod.address(6)}/64"}]}

    def check():
        """Standard output of the plugin."""
        configuration = {
            "cniVersion": "1.0.0", "name": "contrail-k8s-cni", "type": "contrail-k8s-cni", "prevResult": result,
            "contrail": {"config-dir": "/var/lib/contrail/ports/vm", "log-file": "/var/log/contrail/cni/opencontrail.log"}}
        environment = {"CNI_COMMAND": "CHECK", "CNI_CONTAINERID": pod.namespace.replace("-p-", "-"), "CNI_IFNAME": "eth0",
                       "CNI_NETNS": f"/run/netns/{pod.namespace}", "CNI_PATH": os.path.dirname(PLUGIN)}
        return subprocess.run(
            [LAB, "exec", tap_lab.folder, "n1", "env", *(f"{key}={value}" for key, value in environment.items()), PLUGIN],
            input=json.dumps(configuration), capture_output=True, text=True, timeout=60)

    assert check().returncode == 0, check().stdout
    pod.exec("ip", "link", "set", "eth0", "down")
    assert "eth0 is down" in check().stdout
    pod.exec("ip", "link", "set", "eth0", "up")
    pod.exec("ip", "link", "set", "eth0", "alias", "other")
    assert "it is another one" in check().stdout
    tap_lab.cni("DEL", pod)
    assert link(pod)["ifalias"] == "other", "DEL leaves alone what is not ours"
    pod.exec("ip", "link", "delete", "eth0")
    assert "eth0 is not in" in check().stdout
    run("ip", "netns", "delete", pod.namespace)
    tap_lab.pods.pop("checked")


@ways
@families
def test_ping(tap_pods, way, family):
    sender, receiver = tap_pods[way]
    assert sender.reaches(receiver.address(family), count=1)
    assert sender.ping(receiver.address(family), count=50) == (50, 0)


@ways
@families
def test_largest_packet(tap_pods, way, family):
    sender, receiver = tap_pods[way]
    size = sender.mtu - (28 if family == 4 else 48)
    assert sender.ping(receiver.address(family), count=5, size=size, more=["-M", "do"]) == (5, 0)
    assert sender.ping(receiver.address(family), count=5, size=4000) == (5, 0), "in fragments"


@ways
@families
def test_udp_of_every_size(tap_pods, way, family):
    sender, receiver = tap_pods[way]
    address = receiver.address(family)
    largest = sender.mtu - (28 if family == 4 else 48)
    with receiver.serving("udp-echo", address, 6500 + family):
        outcome = sender.exec(TRAFFIC, "udp-sizes", address, 6500 + family, 1, largest)
    assert json.loads(outcome.stdout) == {"wrong": []}
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


@ways
@families
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_tcp(tap_lab, tap_pods, way, family, back):
    """With all of the pods' offloads as the kernel sets them; super-frames go whole both ways."""
    sender, receiver = reversed(tap_pods[way]) if back else tap_pods[way]
    before = frames(sender, "tx"), frames(receiver, "rx")
    rate = Transfer(sender, receiver, family, 32 << 20).finish()
    print(f"TCP, {way}, IPv{family}: {rate:.2f} Gbit/s")
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}
    segments = (32 << 20) / sender.mtu
    assert frames(sender, "tx") - before[0] < segments / 4, "the pod sends super-frames"
    assert frames(receiver, "rx") - before[1] < segments / 2, "the pod gets super-frames"


def frames(pod, direction):
    """What the kernel counts of the interface: super-frames are one each."""
    return link_statistics(pod)[direction]["packets"]


def link_statistics(pod):
    return json.loads(pod.exec("ip", "-j", "-s", "link", "show", "eth0").stdout)[0]["stats64"]


@families
def test_many_streams(tap_lab, tap_pods, family):
    """Hashed at both ends, eight each way; each is one flow of one worker."""
    for way in ("vxlan", "one node"):
        sender, receiver = tap_pods[way]
        there = Transfer(sender, receiver, family, 4 << 20, streams=8)
        back = Transfer(receiver, sender, family, 4 << 20, streams=8)
        there.finish()
        back.finish()
        assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}
    for node in ("n1", "n2"):
        seen = {}
        for flow in tap_lab.weft(node, "flow"):
            if flow["protocol"] in (6, "tcp"):
                key = (flow["source"], flow["source-port"], flow["destination"], flow["destination-port"])
                seen.setdefault(key, set()).add(flow["worker"])
        assert len(seen) >= 32 and all(len(where) == 1 for where in seen.values()), "a flow that two workers have"
        assert len({worker for where in seen.values() for worker in where}) == tap_lab.queues
        drops = {row["reason"]: row["count"] for row in tap_lab.weft(node, "drops")}
        assert not drops.get("handover_full") and not drops.get("handover_loop"), drops


@families
def test_flows_come_where_they_belong(tap_lab, tap_pods, family):
    """With a queue for each worker, next to nothing of TCP between pods of a node has to be handed over."""
    sender, receiver = tap_pods["one node"]

    def workers():
        return tap_lab.weft("n1", "worker")

    def settled():
        """Totals, once workers have told them."""
        time.sleep(0.2)
        return sum(one["handed-over"] for one in workers()), sum(one["packets"] for one in workers())

    before = settled()
    Transfer(sender, receiver, family, 8 << 20, streams=8).finish()
    after = settled()
    packets = after[1] - before[1]
    assert packets > 1000 and after[0] - before[0] < packets / 20


@families
def test_gateway(tap_pods, family):
    for sender, _ in tap_pods.values():
        gateway = json.loads(sender.exec("ip", "-j", f"-{family}", "route", "show", "default").stdout)[0]["gateway"]
        assert sender.ping(gateway, count=10) == (10, 0), sender.name


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_the_forwarder_restarts(tap_lab, tap_pods, signal):
    """Pods keep their interfaces, addresses and connections; the next forwarder opens them again."""
    sender, receiver = tap_pods["vxlan"]
    assert sender.reaches(receiver.address(4))
    before = {name: (link(pod)["ifindex"], link(pod)["address"]) for name, pod in tap_lab.pods.items()}
    transfer = Transfer(sender, receiver, 4, 24 << 20, rate=6 << 20)
    transfer.read(lambda: transfer.progress > 1 << 20)
    tap_lab.tool("stop", "n1", "forwarder", signal)
    # What a forwarder had open is closed after it has ended.
    wait_for(lambda: "NO-CARRIER" in link(sender)["flags"], 10, "an interface without a carrier")
    assert "UP" in link(sender)["flags"]
    assert sender.address(4) and sender.address(6)
    tap_lab.tool("start", "n1", "forwarder")
    wait_for(is_synchronized(tap_lab, "n1"), 20, "the agent has told the new forwarder everything")
    transfer.finish()
    assert before == {name: (link(pod)["ifindex"], link(pod)["address"]) for name, pod in tap_lab.pods.items()}
    assert "LOWER_UP" in link(sender)["flags"]
    for family in FAMILIES:
        for one, other in tap_pods.values():
            assert one.reaches(other.address(family), count=3)
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


def test_the_agent_restarts(tap_lab, tap_pods):
    """What is open stays open: no packet is lost."""
    sender, receiver = tap_pods["vxlan"]
    pinging = sender.start("ping", "-n", "-i", "0.02", "-c", "200", "-W", "2", receiver.address(4))
    tap_lab.tool("stop", "n1", "agent", "KILL")
    tap_lab.tool("start", "n1", "agent")
    output, _ = pinging.communicate(timeout=60)
    assert " 200 received" in output, output


def test_an_interface_that_is_gone(tap_lab, tap_pods):
    """Somebody deletes it in the pod: the forwarder lets go and does not spin; CNI makes it anew."""
    _, receiver = tap_pods["vxlan"]
    pod = tap_lab.pod("n1", "lost")
    assert pod.reaches(receiver.address(4))
    pod.exec("ip", "link", "delete", "eth0")
    wait_for(lambda: vif(tap_lab, pod)["link"] == "down", 5, "the forwarder knows")
    assert busy(tap_lab, "n1") < 0.5
    tap_lab.cni("DEL", pod)
    assert vif(tap_lab, pod) is None
    tap_lab.cni("ADD", pod)
    assert pod.reaches(receiver.address(4)) and pod.reaches(receiver.address(6))
    tap_lab.delete(pod)


def busy(lab, node, seconds=1.0):
    """The part of a core that the forwarder takes."""
    pid = open(f"{lab.folder}/{node}/forwarder.pid").read().strip()

    def ticks():
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before, start = ticks(), time.monotonic()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - start)


def test_a_namespace_that_ends_without_del(tap_lab, tap_pods):
    """The forwarder does not keep it alive: its descriptors go once the path leads there no more."""
    pod = tap_lab.pod("n1", "dying")
    inode = os.stat(f"/run/netns/{pod.namespace}").st_ino
    pid = open(f"{tap_lab.folder}/n1/forwarder.pid").read().strip()
    queues = len(tap_queues(pid))
    run("ip", "netns", "delete", pod.namespace)
    wait_for(lambda: len(tap_queues(pid)) == queues - tap_lab.queues, 5, "its queues are closed")
    assert all(os.stat(path).st_ino != inode for path in netns_paths())
    tap_lab.cni("DEL", pod)
    tap_lab.pods.pop("dying")
    assert not [one for one in tap_lab.attachments("n1") if one["netns"].endswith(pod.namespace)]


def tap_queues(pid):
    folder = f"/proc/{pid}/fd"
    return [name for name in os.listdir(folder) if os.readlink(f"{folder}/{name}") == "/dev/net/tun"]


def netns_paths():
    return [f"/run/netns/{name}" for name in os.listdir("/run/netns")]


def test_pods_come_and_go(tap_lab, tap_pods):
    """A hundred of them, several at a time; others' traffic goes on meanwhile, and nothing is left."""
    sender, receiver = tap_pods["vxlan"]
    pid = open(f"{tap_lab.folder}/n1/forwarder.pid").read().strip()
    before = tap_lab.tables("n1"), len(os.listdir(f"/proc/{pid}/fd")), threads(pid)
    transfer = Transfer(sender, receiver, 4, 64 << 20, rate=4 << 20)

    def live(number):
        pod = tap_lab.pod("n1", f"more{number}")
        reached = pod.reaches(receiver.address(FAMILIES and (4, 6)[number % 2]), count=2)
        tap_lab.delete(pod)
        return reached

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(live, range(100))) == [True] * 100
    transfer.finish()
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before[1] and threads(pid) == before[2], 10,
             "descriptors and threads are closed")
    assert tap_lab.tables("n1") == before[0]
    assert not [path for path in netns_paths() if "-p-more" in path and tap_lab.prefix in path]
    assert os.listdir(f"{tap_lab.folder}/n1/var/lib/contrail/ports/vm") != [] and not [
        name for name in os.listdir(f"{tap_lab.folder}/n1/var/lib/contrail/ports/vm") if "-more" in name]


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def test_kinds_mixed():
    """Veths that are there stay veths when the agent's file says tap from now on; all of them reach each other."""
    with made("port: packet") as lab:
        old = lab.pod("n1", "old")
        path = f"{lab.folder}/n1/agent.yaml"
        text = open(path).read()
        with open(path, "w") as file:
            file.write(text.replace("pods: {port: packet}", "pods: {port: tap}"))
        lab.tool("stop", "n1", "agent", "TERM")
        lab.tool("start", "n1", "agent")
        new, far = lab.pod("n1", "new"), lab.pod("n2", "far")
        assert {row["device"]: row["port"] for row in lab.weft("n1", "vif") if row["role"] == "virtual"} == {
            one["host-interface"]: "tap" if "tap" in one else "packet" for one in lab.attachments("n1")}
        assert link(old)["linkinfo"]["info_kind"] == "veth" and link(new)["linkinfo"]["info_kind"] == "tun"
        for one, other in ((old, new), (new, far), (far, old)):
            for family in FAMILIES:
                Transfer(one, other, family, 4 << 20).finish()
                Transfer(other, one, family, 4 << 20).finish()
            assert one.checksum_errors() == {} and other.checksum_errors() == {}
        lab.delete(old)
        lab.delete(new)
        assert [row for row in lab.weft("n1", "vif") if row["role"] == "virtual"] == []


@pytest.mark.parametrize("mtu", [3000, 9000])
def test_large_packets(mtu):
    with made("port: tap", "--mtu", mtu) as lab:
        sender, receiver = lab.pod("n1", "blue1"), lab.pod("n2", "blue2")
        assert sender.mtu == mtu - 50
        for family in FAMILIES:
            size = sender.mtu - (28 if family == 4 else 48)
            assert sender.ping(receiver.address(family), count=5, size=size, more=["-M", "do"]) == (5, 0)
            Transfer(sender, receiver, family, 8 << 20).finish()
        assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}
