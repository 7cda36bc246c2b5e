"""What forwards between the pods: one class each, all with the same face."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from .places import TRAFFIC, BareLab, Lab, end, run, wait_for


class Missing(Exception):
    """A contender cannot be had on this machine: why."""


class Contender:
    """Two nodes and pods that something connects.

    All contenders live at the same time, so that samples can be taken in turn; those that are not measured stand still
    (`pause`), since some spin.
    """

    name = label = None
    #: Which ways between pods there are: "vxlan", "mplsoudp" (node to node), "local" (on one node).
    ways = ("vxlan", "local")
    #: Why it has no MPLS-over-UDP, where it has none.
    lacks_mplsoudp = None
    #: Kinds of measurement that would say nothing: a program that only copies frames has no checksum offload.
    leaves_out = ()

    def __init__(self, cores):
        self.cores = cores
        self.lab = None
        self.pairs = {}
        self.daemons = []

    # What a contender says of itself.

    def check(self):
        """Raises Missing when something is not installed."""

    def connect(self):
        """Makes nodes and pods and connects them."""
        raise NotImplementedError

    def sink(self):
        """The second node takes part no longer: only the first one's packets to it are counted."""

    # The same for all.

    def up(self):
        self.connect()
        for way, (one, other) in self.pairs.items():
            for family in (4, 6):
                address = other.address(family)
                wait_for(
                    lambda: one.reaches(address, count=1, wait=1), 15,
                    f"{self.label}: {way}, IPv{family}: ping {address}")
        self.pause()

    def processes(self):
        """PIDs of what forwards."""
        return [process.pid for process in self.daemons if process.poll() is None]

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def signal(self, number):
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def down(self):
        """What is left, which should be nothing."""
        if not self.lab:
            return ""
        self.resume()
        for process in self.daemons:
            end(process)
        return self.lab.down()

    def daemon(self, place, log, *command, **options):
        """Starts a program that forwards, in a session of its own: Ctrl-C is for us, who end it in order."""
        with open(log, "ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", place.namespace, *(str(part) for part in command)],
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options)
        self.daemons.append(process)
        return process

    def make_pods(self, lab):
        self.lab = lab
        blue1, blue1b, blue2 = lab.pod("n1", "blue1"), lab.pod("n1", "blue1b"), lab.pod("n2", "blue2")
        self.pairs = {"vxlan": (blue1, blue2), "local": (blue1, blue1b)}

    #: The peer's MAC address while it is a sink: no interface's, so that its kernel drops each packet at first sight.
    nobody = "02:00:00:00:0e:0e"

    def lose_peer(self):
        self.lab.n1.exec(
            "ip", "neighbour", "replace", "192.0.2.2", "lladdr", self.nobody, "nud", "permanent", "dev", "fab0")


class Weft(Contender):
    """Forwarder and agent on each node, pods by the CNI plugin, as tools/demo does it."""

    name, label = "weft", "Weft"
    ways = ("vxlan", "mplsoudp", "local")

    def pause(self):
        # Its cores are to sleep again as they like: no other contender is to have that of it.
        time.sleep(0.25)
        super().pause()

    def __init__(self, cores, port_kind, pod_port_kind):
        super().__init__(cores)
        self.environment = dict(os.environ)
        # The default is the agent's own.
        for variable, kind in (("WEFT_LAB_FABRIC", port_kind), ("WEFT_LAB_PODS", pod_port_kind)):
            if kind:
                self.environment[variable] = f"port: {kind}"

    def connect(self):
        # Lab and its tool take the environment of this process.
        os.environ.update(self.environment)
        self.make_pods(Lab())
        self.pairs["mplsoudp"] = (self.lab.pod("n1", "green1", "green"), self.lab.pod("n2", "green2", "green"))

    def processes(self):
        return [pid for what in ("forwarder", "agent") for pid in self.pids(what)]

    def pids(self, what):
        files = pathlib.Path(self.lab.folder).glob(f"n?/{what}.pid") if self.lab else []
        pids = [int(file.read_text()) for file in files]
        return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]

    def restart(self, *options):
        """Starts the first node's forwarder anew; the agent tells it all again."""
        self.lab.tool("stop", "n1", "forwarder")
        self.lab.tool("start", "n1", "forwarder", env={**self.environment, "WEFT_LAB_FORWARDER": " ".join(options)})
        wait_for(lambda: self.lab.is_synchronized("n1"), 15, "the agent tells a new forwarder what it knows")

    def sink(self):
        for what in ("agent", "forwarder"):
            self.lab.tool("stop", "n2", what)
        self.lose_peer()


class Kernel(Contender):
    """veth, bridge and VXLAN device, as a kernel-only CNI has it."""

    name, label = "kernel", "kernel"
    lacks_mplsoudp = "not measured: a bridge does not lead into the kernel's MPLS-over-UDP (bareudp), which only routes"

    def connect(self):
        self.make_pods(BareLab())
        for node in (self.lab.n1, self.lab.n2):
            number = int(node.name[1])
            node.exec("ip", "link", "add", "br0", "type", "bridge")
            node.exec("ip", "link", "add", "vx0", "mtu", BareLab.mtu, "type", "vxlan", "id", 5001,
                      "local", f"192.0.2.{number}", "remote", f"192.0.2.{3 - number}", "dstport", 4789)
            ports = [BareLab.host_end(pod.name) for pod in self.lab.pods.values() if pod.node == node.name]
            for port in ["vx0", *ports]:
                node.exec("ip", "link", "set", port, "master", "br0", "up")
            node.exec("sysctl", "-qw", "net.ipv6.conf.br0.disable_ipv6=1")
            node.exec("ip", "link", "set", "br0", "up")

    def sink(self):
        blue2 = self.pairs["vxlan"][1]
        self.lab.n1.exec("bridge", "fdb", "replace", blue2.mac, "dev", "vx0", "master", "static")
        self.lab.n2.exec("ip", "link", "set", "vx0", "down")
        self.lose_peer()


class OpenVSwitch(Contender):
    """Open vSwitch's userspace datapath with system ports: a database and a switch on each node."""

    name, label = "ovs", "OVS"
    lacks_mplsoudp = "not measured: Open vSwitch has MPLS-over-UDP (bareudp) only in the kernel's datapath"
    binary = "/usr/lib/openvswitch-switch/ovs-vswitchd"
    port_type = "system"
    settings = ()
    #: Of the pods.
    mtu = BareLab.mtu
    #: Threads that poll, beside the main one, which handles system ports.
    polls = False

    def check(self):
        for program in (self.binary, "ovsdb-server", "ovs-vsctl", "ethtool"):
            if not shutil.which(program):
                raise Missing(f"{program} is not installed")

    def connect(self):
        self.make_pods(BareLab())
        # Its userspace datapath wants finished checksums and no super-frames.
        for pod in self.lab.pods.values():
            pod.exec("ethtool", "-K", "eth0", "tx", "off")
            pod.exec("ip", "link", "set", "eth0", "mtu", self.mtu)
        for node in (self.lab.n1, self.lab.n2):
            self.start(node)
            self.bridges(node)

    def folder(self, node):
        return pathlib.Path(self.lab.folder) / node.name / "ovs"

    def start(self, node):
        folder = self.folder(node)
        folder.mkdir()
        environment = {**os.environ, "OVS_RUNDIR": str(folder), "OVS_LOGDIR": str(folder), "OVS_DBDIR": str(folder)}
        run("ovsdb-tool", "create", folder / "conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
        pinned = ("taskset", "-c", self.cores.of(node.name))
        self.daemon(node, folder / "ovsdb.log", *pinned, "ovsdb-server", folder / "conf.db",
                    f"--remote=punix:{folder}/db.sock", f"--unixctl={folder}/ovsdb.ctl", env=environment)
        wait_for((folder / "db.sock").exists, 10, "ovsdb-server")
        self.vsctl(node, "--no-wait", "init")
        settings = list(self.settings)
        if self.polls:
            settings.append(f"other_config:pmd-cpu-mask={1 << self.cores.of(node.name):#x}")
        if settings:
            self.vsctl(node, "--no-wait", "set", "Open_vSwitch", ".", *settings)
        # Threads that poll pin themselves, by the mask.
        self.daemon(node, folder / "vswitchd.log", *pinned, self.binary, f"unix:{folder}/db.sock",
                    f"--unixctl={folder}/vswitchd.ctl", env=environment)
        wait_for((folder / "vswitchd.ctl").exists, 20, f"ovs-vswitchd ({folder}/vswitchd.log)")

    def vsctl(self, node, *arguments):
        outcome = run("ovs-vsctl", "--timeout=20", f"--db=unix:{self.folder(node)}/db.sock", *arguments, check=False)
        if outcome.returncode != 0:
            command = " ".join(str(argument) for argument in arguments)
            raise AssertionError(f"ovs-vsctl {command}: {outcome.stderr.strip()}{self.complaints(node)}")
        return outcome

    def complaints(self, node):
        """The last ones in the switch's log: ovs-vsctl itself seldom says why."""
        log = self.folder(node) / "vswitchd.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        bad = [line for line in lines if re.search(r"\|(WARN|ERR|EMER)\|", line)]
        return "".join("\n" + line for line in bad[-4:])

    def appctl(self, node, *arguments):
        return run("ovs-appctl", "--timeout=10", f"--target={self.folder(node)}/vswitchd.ctl", *arguments)

    def port(self, node, bridge, device):
        self.vsctl(node, "add-port", bridge, device, "--", "set", "interface", device, *self.options(device))
        error = self.vsctl(node, "get", "interface", device, "error").stdout.strip()
        if error not in ("[]", '""'):
            raise Missing(f"port {device} of type {self.port_type}: {error}{self.complaints(node)}")

    def options(self, device):
        return [f"type={self.port_type}"]

    def bridges(self, node):
        number = int(node.name[1])
        mac = node.exec("cat", "/sys/class/net/fab0/address").stdout.strip()
        # The underlay: its bridge has the node's address, and the tunnel finds its way through it.
        self.vsctl(node, "add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev",
                   f"other_config:hwaddr={mac}", "--", "set", "interface", "br-phy", "mtu_request=1550")
        self.port(node, "br-phy", "fab0")
        node.exec("ip", "address", "flush", "dev", "fab0")
        node.exec("ip", "address", "add", f"192.0.2.{number}/24", "dev", "br-phy")
        node.exec("ip", "link", "set", "br-phy", "mtu", 1550, "up")
        self.vsctl(node, "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev")
        self.vsctl(node, "add-port", "br-int", "vx0", "--", "set", "interface", "vx0", "type=vxlan",
                   f"options:remote_ip=192.0.2.{3 - number}", "options:key=5001")
        for pod in self.lab.pods.values():
            if pod.node == node.name:
                self.port(node, "br-int", BareLab.host_end(pod.name))

    def sink(self):
        blue2 = self.pairs["vxlan"][1]
        for process in self.daemons[2:]:
            end(process)
        self.lab.n2.exec("ip", "link", "set", "dev", "fab0", "xdp", "off", check=False)
        self.appctl(self.lab.n1, "fdb/add", "br-int", "vx0", 0, blue2.mac)
        self.appctl(self.lab.n1, "tnl/neigh/set", "br-phy", "192.0.2.2", self.nobody)


class OpenVSwitchXDP(OpenVSwitch):
    """The same with AF_XDP ports."""

    name, label = "ovs-xdp", "OVS AF_XDP"
    port_type = "afxdp"
    polls = True

    def options(self, device):
        return ["type=afxdp", "options:xdp-mode=native"]


class OpenVSwitchDPDK(OpenVSwitch):
    """Open vSwitch on DPDK, its ports on AF_PACKET: no NIC is bound to it.

    DPDK's af_packet takes no MTU above 1500, so the pods' has to leave room for VXLAN.
    """

    name, label = "ovs-dpdk", "OVS-DPDK"
    binary = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
    mtu = 1450
    port_type = "dpdk"
    polls = True
    settings = (
        "other_config:dpdk-init=true", "other_config:dpdk-extra=--no-pci --no-huge --legacy-mem --no-shconf -m 1024",
    )

    def options(self, device):
        return ["type=dpdk", f"options:dpdk-devargs=net_af_packet_{device},iface={device}"]


class TestPMD(Contender):
    """DPDK's testpmd, which copies frames between two ports on AF_PACKET."""

    name, label = "testpmd", "testpmd"
    ways = ("local",)
    leaves_out = ("tcp", "trips")

    def check(self):
        if not shutil.which("dpdk-testpmd"):
            raise Missing("dpdk-testpmd is not installed (Debian: dpdk-dev, which brings 200 libraries)")

    def connect(self):
        self.lab = BareLab()
        one, other = self.lab.pod("n1", "blue1"), self.lab.pod("n1", "blue1b")
        self.pairs = {"local": (one, other)}
        core = self.cores.n1
        log = pathlib.Path(self.lab.folder) / "testpmd.log"
        self.daemon(
            self.lab.n1, log, "dpdk-testpmd", "--lcores", f"0@{core},1@{core}",
            "--no-pci", "--no-huge", "-m", 512, "--no-shconf", "--vdev=net_af_packet0,iface=v-blue1",
            "--vdev=net_af_packet1,iface=v-blue1b", "--", "--forward-mode=io", "--auto-start", "--nb-cores=1",
            "--total-num-mbufs=16384")
        # It says when it is ready, but not at once into a file.
        address = other.address(4)
        wait_for(lambda: one.reaches(address, count=1, wait=1) or self.daemons[0].poll() is not None, 15, "testpmd")
        if self.daemons[0].poll() is not None:
            lines = log.read_text(errors="replace").splitlines()
            lines = [line for line in lines if "EAL: " in line or "Cause" in line]
            raise AssertionError("testpmd ended: " + " / ".join(lines[-4:]))


class Loop(Contender):
    """The bare C loops of CReference: nothing is looked at, frames are only copied."""

    name, label = "c-loop", "C loop"
    ways = ("local",)
    #: For packet rates; TCP goes by messages, the kind that takes super-frames.
    kinds = ("messages", "ring", "xdp", "mixed")

    def connect(self):
        self.lab = BareLab()
        self.pairs = {"local": (self.lab.pod("n1", "blue1"), self.lab.pod("n1", "blue1b"))}
        self.use("messages")

    def use(self, kind):
        for process in self.daemons:
            end(process)
        self.daemons.clear()
        log = pathlib.Path(self.lab.folder) / "loop.log"
        log.write_text("")
        self.daemon(self.lab.n1, log, TRAFFIC, "loop", "v-blue1", "v-blue1b", "--kind", kind, "--core", self.cores.n1)
        process = self.daemons[0]
        wait_for(lambda: "forwarding" in log.read_text() or process.poll() is not None, 10, f"the loop by {kind}")
        if process.poll() is not None:
            raise AssertionError(f"the loop by {kind}: {log.read_text()}")


def all_contenders(cores, port_kind=None, pod_port_kind=None):
    """In the order of the table."""
    others = [Kernel, OpenVSwitch, OpenVSwitchXDP, OpenVSwitchDPDK, TestPMD, Loop]
    return [Weft(cores, port_kind, pod_port_kind), *(one(cores) for one in others)]


NAMES = ("weft", "kernel", "ovs", "ovs-xdp", "ovs-dpdk", "testpmd", "c-loop")
#: Kinds of Weft's ports that tools/bench wire can be asked for, and the agent's file then names.
PORT_KINDS = ("packet", "af_xdp")
POD_PORT_KINDS = PORT_KINDS + ("tap",)
