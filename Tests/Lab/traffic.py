#!/usr/bin/python3
"""Traffic that says of itself whether it arrived as it was sent. Run in a pod: traffic.py COMMAND ...

tcp-serve ADDRESS PORT STREAMS    take connections; a JSON line for each at its end (bytes, sha256), progress lines before
tcp-send ADDRESS PORT BYTES SEED [BYTES-PER-SECOND]
                                  send a stream; a JSON line at the end
udp-echo ADDRESS PORT             send each datagram back
udp-burst ADDRESS PORT COUNT SIZE  numbered datagrams as fast as can be, of SIZE bytes and the last shorter
udp-collect ADDRESS PORT COUNT    take them; a JSON line with how many were right, and how many super-frames there were
udp-count ADDRESS PORT            take numbered datagrams until standard input ends; a JSON line with which were missing
udp-numbers ADDRESS PORT RATE     send numbered datagrams until standard input ends; a JSON line with how many
udp-sizes ADDRESS PORT FROM TO    a datagram of each size and its echo compared; a JSON line with what went wrong
"""
import hashlib
import json
import os
import random
import select
import socket
import sys
import threading
import time

BLOCK = 1 << 18
SO_RCVBUFFORCE = 33


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def say(**words):
    # One write: print sends the line's end by itself, and several threads report at once.
    os.write(1, (json.dumps(words) + "\n").encode())


def tcp_serve(address, port, streams):
    listener = socket.socket(family(address), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(64)
    say(listening=port)
    total = [0] * streams

    def take(index, connection):
        digest = hashlib.sha256()
        while data := connection.recv(1 << 20):
            digest.update(data)
            total[index] += len(data)
        # The sender's seed comes first, in 8 bytes, so that streams can be told apart.
        say(bytes=total[index], sha256=digest.hexdigest())
        connection.close()

    def report():
        while True:
            time.sleep(0.1)
            say(progress=sum(total), time=time.monotonic())

    threading.Thread(target=report, daemon=True).start()
    takers = []
    for index in range(streams):
        connection, _ = listener.accept()
        takers.append(threading.Thread(target=take, args=(index, connection)))
        takers[-1].start()
    for taker in takers:
        taker.join()


def tcp_send(address, port, size, seed, rate=None):
    base = bytearray(random.Random(seed).randbytes(BLOCK))
    digest = hashlib.sha256()
    connection = socket.create_connection((address, port), timeout=10)
    connection.settimeout(60)
    sent = 0
    began = time.monotonic()
    while sent < size:
        # Every block differs, so that none can stand for another.
        base[:8] = (sent // BLOCK).to_bytes(8, "big")
        block = bytes(base[: size - sent])
        connection.sendall(block)
        digest.update(block)
        sent += len(block)
        if rate:
            time.sleep(max(0, sent / rate - (time.monotonic() - began)))
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
    say(bytes=sent, sha256=digest.hexdigest(), seconds=time.monotonic() - began)


def udp_echo(address, port):
    echo = socket.socket(family(address), socket.SOCK_DGRAM)
    echo.bind((address, port))
    say(listening=port)
    while True:
        data, sender = echo.recvfrom(65536)
        echo.sendto(data, sender)


def udp_sizes(address, port, first, last):
    client = socket.socket(family(address), socket.SOCK_DGRAM)
    client.connect((address, port))
    client.settimeout(2)
    wrong = []
    for size in range(first, last + 1):
        data = os.urandom(size)
        client.send(data)
        try:
            if client.recv(65536) != data:
                wrong.append(f"{size}: came back changed")
        except OSError as error:
            wrong.append(f"{size}: {error}")
        if len(wrong) > 5:
            break
    say(wrong=wrong)


def datagram(number, size):
    return number.to_bytes(4, "big") + random.Random(number).randbytes(size - 4)


def udp_burst(address, port, count, size):
    client = socket.socket(family(address), socket.SOCK_DGRAM)
    client.connect((address, port))
    ready = [datagram(number, size if number + 1 < count else size // 2) for number in range(count)]
    for one in ready:
        client.send(one)
    say(sent=count)


def udp_collect(address, port, count):
    # What the kernel is handed, with its virtio-net header: PACKET_VNET_HDR.
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    tap.setsockopt(263, 15, 1)
    tap.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
    tap.bind(("eth0", 0))
    server = socket.socket(family(address), socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
    server.bind((address, port))
    server.settimeout(10)
    say(listening=port)
    numbers, wrong = [], 0
    try:
        while len(numbers) < count:
            data = server.recv(65536)
            numbers.append(int.from_bytes(data[:4], "big"))
            wrong += data != datagram(numbers[-1], len(data))
    except TimeoutError:
        pass
    supers = 0
    tap.setblocking(False)
    try:
        while frame := tap.recv(70000):
            supers += frame[1] == 5
    except BlockingIOError:
        pass
    say(arrived=len(numbers), in_order=numbers == sorted(set(numbers)), wrong=wrong, super_frames=supers)


def input_ended():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def udp_count(address, port):
    server = socket.socket(family(address), socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    server.bind((address, port))
    say(listening=port)
    seen, twice = set(), 0
    while not input_ended():
        # In time with the sender; what waits meanwhile has room.
        time.sleep(0.02)
        while True:
            try:
                number = int.from_bytes(server.recv(64, socket.MSG_DONTWAIT), "big")
            except BlockingIOError:
                break
            twice += number in seen
            seen.add(number)
    last = max(seen, default=-1)
    say(received=len(seen), last=last, twice=twice, missing=sorted(set(range(last + 1)) - seen)[:10])


def udp_numbers(address, port, rate):
    client = socket.socket(family(address), socket.SOCK_DGRAM)
    client.connect((address, port))
    began, number = time.monotonic(), 0
    while not input_ended():
        while number <= (time.monotonic() - began) * rate:
            client.send(number.to_bytes(8, "big"))
            number += 1
        time.sleep(0.002)
    say(sent=number)


if __name__ == "__main__":
    command, address, *numbers = sys.argv[1:]
    commands = {"tcp-serve": tcp_serve, "tcp-send": tcp_send, "udp-echo": udp_echo, "udp-sizes": udp_sizes,
                "udp-burst": udp_burst, "udp-collect": udp_collect, "udp-count": udp_count,
                "udp-numbers": udp_numbers}
    commands[command](address, *(int(number) for number in numbers))
