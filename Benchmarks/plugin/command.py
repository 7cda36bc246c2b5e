"""tools/bench cni: its options, and all of it in order."""
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import report
from wire.command import build_programs, install, interrupted, uninterrupted
from wire.places import ROOT, run as run_command

from cni import PLUGIN, PLUGINS, Node
from lab import Lab

#: (name, comparison, number); docs/cni.md says what they mean.
BARS = [
    ("cni.add.p50-over-bridge", "<=", 1.0),
    ("cni.start.over-host-local", "<=", 0.6),
    ("cni.binary", "<=", 20),
    ("cni.parallel-100.errors", "<=", 0),
    ("cni.leftovers", "<=", 0),
]


def add_options(parser):
    parser.add_argument("--json", metavar="FILE", help="also write the rows as a JSON array")
    parser.add_argument("--quick", action="store_true", help="50 ADDs in place of 200, 100 in place of 1,000 for what is left")
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a bar is missed")
    parser.add_argument("--no-install", action="store_true", help="take what is installed")


class Caller:
    """caller.py in a network namespace."""

    def __init__(self, namespace):
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, pathlib.Path(__file__).with_name("caller.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, jobs, at_once=1):
        self.process.stdin.write(json.dumps({"jobs": jobs, "at-once": at_once}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


def job(plugin, verb, configuration, container=None):
    environment = {"CNI_COMMAND": verb, "CNI_PATH": f"{PLUGIN.parent}:{PLUGINS}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    if container:
        environment |= {"CNI_CONTAINERID": container.id, "CNI_NETNS": container.netns, "CNI_IFNAME": "eth0",
                        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + container.name}
    return {"program": str(plugin), "environment": environment, "stdin": json.dumps(configuration)}


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Measurement:
    def __init__(self, lab, quick, folder):
        self.node, self.quick = Node(lab), quick
        self.rows, self.notes = [], {}
        self.began = time.monotonic()
        self.bridge_node = f"{lab.prefix}-p-bridge"
        run_command("ip", "netns", "add", self.bridge_node)
        run_command("ip", "-n", self.bridge_node, "link", "set", "lo", "up")
        self.ours = self.node.configuration("1.0.0", settings={"log-level": "4"})
        self.bridge = {
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isGateway": True,
            "ipam": {"type": "host-local", "dataDir": folder, "ranges": [[{"subnet": "10.9.0.0/16"}]],
                     "routes": [{"dst": "0.0.0.0/0"}]}}
        self.callers = [Caller(self.node.place.namespace), Caller(self.bridge_node)]

    def close(self):
        for caller in self.callers:
            caller.close()

    def add(self, name, value, unit):
        row = {"name": f"cni.{name}", "value": round(value, 4), "unit": unit}
        report.judge(row, BARS)
        self.rows.append(row)

    def say(self, text):
        print(f"{time.monotonic() - self.began:5.0f} s  {text}", file=sys.stderr, flush=True)

    def take(self):
        self.add("binary", PLUGIN.stat().st_size / 1e6, "MB, static" if self.is_static() else "MB, NOT STATIC")
        self.start()
        self.adds(50 if self.quick else 200)
        self.parallel(100)
        self.leftovers(100 if self.quick else 1000)

    @staticmethod
    def is_static():
        return "INTERP" not in run_command("readelf", "--program-headers", "--wide", PLUGIN).stdout

    def start(self):
        """VERSION by turns: what a program costs before it does anything."""
        self.say("start")
        count = 50 if self.quick else 200
        jobs = [job(plugin, "VERSION", {"cniVersion": "1.0.0"}) for _ in range(count) for plugin in (PLUGIN, PLUGINS / "host-local")]
        outcomes = self.callers[0].run(jobs)
        assert all(outcome["status"] == 0 for outcome in outcomes), outcomes
        ours, theirs = (statistics.median(outcome["ms"] for outcome in outcomes[side::2]) for side in (0, 1))
        self.add("start.ms", ours, "ms (VERSION, median)")
        self.add("start.host-local-ms", theirs, "ms")
        self.add("start.over-host-local", ours / theirs, "")

    def adds(self, count):
        """ADD and DEL by turns, ours on the node and the bridge in a network of its own; all stay until the last one is made."""
        self.say(f"{count} ADDs of each")
        containers = [[self.node.container(f"{side}{number}") for number in range(count)] for side in "wb"]
        sides = [(PLUGIN, self.ours), (PLUGINS / "bridge", self.bridge)]
        times = {}
        for verb in ("ADD", "DEL"):
            times[verb] = ([], [])
            for number in range(count):
                for side, (plugin, configuration) in enumerate(sides):
                    outcome = self.callers[side].run([job(plugin, verb, configuration, containers[side][number])])[0]
                    assert outcome["status"] == 0, outcome
                    times[verb][side].append(outcome["ms"])
        for verb, name in (("ADD", "add"), ("DEL", "del")):
            ours, theirs = times[verb]
            self.add(f"{name}.p50", percentile(ours, 0.5), "ms")
            self.add(f"{name}.p99", percentile(ours, 0.99), "ms")
            self.add(f"{name}.bridge-p50", percentile(theirs, 0.5), "ms")
            self.add(f"{name}.bridge-p99", percentile(theirs, 0.99), "ms")
            self.add(f"{name}.p50-over-bridge", percentile(ours, 0.5) / percentile(theirs, 0.5), "")
        self.notes["cni.add"] = "Weft's containers have IPv4 and IPv6, the bridge's IPv4 alone"
        self.node.clean()

    def parallel(self, count):
        self.say(f"{count} ADDs at once")
        containers = [self.node.container(f"p{number}") for number in range(count)]
        began = time.monotonic()
        outcomes = self.callers[0].run([job(PLUGIN, "ADD", self.ours, one) for one in containers], count)
        self.add(f"parallel-{count}.ms", (time.monotonic() - began) * 1000, "ms for all")
        self.add(f"parallel-{count}.errors", sum(1 for outcome in outcomes if outcome["status"]), "")
        deleted = self.callers[0].run([job(PLUGIN, "DEL", self.ours, one) for one in containers], count)
        assert all(outcome["status"] == 0 for outcome in deleted), deleted
        self.node.clean()

    def leftovers(self, count):
        """Interfaces, addresses, routes, files, table entries and descriptors that are there afterwards and were not before."""
        self.say(f"{count} times ADD and DEL")
        container = self.node.container("again")
        jobs = [job(PLUGIN, verb, self.ours, container) for verb in ("ADD", "DEL")]
        self.callers[0].run(jobs * 4)
        before = self.node.inventory()
        outcomes = self.callers[0].run(jobs * count)
        assert all(outcome["status"] == 0 for outcome in outcomes), [one for one in outcomes if one["status"]][:3]
        # Flows age, and the kernel is given some sockets back in the background.
        end = time.monotonic() + 60
        while True:
            after = self.node.inventory()
            left = {what: sorted(after[what] - before[what]) for what in after if after[what] - before[what]}
            if not left or time.monotonic() > end:
                break
            time.sleep(1)
        self.add("leftovers", sum(len(names) for names in left.values()), f"after {count} times ADD and DEL")
        if left:
            self.notes["cni.leftovers"] = json.dumps({what: names[:5] for what, names in left.items()})
        self.node.clean()


def run(options):
    """Exit status: 0; 1 with --strict when a bar is missed; 2 when there is nothing to measure; 130 after Ctrl-C."""
    if os.geteuid() != 0:
        print("tools/bench: cni needs root, for network namespaces: sudo tools/bench cni", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    if not options.no_install:
        install()
    if not (PLUGINS / "host-local").exists():
        print("tools/bench: no bridge and host-local to compare with; on Debian: apt-get install containernetworking-plugins",
              file=sys.stderr)
        return 2
    if not options.no_build:
        build_programs()
    run_command(ROOT / "tools" / "lab", "sweep", check=False)
    try:
        return measure(options)
    except KeyboardInterrupt:
        print("tools/bench: interrupted; everything is removed", file=sys.stderr)
        return 130


def measure(options):
    machine = report.machine()
    lab = Lab()
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        try:
            measurement = Measurement(lab, options.quick, folder)
            measurement.take()
            measurement.close()
        finally:
            with uninterrupted():
                left = lab.down()
            if left:
                print(f"tools/bench: left behind:\n{left}", file=sys.stderr)
    rows = measurement.rows
    print(f"\n{machine}; {time.monotonic() - measurement.began:.0f} s\n")
    report.print_table(rows, measurement.notes)
    missed = report.print_verdict(rows)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)
            file.write("\n")
    return 1 if missed and options.strict else 0
