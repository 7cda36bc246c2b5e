"""A front end of vhost-user, for tests: it speaks the protocol by itself, rightly or wrongly."""
import array
import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct

GUEST, USER, SIZE = 0x1000_0000, 0x7F00_0000_0000, 1 << 20
RING = 64
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
VERSION_1, EVENT_IDX, INDIRECT, PROTOCOL, MERGEABLE = 1 << 32, 1 << 29, 1 << 28, 1 << 30, 1 << 15
NEXT, WRITE, INDIRECT_TABLE = 1, 2, 4


class Ended(Exception):
    """The back end has closed the connection."""


class FrontEnd:
    """One pair of queues in a MiB of memory: rings from 0 (receive) and 16384 (send) on, buffers from 65536 on."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(path)
        self.memfd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memfd, SIZE)
        self.memory = mmap.mmap(self.memfd, SIZE)
        self.events = [[os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)] for _ in range(2)]

    def send(self, request, body=b"", fds=(), flags=1, size=None):
        message = struct.pack("<III", request, flags, len(body) if size is None else size) + body
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.socket.sendmsg([message], control)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Ended from error

    def answer(self):
        try:
            head = self.socket.recv(12, socket.MSG_WAITALL)
            if len(head) < 12:
                raise Ended
            return self.socket.recv(struct.unpack("<III", head)[2], socket.MSG_WAITALL)
        except ConnectionResetError as error:
            raise Ended from error

    def ask(self, request, body=b""):
        self.send(request, body)
        return self.answer()

    def is_there(self):
        """The back end still answers."""
        try:
            return len(self.ask(1)) == 8
        except Ended:
            return False

    def table(self, guest=GUEST, size=SIZE, user=USER, offset=0, count=1):
        return struct.pack("<II", count, 0) + struct.pack("<QQQQ", guest, size, user, offset)

    def begin(self, features=VERSION_1 | PROTOCOL | INDIRECT | MERGEABLE):
        self.ask(1)
        self.send(3)
        self.send(2, struct.pack("<Q", features))
        self.send(16, struct.pack("<Q", 1 << 3))
        self.send(5, self.table(), [self.memfd])

    def ring(self, number, size=RING, base=0, addresses=None, enable=1):
        at = USER + number * 16384
        addresses = addresses or (at, at + 8192, at + 4096)
        self.send(8, struct.pack("<II", number, size))
        self.send(10, struct.pack("<II", number, base))
        self.send(9, struct.pack("<IIQQQQ", number, 0, *addresses, 0))
        kick, call, error = self.events[number]
        self.send(13, struct.pack("<Q", number), [call])
        self.send(14, struct.pack("<Q", number), [error])
        self.send(12, struct.pack("<Q", number), [kick])
        self.send(18, struct.pack("<II", number, enable))

    def descriptor(self, number, index, address, length, flags=0, follows=0):
        struct.pack_into("<QIHH", self.memory, number * 16384 + index * 16, address, length, flags, follows)

    def offer(self, number, heads, index=None):
        """Entries of the available ring, from its start, and its index."""
        at = number * 16384 + 4096
        for place, head in enumerate(heads):
            struct.pack_into("<H", self.memory, at + 4 + 2 * (place % RING), head)
        struct.pack_into("<H", self.memory, at + 2, len(heads) if index is None else index)
        os.eventfd_write(self.events[number][0], 1)

    def used(self, number):
        return struct.unpack_from("<H", self.memory, number * 16384 + 8192 + 2)[0]

    def is_stopped(self, number, seconds=5):
        """The back end says so by the queue's error eventfd."""
        return bool(select.select([self.events[number][2]], [], [], seconds)[0])

    def buffer(self, place, data):
        """Writes a virtio-net header of nothing and a frame; the guest's address."""
        at = 65536 + place * 2048
        self.memory[at:at + 12 + len(data)] = bytes(12) + data
        return GUEST + at

    def close(self):
        self.socket.close()
        self.memory.close()
        os.close(self.memfd)
        for event in sum(self.events, []):
            os.close(event)
