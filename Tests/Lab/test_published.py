"""A container of a real runtime in a network with a gateway of the host and a DNS proxy: it resolves names, is reached at a
published port, and reaches the host. 10 s."""
import pytest
from cni import Node
from lab import Lab, wait_for
from test_runtimes import LIMITS, podman, runtimes  # noqa: F401  fixtures
from test_services import DNS, serving

GATEWAY = "10.1.0.1"


@pytest.fixture(scope="module")
def cni_node():
    lab = Lab("--blue", "host: {interface: weft0}\n    services: {dns: {servers: [127.0.0.1]}}")
    try:
        node = Node(lab)
        node.configure()
        yield node
        node.clean()
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


def test_names_and_a_published_port(runtimes, podman, cni_node):  # noqa: F811
    resolver = serving(cni_node.place, "resolver.py", "127.0.0.1")
    root = runtimes.root_file_system("published")
    (root / "bin" / "nslookup").symlink_to("busybox")
    try:
        podman("run", "--detach", "--name", "web", *LIMITS, "--publish", "8080:80", "--rootfs", root,
               "/bin/sh", "-c", "while true; do echo hello from the pod | nc -l -p 80 -w 5; done")
        assert f"nameserver {DNS[4]}" in podman("exec", "web", "/bin/cat", "/etc/resolv.conf").stdout
        assert "192.0.2.53" in podman("exec", "web", "/bin/nslookup", "-type=a", "name.test").stdout
        podman("exec", "web", "/bin/ping", "-c", "2", "-W", "2", GATEWAY)
        # At the node's address and port, by portmap's translation, then by the gateway.
        reached = wait_for(
            lambda: cni_node.place.exec("/bin/busybox", "nc", "-w", "3", "192.0.2.1", "8080", check=False).stdout, 20, "the published port")
        assert reached == "hello from the pod\n"
    finally:
        podman("rm", "--force", "--time", "0", "web", check=False)
        resolver.terminate()
        resolver.wait(10)
