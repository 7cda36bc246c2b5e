"""Which samples are taken, of whom, how often, in which order: contender after contender within a round, so that what
else happens on the machine happens to all of them."""
import sys
import time
from collections import defaultdict

from . import measures

#: For the load beside round trips, Mbit/s: every contender carries it.
LOAD = 300


class Effort:
    """How much is measured."""

    def __init__(self, quick):
        self.rounds = 1 if quick else 3
        self.seconds = 1 if quick else 2
        #: iperf3 with several streams, and the other direction.
        self.more_seconds = 1
        self.packet_seconds = 0.5 if quick else 0.6
        self.goes = 2 if quick else 3
        self.streams = (1,) if quick else (1, 4, 16)
        #: Frame bytes and flows, beside 64 B and one flow.
        self.packets = ((1400, 1),) if quick else ((64, 1000), (512, 1), (1400, 1))
        self.trips = 600 if quick else 1500
        #: Seconds after which no round begins that would not end in time.
        self.budget = 100 if quick else 720


class Samples:
    """Values by row and contender, a list in the order of rounds; and what went wrong."""

    def __init__(self):
        self.values = defaultdict(lambda: defaultdict(list))
        self.units = {}
        self.notes = {}

    def add(self, row, contender, value, unit):
        self.values[row][contender].append(value)
        self.units[row] = unit

    def note(self, name, text):
        self.notes.setdefault(name, text)


def add_rate(samples, row, name, result, scale, unit, work):
    samples.add(row, name, result["rate"] * scale, unit)
    add_cpu(samples, row, name, result, work)


def add_cpu(samples, row, name, result, work):
    unit = "CPU s/Gbit" if work == "gbit" else "CPU s/M packets"
    samples.add(f"{row}.cpu-per-{work}", name, result["cpu"], unit)
    samples.add(f"{row}.process-cpu-per-{work}", name, result["process-cpu"], unit)


def add_times(samples, row, name, result):
    samples.add(row, name, result["average"], "us")
    for key in ("p50", "p99", "p99.9"):
        samples.add(f"{row}.{key.replace('.', '')}", name, result[key], "us")


class Plan:
    def __init__(self, contenders, effort, kind):
        self.contenders, self.effort, self.kind = contenders, effort, kind
        self.samples = Samples()
        self.began = time.monotonic()

    # What is measured.

    def tcp(self, way, streams, reverse=False):
        row = f"wire.{way}.tcp-{streams}" + ("-reverse" if reverse else "")
        seconds = self.effort.seconds if streams == 1 and not reverse else self.effort.more_seconds

        def sample(contender):
            result = measures.tcp(contender, way, streams, reverse, seconds)
            add_rate(self.samples, row, contender.name, result, 1, "Gbit/s", "gbit")

        return row, way, "tcp", sample

    def packets(self, way, size, flows):
        row = f"wire.{way}.pps-{size}" + (f"-flows-{flows}" if flows > 1 else "")
        effort = self.effort
        goes = effort.goes if size == 64 else 2

        def sample(contender):
            best = None
            for port_kind in getattr(contender, "kinds", (None,)):
                if port_kind:
                    contender.use(port_kind)
                result = measures.packet_rate(contender, way, self.kind, size, flows, effort.packet_seconds, goes)
                if port_kind:
                    self.samples.add(f"{row}-{port_kind}", contender.name, result["rate"] / 1e3, "kpps")
                if best is None or result["rate"] > best["rate"]:
                    best = result
            add_rate(self.samples, row, contender.name, best, 1e-3, "kpps", "mpkt")
            self.samples.add(f"{row}.offered", contender.name, best["offered"] / 1e3, "kpps")
            if hasattr(contender, "kinds"):
                contender.use("messages")

        return row, way, "packets", sample

    def ping(self, way):
        row = f"wire.{way}.ping-adaptive"

        def sample(contender):
            add_times(self.samples, row, contender.name, measures.ping(contender, way, self.effort.trips))

        return row, way, "trips", sample

    def trips(self, way):
        row = f"wire.{way}.request"

        def sample(contender):
            add_times(self.samples, row, contender.name, measures.round_trips(contender, way, self.effort.trips))

        return row, way, "trips", sample

    def loaded(self, way):
        row = f"wire.{way}.request-loaded"

        def sample(contender):
            result = measures.loaded_round_trips(contender, way, self.effort.trips, LOAD)
            add_times(self.samples, row, contender.name, result)
            add_cpu(self.samples, f"wire.{way}.tcp-{LOAD}m", contender.name, result, "gbit")

        return row, way, "trips", sample

    def encapsulation(self):
        row = "wire.encap-64"

        def sample(contender):
            result = measures.encapsulation(contender, self.kind, 64, self.effort.packet_seconds, self.effort.goes)
            add_rate(self.samples, row, contender.name, result, 1e-3, "kpps", "mpkt")
            self.samples.add(f"{row}.offered", contender.name, result["offered"] / 1e3, "kpps")

        return row, "vxlan", "packets", sample

    def round(self):
        tasks = []
        for streams in self.effort.streams:
            for way in ("vxlan", "mplsoudp", "local"):
                if way == "mplsoudp" and streams != 1:
                    continue
                tasks.append(self.tcp(way, streams))
                # On one node the other direction is the same with the pods' names exchanged: once is enough.
                if way != "local" or streams == 1:
                    tasks.append(self.tcp(way, streams, reverse=True))
        tasks += [self.packets("vxlan", 64, 1), self.packets("local", 64, 1)]
        tasks += [self.packets("vxlan", size, flows) for size, flows in self.effort.packets]
        tasks += [self.ping("vxlan"), self.ping("local"), self.trips("vxlan"), self.loaded("vxlan")]
        return tasks

    # How.

    def take(self, task, contender):
        row, way, what, sample = task
        if way not in contender.ways or what in contender.leaves_out:
            return
        contender.resume()
        try:
            sample(contender)
        except (AssertionError, OSError, ValueError, KeyError) as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            self.samples.note(f"{row}.{contender.name}", "failed: " + text[-1][:300])
        finally:
            contender.pause()

    def say(self, text):
        print(f"{time.monotonic() - self.began:5.0f} s  {text}", file=sys.stderr, flush=True)

    def run(self):
        for one in self.contenders:
            if one.lacks_mplsoudp:
                self.samples.note(f"wire.mplsoudp.tcp-1.{one.name}", one.lacks_mplsoudp)
        for number in range(self.effort.rounds):
            elapsed = time.monotonic() - self.began
            if number and elapsed / number * (number + 1) > self.effort.budget:
                self.samples.note("rounds", f"{number} of {self.effort.rounds}: the machine is slow today")
                break
            for task in self.round():
                self.say(f"round {number + 1} of {self.effort.rounds}: {task[0]}")
                for contender in self.contenders:
                    self.take(task, contender)
        self.poll()
        self.sinks()
        return self.samples

    def poll(self):
        """Weft's first node with workers that spin: pod to pod on it, beside the kernel's bridge."""
        for weft in (one for one in self.contenders if one.name == "weft"):
            self.say("wire.local.ping-poll")
            weft.resume()
            weft.restart("--idle", "poll")
            task = ("wire.local.ping-poll", "local", "trips", lambda contender: add_times(
                self.samples, "wire.local.ping-poll", contender.name,
                measures.ping(contender, "local", self.effort.trips)))
            for _ in range(self.effort.rounds):
                for contender in self.contenders:
                    if contender.name in ("weft", "kernel"):
                        self.take(task, contender)
            weft.resume()
            weft.restart()
            weft.pause()

    def sinks(self):
        """Last, since nobody answers on the second node from then on."""
        taking = [one for one in self.contenders if "vxlan" in one.ways]
        task = self.encapsulation()
        self.say(task[0])
        for contender in taking:
            contender.resume()
            one, other = contender.pairs["vxlan"]
            assert one.reaches(other.address(4), count=2), f"{contender.label}: no ping before {task[0]}"
            contender.sink()
            contender.pause()
        for _ in range(self.effort.rounds):
            for contender in taking:
                self.take(task, contender)
