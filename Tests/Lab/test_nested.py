"""Containers in a virtual machine: VLANs of the machine's port, each in a network of its own."""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import subprocess
import tempfile

import pytest
from lab import ROOT, Pod, end, run, wait_for
from test_observability import http, status

PLUGIN = os.environ.get("WEFT_CNI", ROOT / ".build-static" / "release" / "weft-cni")
TAGGED = pathlib.Path(__file__).with_name("tagged.py")
VM = "11111111-8b86-d011-b42d-00c04fc964ff"
MAC = {0: "02:00:00:00:50:00", 100: "02:00:00:00:50:01", 200: "02:00:00:00:50:02"}
PORT = {vlan: f"{vlan:08d}-8b86-d011-b42d-00c04fc964f0" for vlan in MAC}
NETWORK = {0: "red", 100: "blue", 200: "green"}


def body(vlan, **changes):
    """What a compute driver posts: the machine's port, or a VLAN of it for a pod inside."""
    return {
        "id": PORT[vlan], "instance-id": VM if vlan == 0 else f"{vlan:08d}-8b86-d011-b42d-00c04fc964f1",
        "mac-address": MAC[vlan], "system-name": "tapvm1", "vn-id": NETWORK[vlan], "ip-address": "",
        "ip6-address": "None", "display-name": "vm1" if vlan == 0 else f"inner{vlan}", "tx-vlan-id": vlan or -1,
        "rx-vlan-id": vlan or -1, "type": 0, "vm-project-id": "", **changes}


def post(lab, vlan, **changes):
    return http(lab, "n1", "/port", "POST", body(vlan, **changes))


def delete(lab, vlan):
    assert http(lab, "n1", f"/port/{PORT[vlan]}", "DELETE")[0] == 200


def attachment(lab, vlan):
    return next(one for one in lab.attachments("n1") if one["id"] == PORT[vlan])


def addresses(lab, vlan):
    """IPv4, IPv6."""
    return [entry["address"].split("/")[0] for entry in attachment(lab, vlan)["addresses"]]


@pytest.fixture(scope="module")
def machine(lab):
    """A namespace that stands for a machine, its port on n1, and two VLANs of it. The children are posted first."""
    lab.tool("exec", "n1", "true")
    vm = Pod(lab, "n1", "vm")
    run("ip", "netns", "add", vm.namespace)
    run("ip", "link", "add", "tapvm1", "netns", lab.n1.namespace, "mtu", 1500, "type", "veth",
        "peer", "name", "eth0", "netns", vm.namespace, "mtu", 1500, "address", MAC[0])
    lab.n1.exec("sysctl", "-qw", "net.ipv6.conf.tapvm1.disable_ipv6=1")
    lab.n1.exec("ip", "link", "set", "tapvm1", "up")
    vm.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0", "net.ipv6.conf.eth0.accept_ra=0")
    vm.exec("ip", "link", "set", "eth0", "up")
    for vlan in (100, 200):
        assert post(lab, vlan) == (200, "{}\n")
        reason = attachment(lab, vlan)["reason"]
        assert "tapvm1" in reason and "POST /port" in reason and str(vlan) in reason
    assert status(lab)[1]["ports"]["state"] == "bad"
    assert post(lab, 0) == (200, "{}\n")
    assert [attachment(lab, vlan)["state"] for vlan in MAC] == ["active"] * 3
    four, six = addresses(lab, 0)
    vm.exec("ip", "address", "add", f"{four}/16", "dev", "eth0")
    vm.exec("ip", "address", "add", f"{six}/64", "dev", "eth0")
    lab.pods["vm"] = vm
    return vm


@pytest.fixture(scope="module")
def far(lab):
    """A pod of each network on the other node."""
    return {network: lab.pod("n2", f"far-{network}", network) for network in ("blue", "green", "red")}


def ping(lab, machine, vlan, to, source=None, mac=None, count=3):
    """Echo requests with a tag out of the machine: how many were answered."""
    own = addresses(lab, vlan) if vlan in PORT else []
    source = source or own[1 if ":" in to else 0]
    return int(machine.exec("/usr/bin/python3", TAGGED, "ping", vlan, mac or MAC[vlan], source, to, count).stdout)


@contextlib.contextmanager
def serving(lab, machine, vlan):
    process = machine.start(
        "/usr/bin/python3", TAGGED, "serve", vlan, MAC[vlan], *addresses(lab, vlan), stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    yield
    end(process)


def drops(lab, reason):
    return next(row["count"] for row in lab.weft("n1", "drops", "--all") if row["reason"] == reason)


def works(lab, machine, far):
    for vlan in (100, 200):
        for family in (4, 6):
            assert ping(lab, machine, vlan, far[NETWORK[vlan]].address(family)) == 3, (vlan, family)
    assert machine.ping(far["red"].address(4), count=5) == (5, 0)
    assert machine.ping(far["red"].address(6), count=5) == (5, 0)


def test_both_ways(lab, machine, far):
    """Out of each VLAN into its network, and from there into the VLAN; the machine itself without a tag."""
    works(lab, machine, far)
    for vlan in (100, 200):
        with serving(lab, machine, vlan):
            for address in addresses(lab, vlan):
                assert far[NETWORK[vlan]].ping(address, count=5, interval=0.1) == (5, 0), (vlan, address)
    vifs = {vif["device"]: vif for vif in lab.weft("n1", "vif") if vif.get("vlan")}
    assert {name: vif["vlan"] for name, vif in vifs.items()} == {"tapvm1.100": 100, "tapvm1.200": 200}
    assert all(vif["rx-packets"] > 0 and vif["tx-packets"] > 0 for vif in vifs.values())


def test_apart(lab, machine, far):
    """No way from one VLAN into the other's network, nor into the machine's, nor with a tag that nobody has."""
    assert ping(lab, machine, 100, far["green"].address(4)) == 0
    assert ping(lab, machine, 200, far["blue"].address(4)) == 0
    assert ping(lab, machine, 200, far["blue"].address(4), source=addresses(lab, 100)[0], mac=MAC[100]) == 0
    # Red has blue's addresses: what is without a tag reaches red's pod, not blue's.
    before = [far[name].exec("nstat", "-asz", "--json", "IcmpInEchos").stdout for name in ("blue", "green")]
    assert machine.ping(far["red"].address(4), count=5) == (5, 0)
    assert [far[name].exec("nstat", "-asz", "--json", "IcmpInEchos").stdout for name in ("blue", "green")] == before
    unknown = drops(lab, "vlan_unknown")
    assert ping(lab, machine, 300, far["blue"].address(4), source=addresses(lab, 100)[0], mac=MAC[100]) == 0
    assert drops(lab, "vlan_unknown") >= unknown + 3


def test_the_plugin_in_the_machine_is_told(lab, machine):
    """GET /vm-cfg of the pods inside names their VLAN, by any of the pod's names."""
    for vlan in (100, 200):
        for name in (f"inner{vlan}", f"__default__inner{vlan}", f"{vlan:08d}-8b86-d011-b42d-00c04fc964f1"):
            code, text = http(lab, "n1", f"/vm-cfg/{name}")
            [interface] = json.loads(text)
            assert code == 200 and interface["vlan-id"] == vlan and interface["id"] == PORT[vlan]
            assert interface["mac-address"] == MAC[vlan] and interface["ip-address"] == addresses(lab, vlan)[0]
            assert interface["vn-name"] == NETWORK[vlan]
        code, text = http(lab, "n1", f"/vm/{vlan:08d}-8b86-d011-b42d-00c04fc964f1")
        assert code == 200 and [one["vlan-id"] for one in json.loads(text)] == [vlan]
    # The machine itself is no pod.
    assert json.loads(http(lab, "n1", f"/port/{PORT[100]}")[1])["tx-vlan-id"] == 100


@pytest.mark.parametrize("changes, code, said", [
    ({"tx-vlan-id": 101}, 400, "differ"),
    ({"tx-vlan-id": 0, "rx-vlan-id": 0}, 400, "1 to 4094"),
    ({"tx-vlan-id": 4095, "rx-vlan-id": 4095}, 400, "1 to 4094"),
    ({"tx-vlan-id": 101, "rx-vlan-id": 101}, 409, "other properties"),
    ({"system-name": "tapvm2"}, 409, "other properties"),
    ({"id": "99999999-8b86-d011-b42d-00c04fc964f0", "instance-id": "99999999-8b86-d011-b42d-00c04fc964f1",
      "mac-address": "02:00:00:00:50:09"}, 409, "VLAN 100 of tapvm1"),
])
def test_refused(lab, machine, changes, code, said):
    before = lab.attachments("n1")
    answer = post(lab, 100, **changes)
    assert answer[0] == code and said in json.loads(answer[1])["reason"], answer
    assert lab.attachments("n1") == before


def test_the_machine_goes_first(lab, machine, far):
    """Its VLANs stop with it, and go on when it is there again; deleted after it they leave nothing."""
    before = len(lab.weft("n1", "vif"))
    delete(lab, 0)
    assert len(lab.weft("n1", "vif")) == before - 3
    assert [attachment(lab, vlan)["state"] for vlan in (100, 200)] == ["waiting"] * 2
    assert ping(lab, machine, 100, far["blue"].address(4)) == 0
    assert post(lab, 0) == (200, "{}\n")
    assert [attachment(lab, vlan)["state"] for vlan in MAC] == ["active"] * 3
    for vlan in (100, 200):
        assert ping(lab, machine, vlan, far[NETWORK[vlan]].address(4)) == 3
    # Again, and now for good.
    delete(lab, 0)
    delete(lab, 100)
    delete(lab, 200)
    assert lab.attachments("n1") == [] and len(lab.weft("n1", "vif")) == before - 3
    for vlan in MAC:
        assert post(lab, vlan) == (200, "{}\n")
    four, six = addresses(lab, 0)
    machine.exec("ip", "address", "flush", "dev", "eth0", "scope", "global")
    machine.exec("ip", "address", "add", f"{four}/16", "dev", "eth0")
    machine.exec("ip", "address", "add", f"{six}/64", "dev", "eth0")
    works(lab, machine, far)
    # Disabled, it takes its VLANs with it.
    assert http(lab, "n1", f"/disable-port/{PORT[0]}", "PUT")[0] == 200
    assert ping(lab, machine, 200, far["green"].address(4)) == 0
    assert http(lab, "n1", f"/enable-port/{PORT[0]}", "PUT")[0] == 200
    works(lab, machine, far)


@pytest.mark.parametrize("program", ["agent", "forwarder"])
def test_restarts(lab, machine, far, program):
    before = lab.tables("n1")
    lab.tool("stop", "n1", program, "KILL")
    lab.tool("start", "n1", program)
    wait_for(lambda: lab.is_synchronized("n1"), 20, "agent and forwarder")
    assert lab.tables("n1") == before
    works(lab, machine, far)


def test_the_interface_is_made_anew(lab, machine, far):
    """The machine's TAP goes and comes back under its name: a new interface, and all of it works again."""
    run("ip", "-n", lab.n1.namespace, "link", "del", "tapvm1")
    run("ip", "link", "add", "tapvm1", "netns", lab.n1.namespace, "mtu", 1500, "type", "veth",
        "peer", "name", "eth0", "netns", machine.namespace, "mtu", 1500, "address", MAC[0])
    machine.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0", "net.ipv6.conf.eth0.accept_ra=0")
    four, six = addresses(lab, 0)
    machine.exec("ip", "link", "set", "eth0", "up")
    machine.exec("ip", "address", "add", f"{four}/16", "dev", "eth0")
    machine.exec("ip", "address", "add", f"{six}/64", "dev", "eth0")
    lab.n1.exec("ip", "link", "set", "tapvm1", "up")
    # As the compute driver does when a machine is started again.
    assert post(lab, 0) == (200, "{}\n")
    assert [attachment(lab, vlan)["state"] for vlan in MAC] == ["active"] * 3
    works(lab, machine, far)


# The plugin in the machine

PROXY = """
import socket, sys, threading
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(8)
print("ready", flush=True)
def copy(one, other):
    while data := one.recv(65536):
        other.sendall(data)
    other.shutdown(socket.SHUT_WR)
while True:
    client = listener.accept()[0]
    server = socket.create_connection(("127.0.0.1", 9091))
    for pair in ((client, server), (server, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


class Inside:
    """The plugin, run as a container runtime in the machine would, with a way to the hypervisor's agent."""

    def __init__(self, lab, machine):
        self.lab, self.machine, self.folder = lab, machine, pathlib.Path(tempfile.mkdtemp(dir=lab.folder))
        self.socket = self.folder / "agent.sock"

    def proxy(self):
        process = self.lab.n1.start("/usr/bin/python3", "-c", PROXY, self.socket)
        assert process.stdout.readline() == "ready\n"

    def namespace(self, vlan):
        return f"{self.lab.prefix}-p-inner{vlan}"

    def plugin(self, verb, vlan, pod=None, container=None, **changes):
        """What it answered, as JSON or None."""
        configuration = {"cniVersion": "1.1.0", "name": "nested", "type": "weft-cni", "weft": {
            "vif-type": "macvlan", "parent-interface": "eth0", "vrouter-socket": str(self.socket),
            "config-dir": str(self.folder / "ports"), "log-file": "", "poll-timeout": 1, "poll-retries": 0,
            **{key.replace("_", "-"): value for key, value in changes.items() if key != "previous"}}}
        if changes.get("previous"):
            configuration["prevResult"] = changes["previous"]
        if verb == "GC":
            configuration["cni.dev/valid-attachments"] = []
        environment = {
            "PATH": os.environ["PATH"], "CNI_COMMAND": verb, "CNI_CONTAINERID": container or f"inner{vlan}",
            "CNI_NETNS": f"/run/netns/{self.namespace(vlan)}", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod or f'inner{vlan}'}"}
        outcome = subprocess.run(
            ["ip", "netns", "exec", self.machine.namespace, PLUGIN], input=json.dumps(configuration), env=environment,
            capture_output=True, text=True, timeout=60)
        answer = json.loads(outcome.stdout) if outcome.stdout else None
        assert (outcome.returncode == 0) == (answer is None or "code" not in answer), outcome
        return answer


@pytest.fixture
def inside(lab, machine):
    inside = Inside(lab, machine)
    inside.proxy()
    made = []
    for vlan in (100, 200):
        run("ip", "netns", "add", inside.namespace(vlan))
        made.append(inside.namespace(vlan))
    # In place of the kernel's VLAN interface, which not every kernel has.
    machine.exec("ip", "link", "add", "eth0.100", "type", "veth", "peer", "name", "trunk100")
    machine.exec("sysctl", "-qw", "net.ipv6.conf.trunk100.disable_ipv6=1", "net.ipv6.conf.eth0/100.disable_ipv6=1")
    machine.exec("ip", "link", "set", "trunk100", "up")
    bridge = machine.start("/usr/bin/python3", TAGGED, "bridge", 100, "trunk100", stdin=subprocess.PIPE)
    assert bridge.stdout.readline() == "ready\n", bridge.stderr.read()
    yield inside
    lab.end_processes()
    for name in made:
        run("ip", "netns", "delete", name)
    machine.exec("ip", "link", "del", "trunk100")


def test_macvlan(lab, machine, far, inside):
    """A pod in the machine by the plugin: it reaches its network, and is reached, over both families."""
    result = inside.plugin("ADD", 100)
    [interface] = result["interfaces"]
    assert (interface["name"], interface["mac"], interface["mtu"]) == ("eth0", MAC[100], 1500)
    four, six = addresses(lab, 100)
    assert [ip["address"] for ip in result["ips"]] == [f"{four}/16", f"{six}/64"]
    pod = Pod(lab, "n1", "inner100", "blue")
    kind = json.loads(pod.exec("ip", "-j", "-d", "link", "show", "eth0").stdout)[0]["linkinfo"]
    assert (kind["info_kind"], kind["info_data"]["mode"]) == ("macvlan", "bridge")
    for family in (4, 6):
        assert pod.ping(far["blue"].address(family), count=5) == (5, 0)
        assert far["blue"].ping(pod.address(family), count=5) == (5, 0)
    assert not pod.reaches(far["green"].address(4), count=2, wait=1)
    assert inside.plugin("CHECK", 100, previous=result) is None
    assert inside.plugin("STATUS", 100) is None
    again = inside.plugin("ADD", 100)
    assert again["code"] == 4 and "eth0" in again["msg"]
    # Nothing of it was reported to the agent, and nothing is asked of it in the end.
    assert sorted(one["host-interface"] for one in lab.attachments("n1")) == ["tapvm1", "tapvm1.100", "tapvm1.200"]
    pod.exec("ip", "address", "del", f"{four}/16", "dev", "eth0")
    problem = inside.plugin("CHECK", 100, previous=result)
    assert problem["code"] == 105 and four in problem["msg"]
    for _ in range(2):
        assert inside.plugin("DEL", 100) is None
    assert pod.exec("ip", "link", "show", "eth0", check=False).returncode != 0
    assert list((inside.folder / "ports").iterdir()) == []
    # What somebody else made stays.
    assert machine.exec("ip", "link", "show", "eth0.100")
    assert inside.plugin("ADD", 100)["ips"]
    assert inside.plugin("GC", 100) is None
    assert pod.exec("ip", "link", "show", "eth0", check=False).returncode != 0
    assert list((inside.folder / "ports").iterdir()) == []


def test_macvlan_refused(lab, machine, inside):
    """With an error that says what is missing, and nothing left."""
    error = inside.plugin("ADD", 100, parent_interface="eth7")
    assert error["code"] == 7 and "eth7" in error["msg"]
    error = inside.plugin("ADD", 100, pod="nobody")
    assert error["code"] == 11 and "no VLAN for pod __default__nobody" in error["msg"]
    assert "tx-vlan-id" in error["details"]
    error = inside.plugin("ADD", 100, vif_type="ipvlan")
    assert error["code"] == 2 and "macvlan" in error["details"]
    error = inside.plugin("ADD", 100, vrouter_socket=str(inside.folder / "none.sock"))
    assert error["code"] == 11
    assert inside.plugin("STATUS", 100, vrouter_socket=str(inside.folder / "none.sock"))["code"] == 50
    # A VLAN interface is made where the kernel can, and removed with the last that has it; else it says so.
    answer = inside.plugin("ADD", 200)
    if "code" in answer:
        assert answer["code"] == 5 and "802.1Q" in answer["msg"] and "8021q" in answer["details"]
    else:
        assert "vlan" in machine.exec("ip", "-d", "link", "show", "eth0.200").stdout
        assert inside.plugin("DEL", 200) is None
    assert machine.exec("ip", "link", "show", "eth0.200", check=False).returncode != 0
    assert list((inside.folder / "ports").glob("*")) == []


def test_macvlan_waits_for_its_vlan(lab, machine, far, inside):
    """The agent is asked again until it has a VLAN for the pod."""
    delete(lab, 100)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(inside.plugin, "ADD", 100, poll_retries=20)
        wait_for(lambda: any(one.get("pod-name") == "inner100" for one in lab.attachments("n1")), 10, "it has asked")
        assert post(lab, 100) == (200, "{}\n")
        result = waiting.result(timeout=30)
    assert result["ips"][0]["address"].split("/")[0] == addresses(lab, 100)[0]
    assert Pod(lab, "n1", "inner100", "blue").ping(far["blue"].address(4), count=3) == (3, 0)
    assert inside.plugin("DEL", 100) is None
