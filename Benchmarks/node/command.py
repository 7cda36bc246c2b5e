"""tools/bench node: its options, and all of it in order."""
import json
import os
import signal
import statistics
import sys
import time

import report
from wire.command import build_programs, install, interrupted, uninterrupted
from wire.places import ROOT, TRAFFIC, run as run_command

from . import measures
from .places import NodeLab

#: (name, comparison, number); docs/node.md says what they mean.
BARS = [
    ("node.pods-250.setup-ms", "<=", 50),
    ("node.pods-250.setup-last-over-first", "<=", 1.5),
    ("node.pods-250.rate-over-2", ">=", 0.9),
    ("node.idle-100.cpu", "<=", 1),
    ("node.restart.outage-ms", "<=", 200),
    ("node.restart.outage-killed-ms", "<=", 200),
]
PODS, IDLE_PODS, ROUTES = 250, 100, 10_000


def add_options(parser):
    parser.add_argument("--json", metavar="FILE", help="also write the rows as a JSON array")
    parser.add_argument("--quick", action="store_true", help="fewer restarts, shorter samples: under 2 minutes")
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a bar is missed")
    parser.add_argument("--no-install", action="store_true", help="take what is installed")


class Measurement:
    def __init__(self, lab, quick):
        self.lab, self.quick = lab, quick
        self.rows, self.notes = [], {}
        self.began = time.monotonic()
        self.names = iter(f"many{number}" for number in range(PODS))

    def add(self, name, value, unit):
        row = {"name": f"node.{name}", "value": round(value, 4), "unit": unit}
        report.judge(row, BARS)
        self.rows.append(row)

    def say(self, text):
        print(f"{time.monotonic() - self.began:5.0f} s  {text}", file=sys.stderr, flush=True)

    def take(self):
        lab = self.lab
        self.say(f"two pods, {ROUTES} routes")
        self.one, self.other = lab.pod("n1", "one"), lab.pod("n2", "other")
        lab.use_routes(ROUTES)
        empty = self.memory()
        few = self.rate()
        self.restarts("restart", 1 if self.quick else 5)
        first = self.pods(IDLE_PODS)
        self.idle()
        more = self.pods(PODS)
        self.setup(first + more)
        self.measure_memory(empty)
        self.say(f"packet rate beside {PODS} pods")
        many = self.rate()
        self.add("pods-2.rate", few, "kpps")
        self.add(f"pods-{PODS}.rate", many, "kpps")
        self.add(f"pods-{PODS}.rate-over-2", many / few, "")
        self.restarts(f"pods-{PODS}.restart", 1 if self.quick else 3)

    def rate(self):
        return measures.forwarding_rate(
            self.one, self.other, 0.5, self.lab.cores.generator, 2 if self.quick else 4)

    def pods(self, until):
        """As many pods as there are to be on n1, with the one that is there."""
        count = until - len([pod for pod in self.lab.pods.values() if pod.node == "n1"])
        self.say(f"{count} more pods on n1")
        began = time.monotonic()
        times = self.lab.add_pods([next(self.names) for _ in range(count)], 1)
        self.notes[f"{until} pods"] = (
            f"{count} were made in {time.monotonic() - began:.1f} s, one after the other, with their namespaces")
        return times

    def setup(self, times):
        quarter = len(times) // 4
        self.add(f"pods-{PODS}.setup-ms", statistics.median(times), "ms/pod (median of the plugin's ADD)")
        self.add(f"pods-{PODS}.setup-p99-ms", sorted(times)[len(times) * 99 // 100], "ms/pod")
        ratio = statistics.median(times[-quarter:]) / statistics.median(times[:quarter])
        self.add(f"pods-{PODS}.setup-last-over-first", ratio, "(last quarter over first)")

    def memory(self):
        return {what: measures.memory(self.lab.pid(what)) for what in ("forwarder", "agent")}

    def measure_memory(self, empty):
        # What a surge of new pods has left over is given back within seconds.
        time.sleep(3)
        full = self.memory()
        added = len([pod for pod in self.lab.pods.values() if pod.node == "n1"]) - 1
        for number, name in enumerate(("rss-per-pod", "own-memory-per-pod")):
            self.add(f"pods-{PODS}.{name}", (full["forwarder"][number] - empty["forwarder"][number]) / added, "KiB/pod")
        self.add(f"pods-{PODS}.agent-rss-per-pod", (full["agent"][0] - empty["agent"][0]) / added, "KiB/pod")
        self.add(f"pods-{PODS}.rss", full["forwarder"][0] / 1024, "MiB")
        self.add(f"pods-{PODS}.agent-rss", full["agent"][0] / 1024, "MiB")

    def idle(self):
        """CPU of forwarder and agent while nobody sends, in each mode."""
        seconds = 4 if self.quick else 10
        for mode in ("poll", "adaptive"):
            self.say(f"{IDLE_PODS} pods at rest, --idle {mode}")
            self.lab.replace_forwarder(signal.SIGTERM, "--idle", mode)
            self.lab.wait_until_synchronized()
            time.sleep(2)
            forwarder, agent = measures.shares_of_core(
                [self.lab.pid(what) for what in ("forwarder", "agent")], seconds)
            suffix = "" if mode == "adaptive" else f"-{mode}"
            self.add(f"idle-{IDLE_PODS}.cpu{suffix}", forwarder + agent, "% of a core")
            self.add(f"idle-{IDLE_PODS}.forwarder-cpu{suffix}", forwarder, "% of a core")
            self.add(f"idle-{IDLE_PODS}.agent-cpu{suffix}", agent, "% of a core")

    def restarts(self, name, count):
        """Outages, medians: stopped in order, and killed."""
        lasting = 2.5 if name == "restart" else 4
        for number, suffix in ((signal.SIGTERM, ""), (signal.SIGKILL, "-killed")):
            self.say(f"{name}: {number.name}")
            gaps, ends = [], []
            for _ in range(count):
                gap, ended = measures.outage(self.lab, self.one, self.other, number, lasting)
                gaps.append(gap)
                ends.append(ended)
            self.add(f"{name}.outage{suffix}-ms", statistics.median(gaps), "ms without packets")
            self.add(f"{name}.outage{suffix}-most-ms", max(gaps), "ms")
            self.add(f"{name}.end{suffix}-ms", statistics.median(ends), "ms until the old one had ended")


def run(options, build_traffic):
    """Exit status: 0; 1 with --strict when a bar is missed; 2 when there is nothing to measure; 130 after Ctrl-C."""
    if os.geteuid() != 0:
        print("tools/bench: node needs root, for network namespaces: sudo tools/bench node", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    if not options.no_install:
        install()
    if not options.no_build:
        build_programs()
        build_traffic()
    if not TRAFFIC.exists():
        print(f"tools/bench: {TRAFFIC} is not there: run without --no-build", file=sys.stderr)
        return 2
    run_command(ROOT / "tools" / "lab", "sweep", check=False)
    try:
        return measure(options)
    except KeyboardInterrupt:
        print("tools/bench: interrupted; everything is removed", file=sys.stderr)
        return 130


def measure(options):
    machine = report.machine()
    lab = NodeLab()
    try:
        measurement = Measurement(lab, options.quick)
        measurement.take()
    finally:
        with uninterrupted():
            left = lab.down()
        if left:
            print(f"tools/bench: left behind:\n{left}", file=sys.stderr)
    rows, notes = measurement.rows, measurement.notes
    print(f"\n{machine}; {time.monotonic() - measurement.began:.0f} s\n")
    report.print_table(rows, notes)
    missed = report.print_verdict(rows)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)
            file.write("\n")
    return 1 if missed and options.strict else 0
