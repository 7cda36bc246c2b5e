"""Datagrams of a flow that wait together leave as one super-frame, and arrive as they were sent; frames of ordinary size leave
by AF_XDP; workers' cores are kept awake while packets come, and no longer."""
import json
import os
import pathlib
import signal
import time

import pytest
from conftest import WAYS
from lab import TRAFFIC, Transfer, wait_for

COUNT = 200
SIZES = [64, 600, 1400]


def forwarder(lab, node):
    return int((pathlib.Path(lab.folder) / node / "forwarder.pid").read_text())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("way", WAYS)
def test_burst(lab, pods, way, family, size):
    """The forwarder stands still while a pod sends, and then finds all of it at once."""
    sender, receiver = pods[way]
    address = receiver.address(family)
    assert sender.reaches(address)
    with receiver.serving("udp-collect", address, 6300 + size, COUNT) as server:
        # The first one makes the flow, alone.
        pid = forwarder(lab, "n1")
        os.kill(pid, signal.SIGSTOP)
        try:
            sender.exec(TRAFFIC, "udp-burst", address, 6300 + size, COUNT, size)
        finally:
            os.kill(pid, signal.SIGCONT)
        found = json.loads(server.stdout.readline())
    assert found["arrived"] == COUNT and found["wrong"] == 0 and found["in_order"]
    assert found["super_frames"] > 0, "every datagram came alone"
    assert receiver.checksum_errors() == {}


@pytest.mark.parametrize("way", ["vxlan", "mpls-over-udp"])
def test_a_fabric_that_cuts_nothing(lab, pods, way):
    """An interface without UDP segmentation: the kernel cuts super-frames before it."""
    sender, receiver = pods[way]
    address = receiver.address(4)
    assert sender.reaches(address)
    features = ("ethtool", "-K", "fab0", "tx-udp-segmentation")
    lab.n1.exec(*features, "off")
    try:
        assert "tx-udp-segmentation: off" in lab.n1.exec("ethtool", "-k", "fab0").stdout
        with receiver.serving("udp-collect", address, 6299, COUNT) as server:
            pid = forwarder(lab, "n1")
            os.kill(pid, signal.SIGSTOP)
            try:
                sender.exec(TRAFFIC, "udp-burst", address, 6299, COUNT, 1000)
            finally:
                os.kill(pid, signal.SIGCONT)
            found = json.loads(server.stdout.readline())
        assert found["arrived"] == COUNT and found["wrong"] == 0
        Transfer(sender, receiver, 4, 32 << 20).finish()
        assert receiver.checksum_errors() == {}
    finally:
        lab.n1.exec(*features, "on")


def test_sends_by_af_xdp(lab, pods):
    """Both kinds of port say so, the fabric's and each pod's."""
    log = (pathlib.Path(lab.folder) / "n1" / "forwarder.log").read_text()
    lines = [line for line in log.splitlines() if "sends single frames by AF_XDP" in line and "worker=0" in line]
    assert any("device=fab0" in line for line in lines), log
    assert sum("device=weft" in line for line in lines) >= 3, log


def wishes():
    """How long cores may take to wake up, by the kernel."""
    paths = sorted(pathlib.Path("/sys/devices/system/cpu").glob("cpu[0-9]*/power/pm_qos_resume_latency_us"))
    return [path.read_text().strip() for path in paths]


def test_cores_stay_awake_while_packets_come(lab, pods):
    if not wishes():
        pytest.skip("this kernel has no pm_qos_resume_latency_us")
    sender, receiver = pods["one node"]
    wait_for(lambda: "n/a" not in wishes(), 10, "all cores free to sleep")
    load = sender.start("ping", "-q", "-i", "0.01", "-w", "3", receiver.address(4))
    try:
        wait_for(lambda: "n/a" in wishes(), 10, "a worker's core that stays awake")
    finally:
        load.wait(timeout=20)
    wait_for(lambda: "n/a" not in wishes(), 10, "all cores free to sleep again")


def test_a_killed_forwarder_is_put_right_by_the_next(lab, pods):
    if not wishes():
        pytest.skip("this kernel has no pm_qos_resume_latency_us")
    sender, receiver = pods["one node"]
    load = sender.start("ping", "-q", "-i", "0.01", "-w", "30", receiver.address(4))
    try:
        wait_for(lambda: "n/a" in wishes(), 10, "a worker's core that stays awake")
        lab.tool("stop", "n1", "forwarder", "KILL")
    finally:
        load.terminate()
        load.wait(timeout=20)
    lab.tool("start", "n1", "forwarder")
    wait_for(lambda: sender.reaches(receiver.address(4)), 20, "the pods to reach each other again")
    time.sleep(0.3)
    wait_for(lambda: "n/a" not in wishes(), 10, "all cores free to sleep")


def test_a_port_that_was_busy_is_heard_again(lab, pods):
    """One pod sends without pause while others ping: when it is quiet, its next packet is noticed as theirs are."""
    sender, receiver = pods["one node"]
    other = pods["mpls-over-udp"][0]
    for _ in range(3):
        load = sender.start(TRAFFIC, "udp-burst", receiver.address(4), 9, 60000, 64)
        assert other.ping(pods["mpls-over-udp"][1].address(4), count=20) == (20, 0)
        load.wait(timeout=60)
        lab.processes.remove(load)
        # Twice: while the worker still looks, and when it sleeps.
        assert sender.ping(receiver.address(4), count=5) == (5, 0)
        time.sleep(0.3)
        assert sender.ping(receiver.address(6), count=5) == (5, 0)
