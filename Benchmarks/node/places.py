"""Two nodes of Weft: many routes in the first one's agent, many pods on it, and its forwarder replaced."""
import concurrent.futures
import os
import pathlib
import re
import select
import signal
import subprocess
import time

from wire.places import Cores, Lab, wait_for

#: Where the routes lead that nobody uses: an address block that no pod is given an address of.
ROUTES = "10.128.0.0/9"


class NodeLab(Lab):
    """The lab of tools/lab. What is measured is the node n1."""

    def __init__(self):
        super().__init__()
        self.cores = Cores()

    @property
    def first(self):
        return pathlib.Path(self.folder) / "n1"

    def pid(self, what):
        return int((self.first / f"{what}.pid").read_text())

    def use_routes(self, count):
        """The agent's file has that many more subnets behind its peer; it starts anew."""
        assert count < 1 << 19
        file = self.first / "agent.yaml"
        subnets = "".join(
            f", 10.{128 + (i >> 12)}.{i >> 4 & 255}.{(i & 15) << 4}/28" for i in range(count))
        text, replaced = re.subn(
            r"(- \{name: green, subnets: \[10\.2\.2\.0/24)", rf"\g<1>{subnets}", file.read_text(), count=1)
        assert replaced == 1, f"{file} is not what tools/lab writes"
        file.write_text(text)
        self.tool("stop", "n1", "agent")
        self.tool("start", "n1", "agent")
        routes = len(self.weft("n1", "route"))
        assert routes >= count, f"{routes} routes in the forwarder, of {count}"

    def add_pods(self, names, at_once):
        """Pods on n1, so many at once. What the plugin took for each, ms, in the order in which they were done."""
        times = self.first / "cni-times"
        before = len(times.read_text().splitlines()) if times.exists() else 0
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda name: self.pod("n1", name), names))
        lines = [line.split() for line in times.read_text().splitlines()[before:]]
        return [int(micros) / 1000 for verb, micros, status in lines if verb == "ADD" and status == "0"]

    def successor(self, *options):
        """A forwarder that is ready to start: a word on its standard input, and it does. As a supervisor, which has no
        namespaces to enter and no shell to start, would have it."""
        core = self.cores.n1
        command = [
            "sh", "-c", 'echo $$ >"$0"; read -r _; exec "$@" </dev/null', str(self.first / "successor.pid"),
            os.environ.get("WEFT_BIN", str(pathlib.Path(__file__).resolve().parents[2] / ".build" / "release"))
            + "/weft-vrouter", "run", "--socket", str(self.first / "forwarder.sock"), "--cores", str(core), *options]
        with open(self.first / "forwarder.log", "a") as log:
            process = self.n1.start(*command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        wait_for(lambda: (self.first / "successor.pid").exists(), 10, "the next forwarder")
        return process

    def replace_forwarder(self, number, *options):
        """Ends the forwarder by a signal and starts the next one the moment that it has ended. Seconds until it had."""
        process = self.successor(*options)
        old = self.pid("forwarder")
        handle = os.pidfd_open(old)
        try:
            began = time.monotonic()
            os.kill(old, number)
            select.select([handle], [], [], 60)
            ended = time.monotonic() - began
            process.stdin.write("go\n")
            process.stdin.close()
        finally:
            os.close(handle)
        for one in self.processes:
            if one.pid == old:
                one.wait()
        (self.first / "successor.pid").rename(self.first / "forwarder.pid")
        return ended

    def wait_until_synchronized(self):
        wait_for(lambda: self.is_synchronized("n1"), 60, "the agent tells a new forwarder what it knows")
