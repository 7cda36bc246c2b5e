"""Nodes and pods for contenders that bring no agent of their own, and what is known of a pod's way to another."""
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tests" / "Lab"))
from lab import Lab, Place, Pod, end, run, wait_for  # noqa: E402

__all__ = ["Lab", "Place", "Pod", "ROOT", "TRAFFIC", "BareLab", "Cores", "end", "next_hop", "run", "wait_for"]

TRAFFIC = ROOT / "Benchmarks" / ".build" / "release" / "weft-traffic"


class Cores:
    """Who runs where. Forwarders are pinned, as on a node that sets cores aside; pods run where the scheduler likes."""

    def __init__(self):
        allowed = sorted(os.sched_getaffinity(0))
        # As tools/lab does it.
        self.n1, self.n2 = allowed[0], allowed[1 % len(allowed)]
        # Beside the first forwarder, which has most to do; alone where there are cores enough.
        self.generator = allowed[2] if len(allowed) > 3 else self.n2
        self.receiver = allowed[3] if len(allowed) > 3 else None

    def of(self, node):
        return self.n1 if node == "n1" else self.n2


class BareLab(Lab):
    """Two nodes with a fabric between them, and pods on veths that somebody is to connect.

    The addresses are those that tools/lab gives to the network blue.
    """

    mtu = 1500

    def __init__(self):
        super().__init__("--bare")

    def pod(self, node, name, network="blue", arguments=None):
        pod = Pod(self, node, name, network)
        number = len(self.pods) + 2
        host = self.host_end(name)
        run("ip", "netns", "add", pod.namespace)
        self.pods[name] = pod
        pod.exec("ip", "link", "set", "lo", "up")
        # Nobody waits for duplicate address detection, and no router is asked for.
        for key in ("accept_dad=0", "router_solicitations=0"):
            pod.exec("sysctl", "-qw", f"net.ipv6.conf.default.{key}")
        run("ip", "link", "add", "eth0", "netns", pod.namespace, "mtu", self.mtu, "type", "veth",
            "peer", "name", host, "netns", self.node(node).namespace, "mtu", self.mtu)
        self.node(node).exec("sysctl", "-qw", f"net.ipv6.conf.{host}.disable_ipv6=1")
        self.node(node).exec("ip", "link", "set", host, "up")
        pod.exec("ip", "link", "set", "eth0", "up")
        pod.exec("ip", "address", "add", f"10.1.{node[1]}.{number}/16", "dev", "eth0")
        pod.exec("ip", "address", "add", f"fd00:1::{node[1]}:{number}/64", "dev", "eth0", "nodad")
        return pod

    @staticmethod
    def host_end(name):
        return f"v-{name}"


def next_hop(pod, address):
    """The MAC address to which a pod sends what goes to an address; it must have been reached before."""
    route = json.loads(pod.exec("ip", "-j", "route", "get", address).stdout)[0]
    neighbours = json.loads(pod.exec("ip", "-j", "neighbour", "show", route.get("gateway", address)).stdout)
    mac = next((one["lladdr"] for one in neighbours if "lladdr" in one), None)
    if mac is None:
        raise AssertionError(f"{pod.name} does not know the MAC address of {route.get('gateway', address)}")
    return mac
