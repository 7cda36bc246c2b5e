"""The path of super-frames under what happens on a real underlay: packets that are lost and sent again, congestion marks,
and flows that are translated and judged on their way. The receivers' kernels check every checksum, the programs a hash."""
import json
import subprocess
import threading

import pytest
from lab import BINARIES, TRAFFIC, Transfer, run, wait_for
from wire import Wire

FAMILIES = [4, 6]
# An odd number, so that the last segments are odd too.
SIZE = (24 << 20) + 4321
# What a's flows look like at b, and what a calls b by.
OUTSIDE = {4: "10.9.0.1", 6: "fd00:9::1"}
SERVICE = {4: "10.96.0.10", 6: "fd00:96::a"}
SERVICE_PORT = 80
ALLOWED = 7080
DENIED = 7081


def translated(wire_node):
    """n1 gives a's flows another source and has a service that leads to b; both nodes judge what begins."""
    blue = {"vrf": 1}
    if wire_node == "n2":
        return {
            "routes": [{**blue, "prefix": f"{OUTSIDE[4]}/32", "nexthop": 3, "label": 100},
                       {**blue, "prefix": f"{OUTSIDE[6]}/128", "nexthop": 3, "label": 100}],
            "rules": [
                {"id": 1, "priority": 10, "direction": "ingress", "action": "allow", "tag": 1, "protocol": 6,
                 "destination-ports": [ALLOWED]},
                {"id": 2, "priority": 10, "direction": "ingress", "action": "allow", "tag": 1, "protocol": 17,
                 "destination-ports": [ALLOWED]},
                {"id": 3, "priority": 100, "direction": "ingress", "action": "deny", "tag": 1},
            ],
        }
    pools, sources, services = [], [], []
    for family, backend in ((4, "10.1.1.7"), (6, "fd00:1::1:7")):
        pools.append({"id": family, "name": f"outside-{family}", **blue, "first": OUTSIDE[family], "last": OUTSIDE[family]})
        sources.append({"id": family, "priority": 1, **blue, "source": "10.1.0.0/24" if family == 4 else "fd00:1::/112",
                        "pool": family})
        services += [
            {**blue, "address": SERVICE[family], "protocol": protocol, "port": SERVICE_PORT, "name": f"b-{protocol}-{family}",
             "backends": [{"address": backend, "port": ALLOWED, "vrf": 1}]} for protocol in ("tcp", "udp")]
    return {"nat-pools": pools, "source-nat": sources, "services": services,
            "rules": [{"id": 1, "priority": 10, "direction": "egress", "action": "allow", "tag": 1}]}


@pytest.fixture(scope="module", params=["packet", "tap"])
def wire(request):
    wire = Wire(request.param, lambda _: {})
    yield wire
    assert wire.down() == ""


@pytest.fixture(scope="module", params=["packet", "tap"])
def judged(request):
    wire = Wire(request.param, translated, ["bridging", "routing", "policy"])
    yield wire
    assert wire.down() == ""


@pytest.fixture(autouse=True)
def ended(request):
    yield
    for name in ("wire", "judged"):
        if wire := request.node.funcargs.get(name):
            wire.end_processes()
            wire.rules()


def count(host, name):
    return host.counters().get(name, 0)


class Through(Transfer):
    """A transfer to another address and port than those at which the receiver listens."""

    def __init__(self, sender, receiver, family, size, address, port, listen):
        self.what = f"{sender.name} to {receiver.name} as {address}"
        self.size, self.progress, self.results = size, 0, []
        self.server = receiver.start(TRAFFIC, "tcp-serve", receiver.address(family), listen, 1)
        line = self.server.stdout.readline()
        assert '"listening"' in line, f"{receiver.name}: {line or self.server.stderr.read()}"
        self.clients = [sender.start(TRAFFIC, "tcp-send", address, port, size, 1)]


def is_clean(*hosts):
    return all(host.checksum_errors() == {} for host in hosts)


# Of what crosses the wire, super-frames among it, one of so many is lost: far more than any underlay that is of use.
LOSSES = {"few": "numgen inc mod 150 0 drop", "many": "numgen inc mod 30 0 drop"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("losses", LOSSES)
class TestLoss:
    def test_tcp(self, wire, losses, family):
        for sender, receiver in ((wire.a, wire.b), (wire.b, wire.a)):
            before = count(sender, "TcpRetransSegs")
            wire.rules(LOSSES[losses])
            Transfer(sender, receiver, family, SIZE).finish()
            assert count(sender, "TcpRetransSegs") > before
        assert is_clean(wire.a, wire.b)

    def test_translated(self, judged, losses, family):
        before = count(judged.a, "TcpRetransSegs")
        judged.rules(LOSSES[losses])
        Through(judged.a, judged.b, family, SIZE, SERVICE[family], SERVICE_PORT, ALLOWED).finish()
        assert count(judged.a, "TcpRetransSegs") > before
        assert is_clean(judged.a, judged.b)


@pytest.mark.parametrize("family", FAMILIES)
class TestCongestionMarks:
    """RFC 6040: what a router of the underlay marks arrives as a mark inside, and the sender hears of it."""

    MARK = ["ip ecn 2 numgen inc mod 20 0 ip ecn set ce"]

    def test_tcp(self, wire, family):
        self.transfer(wire, lambda: Transfer(wire.a, wire.b, family, SIZE))

    def test_translated(self, judged, family):
        self.transfer(
            judged, lambda: Through(judged.a, judged.b, family, SIZE, SERVICE[family], SERVICE_PORT, ALLOWED))

    def transfer(self, wire, transfer):
        def marks():
            counters = wire.b.counters()
            return counters.get("IpExtInCEPkts", 0) + counters.get("Ip6InCEPkts", 0)
        before = marks()
        wire.rules(*self.MARK)
        transfer().finish()
        assert marks() > before
        assert is_clean(wire.a, wire.b)


@pytest.mark.parametrize("family", FAMILIES)
class TestTranslated:
    def test_udp_of_every_size(self, judged, family):
        largest = 1500 - (28 if family == 4 else 48)
        with judged.b.serving("udp-echo", judged.b.address(family), ALLOWED):
            outcome = judged.a.exec(TRAFFIC, "udp-sizes", SERVICE[family], SERVICE_PORT, 1, largest)
        assert json.loads(outcome.stdout) == {"wrong": []}
        assert is_clean(judged.a, judged.b)

    def test_small_segments(self, judged, family):
        """No timestamps, and segments of an odd size."""
        try:
            judged.a.exec("sysctl", "-qw", "net.ipv4.tcp_timestamps=0", "net.ipv4.tcp_sack=0")
            route = ["ip", f"-{family}", "route", "replace", "default", "via", "169.254.1.1" if family == 4 else "fe80::1",
                     "dev", "eth0", "onlink"]
            judged.b.exec(*route, "advmss", 717)
            Through(judged.a, judged.b, family, SIZE, SERVICE[family], SERVICE_PORT, ALLOWED).finish()
        finally:
            judged.b.exec(*route)
            judged.a.exec("sysctl", "-qw", "net.ipv4.tcp_timestamps=1", "net.ipv4.tcp_sack=1")
        assert is_clean(judged.a, judged.b)

    def test_source_is_translated(self, judged, family):
        """And the flow is one: forward and reverse entry know each other's addresses."""
        transfer = Through(judged.a, judged.b, family, 1 << 20, SERVICE[family], SERVICE_PORT, ALLOWED)
        transfer.finish()
        flows = [flow for flow in judged.weft("n2", "flow") if flow["protocol"] == 6 and flow["source"] == OUTSIDE[family]]
        assert any(flow["destination-port"] == ALLOWED for flow in flows)

    def test_denied(self, judged, family):
        """Another port of the same pod."""
        before = drops_by_policy(judged)
        with judged.b.serving("udp-echo", judged.b.address(family), DENIED):
            outcome = judged.a.exec(TRAFFIC, "udp-sizes", judged.b.address(family), DENIED, 100, 100, check=False)
        assert json.loads(outcome.stdout)["wrong"] == ["100: timed out"]
        assert drops_by_policy(judged) > before


def drops_by_policy(wire):
    return sum(row["count"] for row in wire.weft("n2", "drops") if row["reason"].startswith("policy"))


def test_tables_are_as_stated(wire):
    routes = {(row["prefix"], row["nexthop"]) for row in wire.weft("n1", "route")}
    assert ("10.1.1.7/32", 3) in routes and ("fd00:1::1:7/128", 3) in routes


def test_bad_tables_are_refused(wire, tmp_path):
    """With the place in the file; nothing is left running."""
    for text, words in (('{"interfaces": [{"id": 0}]}', "$.interfaces[0]"), ("{", "not JSON"),
                        ('{"interfaces": [{"id": 0, "role": "virtual", "port": "pcap", "device": "x", "mac": '
                         '"02:00:00:00:00:01", "vrf": 1}], "vrfs": [{"id": 1, "name": "v"}]}', "$.interfaces[0]"),
                        ('{"interfaces": [{"id": 0, "role": "virtual", "port": "packet", "device": "none", "mac": '
                         '"02:00:00:00:00:01", "vrf": 1}], "vrfs": [{"id": 1, "name": "v"}]}', "none")):
        file = tmp_path / "tables.json"
        file.write_text(text)
        outcome = wire.nodes["n1"].exec(
            BINARIES / "weft-vrouter", "run", "--socket", tmp_path / "s", "--cores", "0", "--tables", file, check=False)
        assert outcome.returncode == 1 and words in outcome.stderr, outcome.stderr
    missing = run(BINARIES / "weft-vrouter", "run", "--tables", tmp_path / "no.json", check=False)
    assert missing.returncode == 1 and "no.json" in missing.stderr


@pytest.mark.parametrize("port", ["packet", "tap", "af_xdp"])
def test_restart_at_once(port):
    wire = Wire(port, lambda _: {})
    try:
        for _ in range(3):
            old = wire.forwarders["n1"]
            old.terminate()
            assert old.wait(10) == 0
            wire.start_forwarder("n1")
            assert wire.a.reaches(wire.b.address(4), count=20, interval=0.05)
    finally:
        assert wire.down() == ""


HOLD = """
import fcntl, struct, sys, time
queue = open("/dev/net/tun", "r+b", buffering=0)
# TUNSETIFF; IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE
fcntl.ioctl(queue, 0x400454CA, struct.pack("16sH22x", b"eth0", 0x0002 | 0x1000 | 0x4000 | 0x0100))
print("held", flush=True)
sys.stdin.read()
"""


def test_queues_that_are_still_open():
    """The kernel may still close those of the forwarder before when the next one opens them: it waits, for a while."""
    wire = Wire("tap", lambda _: {})
    try:
        wire.forwarders["n1"].terminate()
        assert wire.forwarders["n1"].wait(10) == 0
        holder = wire.a.start("/usr/bin/python3", "-c", HOLD, stdin=subprocess.PIPE)
        assert holder.stdout.readline() == "held\n"
        threading.Timer(0.7, holder.stdin.close).start()
        wire.start_forwarder("n1")
        assert wire.a.reaches(wire.b.address(4), count=20, interval=0.05)
        # One that stays open is told of, and is no other forwarder's.
        wire.forwarders["n1"].terminate()
        assert wire.forwarders["n1"].wait(10) == 0
        holder = wire.a.start("/usr/bin/python3", "-c", HOLD, stdin=subprocess.PIPE)
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AssertionError, match="1 of its queues are open already"):
            wire.start_forwarder("n1")
    finally:
        assert wire.down() == ""


def test_an_agent_replaces_them(judged, tmp_path):
    """Last of this file: what the file said is gone with the agent's first sweep."""
    config = tmp_path / "agent.yaml"
    config.write_text(f"""
node: n1
fabric: {{interface: fab0}}
forwarder: {{socket: {judged.socket("n1")}}}
database: {tmp_path}/agent.db
listen: 127.0.0.1:9091
networks: [{{name: other, vni: 7, encapsulation: vxlan, subnets: [{{prefix: 10.7.0.0/16}}]}}]
""")
    judged.nodes["n1"].start(BINARIES / "weft-agent", "run", "--config", config)
    wait_for(lambda: [row["name"] for row in judged.weft("n1", "vrf")] == ["other"], 30, "the agent's tables")
    assert [row["device"] for row in judged.weft("n1", "vif")] == ["fab0"]
    assert judged.weft("n1", "service") == []
