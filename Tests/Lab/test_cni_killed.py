"""ADD is killed before each system call that it makes, and between its requests: DEL leaves nothing. 15 s."""
import collections
import concurrent.futures
import re

import pytest

# What changes nothing outside the process: the run before the next call is the same run.
INNER = {"brk", "mmap", "munmap", "mprotect", "madvise", "rseq", "set_robust_list", "set_tid_address", "arch_prctl",
         "rt_sigaction", "rt_sigprocmask", "gettid", "getpid", "getrandom", "prlimit64", "futex", "poll", "lseek",
         "fstatfs", "newfstatat", "readlink", "sched_getaffinity", "getsockopt", "exit", "exit_group", "execve"}
STRACE = ["strace", "-f", "-qq", "-o"]


def calls_of(node, tmp_path, configuration):
    """The system calls of an ADD, and how often it makes each of them."""
    container, trace = node.container("traced"), tmp_path / "trace"
    outcome = node.run("ADD", container, configuration, before=[*STRACE, str(trace)])
    assert outcome.status == 0, outcome
    node.delete(container, configuration)
    # Each process and thread counts its own.
    counts = collections.Counter(re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.MULTILINE))
    return {call: max(count for (_, other), count in counts.items() if other == call) for _, call in counts}


@pytest.mark.parametrize("kind", ["veth", "host-local", "tap"])
def test_killed_at_every_step(request, tmp_path, kind):
    node = request.getfixturevalue("tap_node" if kind == "tap" else "node")
    ipam = {} if kind != "host-local" else {
        "type": "host-local", "dataDir": str(tmp_path / "networks"),
        "ranges": [[{"subnet": "10.8.0.0/16", "rangeStart": "10.8.1.10", "rangeEnd": "10.8.1.250"}]]}
    configuration = node.configuration("1.0.0", settings={"network": "wide"}, ipam=ipam)
    calls = calls_of(node, tmp_path, configuration)
    steps = [(call, number) for call, count in sorted(calls.items()) if call not in INNER for number in range(1, count + 1)]
    assert len(steps) > 60 and {"sendto", "openat", "rename", "connect", "write", "clone3"} <= {call for call, _ in steps}
    ends = collections.Counter()

    def killed(step):
        call, number = step
        container = node.container(f"k{call}{number}")
        return node.run("ADD", container, configuration, before=[
            *STRACE, "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for outcome in pool.map(killed, steps):
            ends[outcome.status == 0] += 1
        for container in list(node.containers):
            node.delete(container, configuration)
            assert container.link() is None
    assert ends[False] > 60
    node.expect_nothing()
