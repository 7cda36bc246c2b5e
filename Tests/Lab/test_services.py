"""DNS and metadata at link-local addresses, in networks with the same addresses. 45 s."""
import hashlib
import hmac
import json
import pathlib
import random
import re
import time

import pytest
from lab import Lab, end, wait_for

FAMILIES = [4, 6]
families = pytest.mark.parametrize("family", FAMILIES)
DNS = {4: "169.254.169.253", 6: "fd00:ec2::253"}
METADATA = {4: "169.254.169.254", 6: "fd00:ec2::254"}
SECRET = "correct horse"
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def lab():
    secret = f"/run/weft-test-secret.{random.randrange(1 << 40)}"
    pathlib.Path(secret).write_text(SECRET + "\n")
    lab = Lab(
        "--blue", 'services: {dns: {servers: [127.0.0.9, 127.0.0.1]}, metadata: {}}',
        "--red", f"services: {{dns: {{servers: [127.0.0.1]}}, metadata: {{url: 'http://127.0.0.1:8775/', secret-file: {secret}}}}}")
    try:
        yield lab
    finally:
        left = lab.down()
        pathlib.Path(secret).unlink()
    assert left == "", f"left behind:\n{left}"


def serving(place, program, *arguments):
    process = place.start(HERE / program, *arguments)
    line = process.stdout.readline()
    assert "listening" in line, process.stderr.read()
    return process


@pytest.fixture
def resolver(lab):
    process = serving(lab.n1, "resolver.py", "127.0.0.1")
    yield process
    end(process)


@pytest.fixture(scope="module")
def pods(lab):
    """Blue and red have the same addresses; green has no services."""
    return {name: lab.pod("n1", name, name) for name in ("blue", "red", "green")}


def dig(pod, *words, check=True):
    """status, flags, answers, milliseconds"""
    before = time.monotonic()
    outcome = pod.exec("dig", "+noall", "+comments", "+answer", "+tries=1", *words, check=False, timeout=60)
    text = outcome.stdout
    status = re.search(r"status: (\w+)", text)
    assert status or not check, text + outcome.stderr
    answers = [line for line in text.splitlines() if line and not line.startswith(";")]
    flags = re.search(r"flags: ([\w ]*);", text)
    return status and status.group(1), flags and flags.group(1).split(), answers, time.monotonic() - before


@families
@pytest.mark.parametrize("network", ["blue", "red"])
def test_dns(lab, pods, resolver, network, family):
    pod = pods[network]
    assert pods["blue"].address(family) == pods["red"].address(family)
    for transport in ("+notcp", "+tcp"):
        status, flags, answers, _ = dig(pod, transport, f"@{DNS[family]}", "name.test", "A")
        assert status == "NOERROR" and answers[0].split()[-1] == "192.0.2.53", answers
        _, _, answers, _ = dig(pod, transport, f"@{DNS[family]}", "name.test", "AAAA")
        assert answers[0].split()[-1] == "2001:db8::53"
    # The interface's address is what the C library asks too.
    assert pod.ping(DNS[family], count=2) == (2, 0)


@families
def test_large_answers(pods, resolver, family):
    """Truncated without EDNS, whole by TCP and in one datagram where the asker has room."""
    pod = pods["blue"]
    status, flags, answers, _ = dig(pod, "+notcp", "+noedns", "+ignore", f"@{DNS[family]}", "big.test")
    assert "tc" in flags and answers == []
    for words in (["+noedns"], ["+tcp"], ["+bufsize=4096", "+notcp"]):
        status, flags, answers, _ = dig(pod, *words, f"@{DNS[family]}", "big.test")
        assert status == "NOERROR" and len(answers) == 200, (words, len(answers))


def test_forged_answers_are_passed_over(pods, resolver):
    status, _, answers, _ = dig(pods["red"], f"@{DNS[4]}", "forged.test")
    assert status == "NOERROR" and answers[0].startswith("forged.test.")


def test_no_resolver(pods):
    """Nobody listens: an answer at once."""
    for transport in ("+notcp", "+tcp"):
        status, _, _, seconds = dig(pods["blue"], transport, "+time=9", f"@{DNS[4]}", "name.test")
        assert status == "SERVFAIL" and seconds < 2


def test_mute_resolver(lab, pods, resolver):
    for transport in ("+notcp", "+tcp"):
        status, _, _, seconds = dig(pods["red"], transport, "+time=9", f"@{DNS[4]}", "mute.test")
        assert status == "SERVFAIL" and seconds < 5


def test_next_server(lab, pods, resolver):
    """Blue's first server is not there."""
    assert dig(pods["blue"], f"@{DNS[4]}", "name.test")[0] == "NOERROR"


@families
def test_off(pods, resolver, family):
    """Green has neither service, and nobody has DNS at the other's address."""
    pod = pods["green"]
    assert dig(pod, "+time=1", f"@{DNS[family]}", "name.test", check=False)[0] is None
    url = f"http://{f'[{METADATA[6]}]' if family == 6 else METADATA[4]}/"
    assert pod.exec("curl", "-sg", "-m", "1", url, check=False).returncode != 0
    assert dig(pods["blue"], "+time=1", f"@{METADATA[family]}", "name.test", check=False)[0] is None


def test_nothing_listens_on_the_host(lab):
    listening = lab.n1.exec("ss", "-Hlntu").stdout.splitlines()
    assert not [line for line in listening if re.search(r":(53|80)\s", line)], listening
    assert "wsv" not in lab.n1.exec("ip", "-o", "link").stdout


def test_not_for_others(lab, pods, resolver):
    """A source address of the network that is no member's on this node: no question is passed on."""
    pod = pods["blue"]
    pod.exec("/usr/bin/python3", "-c", RAW, "10.1.77.77", DNS[4])
    assert dig(pod, f"@{DNS[4]}", "after.test")[0] == "NOERROR"
    asked = []
    while not asked or asked[-1] != "udp after.test":
        asked.append(resolver.stdout.readline().strip())
    assert "udp evil.test" not in asked, asked


RAW = """
import sys
from scapy.all import DNS, DNSQR, IP, UDP, Ether, sendp
sendp(Ether(dst="00:00:5e:00:01:00") / IP(src=sys.argv[1], dst=sys.argv[2]) / UDP(sport=5000, dport=53)
      / DNS(qd=DNSQR(qname="evil.test")), iface="eth0", verbose=False)
"""

HOSTILE = """
import json, random, socket, struct, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
random.seed(int(sys.argv[2]))
good = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\\4name\\4test\\0\\0\\1\\0\\1"
udp = socket.socket(family, socket.SOCK_DGRAM)
udp.settimeout(0.2)
udp.connect((sys.argv[1], 53))
def ask(query):
    udp.send(query)
    try:
        return udp.recv(65535)
    except TimeoutError:
        return None
rows = {
    "short": (good[:11], None), "empty": (b"", None), "header": (good[:12], 1), "response": (good[:2] + b"\\x81\\x80" + good[4:], None),
    "two questions": (good[:5] + b"\\2" + good[6:], 1), "no question": (good[:5] + b"\\0" + good[6:], 1),
    "pointer": (good[:12] + b"\\xc0\\x0c\\0\\1\\0\\1", 1), "cut": (good[:-1], 1), "update": (good[:2] + b"\\x28\\0" + good[4:], 4),
    "long name": (good[:12] + b"\\x3f" * 1 + b"a" * 63 + (b"\\x3f" + b"a" * 63) * 4 + b"\\0\\0\\1\\0\\1", 1),
}
wrong = []
for name, (query, code) in rows.items():
    answer = ask(query)
    got = answer and answer[3] & 15
    if got != code or answer and answer[:2] != query[:2]:
        wrong.append((name, code, answer and answer.hex()))
udp.setblocking(False)
for _ in range(3000):
    bytes_ = bytearray(good)
    for _ in range(random.randrange(1, 6)):
        bytes_[random.randrange(len(bytes_))] = random.randrange(256)
    try:
        udp.send(bytes(bytes_[: random.randrange(len(bytes_) + 1)]))
        udp.recv(65535)
    except (BlockingIOError, ConnectionError):
        pass
for data in (b"\\0", b"\\0\\0", b"\\xff\\xff" + good, b"\\0\\5hello", struct.pack("!H", len(good)) + good[:9], random.randbytes(5000)):
    with socket.create_connection((sys.argv[1], 53), 5) as tcp:
        tcp.sendall(data)
        tcp.shutdown(socket.SHUT_WR)
print(json.dumps(wrong))
"""


@families
def test_hostile_questions(lab, pods, resolver, family):
    outcome = pods["blue"].exec("python3", "-c", HOSTILE, DNS[family], 5)
    assert json.loads(outcome.stdout) == []
    wait_for(lambda: dig(pods["blue"], f"@{DNS[family]}", "name.test", check=False)[0] == "NOERROR", 10, "it still answers")


FLOOD = """
import socket, struct, sys, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect((sys.argv[1], 53))
end = time.monotonic() + 2
n = 0
while time.monotonic() < end:
    n += 1
    name = b"mute%07d" % n
    udp.send(struct.pack("!HHHHHH", n & 65535, 0x100, 1, 0, 0, 0) + bytes([4]) + b"mute" + bytes([len(name)]) + name + b"\\0\\0\\1\\0\\1")
print(n)
"""


def test_flood_is_bounded(lab, pods, resolver):
    """64 questions of one client are open at a time, and others are answered meanwhile; no descriptors are left."""
    agent = pathlib.Path(f"{lab.folder}/n1/agent.pid").read_text().strip()
    descriptors = lambda: len(list(pathlib.Path(f"/proc/{agent}/fd").iterdir()))
    before = descriptors()
    other = lab.pod("n1", "other", "red")
    flood = pods["red"].start("python3", "-c", FLOOD, DNS[4])
    most = 0
    while flood.poll() is None:
        assert dig(other, "+time=5", f"@{DNS[4]}", "name.test")[0] == "NOERROR"
        most = max(most, descriptors())
    assert int(flood.stdout.read()) > 1000
    assert most - before < 64 + 32, (before, most)
    wait_for(lambda: descriptors() <= before + 4, 10, "descriptors are closed")
    lab.delete(other)


# MARK: metadata

def curl(pod, path, *words, family=4, check=True):
    url = f"http://{f'[{METADATA[6]}]' if family == 6 else METADATA[4]}{path}"
    outcome = pod.exec("curl", "-sgS", "--path-as-is", "-m", "20", "-w", "\n%{http_code}", *words, url, check=False)
    body, _, status = outcome.stdout.rpartition("\n")
    assert status != "000" or not check, outcome.stderr
    return int(status or 0), body


def attachment(lab, pod):
    return next(one for one in lab.attachments("n1") if one["network"] == pod.network and one["pod-name"] == pod.name)


@families
def test_builtin_metadata(lab, pods, family):
    pod = pods["blue"]
    own = attachment(lab, pod)
    get = lambda path: curl(pod, path, family=family)
    assert get("/latest/meta-data/local-ipv4") == (200, pod.address(4))
    assert get("/latest/meta-data/ipv6") == (200, pod.address(6))
    assert get("/latest/meta-data/mac") == (200, pod.mac)
    assert get("/2009-04-04/meta-data/local-hostname") == (200, "blue")
    assert get(f"/latest/meta-data/network/interfaces/macs/{pod.mac}/interface-id") == (200, own["id"])
    assert get("/latest/meta-data/network/interfaces/macs/") == (200, f"{pod.mac}/")
    assert "instance-id" in get("/latest/meta-data/")[1].split("\n")
    instance = get("/latest/meta-data/instance-id")[1]
    about = json.loads(get("/openstack/latest/meta_data.json")[1])
    assert about["uuid"] == instance and about["meta"]["network"] == "blue"
    network = json.loads(get("/openstack/latest/network_data.json")[1])
    assert network["links"][0]["ethernet_mac_address"] == pod.mac
    assert [one["ip_address"] for one in network["networks"]] == [pod.address(4), pod.address(6)]
    assert network["networks"][0]["netmask"] == "255.255.0.0"
    for path in ("/latest/user-data", "/nothing", "/openstack/latest/../../etc/passwd", "/latest/meta-data/mac/x"):
        assert get(path)[0] == 404, path
    assert curl(pod, "/latest/api/token", "-X", "PUT", family=family)[0] == 404


@families
def test_metadata_server_is_told_who_asks(lab, pods, family):
    """The same source address in blue and red; what a client claims about itself is not believed."""
    pod = pods["red"]
    process = serving(lab.n1, "metadata_server.py", "127.0.0.1", "8775")
    try:
        status, body = curl(
            pod, "/openstack/latest?x=1", "-H", "X-Instance-ID: forged", "-H", "X-Forwarded-For: 1.2.3.4", "-H", "X-Other: kept",
            "-H", "X-Instance-ID-Signature: 00", "-H", "X-Tenant-ID: admin", family=family)
        assert status == 200
        words = json.loads(body)
        headers = words["headers"]
        instance = headers["x-instance-id"]
        assert words["path"] == "/openstack/latest?x=1" and headers["x-other"] == ["kept"]
        assert headers["x-forwarded-for"] == [pod.address(family)] and "x-tenant-id" not in headers
        assert len(instance) == 1
        assert headers["x-instance-id-signature"] == [hmac.new(SECRET.encode(), instance[0].encode(), hashlib.sha256).hexdigest()]
        # Blue's pod of the same address is another instance.
        other = curl(pods["blue"], "/latest/meta-data/instance-id", family=family)[1]
        assert other != instance[0] and re.fullmatch(r"[0-9a-f-]{36}", other)
        assert curl(pod, "/missing", family=family)[0] == 404
        status, body = curl(pod, "/x", "-X", "POST", "--data-binary", "hello", family=family)
        assert (status, json.loads(body)["body"], json.loads(body)["method"]) == (200, "hello", "POST")
    finally:
        end(process)
    before = time.monotonic()
    assert curl(pod, "/x", family=family)[0] == 502 and time.monotonic() - before < 5


def test_hostile_requests(pods):
    pod = pods["blue"]
    big = curl(pod, "/x", "-X", "POST", "--data-binary", "@/bin/bash", "-H", "Expect:")
    assert big[0] == 413
    outcome = pod.exec("python3", "-c", HOSTILE_HTTP, METADATA[4], timeout=60)
    assert json.loads(outcome.stdout) == {"open": 16}
    wait_for(lambda: curl(pod, "/latest/meta-data/mac", check=False) == (200, pod.mac), 10, "it still answers")


HOSTILE_HTTP = """
import json, random, socket, sys
random.seed(3)
def send(data):
    with socket.create_connection((sys.argv[1], 80), 5) as tcp:
        try:
            tcp.sendall(data)
            tcp.settimeout(0.3)
            while tcp.recv(65536): pass
        except OSError:
            pass
for data in (b"\\0" * 100, b"GET / HTTP/9.9\\r\\n\\r\\n", b"GET " + b"/" * 100000, b"GET / HTTP/1.1\\r\\n" + b"A: b\\r\\n" * 20000,
             b"POST / HTTP/1.1\\r\\nContent-Length: -1\\r\\n\\r\\n", b"POST / HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nzz\\r\\n",
             b"GET http://evil/ HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n", random.randbytes(10000)):
    send(data)
# Slow ones: as many as a client may have.
import time
tcps = []
for _ in range(40):
    try:
        tcps.append(socket.create_connection((sys.argv[1], 80), 5))
    except OSError:
        pass
time.sleep(0.5)
open_ = 0
for tcp in tcps:
    tcp.setblocking(False)
    try:
        if tcp.recv(1): open_ += 1
    except BlockingIOError:
        open_ += 1
    except OSError:
        pass
print(json.dumps({"open": open_}))
"""


def test_restarts(lab, pods, resolver):
    """The agent's end takes its services along; both come back, after the forwarder's end too."""
    for what in ("agent", "forwarder"):
        lab.tool("stop", "n1", what, "KILL")
        lab.tool("start", "n1", what)
        wait_for(lambda: lab.is_synchronized("n1"), 20, "synchronized")
        for family in FAMILIES:
            for network in ("blue", "red"):
                wait_for(
                    lambda: dig(pods[network], "+time=1", f"@{DNS[family]}", "name.test", check=False)[0] == "NOERROR", 20, what)
        assert curl(pods["blue"], "/latest/meta-data/mac") == (200, pods["blue"].mac)
