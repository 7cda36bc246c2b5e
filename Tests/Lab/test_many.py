"""Many pods on a node, and what others notice of those that come and go."""
import concurrent.futures

import pytest
from lab import Transfer, run, undisturbed, wait_for
from test_lifecycle import host_links, records

MANY = 250


def test_nobody_notices_forty_others(lab, pods):
    """40 pods are made and deleted, eight at a time, beside streams between others: no packet of those is lost."""
    before = {node.name: (host_links(node), lab.attachments(node.name), lab.weft(node.name, "vif")) for node in (lab.n1, lab.n2)}
    names = [(f"n{1 + number % 2}", f"other{number}", ("blue", "green")[number // 2 % 2]) for number in range(40)]
    with undisturbed(*pods.values()), concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda one: lab.pod(*one), names))
        list(pool.map(lab.delete, made))
    for node in (lab.n1, lab.n2):
        links, attachments, vifs = before[node.name]
        assert host_links(node) == links
        assert lab.attachments(node.name) == attachments
        assert [vif["id"] for vif in lab.weft(node.name, "vif")] == [vif["id"] for vif in vifs]
    assert not [name for _, name, _ in names if any(name in path for node in ("n1", "n2") for path in records(lab, node))]


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_connections_outlive_a_forwarder(lab, pods, signal):
    """Both forwarders are replaced under transfers of both families: pods keep their interfaces, TCP goes on."""
    rate = 8 << 20
    before = [(pod.exec("ip", "-j", "address").stdout, pod.mac) for pair in pods.values() for pod in pair]
    attachments = {node: lab.attachments(node) for node in ("n1", "n2")}
    transfers = [
        Transfer(sender, receiver, family, 4 * rate, rate=rate)
        for sender, receiver in (pods["vxlan"], pods["one node"]) for family in (4, 6)]
    for transfer in transfers:
        transfer.read(lambda: transfer.progress > rate // 2)
    for node in ("n1", "n2"):
        lab.tool("stop", node, "forwarder", signal)
        lab.tool("start", node, "forwarder")
        wait_for(lambda: lab.is_synchronized(node), 20, f"the agent of {node} and its new forwarder")
    for transfer in transfers:
        transfer.finish()
    assert [(pod.exec("ip", "-j", "address").stdout, pod.mac) for pair in pods.values() for pod in pair] == before
    assert {node: lab.attachments(node) for node in ("n1", "n2")} == attachments


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_nothing_of_a_forwarder_is_left(lab, pods, signal):
    """What the kernel had been given is gone after it: sockets and programs, though it may take a moment."""
    lab.tool("stop", "n1", "forwarder", signal)
    host = sorted(host_links(lab.n1))[0]
    wait_for(lambda: lab.n1.exec("ss", "-H", "-0", "-a").stdout.strip() == "", 10, "no packet socket in n1")
    assert "tcx" not in lab.n1.exec("bpftool", "net", "show", "dev", host, check=False).stdout
    assert run("find", lab.folder, "-name", "forwarder.sock", "-path", "*/n1/*").stdout == "" or signal == "KILL"
    lab.tool("start", "n1", "forwarder")
    wait_for(lambda: lab.is_synchronized("n1"), 20, "the agent of n1 and its new forwarder")
    for first, second in pods.values():
        wait_for(lambda: first.reaches(second.address(4), count=1, wait=1), 10, f"{first.name} to {second.name}")


def test_two_hundred_and_fifty_pods(lab):
    """On one node: each has addresses of its own, reaches the next one over both families, and a pod of the other
    node; all of them again after the forwarder was killed; nothing is left in the end."""
    attachments = lab.attachments("n1")
    links = host_links(lab.n1)
    far = lab.pod("n2", "far")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda number: lab.pod("n1", f"many{number}"), range(MANY)))
        addresses = {family: list(pool.map(lambda pod: pod.address(family), many)) for family in (4, 6)}
        assert len({*addresses[4], *addresses[6]}) == 2 * MANY

        def unreached(family, number):
            pod, following = many[number], addresses[family][(number + 1) % MANY]
            # A first packet may be lost to the pod's own search for its neighbour.
            return not all(pod.reaches(address, count=3) for address in (following, far.address(family)))

        for family in (4, 6):
            failed = list(pool.map(lambda number: unreached(family, number), range(MANY)))
            assert not [number for number in range(MANY) if failed[number]], f"IPv{family}"
        # A scrape tells of all of them.
        figures = lab.n1.exec("curl", "-sS", "http://127.0.0.1:9091/metrics").stdout
        assert figures.count("\nweft_port_drops_total{") == len(lab.weft("n1", "vif")) > MANY
        lab.tool("stop", "n1", "forwarder", "KILL")
        lab.tool("start", "n1", "forwarder")
        wait_for(lambda: lab.is_synchronized("n1"), 30, "the agent of n1 and its new forwarder")
        assert not [number for number, failed in enumerate(pool.map(lambda n: unreached(4, n), range(MANY))) if failed]
        list(pool.map(lab.delete, many))
    lab.delete(far)
    assert lab.attachments("n1") == attachments and host_links(lab.n1) == links
    end_states = [vif for vif in lab.weft("n1", "vif") if vif["role"] == "virtual"]
    assert len(end_states) == len(attachments)
