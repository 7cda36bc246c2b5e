"""Two forwarders without agents (weft-vrouter run --tables), and between them a wire on which packets are lost and marked:
the kernel's bridge in a namespace of its own, with nftables."""
import json
import os
import pathlib

from lab import BINARIES, LAB, ROUTER_MAC, Place, end, run, wait_for


class Host(Place):
    """What a pod is to the traffic programs: a namespace with eth0, whose addresses are known."""

    def __init__(self, wire, name, addresses):
        super().__init__(wire, name, f"{wire.prefix}-p-{name}")
        self.addresses = addresses
        self.device = f"pod{name}"
        self.mac = f"02:00:00:00:00:{ord(name[0]):02x}"

    def address(self, family):
        return self.addresses[family]


class Wire:
    """Pod a (10.1.0.5, fd00:1::5) at n1, pod b (10.1.1.7, fd00:1::1:7) at n2."""

    def __init__(self, port, tables, flags=("bridging", "routing")):
        """`port`: the kind of the pods' ports. `tables`: what a node's tables have besides, called with its name. `flags`: of the
        pods' interfaces."""
        self.folder = run("mktemp", "-d", f"/run/weft-lab.{os.getpid()}.XXXXXX").stdout.strip()
        self.prefix = "weft-" + self.folder.removeprefix("/run/weft-lab.").replace(".", "-")
        self.processes, self.forwarders, self.port, self.flags = [], {}, port, list(flags)
        self.nodes = {name: Place(self, name, f"{self.prefix}-{name}") for name in ("n1", "n2")}
        self.bridge = Place(self, "wire", f"{self.prefix}-wire")
        self.a = Host(self, "a", {4: "10.1.0.5", 6: "fd00:1::5"})
        self.b = Host(self, "b", {4: "10.1.1.7", 6: "fd00:1::1:7"})
        try:
            self.build()
            for name in self.nodes:
                self.file(name).write_text(json.dumps(self.tables(name, tables(name))))
                self.start_forwarder(name)
        except BaseException:
            self.down()
            raise

    def build(self):
        for place in (*self.nodes.values(), self.bridge, self.a, self.b):
            run("ip", "netns", "add", place.namespace)
            run("ip", "-n", place.namespace, "link", "set", "lo", "up")
        run("ip", "-n", self.bridge.namespace, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.bridge.namespace, "link", "set", "br0", "up")
        for name, node in self.nodes.items():
            run("ip", "link", "add", "fab0", "netns", node.namespace, "mtu", "1600", "address", f"02:00:00:00:ff:0{name[1]}",
                "type", "veth", "peer", "name", name, "netns", self.bridge.namespace, "mtu", "1600")
            run("ip", "-n", self.bridge.namespace, "link", "set", name, "up", "master", "br0")
            run("ip", "-n", node.namespace, "address", "add", f"192.0.2.{name[1]}/24", "dev", "fab0")
            run("ip", "-n", node.namespace, "link", "set", "fab0", "up")
        for host, node in ((self.a, self.nodes["n1"]), (self.b, self.nodes["n2"])):
            if self.port == "tap":
                host.exec("ip", "tuntap", "add", "dev", "eth0", "mode", "tap", "vnet_hdr", "multi_queue")
                host.exec("ip", "link", "set", "eth0", "address", host.mac, "mtu", "1500")
            else:
                run("ip", "link", "add", "eth0", "netns", host.namespace, "address", host.mac, "type", "veth",
                    "peer", "name", host.device, "netns", node.namespace)
                run("ip", "-n", node.namespace, "link", "set", host.device, "up")
            host.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0", "net.ipv4.tcp_ecn=1")
            host.exec("ip", "address", "add", f"{host.addresses[4]}/32", "dev", "eth0")
            host.exec("ip", "address", "add", f"{host.addresses[6]}/128", "dev", "eth0")
            host.exec("ip", "link", "set", "eth0", "up")
            for gateway, family in (("169.254.1.1", "-4"), ("fe80::1", "-6")):
                host.exec("ip", family, "neighbour", "replace", gateway, "lladdr", ROUTER_MAC, "nud", "permanent", "dev", "eth0")
                host.exec("ip", family, "route", "add", "default", "via", gateway, "dev", "eth0", "onlink")

    def tables(self, name, more):
        own, peer = int(name[1]), 3 - int(name[1])
        host = self.a if own == 1 else self.b
        other = self.b if own == 1 else self.a
        port = {"packet": {"port": "packet", "device": host.device},
                "af_xdp": {"port": "af_xdp", "device": host.device},
                "tap": {"port": "tap", "device": host.device, "netns": f"/run/netns/{host.namespace}", "netns-device": "eth0"}}
        tables = {
            "vrfs": [{"id": 1, "name": "blue"}],
            "interfaces": [
                {"id": 0, "role": "fabric", "port": "packet", "device": "fab0", "mac": f"02:00:00:00:ff:0{own}", "mtu": 1600,
                 "addresses": [f"192.0.2.{own}"]},
                {"id": 1, "role": "virtual", "mac": host.mac, "vrf": 1, "tags": [1], "flags": self.flags, **port[self.port]},
            ],
            "nexthops": [
                {"id": 1, "action": "encap", "interface": 1, "destination-mac": host.mac},
                {"id": 2, "action": "vrf-translate", "vrf": 1},
                {"id": 3, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": f"192.0.2.{own}",
                 "destination": f"192.0.2.{peer}", "destination-mac": f"02:00:00:00:ff:0{peer}"},
            ],
            "vnis": [{"vni": 100, "nexthop": 2}],
            "routes": [
                *({"vrf": 1, "prefix": f"{host.addresses[family]}/{32 if family == 4 else 128}", "nexthop": 1} for family in (4, 6)),
                *({"vrf": 1, "prefix": f"{other.addresses[family]}/{32 if family == 4 else 128}", "nexthop": 3, "label": 100}
                  for family in (4, 6)),
            ],
        }
        for key, rows in more.items():
            tables[key] = tables.get(key, []) + rows
        return tables

    def file(self, name):
        return pathlib.Path(self.folder) / f"{name}.json"

    def start_forwarder(self, name):
        core = sorted(os.sched_getaffinity(0))[(int(name[1]) - 1) % len(os.sched_getaffinity(0))]
        socket = self.socket(name)
        log = open(f"{self.folder}/{name}.log", "a")
        self.forwarders[name] = self.nodes[name].start(
            BINARIES / "weft-vrouter", "run", "--socket", socket, "--cores", core, "--tables", self.file(name), stdout=log, stderr=log)

        def serves():
            assert self.forwarders[name].poll() is None, pathlib.Path(log.name).read_text()
            return run(BINARIES / "weft", "worker", "--socket", socket, check=False).returncode == 0
        wait_for(serves, 30, f"forwarder of {name}")

    def socket(self, name):
        return f"{self.folder}/{name}.sock"

    def weft(self, name, *arguments):
        return json.loads(run(BINARIES / "weft", *arguments, "--socket", self.socket(name), "--json").stdout)

    def rules(self, *rules):
        """What the wire does to packets of tunnels from now on, as nftables' rules of a bridge."""
        text = ["table bridge wire", "delete table bridge wire", "table bridge wire {", "chain forward {",
                "type filter hook forward priority 0", *(f"udp dport 4789 {rule}" for rule in rules), "}", "}"]
        self.bridge.exec("nft", "\n".join(text))

    def end_processes(self):
        for process in self.processes:
            if process not in self.forwarders.values():
                end(process)
        self.processes = [process for process in self.processes if process.poll() is None]

    def down(self):
        for process in self.processes:
            end(process)
        run(LAB, "down", self.folder)
        return run(LAB, "leftovers", self.folder).stdout.strip()
