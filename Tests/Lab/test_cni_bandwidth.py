"""Bandwidth that runtimes ask for (capability "bandwidth"): the forwarder keeps to it. 25 s."""
import time

import pytest
from lab import Pod, Transfer, wait_for

RATE = 16_000_000
BURST = 2_000_000
SIZE = 4 << 20


def limited(node, container, **bandwidth):
    configuration = node.configuration(runtimeConfig={"bandwidth": bandwidth})
    node.add(container, configuration)
    return Pod(node.lab, "n1", container.name)


def seconds(sender, receiver, family):
    """How long a transfer takes, its contents compared."""
    began = time.monotonic()
    Transfer(sender, receiver, family, SIZE).finish()
    return time.monotonic() - began


def at_least():
    """Less than this it cannot take: all bits but the burst at the rate."""
    return (SIZE * 8 - BURST) / RATE


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_limits(node, direction, family):
    """In one direction and not in the other, whichever way runtimes write the keys."""
    bandwidth = {f"{direction}Rate": RATE, f"{direction}Burst": BURST}
    if family == 6:
        bandwidth = {key[0].upper() + key[1:]: value for key, value in bandwidth.items()}
    pod = limited(node, node.container("slow"), **bandwidth)
    node.add(node.container("other"))
    other = Pod(node.lab, "n1", "other")
    slow, fast = ((other, pod), (pod, other))[::1 if direction == "ingress" else -1]
    assert seconds(*slow, family) >= at_least()
    policers = node.lab.weft("n1", "policer")
    assert [(one["rate"], one["burst"]) for one in policers] == [(RATE, BURST // 8)]
    dropped = sum(one["violating-packets"] for one in policers)
    assert dropped > 0
    Transfer(*fast, family, SIZE).finish()


def test_outlives_restarts(node):
    """Agent and forwarder start anew: the limit is there again; DEL takes the policer away."""
    container = node.container("slow")
    limited(node, container, ingressRate=RATE, ingressBurst=BURST, egressRate=RATE, egressBurst=BURST)
    node.add(node.container("other"))
    before = sorted((one["id"], one["rate"], one["burst"]) for one in node.lab.weft("n1", "policer"))
    assert len(before) == 2
    for program in ("agent", "forwarder"):
        with node.without(program):
            pass
        wait_for(lambda: node.lab.is_synchronized("n1"), 20, "the agent and the forwarder")
        assert sorted((one["id"], one["rate"], one["burst"]) for one in node.lab.weft("n1", "policer")) == before
    slow, other = (Pod(node.lab, "n1", name) for name in ("slow", "other"))
    assert seconds(other, slow, 4) >= at_least()
    node.delete(container)
    assert node.lab.weft("n1", "policer") == []


@pytest.mark.parametrize("bandwidth, burst", [
    # What containerd's CRI sends along where nobody asks for a burst counts as a second's; one below a super-frame as 128 KiB.
    ({"ingressRate": 80_000_000, "ingressBurst": 4294967295}, 10_000_000), ({"ingressRate": 80_000_000}, 2_500_000),
    ({"ingressRate": 8000, "ingressBurst": 1000}, 131072)])
def test_bursts(node, bandwidth, burst):
    limited(node, node.container("a"), **bandwidth)
    assert [(one["rate"], one["burst"]) for one in node.lab.weft("n1", "policer")] == [(bandwidth["ingressRate"], burst)]


@pytest.mark.parametrize("bandwidth", [None, {}, {"ingressRate": 0, "ingressBurst": 0, "egressRate": None}])
def test_no_limit(node, bandwidth):
    node.add(node.container("a"), node.configuration(runtimeConfig={"bandwidth": bandwidth}))
    assert node.lab.weft("n1", "policer") == []


@pytest.mark.parametrize("bandwidth, word", [
    (7, "runtimeConfig.bandwidth"), ({"ingressRate": -1}, "ingressRate"), ({"egressRate": "fast"}, "egressRate"),
    ({"egressBurst": 1.5}, "egressBurst")])
def test_no_bandwidth(node, bandwidth, word):
    outcome = node.run("ADD", node.container("a"), node.configuration(runtimeConfig={"bandwidth": bandwidth}))
    assert outcome.code == 7 and word in outcome.text
    node.expect_nothing()
