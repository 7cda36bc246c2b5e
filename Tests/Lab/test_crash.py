"""The agent is killed between any two steps of an ADD and of a DEL: at each of its system calls that change something, by
strace. Whatever it leaves the next ADD, DEL or GC puts right."""
import json
import pathlib
import subprocess

import pytest
from lab import LAB, Lab, wait_for
from test_lifecycle import host_links, records

# To the database, the forwarder's ring (an eventfd) and the plugin.
STEPS = "pwrite64,write,writev,sendmsg,sendto,fsync,fdatasync,ftruncate,unlink"
# No verb takes so many; the loop ends with the first that goes through.
MOST = 60


@pytest.fixture(scope="module", params=["packet", "tap"])
def node(request):
    lab = Lab("--pods", request.param)
    try:
        lab.kind = request.param
        lab.stays = lab.pod("n1", "stays")
        yield lab
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(autouse=True)
def ended(node):
    yield
    node.end_processes()


def pid(lab):
    return int((pathlib.Path(lab.folder) / "n1" / "agent.pid").read_text())


def is_alive(number):
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Killer:
    """Kills the agent at its nth call of the steps, counted by each of its threads."""

    def __init__(self, lab, number):
        self.pid = pid(lab)
        self.process = subprocess.Popen(
            ["strace", "-f", "-p", str(self.pid), "-o", "/dev/null", "-e", f"trace={STEPS}",
             "-e", f"inject={STEPS}:signal=KILL:when={number}"], stderr=subprocess.PIPE, text=True)
        lab.processes.append(self.process)
        assert "attached" in self.process.stderr.readline()

    def has_killed(self):
        """Ends the watch."""
        if is_alive(self.pid):
            self.process.terminate()
        self.process.wait(10)
        wait_for(lambda: self.process.poll() is not None, 10, "strace")
        return not is_alive(self.pid)


def state(lab):
    return {
        "links": host_links(lab.n1), "attachments": lab.attachments("n1"), "records": records(lab, "n1"),
        "tables": lab.tables("n1")}


def check(lab, before, what):
    """All of it is as it was, without a trace of the pod in the kernel either."""
    assert state(lab) == before, what
    assert lab.stays.reaches("10.1.0.1", count=2), what


def restart(lab):
    wait_for(lambda: not is_alive(pid(lab)), 10, "the agent's end")
    lab.tool("start", "n1", "agent")


def sweep(lab, verb, pod, prepare, afterwards):
    """Runs the verb with the agent killed at its first, second, ... step until it goes through."""
    kills = 0
    for number in range(1, MOST):
        prepare()
        killer = Killer(lab, number)
        outcome = lab.cni(verb, pod, check=False)
        killed = killer.has_killed()
        if killed:
            kills += 1
            restart(lab)
        else:
            assert outcome.returncode == 0, f"{verb} without a kill: {outcome.stdout}{outcome.stderr}"
        afterwards(f"{verb} and a kill at step {number}: {outcome.stdout}")
        if not killed:
            break
    else:
        raise AssertionError(f"{verb} never went through")
    # A verb of fewer steps would show that the kills miss it.
    assert kills >= 4, f"{verb}: {kills} steps"
    return kills


@pytest.fixture
def pod(node):
    """A namespace that the plugin is called for, and nothing in it."""
    pod = node.pod("n1", "crash")
    node.cni("DEL", pod)
    yield pod
    node.delete(pod)


def test_add_then_delete(node, pod):
    before = state(node)

    def afterwards(what):
        assert node.cni("DEL", pod, check=False).returncode == 0, what
        check(node, before, what)
        assert pod.exec("ip", "link", "show", "dev", "eth0", check=False).returncode != 0, what

    print(sweep(node, "ADD", pod, lambda: None, afterwards), "steps")


def test_delete(node, pod):
    """DEL always succeeds; where the agent could not be told, the next verb tells it."""
    before = state(node)

    def afterwards(what):
        # Any next one: that of another pod.
        other = node.pod("n1", "other")
        node.delete(other)
        check(node, before, what)
        assert pod.exec("ip", "link", "show", "dev", "eth0", check=False).returncode != 0, what

    sweep(node, "DEL", pod, lambda: node.cni("ADD", pod), afterwards)


def only_once(lab):
    """What differs between the kinds of ports the tests before this have shown."""
    if lab.kind != "packet":
        pytest.skip("the same for all kinds of ports")


def test_add_then_add(node, pod):
    """As a runtime does that was itself killed, or does not clean up: the same again, in a container that is new."""
    only_once(node)
    before = state(node)

    def afterwards(what):
        if pod.exec("ip", "link", "show", "dev", "eth0", check=False).returncode == 0:
            # The first one got so far that there is an interface: then it is made, or the next one refuses and says so.
            assert node.cni("DEL", pod, check=False).returncode == 0, what
        outcome = node.cni("ADD", pod, check=False)
        assert outcome.returncode == 0, what + outcome.stdout
        assert pod.reaches("10.1.0.1", count=2), what
        assert len(node.attachments("n1")) == 2, what
        node.cni("DEL", pod)
        check(node, before, what)

    sweep(node, "ADD", pod, lambda: None, afterwards)


def test_add_then_garbage_collection(node, pod):
    only_once(node)
    before = state(node)

    def afterwards(what):
        valid = [{"containerID": row["container-id"], "ifname": row["interface"]} for row in node.attachments("n1")
                 if row["pod-name"] == "stays"]
        outcome = collect(node, valid)
        assert outcome.returncode == 0, what + outcome.stdout
        check(node, before, what)

    sweep(node, "ADD", pod, lambda: None, afterwards)


def collect(node, valid):
    """GC, which tools/lab does not speak."""
    config = json.dumps({"cniVersion": "1.1.0", "name": "contrail-k8s-cni", "type": "contrail-k8s-cni", "cni.dev/valid-attachments": valid})
    script = f'source {LAB}; lab_in {node.folder} n1 env CNI_COMMAND=GC CNI_PATH=/opt/cni/bin "$WEFT_CNI"'
    return subprocess.run(["bash", "-c", script], input=config, capture_output=True, text=True, timeout=60)
