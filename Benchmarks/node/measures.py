"""What processes take, and how long packets stay away."""
import contextlib
import pathlib
import time

from wire import measures
from wire.places import wait_for

RATE = 10_000


def cpu_seconds(pid):
    """CPU time of all threads, also of those that have ended, to a tick (10 ms)."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / measures.TICK


def shares_of_core(pids, seconds):
    """What processes take in the same seconds, percent of a core each."""
    before, began = [cpu_seconds(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    return [(cpu_seconds(pid) - old) / lasted * 100 for pid, old in zip(pids, before)]


def memory(pid):
    """KiB: all that is resident, and what of it is the process's own (no files, no rings of the kernel's)."""
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]), int(fields["RssAnon"].split()[0])


@contextlib.contextmanager
def steady_stream(lab, client, server, seconds):
    """A packet each 100 us from pod to pod. The dictionary that this gives has, at the end, what arrived and the longest
    time without, ms."""
    wait_for(lambda: client.reaches(server.address(4), count=1, wait=1), 10, "ping before the stream")
    result = {}
    with measures.receiving(server, "eth0", measures.PORT, sink=True) as counts:
        process = measures.start_sending(client, server, "ring", 64, 1, RATE, seconds, lab.cores.generator)
        yield result
        sent = measures.finish_sending(process, client)
    result.update(
        gap=counts[0]["longest-gap"] * 1000, sent=sent["packets"], received=counts[0]["packets"],
        lasted=counts[0]["seconds"])


def outage(lab, client, server, number, seconds):
    """The longest time without packets while the forwarder is replaced, ms, and until the old one had ended, ms."""
    with steady_stream(lab, client, server, seconds) as result:
        time.sleep(0.5)
        ended = lab.replace_forwarder(number)
    lab.wait_until_synchronized()
    # It is back: the stream goes on to its end, and its last packet arrives.
    assert result["lasted"] > seconds - 0.5, f"the stream did not come back: {result}"
    return result["gap"], ended * 1000


def forwarding_rate(client, server, seconds, core, goes):
    """64 B packets a second from pod to pod across nodes: the best of some goes, in kpps."""
    class Both:
        cores = type("Cores", (), {"receiver": None, "generator": core})

        @staticmethod
        def processes():
            return []

    receiver = (server, "eth0", measures.PORT, client, server)
    wait_for(lambda: client.reaches(server.address(4), count=1, wait=1), 10, "ping before packets")
    return max(measures.best_flood(Both, receiver, "ring", 64, 1, seconds, 3)["rate"] for _ in range(goes)) / 1000

