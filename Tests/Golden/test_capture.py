"""replay --capture-drops: dropped packets as pcapng, with the reason as their comment."""

import subprocess

import pytest
import weft
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def capture(directory, inputs, document=None, workers=1):
    """What was dropped: interface, direction, comment by tshark, and frames by scapy."""
    file = directory / "drops.pcapng"
    tables = directory / "TABLES.json"
    import json
    tables.write_text(json.dumps(document or weft.tables()))
    command = [str(weft.program), "replay", "--tables", str(tables), "--out", str(directory / "out"),
               "--capture-drops", str(file), "--workers", str(workers)]
    for port, packets in inputs.items():
        weft.write_pcap(directory / f"{port}.pcap", packets, nano=True)
        command += ["--in", f"{port}={directory / f'{port}.pcap'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    report = json.loads((directory / "out/report.json").read_text())
    # Wireshark's tools find nothing to complain about.
    about = subprocess.run(["capinfos", "-M", str(file)], capture_output=True, text=True)
    assert about.returncode == 0 and about.stderr == "", about.stderr
    result = subprocess.run(
        ["tshark", "-n", "-r", str(file), "-T", "fields", "-E", "separator=|", "-e", "frame.interface_name", "-e",
         "frame.packet_flags_direction", "-e", "frame.comment", "-e", "frame.time_epoch"],
        capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in result.stdout.splitlines()]
    frames = [bytes(packet) for packet, _ in RawPcapNgReader(str(file))] if rows else []
    assert len(rows) == len(frames) == sum(report["drops"].values())
    return report, rows, frames


@families
@pytest.mark.parametrize("workers", [1, 4])
def test_reasons_and_frames(tmp_path, family, workers):
    a = weft.pod(family, "a")
    gone = "198.51.100.1" if family == 4 else "2001:db8:99::1"
    dropped = [
        weft.routed("a", weft.ip(family, a, gone) / weft.transport("udp", family)),
        b"\1\2\3",
        Ether(src=weft.MAC["a"], dst=weft.ROUTER, type=0x1234) / b"hello",
        weft.routed("a", weft.ip(family, a, weft.pod(family, "b"), ttl=1) / (UDP() / (b"x" * 1000))),
    ]
    passing = weft.routed("a", weft.ip(family, a, weft.pod(family, "b")) / weft.transport("udp", family))
    _, rows, frames = capture(tmp_path, {"a": [(1.000000001 + index, frame) for index, frame in enumerate(
        [dropped[0], passing, *dropped[1:]])]}, workers=workers)
    # Of a batch, those that fail in an earlier stage come first.
    names = ["no_route", "short_frame", "ethertype_unknown", "ttl_exceeded"]
    assert sorted(zip([row[2].split(":")[0] for row in rows], frames)) == sorted(
        zip(names, [bytes(frame) for frame in dropped]))
    assert [row[0] for row in rows] == ["a"] * 4
    assert "no_route: the VRF has no route to the destination" in [row[2] for row in rows]
    assert {row[1] for row in rows} <= {"1", "0x00000001"}
    assert rows[0][3].startswith("1.00000000")


@families
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda tunnel: f"{tunnel[0]}-{tunnel[1]}")
def test_from_tunnels(tmp_path, family, tunnel):
    gone = "198.51.100.1" if family == 4 else "2001:db8:99::1"
    inner = weft.ip(family, weft.behind(family, tunnel), gone) / weft.transport("udp", family)
    unknown = weft.remote(tunnel, inner, label=777)
    _, rows, frames = capture(tmp_path, {"fabric": [unknown, (2, weft.remote(tunnel, inner))]})
    # Before the tunnel is taken off, the whole frame; after it, what was inside, for MPLS with an Ethernet header.
    source = weft.REMOTE_ROUTER if tunnel[0] == "vxlan" else weft.ROUTER
    assert frames == [bytes(unknown), bytes(Ether(src=source, dst=weft.ROUTER) / inner)]
    assert [row[2].split(":")[0] for row in rows] == [
        "unknown_vni" if tunnel[0] == "vxlan" else "unknown_label", "no_route"]
    assert [row[0] for row in rows] == ["fabric", "fabric"]


def test_nothing_dropped(tmp_path):
    frame = weft.routed("a", weft.ip(4, weft.pod(4, "a"), weft.pod(4, "b")) / weft.transport("udp", 4))
    _, rows, _ = capture(tmp_path, {"a": [frame]})
    assert rows == []


def test_many(tmp_path):
    frames = [weft.routed("a", weft.ip(4, weft.pod(4, "a"), "198.51.100.1") / UDP() / (bytes([index % 256]) * 1400))
              for index in range(3000)]
    _, _, captured = capture(tmp_path, {"a": frames})
    assert captured == [bytes(frame) for frame in frames]


def test_a_file_that_cannot_be_written(tmp_path):
    import json
    (tmp_path / "t.json").write_text(json.dumps(weft.tables()))
    weft.write_pcap(tmp_path / "a.pcap", [])
    process = subprocess.run(
        [str(weft.program), "replay", "--tables", str(tmp_path / "t.json"), "--out", str(tmp_path / "out"), "--in",
         f"a={tmp_path / 'a.pcap'}", "--capture-drops", "/nonexistent/drops.pcapng"], capture_output=True, text=True)
    assert process.returncode == 1
    assert "/nonexistent/drops.pcapng" in process.stderr and "No such file" in process.stderr
