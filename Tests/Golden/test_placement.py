"""Where workers would run on machines that are not there: two nodes, one, a NIC without a node."""
import subprocess

import pytest
import weft


class Machine:
    """The files that the kernel would show."""

    def __init__(self, root, nodes, threads=()):
        self.root = root
        cores = sorted(core for node in nodes for core in node)
        self.write("sys/devices/system/cpu/online", ",".join(map(str, cores)))
        self.write("sys/devices/system/node/online", ",".join(map(str, range(len(nodes)))))
        for core in cores:
            siblings = next((pair for pair in threads if core in pair), [core])
            self.write(f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list", ",".join(map(str, siblings)))
        for number, node in enumerate(nodes):
            self.write(f"sys/devices/system/node/node{number}/cpulist", ",".join(map(str, node)))

    def write(self, path, text):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def nic(self, name, node, queues, interrupts=()):
        self.write(f"sys/class/net/{name}/device/numa_node", node)
        for queue in range(queues):
            self.write(f"sys/class/net/{name}/queues/rx-{queue}/rps_cpus", 0)
        for queue, core in enumerate(interrupts):
            self.write(f"sys/class/net/{name}/device/msi_irqs/{40 + queue}", "msix")
            self.write(f"proc/irq/{40 + queue}/{name}-TxRx-{queue}/x", "")
            self.write(f"proc/irq/{40 + queue}/effective_affinity_list", core)

    def placement(self, *arguments, status=0):
        outcome = subprocess.run(
            [weft.PROGRAM, "placement", "--topology", self.root, *arguments], capture_output=True, text=True, timeout=60)
        assert outcome.returncode == status, outcome.stderr
        return outcome.stderr if status else outcome.stdout.splitlines()


@pytest.fixture
def two(tmp_path):
    """Two nodes of eight cores with two threads each; the NIC is on the second."""
    machine = Machine(
        tmp_path, [[*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)]], [(n, n + 16) for n in range(16)])
    machine.nic("eth0", 1, 4, [8, 9, 14, 15])
    return machine


def interrupt(number, core, worker):
    return (
        f"warning: interrupt {number} (eth0-TxRx-{number - 40}) comes to core {core}, where worker {worker} runs: they take "
        f"time from each other; write another core of node 1 into /proc/irq/{number}/smp_affinity_list")


def test_near_the_nic(two):
    assert two.placement("--cores", "auto", "--fabric", "eth0") == [
        "node 0: cores 0-7,16-23", "node 1: cores 8-15,24-31, eth0", "fabric eth0: node 1, 4 queues",
        "worker 0: core 8, node 1, queues 0,2", "worker 1: core 9, node 1, queues 1,3", interrupt(40, 8, 0),
        interrupt(41, 9, 1)]
    # Without the option, the node of the only NIC counts.
    assert two.placement("--cores", "auto")[2:] == ["worker 0: core 8, node 1", "worker 1: core 9, node 1"]
    assert two.placement()[2:] == ["worker 0: core 8, node 1"]


def test_far_from_the_nic(two):
    lines = two.placement("--cores", "1,10,26", "--fabric", "eth0")
    assert lines[3:] == [
        # The queues' interrupts are on the NIC's node, and so are most of their workers.
        "worker 0: core 1, node 0, queues 3", "worker 1: core 10, node 1, queues 0-1",
        "worker 2: core 26, node 1, queues 2",
        "warning: workers 1 and 2 share a physical core: 10 and 26 are threads of one; choose one of 10,26",
        "warning: eth0 is on NUMA node 1, but worker 0 on node 0 (core 1): packets cross between nodes; cores of node 1 "
        "are 8-15,24-31"]


def test_more_workers_than_queues(two):
    lines = two.placement("--cores", "auto:10", "--fabric", "eth0")[3:13]
    # All physical cores of the NIC's node, then others; the NIC's node has the queues.
    assert [int(line.split()[3].rstrip(",")) for line in lines] == [*range(8, 16), 1, 2]
    assert [line.split(", ")[2] for line in lines] == [f"queues {n}" for n in range(4)] + ["no queue"] * 6


def test_one_node_and_a_nic_without(tmp_path):
    machine = Machine(tmp_path, [[0, 1, 2, 3]])
    machine.nic("eth0", -1, 1)
    assert machine.placement("--cores", "auto:4", "--fabric", "eth0") == [
        "node 0: cores 0-3", "fabric eth0: of no node, 1 queue", "worker 0: core 1, node 0, queues 0",
        "worker 1: core 2, node 0, no queue", "worker 2: core 3, node 0, no queue", "worker 3: core 0, node 0, no queue"]


@pytest.mark.parametrize("arguments, words", [
    (["--cores", "auto:33"], "--cores: there are only 32 cores that this process may run on, not 33: 0-31."),
    (["--cores", "31,32"], "--cores: this process may not run on core 32; it may on 0-31."),
    (["--cores", "auto:x"], "auto: is followed by how many cores to take"),
    (["--cores", "2,"], '"" is neither a core nor a range'),
    (["--cores", "3-2"], '"3-2": cores are 0 to 4095, and a range goes upwards.'),
    (["--cores", "4-6,5"], "core 5 is there twice"),
    (["--fabric", "eth1"], "--fabric: there is no interface eth1; NICs of this machine: eth0."),
])
def test_wrong(two, arguments, words):
    assert words in two.placement(*arguments, status=64)
