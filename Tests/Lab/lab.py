"""The lab of tools/lab, and pods in it, for tests."""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import time

import openapi

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAB = ROOT / "tools" / "lab"
BINARIES = pathlib.Path(os.environ.get("WEFT_BIN", ROOT / ".build" / "release"))
TRAFFIC = pathlib.Path(__file__).with_name("traffic.py")
ROUTER_MAC = "00:00:5e:00:01:00"


def run(*arguments, check=True, timeout=120, **options):
    """Runs a command; its outcome with text. With `check`, a failure is an error that shows what it printed."""
    outcome = subprocess.run(
        [str(argument) for argument in arguments], capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, **options)
    if check and outcome.returncode != 0:
        raise AssertionError(
            f"{' '.join(str(a) for a in arguments)}: status {outcome.returncode}\n{outcome.stdout}{outcome.stderr}")
    return outcome


def wait_for(condition, seconds, what):
    """Until the condition holds; what it gave."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Place:
    """Something with a network namespace: a node or a pod."""

    def __init__(self, lab, name, namespace):
        self.lab, self.name, self.namespace = lab, name, namespace

    def exec(self, *arguments, **options):
        return run("ip", "netns", "exec", self.namespace, *arguments, **options)

    def start(self, *arguments, **options):
        """Starts a command; the lab ends it if the test does not."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *(str(argument) for argument in arguments)], text=True, **options)
        self.lab.processes.append(process)
        return process

    @contextlib.contextmanager
    def serving(self, command, *arguments):
        """traffic.py as a server, ready."""
        process = self.start(TRAFFIC, command, *arguments)
        try:
            line = process.stdout.readline()
            assert '"listening"' in line, f"{command} in {self.name}: {line}{process.stderr.read() if not line else ''}"
            yield process
        finally:
            end(process)

    def ping(self, address, count=10, size=56, interval=0.02, more=(), wait=2):
        """Sends echo requests: (answered, duplicates)."""
        output = self.exec(
            "ping", "-n", "-c", count, "-i", interval, "-W", wait, "-s", size, *more, address, check=False).stdout
        received = re.search(r"(\d+) received", output)
        assert received, f"ping {address} from {self.name}: {output}"
        return int(received.group(1)), output.count("DUP!")

    def reaches(self, address, **options):
        return self.ping(address, **options)[0] > 0

    def counters(self):
        """The kernel's counters of this namespace since it was made, those of IPv6 too."""
        text = self.exec("nstat", "-asz", "--json").stdout
        return json.loads(text)["kernel"]

    def checksum_errors(self):
        return {name: count for name, count in self.counters().items() if "CsumErrors" in name and count}


class Pod(Place):
    def __init__(self, lab, node, name, network=None):
        super().__init__(lab, name, f"{lab.prefix}-p-{name}")
        self.node, self.network = node, network

    def address(self, family):
        """Its address, IPv4 or IPv6, without the prefix length."""
        links = json.loads(self.exec("ip", "-j", f"-{family}", "address", "show", "dev", "eth0", "scope", "global").stdout)
        return links[0]["addr_info"][0]["local"]

    @property
    def mtu(self):
        return int(self.exec("cat", "/sys/class/net/eth0/mtu").stdout)

    @property
    def mac(self):
        return self.exec("cat", "/sys/class/net/eth0/address").stdout.strip()


def end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


class Transfer:
    """TCP from one pod to another, hashed at both ends."""

    port = 7000

    def __init__(self, sender, receiver, family, size, streams=1, rate=None):
        Transfer.port += 1
        address = receiver.address(family)
        self.what = f"{sender.name} to {receiver.name} over IPv{family}"
        self.size = size
        self.server = receiver.start(TRAFFIC, "tcp-serve", address, Transfer.port, streams)
        line = self.server.stdout.readline()
        assert '"listening"' in line, f"{receiver.name}: {line or self.server.stderr.read()}"
        self.clients = [
            sender.start(TRAFFIC, "tcp-send", address, Transfer.port, size, seed, *([rate] if rate else []))
            for seed in range(streams)
        ]
        self.progress, self.results = 0, []

    def read(self, until):
        """Reads the receiver's lines until the condition holds; bytes that have arrived."""
        while not until():
            line = self.server.stdout.readline()
            assert line, f"{self.what}: the receiver ended: {self.server.stderr.read()}"
            words = json.loads(line)
            if "progress" in words:
                self.progress = words["progress"]
            else:
                self.results.append(words)
        return self.progress

    def arrived(self):
        """Bytes that have arrived by now."""
        now = time.monotonic()
        seen = [0.0]

        def is_fresh():
            return seen[0] >= now or len(self.results) == len(self.clients)

        while not is_fresh():
            line = self.server.stdout.readline()
            assert line, f"{self.what}: the receiver ended: {self.server.stderr.read()}"
            words = json.loads(line)
            if "progress" in words:
                self.progress, seen[0] = words["progress"], words["time"]
            else:
                self.results.append(words)
        return self.progress

    def finish(self, seconds=120):
        """Waits for the end and compares what was sent with what arrived; Gbit/s."""
        sent = []
        for client in self.clients:
            output, errors = client.communicate(timeout=seconds)
            assert client.returncode == 0, f"{self.what}: the sender failed: {errors}"
            sent.append(json.loads(output))
        self.read(lambda: len(self.results) == len(self.clients))
        end(self.server)
        assert sorted(one["sha256"] for one in sent) == sorted(one["sha256"] for one in self.results), self.what
        assert all(one["bytes"] == self.size for one in self.results), self.what
        return sum(one["bytes"] for one in sent) * 8 / max(one["seconds"] for one in sent) / 1e9


class Numbered:
    """Numbered datagrams from one pod to another, 2,000 a second, until it is asked how many were lost."""

    port = 6000

    def __init__(self, sender, receiver, family):
        Numbered.port += 1
        address = receiver.address(family)
        self.what = f"{sender.name} to {receiver.name} over IPv{family}"
        wait_for(lambda: sender.reaches(address, count=1, wait=1), 10, self.what)
        self.server = receiver.start(TRAFFIC, "udp-count", address, Numbered.port, stdin=subprocess.PIPE)
        assert '"listening"' in self.server.stdout.readline(), self.server.stderr.read()
        self.client = sender.start(TRAFFIC, "udp-numbers", address, Numbered.port, 2000, stdin=subprocess.PIPE)

    def finish(self):
        self.client.stdin.close()
        sent = json.loads(self.client.stdout.readline())["sent"]
        self.server.stdin.close()
        result = json.loads(self.server.stdout.readline())
        for process in (self.client, self.server):
            process.wait(10)
        return sent, result


@contextlib.contextmanager
def undisturbed(*ways):
    """While this lasts, no datagram of these pods is lost, nor comes twice."""
    streams = [Numbered(sender, receiver, family) for sender, receiver in ways for family in (4, 6)]
    yield
    for stream in streams:
        sent, result = stream.finish()
        assert sent > 1000, stream.what
        assert (result["received"], result["missing"], result["twice"]) == (sent, [], 0), f"{stream.what}: {result}"


class Lab:
    def __init__(self, *options):
        self.folder = run(LAB, "up", "--owner", os.getpid(), *options).stdout.strip()
        self.prefix = "weft-" + self.folder.removeprefix("/run/weft-lab.").replace(".", "-")
        self.processes = []
        self.pods = {}
        self.n1 = Place(self, "n1", f"{self.prefix}-n1")
        self.n2 = Place(self, "n2", f"{self.prefix}-n2")

    def node(self, name):
        return {"n1": self.n1, "n2": self.n2}[name]

    def tool(self, command, *arguments, **options):
        return run(LAB, command, self.folder, *arguments, **options)

    def pod(self, node, name, network="blue", arguments=None):
        """Makes a pod by the CNI plugin."""
        self.tool("pod-add", node, name, network, *([arguments] if arguments else []))
        self.pods[name] = Pod(self, node, name, network)
        return self.pods[name]

    def delete(self, pod):
        self.tool("pod-del", pod.node, pod.name, pod.network)
        self.pods.pop(pod.name, None)

    def cni(self, verb, pod, check=True):
        return self.tool("cni", pod.node, verb, pod.name, pod.network, check=check)

    def http(self, node, method, path):
        answer = json.loads(self.tool("http", node, method, path).stdout)
        openapi.check(method, path, answer)
        return answer

    def weft(self, node, *arguments):
        socket = f"{self.folder}/{node}/forwarder.sock"
        return json.loads(run(BINARIES / "weft", *arguments, "--socket", socket, "--json").stdout)

    def attachments(self, node):
        return self.http(node, "GET", "/v1/attachments")

    def tables(self, node):
        """What the forwarder has been told, without what counts."""
        tables = {table: self.weft(node, table) for table in ("vrf", "nexthop", "label", "vni", "route", "bridge", "vif")}
        for row in tables["vif"]:
            for key in [key for key in row if "packets" in key or "bytes" in key or key == "drops"]:
                del row[key]
        return {name: sorted(json.dumps(row, sort_keys=True) for row in rows) for name, rows in tables.items()}

    def is_synchronized(self, node):
        outcome = self.tool("http", node, "GET", "/v1/status", check=False)
        if outcome.returncode != 0:
            return False
        forwarder = json.loads(outcome.stdout)["forwarder"]
        return forwarder["connected"] and forwarder["synchronized"]

    def end_processes(self):
        for process in self.processes:
            end(process)
        self.processes.clear()

    def down(self):
        """Removes all of it; what is left, which should be nothing."""
        self.end_processes()
        run(LAB, "down", self.folder)
        return run(LAB, "leftovers", self.folder).stdout.strip()
