"""Two workers on each node: flows keep their state whichever of them their packets come to."""
import json
import os

import pytest
from conftest import WAYS
from lab import TRAFFIC, Lab, Transfer, wait_for

ways = pytest.mark.parametrize("way", WAYS)
families = pytest.mark.parametrize("family", [4, 6])


def cores():
    return sorted(os.sched_getaffinity(0))[:2]


pytestmark = pytest.mark.skipif(len(cores()) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def lab():
    before = os.environ.get("WEFT_LAB_CORES")
    os.environ["WEFT_LAB_CORES"] = ",".join(map(str, cores()))
    lab = None
    try:
        lab = Lab()
        yield lab
    finally:
        if before is None:
            del os.environ["WEFT_LAB_CORES"]
        else:
            os.environ["WEFT_LAB_CORES"] = before
        left = lab.down() if lab else ""
    assert left == "", f"left behind:\n{left}"


def workers(lab, node):
    return lab.weft(node, "worker")


def total(lab, key):
    return sum(worker[key] for node in ("n1", "n2") for worker in workers(lab, node))


@ways
@families
def test_ping(pods, way, family):
    sender, receiver = pods[way]
    assert sender.reaches(receiver.address(family), count=1)
    # Each echo is a flow of its own, and belongs to either worker.
    for _ in range(10):
        assert sender.ping(receiver.address(family), count=3) == (3, 0)


@ways
def test_sixteen_streams(lab, pods, way):
    """Hashed at both ends, eight each way; each is one flow of one worker, where all its packets are counted."""
    sender, receiver = pods[way]
    there = Transfer(sender, receiver, 4, 4 << 20, streams=8)
    back = Transfer(receiver, sender, 6, 4 << 20, streams=8)
    there.finish()
    back.finish()
    assert sender.checksum_errors() == {} and receiver.checksum_errors() == {}
    for node in {sender.node, receiver.node}:
        flows = [flow for flow in lab.weft(node, "flow") if flow["protocol"] in (6, "tcp")]
        seen = {}
        for flow in flows:
            key = (flow["source"], flow["source-port"], flow["destination"], flow["destination-port"])
            seen.setdefault(key, []).append(flow["worker"])
        assert len(seen) >= 32
        assert all(len(where) == 1 for where in seen.values()), "a flow that two workers have"


@ways
@families
def test_fragments(pods, way, family):
    sender, receiver = pods[way]
    address = receiver.address(family)
    for _ in range(5):
        assert sender.ping(address, count=2, size=4000) == (2, 0)
    with receiver.serving("udp-echo", address, 6100 + family):
        outcome = sender.exec(TRAFFIC, "udp-sizes", address, 6100 + family, 2990, 3010)
    assert json.loads(outcome.stdout) == {"wrong": []}


def test_they_did_share(lab, pods):
    """Both workers have had flows, packets have been handed over, and none was lost on the way."""
    for node in ("n1", "n2"):
        assert len(workers(lab, node)) == 2
        assert all(worker["packets"] > 100 for worker in workers(lab, node))
        drops = {row["reason"]: row["count"] for row in lab.weft(node, "drops")}
        assert not drops.get("handover_full") and not drops.get("handover_loop"), drops
    assert total(lab, "handed-over") > 100
    # Workers tell what they have counted when they next beat.
    wait_for(lambda: total(lab, "handed-over") == total(lab, "taken-over"), 5, "all that was handed over is taken")
