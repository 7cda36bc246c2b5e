"""Front ends and guests of vhost-user that do what they should not: each row says what is wrong. The forwarder stops the
queue or sends the front end away, says why, and goes on forwarding."""
import mmap
import os
import pathlib
import socket
import struct

import pytest
from frontend import (EVENT_IDX, GUEST, INDIRECT_TABLE, NEXT, PROTOCOL, RING, SIZE, USER, VERSION_1, WRITE, Ended, FrontEnd)
from lab import wait_for
from test_vm import Machine

FRAME = bytes.fromhex("ffffffffffff020000000001" "0806") + bytes(46)


@pytest.fixture(scope="module")
def port(lab):
    machine = Machine(
        lab, "n1", "hostile", ["10.1.1.220", "fd00:1::1:220"], **{"vhostuser-socket": f"{lab.folder}/n1/hostile.vhost"})
    machine.plug()
    machine.pods = lab.pod("n1", "a"), lab.pod("n1", "b")
    yield machine
    machine.unplug()


@pytest.fixture
def front(port):
    front = FrontEnd(port.socket)
    yield front
    front.close()
    # The forwarder has borne it.
    one, other = port.pods
    assert one.ping(other.address(4), count=3) == (3, 0)


def u64(value):
    return struct.pack("<Q", value)


def pair(*values):
    return struct.pack("<II", *values)


def pipe():
    reader, writer = os.pipe()
    os.close(writer)
    return reader


#: What is wrong: request, body, descriptors, the log's words.
MESSAGES = {
    "an unknown request": (99, b"", [], "request 99 is not known"),
    "no protocol": (0, b"", [], "request 0 is not known"),
    "too few bytes": (2, b"\1", [], "has 1 bytes"),
    "too many bytes": (1, bytes(8), [], "has 8 bytes"),
    "features that were not offered": (2, u64(1 << 63 | 1 << 26), [], "never offered"),
    "protocol features that were not offered": (16, u64(1 << 5), [], "never offered"),
    "logging": (6, bytes(16), [], "logging"),
    "an MTU beyond the port's": (20, u64(65535), [], "host_mtu"),
    "a ring of no size": (8, pair(0, 0), [], "no power of two"),
    "a ring of a crooked size": (8, pair(0, 100), [], "no power of two"),
    "a ring too large": (8, pair(0, 65536), [], "no power of two"),
    "a queue that is not there": (8, pair(64, 64), [], "queue 64 of 64"),
    "a queue far off": (18, pair(0xFFFFFFFF, 1), [], "queue 4294967295"),
    "a base beyond 16 bits": (10, pair(0, 65536), [], "65535"),
    "enabled by 2": (18, pair(0, 2), [], "enabled by 2"),
    "no descriptor to kick by": (12, u64(0), [], "0 descriptors"),
    "polling": (12, u64(0x100), [], "polled"),
    "a pipe to kick by": (12, u64(0), [pipe], "no eventfd"),
    "a pipe to call by": (13, u64(0), [pipe], "no eventfd"),
    "memory without descriptors": (5, struct.pack("<II", 1, 0) + bytes(32), [], "0 descriptors"),
    "memory in no region": (5, pair(0, 0), [], "0 regions"),
    "memory in too many regions": (5, pair(9, 0), [], "9 regions"),
    "fewer regions than it says": (5, pair(2, 0) + bytes(32), [], "2 regions"),
    "memory in a pipe": (5, pair(1, 0) + struct.pack("<QQQQ", GUEST, 4096, USER, 0), [pipe], "no memfd"),
}


@pytest.mark.parametrize("what", MESSAGES)
def test_message(port, front, what):
    request, body, files, words = MESSAGES[what]
    before = len(port.log())
    opened = [make() for make in files]
    front.send(3)
    with pytest.raises(Ended):
        front.send(request, body, opened)
        front.answer()
    for file in opened:
        os.close(file)
    assert words in port.log()[before:]


@pytest.mark.parametrize("what, claim", {
    "beyond its file": dict(size=SIZE * 2), "of no size": dict(size=0), "round the end of addresses": dict(guest=2**64 - 4096),
    "from far off": dict(offset=2**64 - 4096), "from beyond": dict(offset=SIZE)}.items())
def test_memory(port, front, what, claim):
    with pytest.raises(Ended):
        front.send(5, front.table(**claim), [front.memfd])
        front.answer()
    assert "memory region 0" in port.log()


@pytest.mark.parametrize("what, header", {
    "another version": struct.pack("<III", 1, 2, 0), "a gigabyte": struct.pack("<III", 5, 1, 1 << 30)}.items())
def test_header(front, what, header):
    with pytest.raises(Ended):
        front.socket.sendall(header)
        front.answer()


@pytest.mark.parametrize("what, addresses", {
    "elsewhere": (0x1000, 0x2000, 0x3000), "half outside": (USER + SIZE - 64, USER, USER + 4096),
    "crooked": (USER + 1, USER + 8193, USER + 4097), "at the end of addresses": (2**64 - 16, USER, USER)}.items())
def test_ring_addresses(port, front, what, addresses):
    front.begin()
    with pytest.raises(Ended):
        front.ring(1, addresses=addresses)
        front.ask(1)
        front.ask(1)
    assert "not in the guest's memory" in port.log()


def loop(front):
    front.descriptor(1, 0, front.buffer(0, FRAME), 60, NEXT, 1)
    front.descriptor(1, 1, front.buffer(0, FRAME), 60, NEXT, 0)
    front.offer(1, [0])


def table(front, flags=0, length=16, inner=(GUEST + 65536, 60, 0, 0), address=GUEST + 32768):
    struct.pack_into("<QIHH", front.memory, 32768, *inner)
    front.descriptor(1, 0, address, length, INDIRECT_TABLE | flags)
    front.offer(1, [0])


def one(front, address, length, flags=0):
    front.descriptor(1, 0, address, length, flags)
    front.offer(1, [0])


#: What a guest writes into the queue that it sends by, and why that is stopped.
QUEUES = {
    "an index far ahead": (lambda f: f.offer(1, [0], index=RING + 1), "available index"),
    "a head beyond the table": (lambda f: f.offer(1, [RING]), "beyond the table"),
    "a head of 65535": (lambda f: f.offer(1, [65535]), "beyond the table"),
    "a next beyond the table": (
        lambda f: (f.descriptor(1, 0, GUEST + 65536, 60, NEXT, 999), f.offer(1, [0])), "beyond the table"),
    "a chain that is a circle": (loop, "does not end"),
    "a buffer elsewhere": (lambda f: one(f, 0, 100), "not in the guest's memory"),
    "a buffer that ends elsewhere": (lambda f: one(f, GUEST + SIZE - 10, 100), "not in the guest's memory"),
    "a buffer round the end": (lambda f: one(f, 2**64 - 8, 100), "not in the guest's memory"),
    "4 GiB": (lambda f: one(f, GUEST, 2**32 - 1), "not in the guest's memory"),
    "no header": (lambda f: one(f, GUEST + 65536, 5), "shorter than its virtio-net header"),
    "nothing": (lambda f: one(f, GUEST + 65536, 0), "has no bytes"),
    "too long a packet": (lambda f: one(f, GUEST, 500_000), "longer than 64 KiB"),
    "a buffer to write to": (lambda f: one(f, GUEST + 65536, 100, WRITE), "reading"),
    "a nested table": (lambda f: table(f, inner=(GUEST + 65536, 16, INDIRECT_TABLE, 0)), "indirect"),
    "a table that goes on": (lambda f: table(f, flags=NEXT), "indirect"),
    "a table of 17 bytes": (lambda f: table(f, length=17), "indirect"),
    "an empty table": (lambda f: table(f, length=0), "indirect"),
    "a table elsewhere": (lambda f: table(f, address=64), "indirect"),
    "a huge table": (lambda f: table(f, length=2**32 - 16), "indirect"),
    "a table whose chain leaves it": (lambda f: table(f, length=32, inner=(GUEST + 65536, 60, NEXT, 5)), "beyond the table"),
    "a circle in a table": (lambda f: table(f, inner=(GUEST + 65536, 60, NEXT, 0)), "does not end"),
}


@pytest.mark.parametrize("what, events", [
    *((what, 0) for what in QUEUES), ("an index far ahead", EVENT_IDX), ("a chain that is a circle", EVENT_IDX),
    ("a nested table", EVENT_IDX)])
def test_queue(port, front, what, events):
    write, words = QUEUES[what]
    before = len(port.log())
    front.begin(VERSION_1 | PROTOCOL | 1 << 28 | 1 << 15 | events)
    front.ring(0)
    front.ring(1)
    wait_for(port.is_up, 5, "the port comes up")
    write(front)
    assert front.is_stopped(1), what
    wait_for(lambda: words in port.log()[before:], 5, words)
    # The front end is no worse off, and a reset makes the queue good.
    assert front.is_there()
    front.ask(11, pair(1, 0))
    front.memory[16384:32768] = bytes(16384)
    front.ring(1)
    for index in range(4):
        front.descriptor(1, index, front.buffer(index, FRAME), 12 + len(FRAME))
    front.offer(1, [0, 1, 2, 3])
    wait_for(lambda: front.used(1) == 4, 5, "frames are taken")


def test_truncated_memory(port, front):
    """Memory that could not be sealed, and is gone when the forwarder touches it."""
    os.close(front.memfd)
    front.memory.close()
    path = pathlib.Path("/dev/shm") / f"weft-{os.getpid()}"
    front.memfd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    path.unlink()
    os.ftruncate(front.memfd, SIZE)
    front.memory = mmap.mmap(front.memfd, SIZE)
    front.begin()
    front.ring(0)
    front.ring(1)
    wait_for(port.is_up, 5, "the port comes up")
    os.ftruncate(front.memfd, 0)
    os.eventfd_write(front.events[1][0], 1)
    wait_for(lambda: "has truncated its guest's memory" in port.log(), 5, "the front end is sent away")
    wait_for(lambda: not port.is_up(), 5, "the port goes down")
    os.ftruncate(front.memfd, SIZE)


def test_sealed_memory(front):
    """What can be sealed is: nobody takes the memory away under the forwarder."""
    front.begin()
    assert front.is_there()
    with pytest.raises(PermissionError):
        os.ftruncate(front.memfd, 0)


def test_two_front_ends(port, front):
    assert front.is_there()
    other = socket.socket(socket.AF_UNIX)
    other.settimeout(5)
    other.connect(port.socket)
    assert other.recv(1) == b""
    other.close()
    assert front.is_there()
