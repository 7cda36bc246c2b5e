"""Runs plugins and takes their times, in the network that it is itself started in: nothing but the plugin is measured.

Reads a line with a JSON array of jobs, {"program", "environment", "stdin"}, and how many run at once; answers a line with
an array of {"ms", "status", "stdout"} in the same order. Until its standard input ends.
"""
import concurrent.futures
import json
import os
import sys
import tempfile
import time


def run(job):
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(job["stdin"].encode())
        stdin.seek(0)
        actions = [(os.POSIX_SPAWN_DUP2, stdin.fileno(), 0), (os.POSIX_SPAWN_DUP2, stdout.fileno(), 1)]
        began = time.monotonic()
        pid = os.posix_spawn(job["program"], [job["program"]], job["environment"], file_actions=actions)
        _, status = os.waitpid(pid, 0)
        took = time.monotonic() - began
        stdout.seek(0)
        return {"ms": took * 1000, "status": os.waitstatus_to_exitcode(status), "stdout": stdout.read().decode()}


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        with concurrent.futures.ThreadPoolExecutor(request["at-once"]) as pool:
            print(json.dumps(list(pool.map(run, request["jobs"]))), flush=True)
