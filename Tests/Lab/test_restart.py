"""Agent and forwarder each die and come back without the other."""
import os
import pathlib
import shutil
import time

import pytest
from lab import BINARIES, Transfer, undisturbed, wait_for

RATE = 10 << 20


def addresses(lab):
    """Every address given out, on both nodes."""
    return sorted(
        address["address"] if isinstance(address, dict) else address
        for node in ("n1", "n2") for attachment in lab.attachments(node) for address in attachment["addresses"])


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_the_agent_dies_during_a_transfer(lab, pods, signal):
    """Bytes go on arriving while there is no agent, and while it comes back; afterwards everything is as before."""
    sender, receiver = pods["vxlan"]
    tables = {node: lab.tables(node) for node in ("n1", "n2")}
    attachments = {node: lab.attachments(node) for node in ("n1", "n2")}
    transfer = Transfer(sender, receiver, 4, 12 * RATE, rate=RATE)
    transfer.read(lambda: transfer.progress > RATE)
    for node in ("n1", "n2"):
        lab.tool("stop", node, "agent", signal)
    dead = transfer.arrived()
    time.sleep(2)
    while_dead = transfer.arrived() - dead
    assert while_dead > RATE, f"{while_dead} bytes in 2 s without agents"
    back = transfer.arrived()
    for node in ("n1", "n2"):
        lab.tool("start", node, "agent")
    # Restarted and synchronised (which `start` waits for): the transfer is not over and has not stood still.
    while_starting = transfer.arrived() - back
    assert transfer.results == [], "the transfer was to last longer than this"
    assert while_starting > 0
    transfer.finish()
    assert {node: lab.tables(node) for node in ("n1", "n2")} == tables
    assert {node: lab.attachments(node) for node in ("n1", "n2")} == attachments
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}


def test_no_packet_is_lost_without_an_agent(lab, pods, tmp_path):
    """Streams of before go on to the last datagram, and flows that begin meanwhile are let through as ever; the agent that
    comes is another program, as after an upgrade."""
    for program in ("weft-vrouter", "weft-agent", "weft"):
        shutil.copy(BINARIES / program, tmp_path / program)
    sender, receiver = pods["vxlan"]
    with undisturbed(*pods.values()):
        for node in ("n1", "n2"):
            lab.tool("stop", node, "agent", "KILL")
        for first, second in pods.values():
            for family in (4, 6):
                assert first.ping(second.address(family), count=10) == (10, 0)
        Transfer(sender, receiver, 4, 8 << 20).finish()
        for node in ("n1", "n2"):
            lab.tool("start", node, "agent", env={**os.environ, "WEFT_BIN": str(tmp_path)})
    pid = int((pathlib.Path(lab.folder) / "n1" / "agent.pid").read_text())
    assert os.readlink(f"/proc/{pid}/exe") == str(tmp_path / "weft-agent")
    for node in ("n1", "n2"):
        lab.tool("stop", node, "agent")
        lab.tool("start", node, "agent")


def test_both_die_at_once(lab, pods):
    tables = {node: lab.tables(node) for node in ("n1", "n2")}
    attachments = {node: lab.attachments(node) for node in ("n1", "n2")}
    sender, receiver = pods["vxlan"]
    transfer = Transfer(sender, receiver, 4, 4 * RATE, rate=RATE)
    transfer.read(lambda: transfer.progress > RATE)
    for what in ("agent", "forwarder"):
        lab.tool("stop", "n2", what, "KILL")
    for what in ("forwarder", "agent"):
        lab.tool("start", "n2", what)
    transfer.finish()
    assert {node: lab.tables(node) for node in ("n1", "n2")} == tables
    assert {node: lab.attachments(node) for node in ("n1", "n2")} == attachments


def test_no_address_twice_after_a_restart(lab, pods):
    before = addresses(lab)
    assert len(before) == len(set(before)) and before
    for node in ("n1", "n2"):
        lab.tool("stop", node, "agent", "KILL")
        lab.tool("start", node, "agent")
    more = [lab.pod(node, f"more{node}{number}") for node in ("n1", "n2") for number in range(3)]
    after = addresses(lab)
    assert len(after) == len(set(after)), "an address was given twice"
    assert set(before) < set(after)
    for pod in more:
        assert pods["vxlan"][0].reaches(pod.address(4), count=3)
        lab.delete(pod)
    assert addresses(lab) == before


def test_pods_come_and_go_as_agents_do(lab, pods):
    """What was deleted and added while one agent was away is right when it is back."""
    pod = lab.pod("n2", "fleeting")
    address = pod.address(4)
    assert pods["vxlan"][0].reaches(address, count=3)
    lab.tool("stop", "n2", "agent", "KILL")
    assert pods["vxlan"][0].ping(address, count=5)[0] == 5, "it goes on without the agent"
    # DEL succeeds without an agent; what it leaves is made good later.
    lab.delete(pod)
    lab.tool("start", "n2", "agent")
    other = lab.pod("n2", "afterwards")
    assert pods["vxlan"][0].reaches(other.address(4), count=3)
    lab.delete(other)
    left = [one for one in lab.attachments("n2") if "fleeting" in str(one)]
    assert left == []


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_the_forwarder_dies(lab, pods, node):
    """It comes back empty, its agent tells it everything anew, and pods talk without having been touched."""
    tables = lab.tables(node)
    lab.tool("stop", node, "forwarder", "KILL")
    sender, receiver = pods["vxlan"]
    assert sender.ping(receiver.address(4), count=2, wait=1)[0] == 0
    lab.tool("start", node, "forwarder")
    wait_for(lambda: lab.is_synchronized(node), 20, f"the agent of {node} and its new forwarder")
    for first, second in pods.values():
        for family in (4, 6):
            assert first.reaches(second.address(family), count=3), f"{first.name} to {second.name}"
    Transfer(sender, receiver, 6, 16 << 20).finish()
    assert lab.tables(node) == tables


def test_the_forwarder_dies_during_a_transfer(lab, pods):
    """TCP takes it for a loss and goes on."""
    sender, receiver = pods["vxlan"]
    transfer = Transfer(sender, receiver, 4, 6 * RATE, rate=RATE)
    transfer.read(lambda: transfer.progress > RATE)
    lab.tool("stop", "n2", "forwarder", "KILL")
    lab.tool("start", "n2", "forwarder")
    wait_for(lambda: lab.is_synchronized("n2"), 20, "the agent of n2 and its new forwarder")
    transfer.finish()
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}
