"""A container runtime's side of the CNI spec, for tests of the plugin: containers are network namespaces, and each run
of the plugin gets its environment and its configuration as libcni would give them."""
import contextlib
import copy
import json
import os
import pathlib
import re
import subprocess
import uuid

from lab import ROOT, run

VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
PLUGIN = pathlib.Path(os.environ.get("WEFT_CNI", ROOT / ".build-static" / "release" / "weft-cni"))
if not PLUGIN.exists():
    PLUGIN = ROOT / ".build" / "release" / "weft-cni"
# Debian's containernetworking-plugins.
PLUGINS = pathlib.Path("/usr/lib/cni")


# More networks for node n1's agent.
NETWORKS = """
  - {name: four, subnets: [{prefix: 10.4.0.0/16, range: 10.4.1.0/24}], encapsulation: vxlan, vni: 5104}
  - {name: six, subnets: [{prefix: "fd00:6::/64", range: "fd00:6::1:0/112"}], encapsulation: vxlan, vni: 5106}
  - name: tiny
    subnets:
      - {prefix: 10.5.0.0/16, range: 10.5.1.0/24}
      - {prefix: "fd00:5::/64", range: "fd00:5::1:1-fd00:5::1:2"}
    encapsulation: vxlan
    vni: 5105
  - name: routed
    subnets: [{prefix: 10.7.0.0/16, range: 10.7.1.0/24}, {prefix: "fd00:7::/64", range: "fd00:7::1:0/112"}]
    encapsulation: vxlan
    vni: 5107
    mtu: 1400
    dns: [10.7.0.53, "fd00:7::53"]
    routes: [192.168.7.0/24, {destination: 10.77.0.0/16, gateway: 10.7.0.9}, "2001:db8:7::/48"]
  - {name: wide, subnets: [{prefix: 10.8.0.0/16}, {prefix: "fd00:8::/64", range: "fd00:8::1:0/112"}],
     encapsulation: vxlan, vni: 5108}
"""


class Outcome:
    """What a run of a plugin left."""

    def __init__(self, completed):
        self.status, self.stdout, self.stderr = completed.returncode, completed.stdout, completed.stderr
        self.json = json.loads(completed.stdout) if completed.stdout.strip() else None

    @property
    def code(self):
        """The error's code; None: it succeeded."""
        return None if self.status == 0 else self.json["code"]

    @property
    def text(self):
        return "" if self.json is None else self.json.get("msg", "") + " " + self.json.get("details", "")

    def __repr__(self):
        return f"status {self.status}, {self.stdout.strip()} {self.stderr.strip()}"


def execute(environment, stdin, namespace=None, plugin=PLUGIN, before=(), timeout=90):
    """Runs a plugin with this environment and nothing else; `before` is a command that runs commands, such as strace."""
    enter = ["ip", "netns", "exec", namespace] if namespace else []
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    return Outcome(subprocess.run(
        [*enter, "env", "-i", path, *(f"{key}={value}" for key, value in environment.items()), *before, str(plugin)],
        input=stdin if isinstance(stdin, str) else json.dumps(stdin), capture_output=True, text=True, timeout=timeout))


class Container:
    def __init__(self, node, name):
        self.node, self.name = node, name
        self.namespace = f"{node.lab.prefix}-p-{name}"
        self.id = f"{name}-{uuid.uuid4().hex[:8]}"
        self.netns = f"/run/netns/{self.namespace}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")

    def exec(self, *arguments, **options):
        return run("ip", "netns", "exec", self.namespace, *arguments, **options)

    def ip(self, *arguments, check=True):
        """`ip -j` there."""
        outcome = run("ip", "-n", self.namespace, "-j", *arguments, check=check)
        return json.loads(outcome.stdout or "[]") if outcome.returncode == 0 else []

    def link(self, name="eth0"):
        """As `ip -d -j link` tells it; None: it has no such interface."""
        found = self.ip("-d", "link", "show", "dev", name, check=False)
        return found[0] if found else None

    def addresses(self, name="eth0"):
        """Global ones with their length."""
        return {f"{one['local']}/{one['prefixlen']}"
                for link in self.ip("address", "show", "dev", name, "scope", "global") for one in link["addr_info"] if one}

    def ping(self, address, count=2):
        family = "-6" if ":" in address else "-4"
        return self.exec("ping", family, "-n", "-c", count, "-i", "0.05", "-W", "2", address, check=False).returncode == 0

    def end(self):
        if os.path.exists(self.netns):
            run("ip", "netns", "delete", self.namespace)


class Node:
    """A node of a lab, with a container runtime on it."""

    def __init__(self, lab, name="n1", network_name="weft-test"):
        self.lab, self.name, self.network_name = lab, name, network_name
        self.place = lab.node(name)
        self.files = pathlib.Path(lab.folder) / name / "cni"
        self.containers = []

    def configure(self):
        """Has the node's agent know NETWORKS too."""
        path = pathlib.Path(self.lab.folder) / self.name / "agent.yaml"
        self.lab.tool("stop", self.name, "agent")
        path.write_text(path.read_text().replace("\npeers:", NETWORKS + "peers:"))
        self.lab.tool("start", self.name, "agent")

    def section(self, **more):
        return {
            "config-dir": str(self.files), "log-file": str(pathlib.Path(self.lab.folder) / self.name / "cni.log"),
            "log-level": "6", **{key.replace("_", "-"): value for key, value in more.items()}}

    def configuration(self, version="1.1.0", settings={}, **more):
        """A plugin's standard input; None takes a key away."""
        value = {"cniVersion": version, "name": self.network_name, "type": "weft-cni",
                 "weft": self.section(**settings), **more}
        return {key: one for key, one in value.items() if one is not None}

    def container(self, name):
        made = Container(self, name)
        self.containers.append(made)
        return made

    def environment(self, verb, container, interface="eth0", arguments="", netns=None):
        return {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": container.id, "CNI_IFNAME": interface, "CNI_ARGS": arguments,
            "CNI_NETNS": container.netns if netns is None else netns, "CNI_PATH": f"{PLUGIN.parent}:{PLUGINS}"}

    def run(self, verb, container, configuration=None, interface="eth0", arguments="", netns=None, **options):
        return execute(
            self.environment(verb, container, interface, arguments, netns), configuration or self.configuration(),
            self.place.namespace, **options)

    def add(self, container, configuration=None, **options):
        """ADD that must succeed; its result."""
        outcome = self.run("ADD", container, configuration, **options)
        assert outcome.status == 0, outcome
        return outcome.json

    def delete(self, container, configuration=None, **options):
        outcome = self.run("DEL", container, configuration, **options)
        assert outcome.status == 0 and outcome.stdout == "", outcome

    def gc(self, keep, configuration=None, key="cni.dev/valid-attachments"):
        """GC that keeps these (container, interface)."""
        value = copy.deepcopy(configuration or self.configuration())
        if key:
            value[key] = [{"containerID": container.id, "ifname": interface} for container, interface in keep]
        return execute({"CNI_COMMAND": "GC", "CNI_PATH": f"{PLUGIN.parent}:{PLUGINS}"}, value, self.place.namespace)

    def status(self, configuration=None):
        return execute({"CNI_COMMAND": "STATUS", "CNI_PATH": f"{PLUGIN.parent}:{PLUGINS}"},
                       configuration or self.configuration(), self.place.namespace)

    # What is there.

    def links(self):
        """Names of host ends."""
        return {link["ifname"] for link in json.loads(self.place.exec("ip", "-j", "link").stdout)} - {"lo", "fab0"}

    def records(self):
        """Names of the plugin's files."""
        return sorted(path.name for path in self.files.iterdir()) if self.files.exists() else []

    def attachments(self):
        return self.lab.attachments(self.name)

    def vifs(self):
        return [vif for vif in self.lab.weft(self.name, "vif") if vif["role"] == "virtual"]

    def used(self):
        """Addresses that the agent counts as taken, by network and range."""
        status = self.lab.http(self.name, "GET", "/v1/status")
        return {(pool["network"], pool["range"]): pool["used"] for pool in status["pools"]}

    def expect_nothing(self):
        """No interface, file, attachment, address or forwarder's interface is left of any container."""
        assert self.links() == set()
        assert self.records() == []
        assert self.attachments() == []
        assert set(self.used().values()) <= {0}
        assert self.vifs() == []

    def inventory(self):
        """All that an ADD makes something of, as sets: what is new in one was left."""
        folder = pathlib.Path(self.lab.folder) / self.name

        def lines(*command):
            return set(self.place.exec(*command, check=False).stdout.splitlines())

        def descriptors(program):
            pid = (folder / f"{program}.pid").read_text().strip()
            targets = [re.sub(r"\d+", "N", os.readlink(f"/proc/{pid}/fd/{one}")) for one in self.open_files(pid)]
            # The second of a kind is "KIND 2": more of them are new ones, fewer are not.
            return {f"{target} {targets[:place + 1].count(target)}" for place, target in enumerate(targets)}

        found = {
            "links": lines("ip", "-o", "-br", "link"), "addresses": lines("ip", "-o", "address", "show", "scope", "global"),
            # The fabric's own come when its link-local address is no duplicate, by and by.
            "routes": {line for family in ("-4", "-6") for line in lines("ip", family, "route", "show", "table", "all")
                       if " dev fab0 " not in line},
            "neighbours": lines("ip", "neigh", "show", "nud", "permanent"), "records": set(self.records()),
            "attachments": {one["id"] for one in self.attachments()},
            "addresses in use": {f"{pool}: {used}" for pool, used in self.used().items()},
            "forwarder's descriptors": descriptors("forwarder"), "agent's descriptors": descriptors("agent"),
            "flows": {json.dumps(flow, sort_keys=True) for flow in self.lab.weft(self.name, "flow")}}
        return found | {f"forwarder's {name}": set(rows) for name, rows in self.lab.tables(self.name).items()}

    @staticmethod
    def open_files(pid):
        """Numbers of a process's descriptors that are open still when they are looked at."""
        return [one for one in os.listdir(f"/proc/{pid}/fd") if os.path.lexists(f"/proc/{pid}/fd/{one}")]

    @contextlib.contextmanager
    def without(self, *programs):
        """While agent or forwarder is down."""
        for program in programs:
            self.lab.tool("stop", self.name, program)
        try:
            yield
        finally:
            for program in ("forwarder", "agent"):
                if program in programs:
                    self.lab.tool("start", self.name, program)

    def clean(self):
        """After a test, whatever it left."""
        for container in self.containers:
            for record in [name for name in self.records() if name.startswith(container.id + ":")]:
                interface = record.split(":")[1].rsplit(".", 1)[0]
                self.run("DEL", container, self.configuration(), interface=interface)
            container.end()
        self.containers.clear()
