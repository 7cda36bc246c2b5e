#!/usr/bin/python3
"""A resolver that says what it is asked: resolver.py ADDRESS [ADDRESS...]

Any name has the address of type A 192.0.2.53 and AAAA 2001:db8::53; big.test has 200 of them, more than a datagram of
512 bytes holds (then truncated) and less than 64 KiB; mute.test is never answered; slow.test after a second;
forged.test gets answers with a wrong id and with another question before the right one. Prints a line for each question.
"""
import os
import socket
import struct
import sys
import threading
import time


def parse(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
        at += 1 + query[at]
    kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
    return ".".join(labels).lower(), kind, query[12 : at + 5]


def answer(query, limit):
    name, kind, question = parse(query)
    data = {1: socket.inet_aton("192.0.2.53"), 28: socket.inet_pton(socket.AF_INET6, "2001:db8::53")}.get(kind)
    count = 200 if name.startswith("big.") else 1
    records = b""
    if data:
        for number in range(count):
            one = data[:-1] + bytes([number % 250 + 1]) if count > 1 else data
            records += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(one)) + one
    flags, answers = 0x8180, count if data else 0
    if 12 + len(question) + len(records) > limit:
        flags, answers, records = 0x8380, 0, b""
    return query[:2] + struct.pack("!HHHHH", flags, 1, answers, 0, 0) + question + records


def edns(query):
    """The size of the asker's buffer: an OPT record is all that may follow the question here."""
    rest = query[12 + len(parse(query)[2]) :]
    return struct.unpack("!H", rest[3:5])[0] if len(rest) >= 11 and rest[:3] == b"\0\0\x29" else 512


def say(line):
    os.write(1, (line + "\n").encode())


def datagrams(server):
    def respond(query, peer):
        name = parse(query)[0]
        if name.startswith("mute."):
            return
        if name.startswith("slow."):
            time.sleep(1)
        good = answer(query, edns(query))
        if name.startswith("forged."):
            server.sendto(bytes([good[0] ^ 0xFF]) + good[1:], peer)
            server.sendto(good[:13] + b"X" + good[14:], peer)
        server.sendto(good, peer)

    while True:
        query, peer = server.recvfrom(65535)
        say(f"udp {parse(query)[0]}")
        threading.Thread(target=respond, args=(query, peer), daemon=True).start()


def stream(connection):
    with connection:
        file = connection.makefile("rb")
        while header := file.read(2):
            query = file.read(struct.unpack("!H", header)[0])
            name = parse(query)[0]
            say(f"tcp {name}")
            if name.startswith("mute."):
                continue
            good = answer(query, 65535)
            connection.sendall(struct.pack("!H", len(good)) + good)


def connections(server):
    while True:
        threading.Thread(target=stream, args=(server.accept()[0],), daemon=True).start()


threads = []
for address in sys.argv[1:]:
    for kind, serve in ((socket.SOCK_DGRAM, datagrams), (socket.SOCK_STREAM, connections)):
        server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, 53))
        if kind == socket.SOCK_STREAM:
            server.listen(64)
        threads.append(threading.Thread(target=serve, args=(server,), daemon=True))
say('{"listening": 53}')
for thread in threads:
    thread.start()
threading.Event().wait()
