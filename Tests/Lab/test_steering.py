"""Two workers on each node: what comes from the fabric comes to the worker that has its flow."""
import os
import pathlib
import shutil
import time

import pytest
from lab import ROOT, Lab, Transfer, run, wait_for

families = pytest.mark.parametrize("family", [4, 6])
tunnels = pytest.mark.parametrize("way", ["vxlan", "mpls-over-udp"])

# Datagrams from many ports, one of each and then again, so that none go together; to a socket that answers nothing, so that
# nothing goes back.
SEND = """
import socket, sys, time
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
flows = []
for number in range(count):
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 20000 + number))
    flows.append(one)
for _ in range(5):
    for one in flows:
        one.sendto(b"x" * 100, (address, port))
        time.sleep(0.0001)
"""
SINK = """
import socket, sys, time
address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
one = socket.socket(family, socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
one.bind((address, port))
print('{"listening": %d}' % port, flush=True)
one.settimeout(3)
count = 0
try:
    while True:
        one.recv(2048)
        count += 1
except TimeoutError:
    print(count, flush=True)
"""


def cores():
    return sorted(os.sched_getaffinity(0))[:2]


pytestmark = pytest.mark.skipif(len(cores()) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def two_workers():
    """Environment of a lab whose forwarders have two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_LAB_CORES", ",".join(map(str, cores())))
        yield patch


def down(lab):
    left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(scope="module")
def lab(two_workers):
    lab = Lab()
    try:
        yield lab
    finally:
        down(lab)


def counts(lab, node):
    """Of each worker: packets, handed over, taken over. Workers say what they have counted when they next beat."""
    def now():
        return [(one["packets"], one["handed-over"], one["taken-over"]) for one in lab.weft(node, "worker")]

    last = [now()]

    def rests():
        before, last[0] = last[0], now()
        return before == last[0]

    time.sleep(0.3)
    wait_for(rests, 5, "counters at rest")
    return last[0]


def since(lab, node, before):
    return [tuple(b - a for a, b in zip(old, new)) for old, new in zip(before, counts(lab, node))]


def one_way(lab, sender, receiver, family, port, flows=200):
    """Sends datagrams of many flows; what each of the receiver's workers did for them."""
    address = receiver.address(family)
    sender.reaches(address, count=2)
    before = counts(lab, receiver.node)
    sink = receiver.start("python3", "-c", SINK, address, port)
    assert "listening" in sink.stdout.readline()
    sender.exec("python3", "-c", SEND, address, port, flows)
    output, errors = sink.communicate(timeout=30)
    drops = {node: {row["reason"]: row["count"] for row in lab.weft(node, "drops") if row["count"]} for node in ("n1", "n2")}
    assert int(output or 0) == 5 * flows, f"{output} {errors} {drops}"
    return since(lab, receiver.node, before)


def log(lab, node):
    return (pathlib.Path(lab.folder) / node / "forwarder.log").read_text()


@tunnels
@families
def test_flows_come_to_their_worker(lab, pods, way, family):
    sender, receiver = pods[way]
    done = one_way(lab, sender, receiver, family, 6200 + family)
    # Neighbour discovery goes on beside it: a few packets of the pod itself.
    assert sum(given for _, given, _ in done) <= 5, done
    assert all(packets >= 300 for packets, _, _ in done), done


def test_mpls_over_gre(two_workers):
    """Between two nodes all of MPLS-over-GRE has the same addresses and no ports: the kernel's hash would bring it to one."""
    lab = Lab()
    try:
        for node in ("n1", "n2"):
            lab.tool("stop", node, "agent")
            path = pathlib.Path(lab.folder) / node / "agent.yaml"
            path.write_text(path.read_text().replace("mpls-over-udp", "mpls-over-gre"))
            lab.tool("start", node, "agent")
        one, two = lab.pod("n1", "green1", "green"), lab.pod("n2", "green2", "green")
        for family in (4, 6):
            done = one_way(lab, one, two, family, 6300 + family)
            assert sum(given for _, given, _ in done) <= 5, done
            assert all(packets >= 300 for packets, _, _ in done), done
    finally:
        down(lab)


@tunnels
def test_connections_both_ways(lab, pods, way):
    """What is handed over is what the pods send: their port has one worker, which has half of their flows."""
    sender, receiver = pods[way]
    before = {node: counts(lab, node) for node in ("n1", "n2")}
    there = Transfer(sender, receiver, 4, 4 << 20, streams=8)
    back = Transfer(receiver, sender, 6, 4 << 20, streams=8)
    there.finish()
    back.finish()
    for pod in (sender, receiver):
        done = since(lab, pod.node, before[pod.node])
        fabric_only = [index for index in (0, 1) if index not in pod_workers(lab, pod)]
        # A worker without the pod's port receives from the fabric alone.
        assert done[fabric_only[0]][1] <= 5, done
    for node in ("n1", "n2"):
        drops = {row["reason"]: row["count"] for row in lab.weft(node, "drops")}
        assert not drops.get("handover_full") and not drops.get("handover_loop"), drops
        # What the workers send themselves does not come back to them.
        assert not drops.get("outer_not_ours"), drops


def ports(lab, node):
    return [{**port, "worker": one["worker"]} for one in lab.weft(node, "worker") for port in one["ports"]]


def pod_workers(lab, pod):
    """The workers that pods' ports of a node have."""
    vifs = {row["device"]: row for row in lab.weft(pod.node, "vif")}
    mac = pod.mac
    return {row["worker"] for row in ports(lab, pod.node) if vifs[row["device"]]["MAC".lower()] == mac}


def test_workers_are_shown(lab, pods):
    for node in ("n1", "n2"):
        rows = lab.weft(node, "worker")
        assert [row["worker"] for row in rows] == [0, 1]
        assert [row["core"] for row in rows] == cores()
        assert all(row["numa-node"] >= 0 for row in rows)
        assert all({"device": "fab0", "queues": 1} in row["ports"] for row in rows)
        devices = [row["device"] for row in lab.weft(node, "vif") if row["role"] == "virtual"]
        assert sorted(row["device"] for row in ports(lab, node) if row["device"] != "fab0") == sorted(devices)
        assert len(lab.weft(node, "worker", "1")) == 1
        outcome = lab.tool("weft", node, "worker", "2", check=False)
        assert outcome.returncode == 1 and "it has 0 to 1" in outcome.stderr
        text = log(lab, node)
        assert "worker 1 runs" in text and 'flows="to their workers"' in text
    # A port that has gone is nobody's.
    pod = lab.pod("n1", "shortlived", "blue")
    before = len(ports(lab, "n1"))
    lab.delete(pod)
    wait_for(lambda: len(ports(lab, "n1")) == before - 1, 5, "the port has gone")


def test_memory_is_on_its_node(lab):
    """What the kernel says of the memory that workers have placed: on the one node there is."""
    if not pathlib.Path("/sys/devices/system/node/node0").exists():
        pytest.skip("the kernel knows no NUMA nodes")
    pid = (pathlib.Path(lab.folder) / "n1" / "forwarder.pid").read_text().strip()
    lines = pathlib.Path(f"/proc/{pid}/numa_maps").read_text().splitlines()
    # The hand-over rings to each worker.
    assert sum(line.split()[1].startswith("prefer") for line in lines) >= 2, lines[:20]


def test_a_kernel_that_refuses_programs(two_workers, tmp_path):
    """Without the right to load programs: the kernel's hash, and what is others' is handed over."""
    if pathlib.Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() == "0":
        pytest.skip("anybody may load programs here")
    binaries = pathlib.Path(os.environ.get("WEFT_BIN", ROOT / ".build" / "release"))
    for name in ("weft-agent", "weft", "weft-cni"):
        (tmp_path / name).symlink_to(binaries / name)
    wrapper = tmp_path / "weft-vrouter"
    wrapper.write_text(
        f"#!/bin/sh\nexec {shutil.which('setpriv')} --bounding-set=-bpf,-sys_admin {binaries / 'weft-vrouter'} \"$@\"\n")
    wrapper.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_BIN", str(tmp_path))
        lab = Lab()
        try:
            one, two = lab.pod("n1", "blue1"), lab.pod("n2", "blue2")
            assert "by the kernel's hash" in log(lab, "n2")
            for family in (4, 6):
                done = one_way(lab, one, two, family, 6400 + family)
                assert sum(given for _, given, _ in done) >= 300, done
                assert sum(given for _, given, _ in done) == sum(taken for _, _, taken in done)
        finally:
            down(lab)


def test_a_made_machine(two_workers, tmp_path):
    """A machine that is said to have two nodes: the log and `weft worker` say what is where."""
    first, second = cores()

    def write(path, text):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    system = "sys/devices/system"
    write(f"{system}/cpu/online", f"{first},{second}")
    write(f"{system}/node/online", "0-1")
    for node, core in enumerate((first, second)):
        write(f"{system}/node/node{node}/cpulist", core)
        write(f"{system}/node/node{node}/distance", "10 21" if node == 0 else "21 10")
    write("sys/class/net/fab0/device/numa_node", 1)
    write("sys/class/net/fab0/device/msi_irqs/77", "msix")
    write("proc/irq/77/fab0-TxRx-0/x", "")
    write("proc/irq/77/effective_affinity_list", second)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_LAB_FORWARDER", f"--topology {tmp_path}")
        lab = Lab()
        try:
            assert [row["numa-node"] for row in lab.weft("n1", "worker")] == [0, 1]
            text = log(lab, "n1")
            assert f"fab0 is on NUMA node 1, but worker 0 on node 0 (core {first})" in text
            assert f"interrupt 77 (fab0-TxRx-0) comes to core {second}, where worker 1 runs" in text
            assert "the kernel does not place memory on NUMA nodes [0, 1]" in text
            one, two = lab.pod("n1", "blue1"), lab.pod("n2", "blue2")
            # Pods' ports spread over nodes.
            more = lab.pod("n1", "blue3")
            assert sorted(row["worker"] for row in ports(lab, "n1") if row["device"] != "fab0") == [0, 1]
            assert one.reaches(two.address(4)) and more.reaches(two.address(6))
        finally:
            down(lab)


def test_wrong_values_are_refused():
    """Wrong values are refused before anything is started."""
    program = pathlib.Path(os.environ.get("WEFT_BIN", ROOT / ".build" / "release")) / "weft-vrouter"
    for arguments, words in [
        (["--cores", "auto:0"], "1 to 4096"), (["--cores", "auto:4096"], "there are only"),
        (["--cores", "0,0"], "core 0 is there twice"), (["--cores", "1-0"], "a range goes upwards"),
        (["--cores", "one"], "neither a core nor a range"), (["--cores", "4095"], "may not run on core 4095"),
        (["--fabric", "nosuch0"], "there is no interface nosuch0"),
    ]:
        for command in ("run", "placement"):
            outcome = run(program, command, *arguments, check=False)
            assert outcome.returncode == 64 and words in outcome.stderr, (arguments, outcome.stderr)
    assert "worker 0: core" in run(program, "placement", "--cores", "auto:1").stdout
