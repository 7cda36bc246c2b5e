"""The replay program: its files, its order, its errors."""

import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
import weft
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, RawPcapReader

VXLAN4 = ("vxlan", 4)


def packet(number, interface="a", to="b"):
    return weft.routed(interface, weft.ip(4, weft.pod(4, interface), weft.pod(4, to)) / weft.transport(
        "udp", 4, str(number).encode(), sport=10000 + number))


def mixed():
    """A bit of everything, over three ports, times interleaved."""
    a, b, fabric = [], [], []
    for number in range(100):
        a.append((1 + number / 1000, packet(number)))
        a.append((1 + number / 1000 + 0.0001, weft.routed("a", weft.ip(6, weft.pod(6, "a"), weft.behind(
            6, VXLAN4)) / weft.transport("tcp", 6, sport=20000 + number))))
        b.append((1 + number / 1000 + 0.0002, packet(number, "b", "a")))
        fabric.append((1 + number / 1000 + 0.0003, weft.remote(VXLAN4, weft.ip(
            4, weft.behind(4, VXLAN4), weft.pod(4, "a")) / weft.transport("udp", 4, sport=number))))
        fabric.append((1 + number / 1000 + 0.0004, b"junk" * number))
    return {"a": a, "b": b, "fabric": fabric}


def test_two_runs_are_the_same(replay):
    runs = [replay(mixed()) for _ in range(2)]
    files = [{path.name: path.read_bytes() for path in sorted(run.out.iterdir())} for run in runs]
    assert set(files[0]) == {"a.pcap", "b.pcap", "fabric.pcap", "report.json"}
    assert files[0] == files[1]


def test_packets_go_in_the_order_of_their_times(replay):
    # Ports take turns; what leaves the fabric shows the order.
    def to_fabric(port, number):
        return weft.routed(port, weft.ip(4, weft.pod(4, port), weft.behind(4, VXLAN4)) / weft.transport(
            "udp", 4, b"%03d" % number))
    a = [(1 + number, to_fabric("a", number)) for number in range(0, 60, 2)]
    b = [(1 + number, to_fabric("b", number)) for number in range(1, 60, 2)]
    run = replay({"b": b, "a": a})
    assert [int(frame[-3:]) for frame in run.frames("fabric")] == list(range(60))
    times = [meta.sec for _, meta in RawPcapReader(str(run.out / "fabric.pcap"))]
    assert times == list(range(1, 61))


def test_times_keep_nanoseconds(replay, tmp_path):
    capture = tmp_path / "nano.pcap"
    weft.write_pcap(capture, [(1700000000.5, packet(1))], nano=True)
    data = bytearray(capture.read_bytes())
    data[24 + 4:24 + 8] = struct.pack("<I", 123_456_789)
    capture.write_bytes(data)
    run = replay({"a": capture}, conserve=False)
    result = (run.out / "b.pcap").read_bytes()
    assert struct.unpack("<I", result[:4]) == (0xA1B23C4D,)
    assert struct.unpack("<II", result[24:32]) == (1700000000, 123_456_789)


def test_kinds_of_captures(replay, tmp_path):
    frame = bytes(packet(1))
    micro, nano, swapped, next_generation = (tmp_path / name for name in ("us.pcap", "ns.pcap", "be.pcap", "x.pcapng"))
    weft.write_pcap(micro, [frame])
    weft.write_pcap(nano, [frame], nano=True)
    swapped.write_bytes(struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
                        + struct.pack(">IIII", 1, 0, len(frame), len(frame)) + frame)
    with PcapNgWriter(str(next_generation)) as writer:
        writer.write(Ether(frame))
    for capture in (micro, nano, swapped, next_generation):
        run = replay({"a": capture}, conserve=False)
        weft.same(run.only("b"), weft.delivered("b", Ether(frame).payload))


def test_many_and_large(replay):
    frames = [packet(number % 500) for number in range(5000)]
    large = weft.routed("a", weft.ip(4, weft.pod(4, "a"), weft.pod(4, "b")) / weft.transport("udp", 4, b"x" * 65507))
    run = replay({"a": [*frames, large]}, weft.tables(pod_mtu=65535))
    assert len(run.frames("b")) == 5001 and len(run.frames("b")[-1]) == 65535 + 14


def test_empty_capture(replay):
    run = replay({"a": []})
    assert (run.sent, run.drops, run.report["flows"]) == ({}, {}, [])
    assert set(run.report["ports"]) == {"a", "b", "c", "d", "fabric"}


def test_without_root():
    if os.getuid() != 0:
        pytest.skip("is not root anyway")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        program = weft.program
        try:
            weft.program = directory / "weft-vrouter"
            shutil.copy(program, weft.program)
            run = weft.replay(directory, {"a": [packet(1)]}, user=65534, group=65534, extra_groups=[])
            assert len(run.frames("b")) == 1
        finally:
            weft.program = program


# --- errors


def fails(replay, inputs, *words, status=1, **options):
    run = replay(inputs, expect_status=status, **options)
    for word in words:
        assert word in run.stderr, run.stderr
    assert run.stdout == ""
    return run


def test_no_such_capture(replay, tmp_path):
    run = fails(replay, {"a": tmp_path / "missing.pcap"}, "missing.pcap", "No such file")
    assert not run.out.exists()


@pytest.mark.parametrize("content, word", [
    (b"", "missing.pcap"), (b"hello, this is no capture at all", "pcap"),
    (struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101), "Ethernet"),
], ids=["empty", "text", "raw-ip"])
def test_no_capture(replay, tmp_path, content, word):
    capture = tmp_path / "missing.pcap"
    capture.write_bytes(content)
    run = fails(replay, {"a": capture}, str(capture), word)
    assert not run.out.exists()


def test_good_and_bad_capture(replay, tmp_path):
    # Nothing is written before all inputs have been opened.
    good = tmp_path / "good.pcap"
    weft.write_pcap(good, [packet(1)])
    run = fails(replay, {"a": good, "b": tmp_path / "missing.pcap"}, "missing.pcap")
    assert not run.out.exists()


@pytest.mark.parametrize("cut", [1, 8, 16, 17, 40])
def test_capture_that_ends_in_a_packet(replay, tmp_path, cut):
    # What came before it has been replayed, and the exit status says that it was not all.
    capture = tmp_path / "cut.pcap"
    weft.write_pcap(capture, [packet(number) for number in range(50)])
    size = 16 + len(bytes(packet(49)))
    capture.write_bytes(capture.read_bytes()[:-size + cut])
    run = fails(replay, {"a": capture}, str(capture), "packet 49")
    assert len(run.frames("b")) == 49
    assert run.report["ports"]["a"]["rx-packets"] == 49


def test_packets_captured_in_part(replay, tmp_path):
    capture = tmp_path / "short.pcap"
    frame = bytes(packet(1))
    capture.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
                        + struct.pack("<IIII", 1, 0, 40, len(frame)) + frame[:40])
    fails(replay, {"a": capture}, str(capture), "packet 1", "40", str(len(frame)))


def test_unknown_port(replay):
    run = fails(replay, {"z": [packet(1)]}, '"z"', "a, b, c, d, fabric")
    assert not run.out.exists()


def run_program(*arguments):
    return subprocess.run([str(weft.program), "replay", *map(str, arguments)], capture_output=True, text=True)


def test_port_twice(replay, tmp_path):
    tables = tmp_path / "TABLES.json"
    tables.write_text(json.dumps(weft.tables()))
    for name in "12":
        weft.write_pcap(tmp_path / f"{name}.pcap", [packet(1)])
    result = run_program("--tables", tables, "--in", f"a={tmp_path}/1.pcap", "--in", f"a={tmp_path}/2.pcap",
                         "--out", tmp_path / "out")
    assert result.returncode == 1 and "port a is given twice" in result.stderr
    assert not (tmp_path / "out").exists()


def test_no_tables(tmp_path):
    weft.write_pcap(tmp_path / "1.pcap", [packet(1)])
    result = run_program("--tables", tmp_path / "no.json", "--in", f"a={tmp_path}/1.pcap", "--out", tmp_path / "out")
    assert result.returncode == 1 and str(tmp_path / "no.json") in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [
    [], ["--tables", "x", "--out", "y"], ["--in", "a=1.pcap", "--out", "y"], ["--tables", "x", "--in", "a=1.pcap"],
    ["--tables", "x", "--out", "y", "--in", "a"], ["--tables", "x", "--out", "y", "--in", "=1.pcap"],
    ["--tables", "x", "--out", "y", "--in", "a=1.pcap", "--fast"],
], ids=lambda arguments: " ".join(arguments) or "nothing")
def test_wrong_usage(arguments):
    result = run_program(*arguments)
    assert result.returncode == 64 and "--help" in result.stderr


def test_help():
    result = run_program("--help")
    assert result.returncode == 0 and "report.json" in result.stdout and result.stderr == ""


def test_output_is_a_file(replay, tmp_path):
    out = tmp_path / "file"
    out.write_text("mine")
    fails(replay, {"a": [packet(1)]}, str(out), "no folder", out=out)
    assert out.read_text() == "mine"


def test_output_in_no_folder(replay, tmp_path):
    fails(replay, {"a": [packet(1)]}, "no/out", "No such file", out=tmp_path / "no/out")


def test_output_not_writable():
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody who may not write")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        program = weft.program
        try:
            weft.program = directory / "weft-vrouter"
            shutil.copy(program, weft.program)
            run = weft.replay(directory, {"a": [packet(1)]}, user=65534, group=65534, extra_groups=[], expect_status=1)
            assert str(directory / "out") in run.stderr and "Permission denied" in run.stderr
        finally:
            weft.program = program


def test_output_folder_is_used_again(replay, tmp_path):
    # What an earlier run wrote does not stand beside what this one wrote; what others put there stays.
    out = tmp_path / "out"
    replay({"a": [packet(1)]}, out=out)
    (out / "notes.txt").write_text("mine")
    frame = weft.routed("a", weft.ip(4, weft.pod(4, "a"), weft.behind(4, VXLAN4)) / weft.transport("udp", 4))
    run = replay({"a": [frame]}, out=out)
    assert sorted(path.name for path in run.out.iterdir()) == ["fabric.pcap", "notes.txt", "report.json"]


def test_the_documentation_is_true(replay):
    # docs/replay.md: its example, its packets, its report.
    text = (weft.ROOT / "docs/replay.md").read_text()
    example, report = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    frame = Ether(src="02:00:00:00:01:01", dst="00:00:5e:00:01:00")
    run = replay({"a": [frame / IP(src="10.1.0.1", dst="10.1.1.7") / UDP(sport=4001, dport=4002) / b"hello",
                        frame / IP(src="10.1.0.1", dst="10.9.0.1") / UDP()]}, example)
    assert {port: len(frames) for port, frames in run.sent.items()} == {"fabric": 1, "a": 1}
    run.report["flows"] = [flow for flow in run.report["flows"] if flow["direction"] == "forward"]
    assert run.report == report
    # And what it says of a bad file.
    message = re.search(r"^Error: TABLES.json: (.*)$", text, re.MULTILINE)[1]
    block = re.search(r"```json\n(.*?)```", text, re.DOTALL)[1].replace('"10.1.1.0/24"', '"10.1.1.5/24"')
    assert message in replay({"a": []}, block, expect_status=1).stderr
