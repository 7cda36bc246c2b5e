"""Ways to the agent's API: who gets in by which, and what stands in the way of a start. About 15 s."""
import contextlib
import json
import os
import socket
import stat
import subprocess

import pytest
from lab import ROOT, run, wait_for

AGENT = os.path.join(os.environ.get("WEFT_BIN", str(ROOT / ".build" / "release")), "weft-agent")
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def spaces():
    """A node and another machine, each a namespace, with a cable between them."""
    node, other = f"weft-{os.getpid()}-api-n", f"weft-{os.getpid()}-api-o"
    try:
        for name in (node, other):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "fab0", "netns", node, "type", "veth", "peer", "name", "fab0", "netns", other)
        for name, number in ((node, 1), (other, 2)):
            run("ip", "-n", name, "address", "add", f"192.0.2.{number}/24", "dev", "fab0")
            run("ip", "-n", name, "address", "add", f"2001:db8::{number}/64", "dev", "fab0", "nodad")
            run("ip", "-n", name, "link", "set", "fab0", "up")
        yield node, other
    finally:
        for name in (node, other):
            run("ip", "netns", "delete", name, check=False)


def configuration(folder, listen="127.0.0.1:9091", api=""):
    (folder / "agent.yaml").write_text(f"""
node: node1
fabric: {{interface: fab0}}
forwarder: {{socket: {folder}/forwarder.sock}}
database: {folder}/agent.db
listen: "{listen}"
networks:
  - {{name: blue, vni: 5001, subnets: [{{prefix: 10.1.0.0/16}}, {{prefix: "fd00:1::/64"}}]}}
api: {{{api}}}
""")
    return folder / "agent.yaml"


@contextlib.contextmanager
def agent(spaces, folder, *more, listen="127.0.0.1:9091", api=""):
    path = folder / "agent.log"
    with open(path, "w") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", spaces[0], AGENT, "run", "--config", str(configuration(folder, listen, api)), *more],
            stderr=log, stdout=subprocess.DEVNULL)
    count = ("tcp: none" not in api) + ("socket" in api)
    try:
        wait_for(lambda: process.poll() is not None or path.read_text().count("listening at") >= count, 20, "the agent")
        assert process.poll() is None, path.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


def refused(spaces, folder, *more, **options):
    """What an agent says that does not start."""
    outcome = run(
        "ip", "netns", "exec", spaces[0], AGENT, "run", "--config", configuration(folder, **options), *more, check=False,
        timeout=20)
    assert outcome.returncode == 1, outcome.stderr
    return outcome.stderr


def curl(space, url, *more):
    """(status, body)"""
    outcome = run("ip", "netns", "exec", space, "curl", "-sS", "-m", 10, "-w", "\n%{http_code}", *more, url)
    body, status = outcome.stdout.rsplit("\n", 1)
    return int(status), body


def test_wider_than_loopback_takes_a_token(spaces, tmp_path):
    node, other = spaces
    assert "api.token-file" in refused(spaces, tmp_path, listen="0.0.0.0:9091")
    assert "api.token-file" in refused(spaces, tmp_path, listen="[::]:9091")
    assert "api.token-file" in refused(spaces, tmp_path, "--listen", "192.0.2.1:9091")
    token = tmp_path / "token"
    assert "cannot be opened" in refused(spaces, tmp_path, listen="[::]:9091", api=f"token-file: {token}")
    token.write_text(TOKEN + "\n")
    token.chmod(0o604)
    assert "everybody" in refused(spaces, tmp_path, listen="[::]:9091", api=f"token-file: {token}")
    token.chmod(0o600)
    with agent(spaces, tmp_path, listen="[::]:9091", api=f"token-file: {token}"):
        for url in ("http://192.0.2.1:9091", "http://[2001:db8::1]:9091"):
            status, body = curl(other, f"{url}/v1/status")
            assert status == 401 and json.loads(body)["code"] == "unauthorized"
            assert curl(other, f"{url}/v1/status", "-H", "Authorization: Bearer wrong")[0] == 401
            assert curl(other, f"{url}/v1/status", "-H", f"Authorization: Bearer {TOKEN}")[0] == 200
            assert curl(other, f"{url}/healthz")[0] == 200
            assert curl(other, f"{url}/v1/attachments", "-X", "POST", "-d", "{}")[0] == 401
        # This machine's own programs, such as the plugin, have none.
        for url in ("http://127.0.0.1:9091", "http://[::1]:9091"):
            assert curl(node, f"{url}/v1/status")[0] == 200
        # Another token, without a restart.
        token.write_text("another-token-of-this-node\n")
        assert curl(other, "http://192.0.2.1:9091/v1/status", "-H", f"Authorization: Bearer {TOKEN}")[0] == 401
        assert curl(other, "http://192.0.2.1:9091/v1/status", "-H", "Authorization: Bearer another-token-of-this-node")[0] == 200


def test_the_unix_socket(spaces, tmp_path):
    node, _ = spaces
    path = tmp_path / "run" / "agent.sock"
    api = f"socket: {{path: {path}, mode: \"0620\", group: \"65534\"}}, tcp: read"
    with agent(spaces, tmp_path, api=api) as first:
        found = path.stat()
        assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o620 and found.st_gid == 65534
        body = '{"container-id": "c", "interface": "eth0", "netns": "/n"}'
        assert curl(node, "http://agent/v1/attachments", "--unix-socket", path, "-d", body)[0] == 201
        status, answer = curl(node, "http://127.0.0.1:9091/v1/attachments", "-d", body)
        assert status == 403 and json.loads(answer)["code"] == "forbidden"
        assert len(json.loads(curl(node, "http://127.0.0.1:9091/v1/attachments")[1])) == 1
        # Somebody serves it: another agent keeps off, and the first one goes on.
        second = tmp_path / "second"
        second.mkdir()
        assert "another process serves it" in refused(spaces, second, listen="127.0.0.1:9092", api=f"socket: {path}")
        assert curl(node, "http://agent/healthz", "--unix-socket", path)[0] == 200
        first.kill()
        first.wait()
    # Nobody serves it any more.
    assert path.exists()
    with agent(spaces, tmp_path, api=f"socket: {path}, tcp: none") as third:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert curl(node, "http://agent/v1/attachments/c/eth0", "--unix-socket", path)[0] == 200
        assert run("ip", "netns", "exec", node, "curl", "-s", "http://127.0.0.1:9091/healthz", check=False).returncode == 7
        third.terminate()
        third.wait(10)
    assert not path.exists()
    path.write_text("mine")
    assert "no socket" in refused(spaces, tmp_path, api=f"socket: {path}")
    assert path.read_text() == "mine"


def test_many_connections_wait(spaces, tmp_path):
    """Beyond the limit they are not accepted, until others go; idle ones are closed."""
    node, _ = spaces
    path = tmp_path / "agent.sock"
    with agent(spaces, tmp_path, api=f"socket: {path}, connections: 4, idle-time: 2"):
        held = []
        for _ in range(4):
            one = socket.socket(socket.AF_UNIX)
            one.connect(str(path))
            held.append(one)
        late = socket.socket(socket.AF_UNIX)
        late.settimeout(20)
        late.connect(str(path))
        late.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        # The other way in is not affected.
        assert curl(node, "http://127.0.0.1:9091/healthz")[0] == 200
        # It is served once the idle ones are closed.
        assert b"200 OK" in late.recv(4096)
        for one in held:
            one.settimeout(10)
            assert one.recv(1) == b""
            one.close()
        late.close()
