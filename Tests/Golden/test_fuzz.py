"""Damaged packets by the thousand: nothing crashes, each goes out, is answered or is dropped, once."""

import random

import pytest
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
