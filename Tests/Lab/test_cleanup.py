"""Labs leave nothing, however they end."""
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

from lab import LAB, run


def of(pid):
    """What is left of labs of an owner."""
    namespaces = [line.split()[0] for line in run("ip", "netns", "list").stdout.splitlines() if line.startswith(f"weft-{pid}-")]
    folders = [str(path) for path in pathlib.Path("/run").glob(f"weft-lab.{pid}.*")]
    processes = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"/run/weft-lab.{pid}.".encode() in path.read_bytes():
                processes.append(path.parent.name)
        except OSError:
            pass
    return namespaces + folders + processes


def start(tmp_path, body):
    """pytest on a test of its own, with our fixtures."""
    (tmp_path / "test_inner.py").write_text(textwrap.dedent(body))
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parent)))


def test_after_a_failing_test(tmp_path):
    process = start(tmp_path, """
        def test_it(lab):
            pod = lab.pod("n1", "left")
            pod.start("sleep", "1000")
            assert False, "as planned"
        """)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "as planned" in output and "1 failed" in output, output
    assert of(process.pid) == []


def test_after_a_kill(tmp_path):
    """Nobody cleans up after the owner; the next sweep does, and leaves other labs alone."""
    process = start(tmp_path, """
        import pathlib, time
        def test_it(lab):
            lab.pod("n1", "left")
            pathlib.Path("ready").touch()
            time.sleep(1000)
        """)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert process.poll() is None and time.monotonic() < end, process.stdout.read()
            time.sleep(0.1)
        assert of(process.pid)
        run(LAB, "sweep")
        assert of(process.pid), "its owner lives"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    run(LAB, "sweep")
    assert of(process.pid) == []


def test_a_lab_that_cannot_come_up():
    """A program that is not there, or ends at once: an error, and nothing left."""
    for programs, text in (("/nonexistent", "not there"), (None, "not ready")):
        environment = dict(os.environ, LAB_PATIENCE="2")
        if programs:
            environment["WEFT_BIN"] = programs
        else:
            environment["WEFT_LAB_CORES"] = "9999"
        outcome = run(LAB, "up", "--owner", os.getpid(), check=False, env=environment)
        assert outcome.returncode != 0 and text in outcome.stderr, outcome.stderr
        assert outcome.stdout == ""
    mine = [path for path in of(os.getpid()) if path.startswith("/run")]
    assert mine == []
