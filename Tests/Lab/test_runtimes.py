"""Real container runtimes on a lab's node: podman, ctr and containerd's CRI call the plugin. 25 s."""
import concurrent.futures
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

import cri
import pytest
from cni import PLUGIN, PLUGINS
from lab import end, run, wait_for

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
BUSYBOX = "/bin/busybox"
CONTAINERD = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/bin"
    conf_dir = "{folder}/net.d"
"""
CONTAINERS = """[network]
network_backend = "cni"
cni_plugin_dirs = ["{folder}/bin"]
network_config_dir = "{folder}/net.d"
default_network = "weft-test"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


class Runtimes:
    """Folders and configurations for runtimes on a node."""

    def __init__(self, node, folder):
        self.node, self.folder = node, folder
        for name in ("bin", "net.d"):
            (folder / name).mkdir()
        for plugin in PLUGINS.iterdir():
            (folder / "bin" / plugin.name).symlink_to(plugin)
        shutil.copy(PLUGIN, folder / "bin" / "weft-cni")
        self.configure()

    def configure(self, **settings):
        """As docs/cni.md gives it, with portmap behind."""
        (self.folder / "net.d" / "10-weft.conflist").write_text(json.dumps({
            "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"], "name": self.node.network_name,
            "plugins": [
                {"type": "weft-cni", "weft": self.node.section(**settings),
                 "capabilities": {"bandwidth": True, "ips": True, "mac": True}},
                {"type": "portmap", "capabilities": {"portMappings": True}}]}))

    def enter(self, *command):
        """In the node's network, with this process's mounts: namespaces that a runtime binds to files stay."""
        return ["nsenter", f"--net=/run/netns/{self.node.place.namespace}", "--", *(str(word) for word in command)]

    def run(self, *command, check=True, **environment):
        return run(*self.enter(*command), check=check, env={**ENVIRONMENT, **environment})

    def root_file_system(self, name):
        """A root file system with busybox."""
        root = self.folder / name
        for directory in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "var"):
            (root / directory).mkdir(parents=True)
        shutil.copy(BUSYBOX, root / "bin" / "busybox")
        for applet in ("sh", "sleep", "ping", "cat", "ip", "nc"):
            (root / "bin" / applet).symlink_to("busybox")
        return root


@pytest.fixture(scope="module")
def runtimes(cni_node):
    # podman wants a short path.
    folder = pathlib.Path(cni_node.lab.folder) / "rt"
    folder.mkdir()
    return Runtimes(cni_node, folder)


def image(path, name):
    """An image of one layer with busybox, which sleeps, as `docker save` writes it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(BUSYBOX, "bin/busybox")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/bin/busybox", "sleep", "86400"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as archive:
        for entry, data in (("layer.tar", layer.getvalue()), ("config.json", config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(entry)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def containerd(runtimes):
    """containerd on the node; its folder."""
    folder = runtimes.folder
    (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder))
    with open(folder / "containerd.log", "w") as log:
        process = subprocess.Popen(
            runtimes.enter("containerd", "--config", folder / "containerd.toml"), stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, env=ENVIRONMENT)
    try:
        ctr = ["ctr", "-a", folder / "containerd.sock"]
        wait_for(lambda: runtimes.run(*ctr, "version", check=False).returncode == 0, 20, "containerd")
        image(folder / "pause.tar", "localhost/pause:1")
        runtimes.run(*ctr, "-n", "k8s.io", "images", "import", folder / "pause.tar")
        yield folder
    finally:
        end(process)
        # Mounts of sandboxes that a failed test left.
        for line in reversed(pathlib.Path("/proc/self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(str(folder)):
                run("umount", "-l", line.split()[1], check=False)


def dnat(runtimes):
    return re.findall(r"--dport (\d+) -j DNAT --to-destination (\S+)", runtimes.node.place.exec("iptables-save", "-t", "nat").stdout)


# MARK: podman


@pytest.fixture
def podman(runtimes):
    folder = runtimes.folder
    (folder / "containers.conf").write_text(CONTAINERS.format(folder=folder))
    common = ["podman", "--runtime", "/usr/sbin/runc", "--root", folder / "podman", "--runroot", folder / "podman-run",
              "--storage-driver", "vfs"]

    def execute(*arguments, check=True):
        return runtimes.run(*common, *arguments, check=check, CONTAINERS_CONF=str(folder / "containers.conf"))

    yield execute
    execute("rm", "--all", "--force", "--time", "0", check=False)


LIMITS = ["--cgroupns=host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


def test_podman(runtimes, podman, node):
    """A container pings and is pinged, has the network's name servers and a published port; `rm` leaves nothing."""
    other = node.container("other")
    result = node.add(other)
    podman("run", "--detach", "--name", "web", *LIMITS, "--publish", "8080:80", "--rootfs",
           runtimes.root_file_system("podman-root"), "/bin/sleep", "600")
    attachment = next(one for one in node.attachments() if one["container-id"] != other.id)
    assert attachment["pod-name"] == "web"
    addresses = [entry["address"].split("/")[0] for entry in attachment["addresses"]]
    inspected = json.loads(podman("inspect", "web").stdout)[0]["NetworkSettings"]["Networks"]["weft-test"]
    assert [inspected["IPAddress"], inspected["GlobalIPv6Address"]] == addresses
    assert inspected["MacAddress"] == attachment["mac"]
    for ip in result["ips"]:
        podman("exec", "web", "/bin/ping", "-c", "2", "-W", "2", ip["address"].split("/")[0])
    assert all(other.ping(address) for address in addresses)
    assert "nameserver 10.96.0.10" in podman("exec", "web", "/bin/cat", "/etc/resolv.conf").stdout
    assert ("8080", f"{addresses[0]}:80") in dnat(runtimes)
    podman("rm", "--force", "--time", "0", "web")
    assert dnat(runtimes) == []
    assert [one["container-id"] for one in node.attachments()] == [other.id]


def test_podman_asks_for_addresses(runtimes, podman, node):
    podman("run", "--detach", "--name", "fixed", *LIMITS, "--ip", "10.1.1.99", "--mac-address", "02:aa:00:00:00:99", "--rootfs",
           runtimes.root_file_system("podman-fixed"), "/bin/sleep", "600")
    attachment = node.attachments()[0]
    assert "10.1.1.99/16" in [entry["address"] for entry in attachment["addresses"]]
    assert attachment["mac"] == "02:aa:00:00:00:99"
    outcome = podman("run", "--rm", "--name", "same", *LIMITS, "--ip", "10.1.1.99", "--rootfs",
                     runtimes.root_file_system("podman-same"), "/bin/true", check=False)
    assert outcome.returncode != 0 and "10.1.1.99 of network blue is container" in outcome.stderr
    podman("rm", "--force", "--time", "0", "fixed")


# MARK: ctr


def test_ctr(runtimes, containerd, node):
    """`ctr run --cni`, which knows no other folders than /etc/cni/net.d and /opt/cni/bin."""
    other = node.container("other")
    address = node.add(other)["ips"][0]["address"].split("/")[0]
    root = runtimes.root_file_system("ctr-root")
    script = (
        'mount -t tmpfs none /etc/cni && mount -t tmpfs none /opt && mkdir -p /etc/cni/net.d /opt/cni/bin && '
        'mount --bind "$0/net.d" /etc/cni/net.d && mount --bind "$0/bin" /opt/cni/bin && exec ctr -a "$0/containerd.sock" "$@"')

    def ctr(*arguments, check=True):
        return runtimes.run("unshare", "-m", "bash", "-c", script, containerd, *arguments, check=check)

    command = f"ping -c 2 -W 2 {address} && ip -o address show dev eth0 && ip route && sleep 0.2"
    outcome = ctr("run", "--rm", "--cni", "--rootfs", root, "one-shot", "/bin/sh", "-c", command)
    assert " 0% packet loss" in outcome.stdout and "10.1.1." in outcome.stdout and "fd00:1::1:" in outcome.stdout
    assert [one["container-id"] for one in node.attachments()] == [other.id]
    ctr("run", "--detach", "--cni", "--rootfs", root, "long", "/bin/sleep", "600")
    try:
        attachment = next(one for one in node.attachments() if one["container-id"] != other.id)
        assert all(other.ping(entry["address"].split("/")[0]) for entry in attachment["addresses"])
    finally:
        ctr("task", "kill", "--signal", "KILL", "long", check=False)
        wait_for(lambda: "STOPPED" in ctr("task", "ls").stdout, 10, "the container ends")
        ctr("task", "rm", "long", check=False)
        ctr("container", "rm", "long", check=False)
    # A detached one's DEL nobody sends: its namespace is gone, and GC takes what is left.
    assert node.gc([(other, "eth0")]).status == 0
    assert [one["container-id"] for one in node.attachments()] == [other.id]


# MARK: CRI


def test_cri(runtimes, containerd, node):
    """Run, stop, stop, remove, as the kubelet does; with a node's port and a bandwidth."""
    other = node.container("other")
    result = node.add(other)
    sandboxes = cri.Sandboxes(containerd / "containerd.sock")
    sandbox = sandboxes.run("web-0", "shop", ports=[(8081, 80)], annotations={
        "kubernetes.io/ingress-bandwidth": "10M"}, logs=containerd)
    try:
        attachment = next(one for one in node.attachments() if one["container-id"] == sandbox)
        assert (attachment["pod-name"], attachment["pod-namespace"]) == ("web-0", "shop") and attachment["pod-uid"]
        addresses = [entry["address"].split("/")[0] for entry in attachment["addresses"]]
        assert sandboxes.address(sandbox) == addresses
        assert all(other.ping(address) for address in addresses)
        for ip in result["ips"]:
            run("nsenter", f"--net={attachment['netns']}", "ping", "-c", "2", "-W", "2", ip["address"].split("/")[0])
        assert ("8081", f"{addresses[0]}:80") in dnat(runtimes)
        # 10M is bit/s; the burst is a second's at most, whatever containerd asks for.
        assert [(one["rate"], one["burst"]) for one in node.lab.weft("n1", "policer")] == [(10_000_000, 1_250_000)]
        # STATUS and GC are what containerd 2 adds: here sent beside it.
        assert node.gc([(other, "eth0"), (type("Sandbox", (), {"id": sandbox}), "eth0")]).status == 0
        assert other.ping(addresses[0])
    finally:
        for step in (sandboxes.stop, sandboxes.stop, sandboxes.remove):
            step(sandbox)
            assert [one["container-id"] for one in node.attachments()] == [other.id]
    assert dnat(runtimes) == []
    sandboxes.close()


def test_cri_many(runtimes, containerd, node):
    """Eight sandboxes at once, and one that cannot be: the kubelet reads why."""
    sandboxes = cri.Sandboxes(containerd / "containerd.sock")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: sandboxes.run(f"pod-{number}", logs=containerd), range(8)))
        addresses = [address for sandbox in made for address in sandboxes.address(sandbox)]
        assert len(set(addresses)) == 16 and len(node.attachments()) == 8
        runtimes.configure(network="none")
        try:
            wait_for(lambda: "none" in refusal(sandboxes, containerd), 10, "containerd reads its configuration again")
        finally:
            runtimes.configure()
        for step in (sandboxes.stop, sandboxes.remove):
            list(pool.map(step, made))
    sandboxes.close()


def refusal(sandboxes, folder):
    """The reason that RunPodSandbox gives; "": it did not refuse."""
    try:
        sandbox = sandboxes.run("refused", logs=folder)
    except cri.grpc.RpcError as error:
        return error.details()
    sandboxes.stop(sandbox)
    sandboxes.remove(sandbox)
    return ""
