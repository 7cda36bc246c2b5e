"""Pods come and go through the CNI plugin."""
import concurrent.futures
import json

from lab import Pod, Transfer, run


def host_links(node):
    links = [line.split()[1].rstrip(":").split("@")[0] for line in node.exec("ip", "-o", "link").stdout.splitlines()]
    return set(links) - {"lo", "fab0"}


def records(lab, node):
    """Files by which the plugin remembers what it made."""
    return [line for line in run("find", f"{lab.folder}/{node}/var/lib", "-type", "f", "-path", "*/ports/vm/*").stdout.splitlines()]


def test_twenty_at_once(lab):
    """Made and deleted in parallel: distinct addresses, everybody reachable, nothing left."""
    links = {node.name: host_links(node) for node in (lab.n1, lab.n2)}
    names = [(f"n{1 + number % 2}", f"many{number}") for number in range(20)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        pods = list(pool.map(lambda one: lab.pod(*one), names))
        addresses = [pod.address(family) for pod in pods for family in (4, 6)]
        assert len(set(addresses)) == 40
        assert len({pod.mac for pod in pods}) == 20
        reached = list(pool.map(lambda pod: pods[0].ping(pod.address(4), count=3)[0] if pod is not pods[0] else 3, pods))
        assert reached == [3] * 20
        list(pool.map(lab.delete, pods))
    for node in (lab.n1, lab.n2):
        assert host_links(node) == links[node.name]
        assert lab.attachments(node.name) == []
        assert records(lab, node.name) == []
        assert [row for row in lab.weft(node.name, "vif") if row["role"] == "virtual"] == []


def test_the_same_add_again(lab):
    """An ADD for an interface that is there is refused and changes nothing."""
    pod, other = lab.pod("n1", "again"), lab.pod("n2", "other")
    address, mac = pod.address(4), pod.mac
    attachments = lab.attachments("n1")
    outcome = lab.cni("ADD", pod, check=False)
    assert outcome.returncode != 0
    error = json.loads(outcome.stdout)
    assert error["code"] and "eth0" in error["msg"] + error.get("details", "")
    assert (pod.address(4), pod.mac) == (address, mac)
    assert lab.attachments("n1") == attachments
    assert other.ping(address, count=5) == (5, 0)
    lab.delete(pod)
    lab.delete(other)


def test_delete_more_than_once(lab):
    pod = lab.pod("n1", "twice")
    for _ in range(3):
        assert lab.cni("DEL", pod).stdout == ""
    assert lab.attachments("n1") == [] and host_links(lab.n1) == set() and records(lab, "n1") == []
    assert pod.exec("ip", "link", "show", "dev", "eth0", check=False).returncode != 0
    lab.delete(pod)
    # And of a pod that never was.
    assert lab.cni("DEL", Pod(lab, "n1", "never", "blue")).stdout == ""


def test_delete_after_the_namespace(lab):
    """The namespace, and with it the interface, is gone before DEL comes."""
    pod = lab.pod("n1", "vanished")
    address = pod.address(4)
    run("ip", "netns", "delete", pod.namespace)
    lab.cni("DEL", pod)
    assert lab.attachments("n1") == [] and host_links(lab.n1) == set() and records(lab, "n1") == []
    # Its address can be had again.
    again = lab.pod("n1", "successor", arguments=f"IP={address}")
    assert again.address(4) == address
    other = lab.pod("n2", "asker")
    assert other.ping(address, count=5) == (5, 0)
    lab.delete(again)
    lab.delete(other)


def test_an_address_in_use_is_refused(lab):
    pod = lab.pod("n1", "holder")
    wanted = pod.address(4)
    run("ip", "netns", "add", f"{lab.prefix}-p-thief")
    try:
        outcome = lab.tool("cni", "n1", "ADD", "thief", "blue", f"IP={wanted}", check=False)
        assert outcome.returncode != 0 and wanted in outcome.stdout
        assert len(lab.attachments("n1")) == 1 and len(host_links(lab.n1)) == 1
    finally:
        run("ip", "netns", "delete", f"{lab.prefix}-p-thief")
    lab.delete(pod)


def test_a_pod_is_deleted_under_traffic(lab):
    """Transfers of others do not notice; the deleted pod answers no more."""
    one, two, third = lab.pod("n1", "one"), lab.pod("n2", "two"), lab.pod("n2", "third")
    rate = 10 << 20
    undisturbed = Transfer(one, two, 4, 4 * rate, rate=rate)
    doomed = Transfer(one, third, 4, 100 * rate, rate=rate)
    undisturbed.read(lambda: undisturbed.progress > rate)
    address = third.address(4)
    lab.delete(third)
    assert not one.reaches(address, count=2, wait=1)
    undisturbed.finish()
    assert doomed.clients[0].poll() is None or doomed.clients[0].returncode != 0
    assert one.ping(two.address(4), count=10) == (10, 0)
    assert one.checksum_errors() == {} and two.checksum_errors() == {}
    # Told by name, not by silence.
    assert lab.weft("n2", "drops")
    lab.end_processes()
    lab.delete(one)
    lab.delete(two)


def test_an_address_moves(lab):
    """A deleted pod's address reaches the pod that has it next, also on connections made right after."""
    asker = lab.pod("n1", "asking")
    address = None
    for number in range(4):
        pod = lab.pod("n2", f"tenant{number}", arguments=f"IP={address}" if address else None)
        address = address or pod.address(4)
        assert pod.address(4) == address
        assert asker.ping(address, count=5) == (5, 0)
        Transfer(asker, pod, 4, 1 << 20).finish()
        lab.delete(pod)
        assert not asker.reaches(address, count=1, wait=1)
    lab.delete(asker)
