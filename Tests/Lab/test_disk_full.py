"""The disk of the agent's database is full: what cannot be remembered is refused, and nothing that is there is lost. 5 s."""
import json
import os
import pathlib
import subprocess

from lab import run, wait_for
from test_api_listening import AGENT, configuration, curl, spaces  # noqa: F401


def test_nothing_is_lost(spaces, tmp_path):  # noqa: F811
    node, _ = spaces
    disk = tmp_path / "disk"
    disk.mkdir()
    configuration(tmp_path)
    text = (tmp_path / "agent.yaml").read_text().replace(f"database: {tmp_path}/", f"database: {disk}/")
    (tmp_path / "agent.yaml").write_text(text)
    # A mount of the agent's own, which goes with it; we reach it through /proc.
    log = open(tmp_path / "log", "w")

    def start():
        process = subprocess.Popen(
            ["ip", "netns", "exec", node, "bash", "-c",
             'mountpoint -q "$0" || mount -t tmpfs -o size=2m none "$0"; exec "$@"', str(disk), AGENT, "run", "--config",
             str(tmp_path / "agent.yaml")], stderr=log, stdout=subprocess.DEVNULL)
        wait_for(lambda: run("ip", "netns", "exec", node, "curl", "-s", "http://127.0.0.1:9091/healthz", check=False).returncode == 0,
                 10, "the agent")
        return process

    def add(name):
        body = json.dumps({"container-id": name, "interface": "eth0", "netns": "/n"})
        return curl(node, "http://127.0.0.1:9091/v1/attachments", "-d", body)

    process = start()
    try:
        inside = pathlib.Path(f"/proc/{process.pid}/root{disk}")
        assert inside.joinpath("agent.db").exists()
        kept = {}
        for number in range(3):
            status, body = add(f"before{number}")
            assert status == 201
            kept[f"before{number}"] = json.loads(body)["addresses"]
        filler = inside / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        # The write-ahead log may have room left for a few.
        refused = None
        for number in range(2000):
            status, body = add(f"full{number}")
            if status != 201:
                refused = json.loads(body)
                break
            kept[f"full{number}"] = json.loads(body)["addresses"]
        assert refused and status == 500 and refused["code"] == "database", refused
        assert "disk is full" in refused["reason"], refused
        used = json.loads(curl(node, "http://127.0.0.1:9091/v1/status")[1])["pools"]
        assert [one["used"] for one in used] == [len(kept)] * 2, "a refused one keeps no address"
        # Reading goes on.
        listed = json.loads(curl(node, "http://127.0.0.1:9091/v1/attachments")[1])
        assert {one["container-id"]: one["addresses"] for one in listed} == kept
        # With room it goes on by itself.
        os.unlink(filler)
        status, body = add("after")
        assert status == 201
        kept["after"] = json.loads(body)["addresses"]
        addresses = [one["address"] for several in kept.values() for one in several]
        assert len(set(addresses)) == len(addresses)
        listed = json.loads(curl(node, "http://127.0.0.1:9091/v1/attachments")[1])
        assert {one["container-id"]: one["addresses"] for one in listed} == kept
    finally:
        process.kill()
        process.wait()
        log.close()
