"""One sample of each kind. A sample is taken of a contender that runs, while the others stand still."""
import contextlib
import json
import os
import re
import statistics
import time

from .places import TRAFFIC, end, next_hop, wait_for

TICK = os.sysconf("SC_CLK_TCK")
PORT = 9


class CPU:
    """CPU seconds from `start` to `stop`: of the whole machine (with what the kernel does in interrupts for whoever
    happens to run), and of a contender's own processes."""

    def __init__(self, contender):
        self.contender = contender
        self.machine, self.process = -self.of_machine(), -self.of_processes()

    def stop(self):
        self.machine += self.of_machine()
        self.process += self.of_processes()

    @staticmethod
    def of_machine():
        with open("/proc/stat") as file:
            user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in file.readline().split()[1:8])
        return (user + nice + system + irq + softirq) / TICK

    def of_processes(self):
        """To the nanosecond: each process has a clock of the time that it ran (clock_getcpuclockid)."""
        total = 0
        for pid in self.contender.processes():
            with contextlib.suppress(OSError):
                total += time.clock_gettime(~pid << 3 | 2)
        return total


@contextlib.contextmanager
def iperf_server(pod, port=5201):
    server = pod.start("iperf3", "--server", "--one-off", "--port", port)
    try:
        wait_for(lambda: pod.exec("ss", "-Hltn", f"sport = {port}").stdout.strip(), 10, f"iperf3 in {pod.name}")
        yield
    finally:
        end(server)
        pod.lab.processes.remove(server)


def iperf(client, server, seconds, *more):
    """What arrived, by iperf3's own account: (bytes, seconds)."""
    output = client.exec(
        "iperf3", "--client", server.address(4), "--time", seconds, "--connect-timeout", 5000, "--json", *more,
        check=False, timeout=seconds + 30).stdout
    report = json.loads(output or "{}")
    if "error" in report or "end" not in report:
        raise AssertionError(f"iperf3 from {client.name}: {report.get('error', 'no result')}")
    received = report["end"]["sum_received"]
    if received["bytes"] == 0:
        raise AssertionError(f"iperf3 from {client.name}: nothing arrived")
    return received["bytes"], received["seconds"]


def tcp(contender, way, streams, reverse, seconds):
    """Gbit/s, and CPU seconds per Gbit."""
    one, other = contender.pairs[way]
    client, server = (other, one) if reverse else (one, other)
    with iperf_server(server):
        cpu = CPU(contender)
        count, duration = iperf(client, server, seconds, "--parallel", streams)
        cpu.stop()
    gbit = count * 8 / 1e9
    return {"rate": gbit / duration, "cpu": cpu.machine / gbit, "process-cpu": cpu.process / gbit}


@contextlib.contextmanager
def receiving(place, interface, port, sink, core=None):
    """A receiver; its counts are in the list that this gives, at the end."""
    counts = []
    command = [TRAFFIC, "receive", "--interface", interface, "--port", port]
    command += ["--sink"] if sink else []
    command += ["--core", core] if core is not None else []
    process = place.start(*command, stdin=-1)
    try:
        line = process.stdout.readline()
        if '"listening"' not in line:
            raise AssertionError(f"the receiver in {place.name}: {line}{process.stderr.read()}")
        yield counts
        # What is still in queues.
        time.sleep(0.1)
        process.stdin.close()
        counts.append(json.loads(process.stdout.readline()))
    finally:
        end(process)
        place.lab.processes.remove(process)


def start_sending(client, server, kind, size, flows, rate, seconds, core):
    """The generator from a pod to another, begun."""
    source, destination = client.address(4), server.address(4)
    return client.start(
        TRAFFIC, "send", "--interface", "eth0", "--source-mac", client.mac, "--destination-mac",
        next_hop(client, destination), "--source", source, "--destination", destination, "--port", PORT,
        "--bytes", size, "--flows", flows, "--rate", int(rate), "--seconds", seconds, "--kind", kind, "--core", core)


def finish_sending(process, client):
    output, errors = process.communicate(timeout=60)
    client.lab.processes.remove(process)
    if process.returncode != 0:
        raise AssertionError(f"the generator in {client.name}: {errors.strip()}")
    return json.loads(output)


def flood(contender, receiver, kind, size, flows, rate, seconds):
    """One go of the generator: packets sent and received a second, and CPU."""
    place, interface, port, client, server = receiver
    cores = contender.cores
    with receiving(place, interface, port, sink=place is server, core=cores.receiver) as counts:
        cpu = CPU(contender)
        sent = finish_sending(start_sending(client, server, kind, size, flows, rate, seconds, cores.generator), client)
        cpu.stop()
    got = counts[0]
    if got["packets"] < 2:
        raise AssertionError(f"{size} B, {flows} flows: nothing arrived of {sent['packets']} packets")
    millions = got["packets"] / 1e6
    # From the first to the last that arrived, with what drained from queues; a burst that got through alone is no rate.
    return {
        "rate": got["packets"] / max(got["seconds"], seconds * 0.5), "offered": sent["packets"] / sent["seconds"],
        "cpu": cpu.machine / millions, "process-cpu": cpu.process / millions}


def best_flood(contender, receiver, kind, size, flows, seconds, goes):
    """The most that arrives. A flood takes the forwarders' cores on a small machine, so after one come rates that are
    nearer to what can be had, which is what counts."""
    best = flood(contender, receiver, kind, size, flows, 0, seconds)
    for _ in range(goes - 1):
        if best["offered"] < best["rate"] * 1.05:
            break
        one = flood(contender, receiver, kind, size, flows, best["rate"] * 1.2, seconds)
        if one["rate"] <= best["rate"]:
            break
        best = one
    return best


def packet_rate(contender, way, kind, size, flows, seconds, goes):
    """Packets a second from pod to pod, UDP, counted where they arrive."""
    client, server = contender.pairs[way]
    # So that addresses are known, also after a pause.
    wait_for(lambda: client.reaches(server.address(4), count=1, wait=1), 10, f"{contender.label}: ping before packets")
    receiver = (server, "eth0", PORT, client, server)
    return best_flood(contender, receiver, kind, size, flows, seconds, goes)


def encapsulation(contender, kind, size, seconds, goes):
    """Packets a second from a pod into VXLAN, counted at the other end of the fabric, which drops them."""
    client, server = contender.pairs["vxlan"]
    receiver = (contender.lab.n2, "fab0", 4789, client, server)
    return best_flood(contender, receiver, kind, size, 1, seconds, goes)


def generator_limit(lab, kind, size, seconds, core):
    """Packets a second into a veth behind which nobody listens."""
    one, other = lab.pods["blue1"], lab.pods["blue1b"]
    process = one.start(
        TRAFFIC, "send", "--interface", "eth0", "--source-mac", one.mac, "--destination-mac", other.mac,
        "--source", one.address(4), "--destination", other.address(4), "--port", PORT, "--bytes", size,
        "--seconds", seconds, "--kind", kind, "--core", core)
    sent = finish_sending(process, one)
    return sent["packets"] / sent["seconds"]


def distribution(times):
    ordered = sorted(times)

    def at(share):
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    return {"average": statistics.fmean(ordered), "p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999)}


def ping(contender, way, count):
    """Echo requests, 1,000 a second: microseconds. The far end answers within its kernel."""
    one, other = contender.pairs[way]
    output = one.exec(
        "ping", "-n", "-i", 0.001, "-c", count, "-W", 1, other.address(4), check=False, timeout=120).stdout
    times = [float(time) * 1000 for time in re.findall(r"time=([0-9.]+) ms", output)]
    if len(times) < count * 0.9:
        raise AssertionError(f"ping from {one.name}: {len(times)} of {count} answered")
    # The first ones find neighbours and flows.
    return distribution(times[5:])


def round_trips(contender, way, count):
    """UDP requests and answers between programs, 1,000 a second: microseconds."""
    one, other = contender.pairs[way]
    responder = other.start(TRAFFIC, "respond", "--port", 7)
    try:
        wait_for(lambda: other.exec("ss", "-Hlun", "sport = 7").stdout.strip(), 10, "the responder")
        output = one.exec(
            TRAFFIC, "request", other.address(4), "--port", 7, "--count", count, timeout=count * 0.25 + 30)
    finally:
        end(responder)
        other.lab.processes.remove(responder)
    result = json.loads(output.stdout)
    if result["answered"] < count * 0.9:
        raise AssertionError(f"requests from {one.name}: {result['answered']} of {count} answered")
    return {key: result[key] for key in ("average", "p50", "p99", "p99.9")}


def loaded_round_trips(contender, way, count, mbit):
    """The same beside one TCP stream of a rate that every contender carries; and the CPU seconds per Gbit of that."""
    one, other = contender.pairs[way]
    seconds = int(count / 1000) + 1
    with iperf_server(other, 5202):
        cpu = CPU(contender)
        load = one.start(
            "iperf3", "--client", other.address(4), "--port", 5202, "--time", seconds, "--bitrate", f"{mbit}M",
            "--json")
        time.sleep(0.3)
        result = round_trips(contender, way, count)
        output, _ = load.communicate(timeout=60)
        one.lab.processes.remove(load)
        cpu.stop()
    received = json.loads(output).get("end", {}).get("sum_received", {}).get("bytes", 0) * 8 / 1e9
    if received == 0:
        raise AssertionError(f"iperf3 from {one.name} beside requests: nothing arrived")
    return {**result, "cpu": cpu.machine / received, "process-cpu": cpu.process / received}
