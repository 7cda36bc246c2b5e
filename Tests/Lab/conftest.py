import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from cni import Node  # noqa: E402
from lab import ROOT, ROUTER_MAC, Lab, Pod, run  # noqa: E402


def pytest_collection_modifyitems(items):
    reason = None
    if os.geteuid() != 0:
        reason = "needs root, for network namespaces"
    elif not os.access(ROOT / ".build" / "release" / "weft-vrouter", os.X_OK) and "WEFT_BIN" not in os.environ:
        reason = "needs the programs: swift build -c release, or WEFT_BIN"
    if reason:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_sessionstart():
    """What a killed run left would stand in the way of nothing, but it should not stay."""
    if os.geteuid() == 0:
        run(ROOT / "tools" / "lab", "sweep", check=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows the end of the programs' logs."""
    report = (yield).get_result()
    lab = next((value for value in item.funcargs.values() if isinstance(value, Lab)), None) if hasattr(item, "funcargs") else None
    if report.failed and lab:
        for log in sorted(pathlib.Path(lab.folder).glob("n?/*.log")):
            report.sections.append((f"{log.parent.name} {log.name}", "\n".join(log.read_text(errors="replace").splitlines()[-15:])))


@pytest.fixture(scope="module")
def lab():
    """Two nodes with a forwarder and an agent each, for the tests of a file."""
    lab = Lab()
    try:
        yield lab
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(autouse=True)
def ended(request):
    """No process of a test outlives it."""
    yield
    for value in request.node.funcargs.values():
        if isinstance(value, Lab):
            value.end_processes()


@pytest.fixture(scope="module")
def pods(lab):
    """A pair of pods for each way between two pods: `pods[way]`."""
    made = {name: lab.pod(node, name, network) for node, name, network in [
        ("n1", "blue1", "blue"), ("n2", "blue2", "blue"), ("n1", "blue1b", "blue"), ("n1", "green1", "green"),
        ("n2", "green2", "green")]}
    return {
        "vxlan": (made["blue1"], made["blue2"]),
        "mpls-over-udp": (made["green1"], made["green2"]),
        "one node": (made["blue1"], made["blue1b"]),
    }


WAYS = ["vxlan", "mpls-over-udp", "one node"]


@pytest.fixture(scope="module")
def kernel_lab():
    """One node of Weft, and the kernel's own VXLAN device as the other."""
    lab = Lab("--kernel-peer", "02:00:00:00:0b:02")
    try:
        yield lab
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(scope="module")
def kernel_pods(kernel_lab):
    """(Weft's pod, the kernel's), which reaches Weft's node through the virtual router."""
    pod = kernel_lab.pod("n1", "blue1", "blue")
    kernel_lab.tool("kernel-pod", "kernel", 5001, "02:00:00:00:0b:02", "10.1.2.10/24", "fd00:1::2:10/112")
    kernel_lab.tool("kernel-via", "kernel", "10.1.0.0/16", "10.1.0.1", ROUTER_MAC)
    kernel_lab.tool("kernel-via", "kernel", "fd00:1::/64", "fd00:1::1", ROUTER_MAC)
    return pod, Pod(kernel_lab, "n2", "kernel")


@pytest.fixture(scope="module")
def cni_node(lab):
    """Node n1 with a container runtime, and networks for what the lab's own do not show."""
    node = Node(lab)
    node.configure()
    yield node
    node.clean()


@pytest.fixture
def node(cni_node):
    """The same; whatever a test leaves in it is deleted, after which nothing may be left."""
    yield cni_node
    cni_node.clean()
    cni_node.expect_nothing()


@pytest.fixture(scope="module")
def tap_node():
    """A node whose pods' interfaces are TAP interfaces, with a container runtime."""
    lab = Lab("--pods", "tap")
    try:
        node = Node(lab)
        node.configure()
        yield node
        node.clean()
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(scope="session")
def libcni(tmp_path_factory):
    """Tests/Lab/libcni, built by Debian's Go from Debian's sources."""
    binary = tmp_path_factory.mktemp("libcni") / "libcni"
    run("go", "build", "-o", binary, ".", cwd=pathlib.Path(__file__).parent / "libcni", timeout=300, env={
        **os.environ, "GOPATH": "/usr/share/gocode", "GO111MODULE": "off", "GOCACHE": str(binary.parent / "cache")})
    return binary
