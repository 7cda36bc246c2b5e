"""What a node tells of itself: figures, health, logs, weft status, weft top and weft doctor."""
import contextlib
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import time
import urllib.parse

import pytest
from lab import ROOT, Transfer, end, run, wait_for

BIN = pathlib.Path(os.environ.get("WEFT_BIN", ROOT / ".build" / "release"))


def folder_of_records(lab, node):
    folder = pathlib.Path(lab.folder) / node / "var/lib/contrail/ports/vm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def weft(lab, node, *arguments, before=(), **options):
    """`weft` as an operator of the node runs it: its exit status, and what it prints as JSON."""
    more = ["--config-dir", folder_of_records(lab, node)] if arguments[0] in ("status", "doctor") else []
    outcome = lab.node(node).exec(
        *before, BIN / "weft", *arguments, "--socket", f"{lab.folder}/{node}/forwarder.sock", *more, "--json",
        check=False, **options)
    assert outcome.returncode in (0, 1, 2), outcome.stderr
    assert outcome.stdout, outcome.stderr
    return outcome.returncode, json.loads(outcome.stdout)


def status(lab, node="n1", **options):
    """Exit status, and the checks that are not ok, by name."""
    code, answer = weft(lab, node, "status", "--interval", "0.3", **options)
    assert answer["status"] == {0: "well", 1: "not well", 2: "cannot tell"}[code]
    return code, {check["name"]: check for check in answer["checks"] if check["state"] != "ok"}


def doctor(lab, *arguments, **options):
    """The findings that are not ok, by name."""
    code, findings = weft(lab, "n1", "doctor", *arguments, **options)
    states = {finding["state"] for finding in findings}
    assert code == (1 if "bad" in states else 2 if "unknown" in states else 0)
    wrong = [finding for finding in findings if finding["state"] != "ok"]
    assert all(finding["advice"] for finding in wrong)
    return {finding["name"]: finding for finding in wrong}


def http(lab, node, path, method="GET", body=None):
    """Status and body of the agent's answer, by curl."""
    more = ["-d", json.dumps(body)] if body is not None else []
    text = lab.node(node).exec(
        "curl", "-sS", "-X", method, "-w", "\n%{http_code}", *more, f"http://127.0.0.1:9091{path}").stdout
    answer, _, code = text.rpartition("\n")
    return int(code), answer


def figures(lab, node="n1"):
    """All samples: by name, then by labels as a frozen set of pairs."""
    code, text = http(lab, node, "/metrics")
    assert code == 200
    samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line).groups()
        pairs = frozenset(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', labels or ""))
        family = samples.setdefault(name, {})
        assert pairs not in family, f"twice: {line}"
        family[pairs] = float(value)
    return samples


def sample(samples, name, **labels):
    found = [value for pairs, value in samples[name].items() if frozenset(labels.items()) <= pairs]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]


# Figures


def test_figures(lab, pods):
    """They are what weft vif and weft drops say, and promtool has nothing to say against them."""
    one, two = pods["vxlan"]
    assert one.ping(two.address(4), count=20) == (20, 0)
    assert one.ping(two.address(6), count=20) == (20, 0)
    text = http(lab, "n1", "/metrics")[1]
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, timeout=30)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    samples = figures(lab)
    vifs = lab.weft("n1", "vif")
    assert len(samples["weft_port_packets_total"]) == 2 * len(vifs)
    for vif in vifs:
        for direction in ("rx", "tx"):
            # The host's and pods' own packets may have come between the two looks.
            told = sample(samples, "weft_port_packets_total", port=vif["device"], direction=direction)
            assert told <= vif[f"{direction}-packets"] <= told + 20
    port = next(name for name in {dict(pairs)["port"] for pairs in samples["weft_port_packets_total"]} if name != "fab0")
    assert sample(samples, "weft_port_packets_total", pod="blue1", direction="rx") >= 40
    assert sample(samples, "weft_port_bytes_total", pod="blue1", direction="tx") >= 40 * 84
    assert sample(samples, "weft_port_drops_total", port=port) >= 0
    drops = {row["reason"]: row["count"] for row in lab.weft("n1", "drops", "--all")}
    assert {dict(pairs)["reason"] for pairs in samples["weft_drops_total"]} == set(drops)
    assert all(sample(samples, "weft_drops_total", reason=reason) <= count for reason, count in drops.items())
    assert sample(samples, "weft_build_info", node="node1") == 1
    assert sample(samples, "weft_forwarder_up") == sample(samples, "weft_forwarder_synchronized") == 1
    assert sample(samples, "weft_attachments", state="active") == 3
    assert sample(samples, "weft_pool_addresses_used", network="blue", prefix="10.1.0.0/16") == 2
    assert sample(samples, "weft_peer_reached", peer="node2") == 1
    wait_for(lambda: sample(figures(lab), "weft_table_entries", table="interfaces") == 4, 5, "sizes of tables")
    assert sample(samples, "weft_table_limit", table="interfaces") == 4096
    assert sample(samples, "weft_flows") == sample(samples, "weft_table_entries", table="flows")
    assert sample(samples, "weft_ring_slots", ring="commands") == 1024
    assert sample(samples, "weft_worker_busy_seconds_total", worker="0") > 0
    assert sample(samples, "weft_worker_packets_total", worker="0") >= 80
    assert sample(samples, "weft_attachment_seconds_count", verb="add", outcome="ok") == 3
    assert sample(samples, "weft_replays_total", outcome="ok") >= 1
    activate = "/v1/attachments/{container-id}/{interface}/activate"
    assert sample(samples, "weft_http_requests_total", method="POST", path=activate, status="200") == 3
    # What nobody serves makes one series, whatever it is.
    for path in ("/a", "/b/c", "/v1/x"):
        assert http(lab, "n1", path)[0] == 404
    samples = figures(lab)
    assert sample(samples, "weft_http_requests_total", path="other", status="404") == 3
    pod = lab.pod("n1", "counted")
    lab.delete(pod)
    samples = figures(lab)
    assert sample(samples, "weft_attachment_seconds_count", verb="add", outcome="ok") == 4
    assert sample(samples, "weft_attachment_seconds_count", verb="del", outcome="ok") == 1
    assert sample(samples, "weft_attachment_seconds_bucket", verb="del", outcome="ok", le="+Inf") == 1


def test_prometheus(lab, pods, tmp_path):
    """Debian's Prometheus takes them, and has a rate of them."""
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs: [{job_name: weft, static_configs: [{targets: ['127.0.0.1:9091']}]}]\n")
    run("promtool", "check", "config", configuration)
    lab.n1.start(
        "prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path}/data",
        "--web.listen-address=127.0.0.1:9099", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(query):
        url = "http://127.0.0.1:9099/api/v1/query?query=" + urllib.parse.quote(query)
        text = lab.n1.exec("curl", "-s", url, check=False).stdout
        answer = json.loads(text)["data"]["result"] if text.startswith("{") else []
        return [float(one["value"][1]) for one in answer]

    wait_for(lambda: ask('up{job="weft"}') == [1], 30, "Prometheus has scraped the agent")
    one, two = pods["vxlan"]
    assert one.ping(two.address(4), count=50)[0] == 50
    query = 'weft_port_packets_total{pod="blue1",direction="rx"}'
    wait_for(lambda: ask(query) and ask(query)[0] >= 90, 10, "Prometheus knows of the pings")
    assert ask('histogram_quantile(0.99, sum by (le) (weft_attachment_seconds_bucket{verb="add"}))')[0] > 0


# Health


def checks(lab, path):
    code, body = http(lab, "n1", path)
    answer = json.loads(body)
    failing = {check["name"]: check["reason"] for check in answer["checks"] if not check["ok"]}
    assert (code, answer["status"]) == ((503, "failing") if failing else (200, "ok"))
    assert all(check["reason"] for check in answer["checks"])
    return failing


@contextlib.contextmanager
def without_forwarder(lab):
    lab.tool("stop", "n1", "forwarder")
    try:
        yield
    finally:
        lab.tool("start", "n1", "forwarder")
        wait_for(lambda: lab.is_synchronized("n1"), 20, "the agent of n1 and its new forwarder")


@contextlib.contextmanager
def changed(place, do, undo):
    """While this lasts, a command has changed something."""
    place.exec(*do)
    try:
        yield
    finally:
        place.exec(*undo)


def test_health(lab, pods):
    assert checks(lab, "/healthz") == {} and checks(lab, "/readyz") == {}
    with without_forwarder(lab):
        wait_for(lambda: set(checks(lab, "/readyz")) == {"forwarder", "workers", "synchronized"}, 5, "no forwarder")
        assert "is weft-vrouter running?" in checks(lab, "/readyz")["forwarder"]
        assert checks(lab, "/healthz") == {}
        samples = figures(lab)
        assert sample(samples, "weft_forwarder_up") == 0 and "weft_drops_total" not in samples
    wait_for(lambda: checks(lab, "/readyz") == {}, 10, "ready again")
    with changed(lab.n1, ["ip", "link", "set", "fab0", "down"], ["ip", "link", "set", "fab0", "up"]):
        assert "ip link set fab0 up" in checks(lab, "/readyz")["underlay"]
        assert status(lab)[1]["underlay"]["state"] == "bad"
    wait_for(lambda: checks(lab, "/readyz") == {}, 10, "ready again")
    # One that stands still is found by its heartbeat, though its socket is there.
    pid = int((pathlib.Path(lab.folder) / "n1/forwarder.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: "workers" in checks(lab, "/readyz"), 10, "a forwarder that stands still")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: checks(lab, "/readyz") == {}, 20, "ready again")


# Logs


def log(lab, program):
    return (pathlib.Path(lab.folder) / "n1" / f"{program}.log").read_text()


def test_log_levels(lab):
    code, body = http(lab, "n1", "/v1/log-level")
    answer = json.loads(body)
    assert code == 200 and answer["level"] == "info"
    assert {"weft-agent", "weft-agent.http", "weft-agent.forwarder", "weft-agent.underlay"} <= set(answer["labels"])
    assert "debug weft-agent.http:" not in log(lab, "agent")
    code, body = http(lab, "n1", "/v1/log-level", "PUT", {"level": "debug", "label": "weft-agent.http"})
    assert code == 200 and json.loads(body)["labels"]["weft-agent.http"] == "debug"
    assert json.loads(body)["labels"]["weft-agent"] == json.loads(body)["level"] == "info"
    http(lab, "n1", "/v1/status")
    assert "debug weft-agent.http: GET /v1/status: 200" in log(lab, "agent")
    code, body = http(lab, "n1", "/v1/log-level", "PUT", {})
    assert code == 200 and set(json.loads(body)["labels"].values()) == {"info"}
    for asked, expected, said in [
            ({"level": "loud"}, 400, "trace, debug, info"), ({"level": "info", "label": "x"}, 404, "weft-agent.http"),
            ({"level": 7}, 400, "level"), ([], 400, "object")]:
        code, body = http(lab, "n1", "/v1/log-level", "PUT", asked)
        assert code == expected and said in json.loads(body)["reason"]
    for program in ("agent", "forwarder"):
        pid = int((pathlib.Path(lab.folder) / "n1" / f"{program}.pid").read_text())
        for number, level in [(signal.SIGUSR1, "debug"), (signal.SIGUSR1, "trace"), (signal.SIGUSR2, "info")]:
            count = log(lab, program).count("log level changed")
            os.kill(pid, number)
            wait_for(lambda: log(lab, program).count("log level changed") > count, 5, f"{program} at {level}")
            assert log(lab, program).rstrip().splitlines()[-1].endswith(f"level={level}")


def test_logs_as_json(lab, tmp_path):
    """An object a line, from both programs."""
    core = str(min(os.sched_getaffinity(0)))
    started = [
        (["weft-vrouter", "run", "--socket", tmp_path / "f.sock", "--cores", core], "forwarding"),
        (["weft-agent", "run", "--config", tmp_path / "agent.yaml"], "listening"),
    ]
    (tmp_path / "agent.yaml").write_text(
        f"node: other\nfabric: {{interface: none0}}\nforwarder: {{socket: {tmp_path}/no.sock}}\n"
        f"database: {tmp_path}/agent.db\nlisten: 127.0.0.1:9191\n"
        "networks: [{name: a, subnets: [{prefix: 10.9.0.0/24}], vni: 9}]\n")
    for command, awaited in started:
        process = lab.n1.start(BIN / command[0], *command[1:], "--log-format", "json")
        lines = []
        while not lines or not lines[-1]["message"].startswith(awaited):
            line = process.stderr.readline()
            assert line, lines
            lines.append(json.loads(line))
        for line in lines:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["time"])
            assert line["level"] in ("info", "notice", "warning") and line["label"].startswith(command[0])
            assert isinstance(line["pid"], int) and set(line) <= {"time", "level", "label", "pid", "message", "metadata"}
        end(process)
    outcome = lab.n1.exec(BIN / "weft-agent", "run", "--config", "x", "--log-format", "xml", check=False)
    assert outcome.returncode == 64 and "json" in outcome.stderr


# weft status


def test_status_of_a_well_node(lab, pods):
    wait_for(lambda: status(lab)[0] == 0, 10, "well")
    text = lab.n1.exec(BIN / "weft", "status", "--socket", f"{lab.folder}/n1/forwarder.sock", "--config-dir",
                       folder_of_records(lab, "n1"), "--interval", "0.2").stdout
    assert text.startswith("node1 is well") and "3 active, 0 failed" in text and "1 of 1 reached" in text
    assert len(text.splitlines()) <= 14
    verbose = lab.n1.exec(BIN / "weft", "status", "-v", "--interval", "0", "--socket",
                          f"{lab.folder}/n1/forwarder.sock").stdout
    assert "HEARTBEAT" in verbose and "nexthops" in verbose


def test_status_says_what_is_wrong(lab, pods):
    # A deletion that the agent has not heard of.
    left = folder_of_records(lab, "n1") / "gone:eth0.deleted"
    left.touch()
    code, wrong = status(lab)
    assert code == 0 and wrong["left over"]["state"] == "warn" and "gone:eth0.deleted" in wrong["left over"]["text"]
    left.unlink()
    # A port whose interface is not there.
    port = {"id": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "instance-id": "7f9619ff-8b86-d011-b42d-00c04fc964ff",
            "mac-address": "02:00:00:00:77:01", "system-name": "tap-missing", "vn-id": "blue", "display-name": "vm7"}
    assert http(lab, "n1", "/port", "POST", port)[0] == 200
    code, wrong = status(lab)
    assert code == 1 and wrong["ports"]["state"] == "bad"
    assert "3 active, 0 failed, 1 waiting" in wrong["ports"]["text"] and "tap-missing" in wrong["ports"]["text"]
    assert http(lab, "n1", f"/port/{port['id']}", "DELETE")[0] == 200
    # A peer that does not answer.
    lab.n2.exec("ip", "link", "set", "fab0", "arp", "off", "address", "02:00:00:00:99:01")
    lab.n1.exec("ip", "neigh", "flush", "dev", "fab0")
    try:
        wait_for(lambda: status(lab)[1].get("peers", {}).get("state") == "bad", 30, "the peer is missed")
        code, wrong = status(lab)
        assert code == 1 and "node2 (192.0.2.2)" in wrong["peers"]["text"]
    finally:
        lab.n2.exec("ip", "link", "set", "fab0", "arp", "on")
    wait_for(lambda: "peers" not in status(lab)[1], 40, "the peer is reached again")
    lab.tool("stop", "n1", "agent")
    try:
        code, wrong = status(lab)
        assert code == 1 and set(wrong) == {"agent"} and "weft-agent" in wrong["agent"]["advice"]
    finally:
        lab.tool("start", "n1", "agent")
    with without_forwarder(lab):
        code, wrong = status(lab)
        assert code == 1 and {"forwarder", "in step"} <= set(wrong)
    # Who may not ask cannot tell.
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    run("chmod", "o+x", lab.folder, f"{lab.folder}/n1")
    wait_for(lambda: status(lab)[0] == 0, 10, "well")
    code, wrong = status(lab, before=nobody)
    assert code == 2 and wrong["forwarder"]["state"] == "unknown"


def test_status_says_which_drops_grow(lab, pods):
    """A tunnel packet of a network that the node does not have: named, with what to do."""
    script = (
        "from scapy.all import *\n"
        "p = Ether(dst=DST)/IP(src='192.0.2.2', dst='192.0.2.1')/UDP(sport=5000, dport=4789)"
        "/VXLAN(vni=777, flags=8)/Ether()/IP()/UDP()\n"
        "sendp(p, iface='fab0', inter=0.005, count=2000, verbose=0)\n")
    mac = lab.n1.exec("cat", "/sys/class/net/fab0/address").stdout.strip()
    sender = lab.n2.start("/usr/bin/python3", "-c", f"DST = '{mac}'\n{script}")
    wrong = wait_for(lambda: status(lab)[1].get("drops"), 20, "drops grow")
    assert "unknown_vni" in wrong["text"] and "a VNI that does not end here" in wrong["text"]
    assert wrong["state"] == "bad" and "vni" in wrong["advice"]
    end(sender)


def test_status_says_which_table_is_full(lab, pods, monkeypatch):
    monkeypatch.setenv("WEFT_LAB_FORWARDER", "--max-interfaces 4")
    with without_forwarder(lab):
        pass
    wrong = wait_for(lambda: status(lab)[1].get("tables"), 10, "a full table")
    assert wrong["state"] == "bad" and "interfaces 100 % of 4" in wrong["text"] and "--max-interfaces" in wrong["advice"]
    monkeypatch.delenv("WEFT_LAB_FORWARDER")
    with without_forwarder(lab):
        pass
    wait_for(lambda: status(lab)[0] == 0, 10, "well")


# weft top


def top(lab, *arguments):
    return weft(lab, "n1", "top", *arguments)[1]


def test_top_finds_what_moves(lab, pods):
    one, two = pods["vxlan"]
    transfer = Transfer(one, two, 4, 40 << 20, rate=8 << 20)
    transfer.read(lambda: transfer.progress > 1 << 20)
    look = top(lab, "--interval", "0.5")
    first = look["flows"][0]
    assert (first["source"], first["destination"]) == (one.address(4), two.address(4))
    assert first["destination-port"] == Transfer.port and first["bits-per-second"] > 1e6
    assert {port["port"] for port in look["ports"][:2]} == {"fab0", next(
        vif["device"] for vif in lab.weft("n1", "vif") if vif["mac"] == one.mac)}
    assert look["flow-entries-seen"] >= 2
    by_packets = [row["packets-per-second"] for row in top(lab, "flows", "--sort", "packets")["flows"]]
    assert by_packets == sorted(by_packets, reverse=True)
    assert "ports" not in top(lab, "flows", "--interval", "0.1") and "flows" not in top(lab, "ports", "--interval", "0.1")
    assert all(flow["vrf"] == first["vrf"] for flow in top(lab, "flows", "--vrf", "blue", "--interval", "0.1")["flows"])
    lab.end_processes()


def test_top_with_many_flows_reads_a_part(lab, pods):
    """Of some thousand flows a bounded part is read each time; the one that moves is found all the same."""
    one, two = pods["vxlan"]
    assert one.reaches(two.address(4), count=3)
    one.exec("/usr/bin/python3", "-c", (
        "import socket, time\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for port in range(20000, 28000):\n"
        f"    s.sendto(b'x', ('{two.address(4)}', port))\n"
        "    if port % 50 == 0: time.sleep(0.002)\n"))
    transfer = Transfer(one, two, 6, 400 << 20, rate=4 << 20)
    transfer.read(lambda: transfer.progress > 1 << 20)
    look = top(lab, "flows", "--sample", "1024", "--interval", "0.1", "--rows", "1")
    assert look["flow-entries"] > 6000 and look["flow-entries-seen"] <= 2048
    look = top(lab, "flows", "--sample", "1024", "--interval", "0.1", "--count", "40", "--rows", "1")
    assert look["flows"][0]["source"] == one.address(6) and look["flow-entries-seen"] <= 2048
    lab.end_processes()


def test_top_in_a_terminal(lab, pods):
    """It draws, obeys keys, and leaves the terminal as it was."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvp("ip", ["ip", "netns", "exec", lab.n1.namespace, str(BIN / "weft"), "top", "--interval", "0.2",
                         "--socket", f"{lab.folder}/n1/forwarder.sock"])
    seen = b""

    def read(until):
        nonlocal seen
        end = time.monotonic() + 10
        while until not in seen:
            assert time.monotonic() < end, seen[-2000:]
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 65536)

    try:
        read(b"flow entries seen")
        assert b"\x1b[?1049h" in seen and b"weft top, by bytes" in seen
        os.write(terminal, b"p")
        read(b"by packets")
        os.write(terminal, b"q")
        read(b"\x1b[?1049l")
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    finally:
        os.close(terminal)
    outcome = lab.n1.exec(BIN / "weft", "top", "--socket", f"{lab.folder}/n1/forwarder.sock", check=False)
    assert outcome.returncode == 1 and "--once" in outcome.stderr


# weft doctor


def test_doctor_of_a_well_node(lab, pods):
    wrong = doctor(lab)
    assert not [finding for finding in wrong.values() if finding["state"] in ("bad", "unknown")], wrong


def test_doctor_privileges(lab):
    """As somebody who may nothing, and without /dev/net/tun."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all")
    wrong = doctor(lab, "--no-ping", before=nobody)
    assert wrong["BPF"]["state"] == wrong["privileges"]["state"] == "bad"
    assert wrong["AF_XDP"]["state"] == wrong["ingress"]["state"] == "warn" and "root" in wrong["BPF"]["advice"]
    assert all(name in wrong["privileges"]["text"] for name in ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_IPC_LOCK"))
    # Pings take privileges too; without a forwarder that is seen there is nobody to ping.
    hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "-")
    assert "modprobe tun" in doctor(lab, before=hidden)["TAP"]["advice"]


def test_doctor_descriptors(lab):
    pid = (pathlib.Path(lab.folder) / "n1/forwarder.pid").read_text().strip()
    limits = next(line for line in pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line)
    soft, hard = limits.split()[3:5]
    count = len(os.listdir(f"/proc/{pid}/fd"))
    run("prlimit", "--pid", pid, f"--nofile={count + count // 5}:{hard}")
    try:
        assert doctor(lab)["descriptors"]["state"] == "bad"
    finally:
        run("prlimit", "--pid", pid, f"--nofile={soft}:{hard}")


def test_doctor_mtu(lab, pods):
    with changed(lab.n1, ["ip", "link", "set", "fab0", "mtu", "1400"], ["ip", "link", "set", "fab0", "mtu", "1550"]):
        wrong = wait_for(lambda: doctor(lab, "--no-ping").get("MTU"), 10, "pods that are too long")
        assert wrong["state"] == "warn" and "1350 pass" in wrong["text"]
    wait_for(lambda: "MTU" not in doctor(lab, "--no-ping"), 10, "as long as before")
    # The other end takes less: short packets come through, long ones do not.
    with changed(lab.n2, ["ip", "link", "set", "fab0", "mtu", "1400"], ["ip", "link", "set", "fab0", "mtu", "1550"]):
        wrong = doctor(lab)["path"]
        assert wrong["state"] == "bad" and "192.0.2.2" in wrong["text"] and "1550" in wrong["text"]
    with changed(lab.n1, ["ip", "route", "add", "192.0.2.2", "dev", "fab0", "mtu", "1300"],
                 ["ip", "route", "del", "192.0.2.2", "dev", "fab0"]):
        wrong = doctor(lab)["path"]
        assert wrong["state"] == "bad" and "1300" in wrong["text"]
    silent = ["sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1"]
    with changed(lab.n2, silent, [*silent[:2], "net.ipv4.icmp_echo_ignore_all=0"]):
        assert doctor(lab)["path"]["state"] == "warn"
    wait_for(lambda: not {"MTU", "path"} & set(doctor(lab)), 10, "all paths are well")


def test_doctor_listeners(lab):
    listener = lab.n1.start("/usr/bin/python3", "-c", (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\ns.bind(('::', 6635))\n"
        "print('bound', flush=True)\nsys.stdin.read()"), stdin=subprocess.PIPE)
    assert listener.stdout.readline() == "bound\n"
    wrong = doctor(lab)["listeners"]
    assert wrong["state"] == "bad" and "6635" in wrong["text"] and "ss -ulnp" in wrong["advice"]
    end(listener)
    add = ["ip", "link", "add", "vx9", "type", "vxlan", "id", "9", "dstport", "4789", "dev", "fab0"]
    with changed(lab.n1, add, ["ip", "link", "del", "vx9"]):
        lab.n1.exec("ip", "link", "set", "vx9", "up")
        wrong = doctor(lab)["listeners"]
        assert wrong["state"] == "bad" and "4789" in wrong["text"] and "dstport" in wrong["advice"]
    assert "listeners" not in doctor(lab)


@pytest.mark.parametrize("rule", ["udp dport { 53, 4789 } drop", "udp dport 6000-7000 reject", "meta l4proto gre drop"])
def test_doctor_firewall(lab, rule):
    lab.n1.exec("nft", f"add table inet strict; add chain inet strict in {{ type filter hook input priority 0; }}; "
                       f"add rule inet strict in {rule}")
    try:
        wrong = doctor(lab, "--no-ping")["firewall"]
        assert wrong["state"] == "warn" and "chain in of table inet strict" in wrong["text"]
    finally:
        lab.n1.exec("nft", "delete table inet strict")
    lab.n1.exec("nft", "add table inet strict; add chain inet strict in { type filter hook input priority 0; }; "
                       "add rule inet strict in udp dport 53 drop")
    try:
        assert "firewall" not in doctor(lab, "--no-ping")
    finally:
        lab.n1.exec("nft", "delete table inet strict")


def test_doctor_reverse_path(lab):
    before = lab.n1.exec("sysctl", "-n", "net.ipv4.conf.fab0.rp_filter").stdout.strip()
    strict = ["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.fab0.rp_filter=1"]
    with changed(lab.n1, strict, ["sysctl", "-qw", f"net.ipv4.conf.fab0.rp_filter={before}"]):
        assert doctor(lab, "--no-ping")["rp_filter"]["state"] == "warn"
    with changed(lab.n1, ["sysctl", "-qw", "net.ipv4.conf.fab0.rp_filter=2"],
                 ["sysctl", "-qw", f"net.ipv4.conf.fab0.rp_filter={before}"]):
        assert "rp_filter" not in doctor(lab, "--no-ping")


def test_doctor_cores(lab, tmp_path):
    """On a machine of two NUMA nodes, made of files, with the NIC far from the worker."""
    core = lab.weft("n1", "worker")[0]["core"]
    other = core + 1
    system = tmp_path / "sys/devices/system"
    for path, text in {
            "node/online": "0-1", "node/node0/cpulist": str(core), "node/node1/cpulist": str(other),
            "cpu/online": f"{core},{other}", "cpu/isolated": "",
            f"cpu/cpu{core}/topology/thread_siblings_list": str(core),
            f"cpu/cpu{other}/topology/thread_siblings_list": str(other)}.items():
        (system / path).parent.mkdir(parents=True, exist_ok=True)
        (system / path).write_text(text + "\n")
    device = tmp_path / "sys/class/net/fab0/device"
    device.mkdir(parents=True)
    (device / "numa_node").write_text("0\n")
    root = ("--no-ping", "--sys-root", tmp_path)
    assert not {"cores", "governor"} & set(doctor(lab, *root))
    (device / "numa_node").write_text("1\n")
    wrong = doctor(lab, *root)["cores"]
    assert wrong["state"] == "warn" and "NUMA node 1" in wrong["text"]
    (device / "numa_node").write_text("0\n")
    governor = system / f"cpu/cpu{core}/cpufreq/scaling_governor"
    governor.parent.mkdir()
    governor.write_text("powersave\n")
    assert "powersave" in doctor(lab, *root)["governor"]["text"]
    governor.write_text("performance\n")
    (system / "cpu/online").write_text(f"{core}\n")
    assert "every core" in doctor(lab, *root)["cores"]["text"]


def test_doctor_strays(lab):
    pod = lab.pod("n1", "doomed")
    host = next(vif["device"] for vif in lab.weft("n1", "vif") if vif["mac"] == pod.mac)
    with changed(lab.n1, ["ip", "link", "add", "weft0123456789a", "type", "veth", "peer", "name", "strayer"],
                 ["ip", "link", "del", "weft0123456789a"]):
        wrong = doctor(lab, "--no-ping")["strays"]
        assert wrong["state"] == "warn" and "weft0123456789a" in wrong["text"]
    file = folder_of_records(lab, "n1") / "never:eth0.json"
    file.write_text("{}")
    assert "never:eth0.json" in doctor(lab, "--no-ping")["records"]["text"]
    file.unlink()
    with changed(pod, ["ip", "link", "set", "eth0", "down"], ["ip", "link", "set", "eth0", "up"]):
        wrong = wait_for(lambda: doctor(lab, "--no-ping").get("ports"), 5, "a port without a link")
        assert wrong["state"] == "warn" and host in wrong["text"]
    lab.n1.exec("ip", "link", "del", host)
    wrong = doctor(lab, "--no-ping")["strays"]
    assert wrong["state"] == "bad" and f"doomed ({host})" in wrong["text"] and "curl -X DELETE" in wrong["advice"]
    lab.delete(pod)
    assert not {"strays", "records", "ports"} & set(doctor(lab, "--no-ping"))
