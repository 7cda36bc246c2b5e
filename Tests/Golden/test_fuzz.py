"""Damaged packets by the thousand: nothing crashes, each goes out, is answered or is dropped, once."""

import random

import pytest
import test_flood
import weft
from test_truncation import carriers, kinds


def corpus(port):
    frames = [bytes(frame) for _, where, frame, _ in kinds() if where == port]
    frames += [bytes(build(payload)) for _, where, build, payload, _ in carriers() if where == port]
    return [unchecked(frame) for frame in frames] if port == "fabric" else frames


def unchecked(frame):
    """Without outer UDP checksum, so that damage inside gets inside."""
    place = 14 + (20 if frame[12:14] == b"\x08\x00" else 40) + 6
    return frame[:place] + b"\0\0" + frame[place + 2:]


def damage(frame, source):
    """A few bytes changed, and often cut or padded."""
    data = bytearray(frame)
    for _ in range(source.choice((1, 1, 2, 4))):
        place = source.randrange(len(data))
        flipped = data[place] ^ 1 << source.randrange(8)
        data[place] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256), flipped))
    if source.random() < 0.3:
        del data[source.randrange(len(data)):]
    elif source.random() < 0.1:
        data += source.randbytes(source.randrange(64))
    return bytes(data)


def bridged():
    """Tables in which packets go to all, have tags, are learned from, and must not be spoofed; and frames of that."""
    document = test_flood.tables(flags=["flood-unknown", "learning", "suppression"])
    document["interfaces"][1]["flags"] = ["bridging", "routing", "learning"]
    document["interfaces"][2]["flags"] = ["bridging", "routing", "anti-spoofing"]
    document["neighbors"] = [{"vrf": 1, "address": "10.1.0.66", "mac": "02:00:00:00:06:01"}]
    document["nexthops"] += [{"id": 100, "action": "l2-receive", "vrf": 1}, {"id": 101, "action": "resolve", "interface": 2}]
    document["labels"].append({"label": 500, "nexthop": 100})
    document["routes"].append({"vrf": 1, "prefix": "10.40.0.0/24", "nexthop": 101})
    members = next(n["members"] for n in document["nexthops"] if n["id"] == test_flood.FLOOD)
    for number, parent, keys in ((8, 1, {"vlan": 100}), (9, 0, {"vlan": 100, "inner-vlan": 7})):
        document["interfaces"].append({"id": number, "role": "virtual", "port": "vlan", "parent": parent, "vrf": 1,
                                       "device": f"v{number}", "mac": f"02:00:00:00:04:0{number}", **keys})
        document["nexthops"].append({"id": number, "action": "encap", "interface": number,
                                     "destination-mac": f"02:00:00:00:04:0{number}"})
        members.append({"nexthop": number})
    frames = [bytes(frame) for _, frame in test_flood.bums()]
    # To everybody all are.
    tags = {"a": b"\x81\0\0\x64", "fabric": b"\x88\xa8\0\x64\x81\0\0\7"}
    more = {"a": frames, "fabric": [unchecked(bytes(test_flood.from_far(weft.Ether(frame)))) for frame in frames]
            + [unchecked(bytes(weft.tunneled(("mpls-over-udp", 4), weft.Ether(frame), label=500))) for frame in frames]}
    for port, tag in tags.items():
        more[port] = more[port] + [frame[:12] + tag + frame[12:] for frame in frames]
    return document, more


@pytest.mark.parametrize("seed", range(4))
def test_damaged_frames_of_a_bridge(replay, seed):
    source = random.Random(seed)
    document, more = bridged()
    inputs = {}
    for port, frames in more.items():
        frames = frames + corpus(port)
        inputs[port] = [damage(source.choice(frames), source) for _ in range(3000)]
    run = replay(inputs, document)
    assert len(run.drops) > 20 and run.report["learned"]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_frames(replay, seed):
    source = random.Random(seed)
    inputs = {}
    for port in ("a", "fabric"):
        frames = corpus(port)
        # Times do not matter here: batches of both ports take turns.
        inputs[port] = [damage(source.choice(frames), source) for _ in range(5000)]
    run = replay(inputs)
    assert len(run.drops) > 20
