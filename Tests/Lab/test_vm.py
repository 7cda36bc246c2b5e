"""Virtual machines on ports that the agent was given by `POST /port`: QEMU with a Debian kernel, on a TAP interface."""
import hashlib
import json
import pathlib
import time
import uuid

import pytest
from guest import Guest, Wire
from lab import run, wait_for

FAMILIES = [4, 6]
families = pytest.mark.parametrize("family", FAMILIES)
GATEWAYS = ["10.1.0.1", "fd00:1::1"]
SIZE = 8 << 20


class Machine:
    """A guest, its port, and how to reach it."""

    def __init__(self, lab, node, name, addresses, **fields):
        self.lab, self.node, self.name = lab, node, name
        self.id = str(uuid.UUID(hashlib.md5(f"{lab.folder} {name}".encode()).hexdigest()))
        self.addresses = dict(zip(FAMILIES, addresses))
        self.mac = "02:" + ":".join(hashlib.md5(name.encode()).hexdigest()[i:i + 2] for i in range(0, 10, 2))
        self.device = f"tap-{name}"
        self.fields = {
            "id": self.id, "instance-id": self.id, "ip-address": addresses[0], "ip6-address": addresses[1],
            "vn-id": "blue", "display-name": name, "mac-address": self.mac, "vm-project-id": self.id, "tx-vlan-id": -1,
            "rx-vlan-id": -1, "type": 0, "system-name": self.device, "vhostuser-mode": 0, **fields}
        self.socket = fields.get("vhostuser-socket")
        self.guest = None

    def start_vhost(self, queues=1, serves=False):
        """The guest, with a network card by vhost-user; QEMU comes back to a forwarder that has gone."""
        end = "server=on,wait=off" if serves else "reconnect=1"
        self.guest = Guest(
            self.lab.node(self.node), self.name, self.mac, f"vhost-user,chardev=vhost0,queues={queues}", shared=True,
            queues=queues, chardev=f"socket,id=vhost0,path={self.socket},{end}")
        self.lab.processes.remove(self.guest.process)

    def is_up(self):
        row = self.vif()
        return row is not None and row["link"] == "up"

    def log(self):
        return (pathlib.Path(self.lab.folder) / self.node / "forwarder.log").read_text()

    def plug(self):
        return self.lab.tool("http", self.node, "POST", "/port", json.dumps(self.fields))

    def unplug(self):
        self.lab.tool("http", self.node, "DELETE", f"/port/{self.id}")

    def vif(self):
        return next((row for row in self.lab.weft(self.node, "vif") if row["device"] == self.device), None)

    def set_by_hand(self):
        """Addresses without DHCP."""
        self.guest.configure(
            [f"{self.addresses[4]}/16", f"{self.addresses[6]}/64"], GATEWAYS, mtu=self.vif()["mtu"])

    def end(self):
        if self.guest:
            self.guest.end()


@pytest.fixture(scope="module")
def neighbours(lab):
    return {"one node": lab.pod("n1", "near"), "two nodes": lab.pod("n2", "far")}


ways = pytest.mark.parametrize("way", ["one node", "two nodes"])


def check_ping(machine, pod, family):
    guest, own, other = machine.guest, machine.addresses[family], pod.address(family)
    assert guest.ping(other, count=3) > 0
    assert guest.ping(other) == 10
    assert pod.ping(own) == (10, 0)
    # The largest that fits, and one that takes fragments.
    size = machine.vif()["mtu"] - (28 if family == 4 else 48)
    assert guest.ping(other, count=3, size=size, more="-M do") == 3
    assert pod.ping(own, count=3, size=4000) == (3, 0)


def check_tcp(machine, pod, family):
    sent, taken = Wire.to_pod(machine.guest, pod, pod.address(family), SIZE)
    assert sent == taken
    sent, taken = Wire.to_guest(pod, machine.guest, machine.addresses[family], SIZE)
    assert sent == taken
    assert machine.guest.checksum_errors() == {} and pod.checksum_errors() == {}


@pytest.fixture(scope="module")
def tap(lab, neighbours):
    """A guest on a TAP interface of the node's, which the forwarder opens by AF_PACKET."""
    machine = Machine(lab, "n1", "tap", ["10.1.1.200", "fd00:1::1:200"])
    lab.n1.exec("ip", "tuntap", "add", machine.device, "mode", "tap", "vnet_hdr")
    lab.n1.exec("ip", "link", "set", machine.device, "up")
    machine.plug()
    machine.guest = Guest(
        lab.n1, "tap", machine.mac, f"tap,ifname={machine.device},script=no,downscript=no,vhost=off")
    lab.processes.remove(machine.guest.process)
    machine.set_by_hand()
    wait_for(lambda: machine.vif() and machine.vif()["link"] == "up", 10, "the port comes up")
    yield machine
    machine.end()
    machine.unplug()
    lab.n1.exec("ip", "link", "delete", machine.device)


@ways
@families
def test_tap_ping(tap, neighbours, way, family):
    check_ping(tap, neighbours[way], family)


@ways
@families
def test_tap_tcp(tap, neighbours, way, family):
    check_tcp(tap, neighbours[way], family)


def test_tap_offloads(tap):
    """Super-frames and unfinished checksums are what the TCP tests ran with."""
    features = tap.guest.exec("ethtool -k eth0")
    for feature in ("tx-checksum-ip-generic", "tcp-segmentation-offload", "rx-checksumming"):
        assert f"{feature}: on" in features, features


VHOST_ADDRESSES = {"plain": ["10.1.1.210", "fd00:1::1:210"], "queues": ["10.1.1.211", "fd00:1::1:211"]}


@pytest.fixture(scope="module", params=["plain", "queues"])
def vhost(request, lab, neighbours):
    """A guest behind a vhost-user socket: the forwarder's with one pair of queues, QEMU's own with two."""
    serves = request.param == "queues"
    machine = Machine(
        lab, "n1", f"vh{request.param}", VHOST_ADDRESSES[request.param],
        **{"vhostuser-socket": f"{lab.folder}/n1/{request.param}.vhost", "vhostuser-mode": int(serves)})
    machine.queues = 2 if serves else 1
    machine.plug()
    row = machine.vif()
    assert (row["port"], row["socket"], row["vhostuser-mode"], row["link"]) == (
        "vhost-user", machine.socket, "server" if serves else "client", "down")
    try:
        machine.start_vhost(machine.queues, serves)
    except AssertionError:
        print(machine.log())
        raise
    machine.set_by_hand()
    wait_for(machine.is_up, 10, "the port comes up")
    yield machine
    machine.end()
    wait_for(lambda: not machine.is_up(), 10, "the port goes down")
    machine.unplug()
    assert not pathlib.Path(machine.socket).exists() or serves


@ways
@families
def test_vhost_ping(vhost, neighbours, way, family):
    check_ping(vhost, neighbours[way], family)


@ways
@families
def test_vhost_tcp(vhost, neighbours, way, family):
    check_tcp(vhost, neighbours[way], family)


def test_vhost_features(vhost):
    """The guest has what a card should: checksums, segmentation, its queues."""
    features = vhost.guest.exec("ethtool -k eth0")
    for feature in ("tx-checksum-ip-generic", "tcp-segmentation-offload", "rx-checksumming"):
        assert f"{feature}: on" in features, features
    channels = vhost.guest.exec("ethtool -l eth0", check=False)[1]
    assert f"Combined:\t{vhost.queues}" in channels.replace("\t\t", "\t"), channels
    assert f"has {vhost.queues} pairs of queues" in vhost.log()


def test_vhost_queues_in_use(vhost, neighbours):
    """Each queue carries traffic both ways, and taking one away and giving it back loses nothing for good."""
    if vhost.queues == 1:
        pytest.skip("one queue")
    pod = neighbours["one node"]
    for combined in (2, 1, 2):
        vhost.guest.exec(f"ethtool -L eth0 combined {combined}")
        assert vhost.guest.ping(pod.address(4), count=20) >= 19
        before = queue_packets(vhost.guest)
        for port in range(16):
            pod.exec("/usr/bin/python3", "-c", DATAGRAMS, vhost.addresses[4], 5000 + port)
        wait_for(lambda: sum(queue_packets(vhost.guest)) - sum(before) >= 16 * 20, 5, "datagrams arrive")
        grown = [new - old for old, new in zip(before, queue_packets(vhost.guest))]
        assert all(grown[:combined]) and not any(grown[combined:]), grown


DATAGRAMS = """
import socket, sys
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(20):
    end.sendto(b"x" * 100, (sys.argv[1], int(sys.argv[2])))
"""


def queue_packets(guest):
    """Packets that each queue has received, by the driver's own counters."""
    lines = guest.exec("ethtool -S eth0").splitlines()
    return [int(line.split(":")[1]) for line in lines if line.strip().startswith("rx_queue_") and "_packets" in line
            and "xdp" not in line]


def test_vhost_guest_reboots(vhost, neighbours):
    vhost.guest.reboot()
    vhost.set_by_hand()
    wait_for(vhost.is_up, 10, "the port comes up")
    pod = neighbours["one node"]
    assert vhost.guest.ping(pod.address(4), count=3) > 0
    assert vhost.guest.ping(pod.address(6)) == 10


def test_vhost_forwarder_dies(vhost, lab, neighbours):
    """kill -9 while the guest sends: QEMU and the next forwarder find each other, and the guest notices a pause."""
    far = neighbours["two nodes"]
    vhost.guest.exec(f"ping -n -i 0.05 -c 400 -W 1 {far.address(4)} >/tmp/ping 2>&1 </dev/null &")
    time.sleep(0.5)
    lab.tool("stop", "n1", "forwarder", "KILL")
    lab.tool("start", "n1", "forwarder")
    wait_for(lambda: lab.is_synchronized("n1"), 20, "the agent replays")
    wait_for(vhost.is_up, 10, "the port comes up")
    assert vhost.guest.ping(far.address(4), count=3) > 0
    assert vhost.guest.ping(far.address(6)) == 10
    check_tcp(vhost, far, 4)
    vhost.guest.exec("kill $(pidof ping)", check=False)


def test_vhost_machine_dies(vhost, neighbours):
    """QEMU killed while it receives: the port is down, the forwarder well, and the next QEMU is served."""
    pod = neighbours["one node"]
    sender = pod.start("ping", "-f", "-c", "100000", vhost.addresses[4])
    time.sleep(0.5)
    arguments = vhost.guest.arguments
    vhost.guest.kill()
    wait_for(lambda: not vhost.is_up(), 10, "the port goes down")
    assert pod.ping(neighbours["two nodes"].address(4)) == (10, 0)
    vhost.guest.start()
    assert vhost.guest.arguments is arguments
    vhost.lab.processes.remove(vhost.guest.process)
    vhost.guest.wait_ready()
    vhost.set_by_hand()
    wait_for(vhost.is_up, 10, "the port comes up")
    sender.terminate()
    assert vhost.guest.ping(pod.address(4), count=3) > 0
    check_tcp(vhost, pod, 6)
