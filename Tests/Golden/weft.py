"""Replays for the golden tests: writes TABLES.json and pcaps, runs the program, reads what it wrote."""

import copy
import json
import os
import subprocess
from pathlib import Path

import jsonschema
from scapy.config import conf
from scapy.contrib.mpls import MPLS  # noqa: F401  for the tests
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, GRE, Ether
from scapy.layers.vxlan import VXLAN  # noqa: F401  for the tests
from scapy.utils import PcapWriter, RawPcapReader

conf.verb = 0

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("WEFT_VROUTER", ROOT / ".build/release/weft-vrouter"))
# A copy, so that a build which replaces the program does not disturb a run.
program = PROGRAM

ROUTER = "00:00:5e:00:01:00"
ROUTER_LINK_LOCAL = "fe80::200:5eff:fe00:100"
FABRIC = "02:00:00:00:ff:01"
NEXT_HOP = "02:00:00:00:ff:02"
REMOTE_ROUTER = "02:00:00:00:fe:02"
REMOTE_POD = "02:00:00:00:02:09"
MAC = {"a": "02:00:00:00:01:01", "b": "02:00:00:00:01:02", "c": "02:00:00:00:01:03", "d": "02:00:00:00:01:04"}
HERE = {4: "192.0.2.1", 6: "2001:db8::1"}
THERE = {4: "192.0.2.2", 6: "2001:db8::2"}
GATEWAY = {4: "10.1.0.254", 6: "fd01::fe"}

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((ROOT / "docs/tables.schema.json").read_text()),
    format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)

# Ports in which tshark sees no protocol of its own.
SOURCE_PORT, DESTINATION_PORT = 33333, 44444

# Nexthops of `tables()`.
ENCAP = {"a": 1, "b": 2, "c": 3, "d": 4}
TUNNEL = {("vxlan", 4): 10, ("vxlan", 6): 11, ("mpls-over-udp", 4): 12, ("mpls-over-udp", 6): 13,
          ("mpls-over-gre", 4): 15, ("mpls-over-gre", 6): 16}
UNRESOLVED, RECEIVE, DISCARD, VRF1, VRF2 = 14, 20, 21, 31, 32
# The third octet (IPv4) or last group (IPv6) of the networks behind each tunnel: 10.2.0.0/24 and fd02::/64 and so on.
BEHIND = {("vxlan", 4): 2, ("vxlan", 6): 3, ("mpls-over-udp", 4): 4, ("mpls-over-udp", 6): 5,
          ("mpls-over-gre", 4): 6, ("mpls-over-gre", 6): 7}


def pod(family, interface):
    """Address of the pod behind an interface: c and d have those of a and b, in another VRF."""
    host = {"a": 1, "b": 2, "c": 1, "d": 2}[interface]
    return f"10.1.0.{host}" if family == 4 else f"fd01::{host}"


def behind(family, tunnel, host=9):
    """An address behind a tunnel."""
    return f"10.{BEHIND[tunnel]}.0.{host}" if family == 4 else f"fd0{BEHIND[tunnel]}::{host:x}"


def tables(mtu=9000, pod_mtu=1500):
    """Two VRFs with the same addresses, two pods in each, a tunnel of every kind."""
    interfaces = [
        {"id": 0, "role": "fabric", "port": "pcap", "device": "fabric", "mac": FABRIC, "mtu": mtu,
         "addresses": [HERE[4], HERE[6]]},
    ]
    for device, vrf in (("a", 1), ("b", 1), ("c", 2), ("d", 2)):
        interfaces.append({"id": ENCAP[device], "role": "virtual", "port": "pcap", "device": device,
                           "mac": MAC[device], "vrf": vrf, "mtu": pod_mtu})
    nexthops = [{"id": ENCAP[device], "action": "encap", "interface": ENCAP[device], "destination-mac": MAC[device]}
                for device in "abcd"]
    for (encapsulation, family), number in TUNNEL.items():
        nexthop = {"id": number, "action": "tunnel", "encapsulation": encapsulation, "interface": 0,
                   "source": HERE[family], "destination": THERE[family], "destination-mac": NEXT_HOP}
        if encapsulation == "vxlan":
            nexthop["inner-destination-mac"] = REMOTE_ROUTER
        nexthops.append(nexthop)
    nexthops += [
        {"id": UNRESOLVED, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": HERE[4],
         "destination": "192.0.2.3"},
        {"id": RECEIVE, "action": "receive"},
        {"id": DISCARD, "action": "discard"},
        {"id": VRF1, "action": "vrf-translate", "vrf": 1},
        {"id": VRF2, "action": "vrf-translate", "vrf": 2},
    ]
    routes = []
    for vrf, pods, label in ((1, "ab", 100), (2, "cd", 200)):
        for family, width in ((4, 32), (6, 128)):
            for device in pods:
                routes.append({"vrf": vrf, "prefix": f"{pod(family, device)}/{width}", "nexthop": ENCAP[device]})
            routes.append({"vrf": vrf, "prefix": f"{GATEWAY[family]}/{width}", "nexthop": RECEIVE})
        for tunnel, number in TUNNEL.items():
            for prefix in (f"10.{BEHIND[tunnel]}.0.0/24", f"fd0{BEHIND[tunnel]}::/64"):
                routes.append({"vrf": vrf, "prefix": prefix, "nexthop": number, "label": label})
    for family, prefix in ((4, "10.{}.0.0/24"), (6, "fd{:02x}::/64")):
        routes += [
            {"vrf": 1, "prefix": prefix.format(16), "nexthop": UNRESOLVED, "label": 100},
            {"vrf": 1, "prefix": prefix.format(17), "nexthop": DISCARD},
            {"vrf": 1, "prefix": prefix.format(18), "nexthop": VRF2},
            # Leads to itself.
            {"vrf": 1, "prefix": prefix.format(19), "nexthop": VRF1},
            {"vrf": 2, "prefix": prefix.format(18), "nexthop": ENCAP["c"]},
        ]
    bridge = [{"vrf": vrf, "mac": MAC[device], "nexthop": ENCAP[device]}
              for vrf, pods in ((1, "ab"), (2, "cd")) for device in pods]
    bridge.append({"vrf": 1, "mac": REMOTE_POD, "nexthop": TUNNEL["vxlan", 4], "label": 100})
    return {
        "limits": {"interfaces": 16, "vrfs": 16, "nexthops": 64, "routes": 256, "route-nodes": 4096, "bridge": 64,
                   "flows": 4096},
        "vrfs": [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}],
        "interfaces": interfaces,
        "nexthops": nexthops,
        "labels": [{"label": 100, "nexthop": VRF1}, {"label": 200, "nexthop": VRF2},
                   {"label": 1001, "nexthop": ENCAP["a"]}, {"label": 1002, "nexthop": DISCARD}],
        "vnis": [{"vni": 100, "nexthop": VRF1}, {"vni": 200, "nexthop": VRF2}, {"vni": 1001, "nexthop": ENCAP["a"]},
                 {"vni": 1002, "nexthop": DISCARD}],
        "routes": routes,
        "bridge": bridge,
    }


def ip(family, source, destination, **fields):
    """An IP header; `tos`, `ttl` mean the same in both families, `id` is for IPv4."""
    if family == 4:
        return IP(src=source, dst=destination, id=fields.pop("id", 7), **fields)
    fields.pop("id", None)
    for v4, v6 in (("tos", "tc"), ("ttl", "hlim")):
        if v4 in fields:
            fields[v6] = fields.pop(v4)
    return IPv6(src=source, dst=destination, **fields)


def routed(interface, packet):
    """As a pod sends it to the router."""
    return Ether(src=MAC[interface], dst=ROUTER) / packet


def delivered(interface, packet):
    """As the router hands it to a pod: one hop further."""
    return Ether(src=ROUTER, dst=MAC[interface]) / aged(packet)


def aged(packet):
    """One TTL less, checksum right; everything else byte for byte."""
    packet = packet.__class__(bytes(packet))
    if isinstance(packet, IP):
        packet.ttl -= 1
        del packet.chksum
        packet = IP(bytes(packet))
    else:
        packet.hlim -= 1
    return packet


def tunneled(tunnel, inner, label=100, **outer):
    """A tunnel packet from the other node. `inner` is a frame for VXLAN, an IP packet for MPLS."""
    encapsulation, family = tunnel
    frame = Ether(src=NEXT_HOP, dst=outer.pop("mac", FABRIC))
    sport = outer.pop("sport", 0xC123)
    checksum = {"chksum": outer.pop("chksum")} if "chksum" in outer else {}
    gre = outer.pop("gre", {})
    header = ip(family, THERE[family], outer.pop("destination", HERE[family]), **outer)
    if encapsulation == "mpls-over-gre":
        return frame / header / GRE(proto=0x8847, **gre) / MPLS(label=label, s=1, cos=0, ttl=64) / inner
    if encapsulation == "vxlan":
        return frame / header / UDP(sport=sport, dport=4789, **checksum) / VXLAN(flags=0x08, vni=label) / inner
    return frame / header / UDP(sport=sport, dport=6635, **checksum) / MPLS(label=label, s=1, cos=0, ttl=64) / inner


def remote(tunnel, packet, label=100, **outer):
    """An IP packet that the other node routed into a tunnel."""
    inner = Ether(src=REMOTE_ROUTER, dst=ROUTER) / packet if tunnel[0] == "vxlan" else packet
    return tunneled(tunnel, inner, label, **outer)


class Run:
    """What a replay did."""

    def __init__(self, out, process):
        self.out = out
        self.status = process.returncode
        self.stdout = process.stdout
        self.stderr = process.stderr
        report = self.out / "report.json"
        self.report = json.loads(report.read_text()) if report.exists() else None

    @property
    def drops(self):
        return self.report["drops"]

    @property
    def sent(self):
        """Frames by port, ports that sent nothing left out."""
        return {path.stem: self.frames(path.stem) for path in sorted(self.out.glob("*.pcap"))}

    def frames(self, port):
        path = self.out / f"{port}.pcap"
        frames = []
        if path.exists():
            reader = RawPcapReader(str(path))
            try:
                while True:
                    # Its default size would cut frames beyond 65,535 bytes.
                    frames.append(bytes(reader._read_packet(size=1 << 18)[0]))
            except EOFError:
                reader.close()
        return frames

    def only(self, port):
        """The one frame that left, which left by this port."""
        sent = self.sent
        assert {name: len(frames) for name, frames in sent.items()} == {port: 1}, (self.report, self.stderr)
        return sent[port][0]

    def tshark(self, port, *fields, decode=()):
        """What tshark says of the port's frames: for each a dictionary of lists, outermost header first. Checksums are
        verified; a checksum status is 1 for good, 0 for bad, 3 for none. `decode`: what it cannot know (its option -d)."""
        command = ["tshark", "-n", "-r", str(self.out / f"{port}.pcap"), "-T", "fields", "-E", "separator=|",
                   "-E", "aggregator=,", "-E", "occurrence=a"]
        for protocol in ("ip", "udp", "tcp"):
            command += ["-o", f"{protocol}.check_checksum:TRUE"]
        for rule in decode:
            command += ["-d", rule]
        names = [*fields, "_ws.malformed"]
        for name in names:
            command += ["-e", name]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = [dict(zip(names, [value.split(",") if value else [] for value in line.split("|")], strict=True))
                for line in result.stdout.splitlines()]
        for row in rows:
            assert row.pop("_ws.malformed") == [], "tshark finds a frame malformed"
        return rows


def write_pcap(path, packets, nano=False):
    """`packets`: bytes or scapy packets, or (seconds, packet). Without a time they are a millisecond apart."""
    writer = PcapWriter(str(path), linktype=1, nano=nano, snaplen=262144)
    writer.write_header(b"")
    for index, packet in enumerate(packets):
        time, data = packet if isinstance(packet, tuple) else (1 + index / 1000, packet)
        data = bytes(data)
        seconds = int(time)
        fraction = round((time - seconds) * (1_000_000_000 if nano else 1_000_000))
        writer.write_packet(data, sec=seconds, usec=fraction, caplen=len(data), wirelen=len(data))
    writer.close()


def replay(directory, inputs, tables_=None, expect_status=0, conserve=True, out=None, workers=None,
           super_frames=None, **options):
    """Runs a replay of `inputs` (packets by port, or a path to a capture). A TABLES.json that should do must be good by
    its schema too. With `conserve`, each packet, the router's own too, must have left once or been dropped once.
    `super_frames`: ports with virtio-net headers, and the payload bytes of a segment."""
    document = tables() if tables_ is None else tables_
    if expect_status == 0 and not isinstance(document, str):
        SCHEMA.validate(document)
    file = directory / "TABLES.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
    out = directory / "out" if out is None else out
    command = [str(program), "replay", "--tables", str(file), "--out", str(out)]
    workers = workers or int(os.environ.get("WEFT_WORKERS", 1))
    if workers > 1:
        command += ["--workers", str(workers)]
    for port, size in (super_frames or {}).items():
        command += ["--super-frames", f"{port}={size}"]
    for port, packets in inputs.items():
        if isinstance(packets, (str, Path)):
            path = packets
        else:
            path = directory / f"{port}-in.pcap"
            write_pcap(path, packets)
        command += ["--in", f"{port}={path}"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    run = Run(out, process)
    if expect_status is not None:
        assert run.status == expect_status, f"exit status {run.status}: {run.stderr}"
    if conserve and run.status == 0:
        ports = run.report["ports"].values()
        given = sum(len(packets) for packets in inputs.values())
        received = sum(port["rx-packets"] for port in ports)
        sent = sum(port["tx-packets"] for port in ports)
        # A super-frame counts as the packets that it is.
        assert received >= given if super_frames else received == given
        assert sent == sum(len(frames) for frames in run.sent.values())
        assert sum(run.drops.values()) == sum(port["drops"] for port in ports)
        copies = sum(mirror["packets"] for mirror in run.report.get("mirrors", {}).values())
        trapped = sum(port.get("trapped", 0) for port in ports)
        assert received + run.report.get("made", 0) + copies == sent + trapped + sum(run.drops.values()), run.report
    return run


def flow_of(frame):
    """What tells a frame's flow from others: addresses, protocol, ports, tunnel; of an error, what it quotes too."""
    packet = Ether(frame)
    name = [packet.src, packet.dst]
    while packet is not None:
        if isinstance(packet, IP):
            # Later fragments have no ports: they are a packet's parts, whatever else its flow has.
            name += [packet.src, packet.dst, packet.proto]
            if packet.frag or packet.flags.MF:
                return (*name, "fragment", packet.id)
        elif isinstance(packet, IPv6):
            name += [packet.src, packet.dst, packet.nh]
            if packet.nh == 44:
                return (*name, "fragment", bytes(packet)[44:48])
        elif isinstance(packet, (UDP, TCP)):
            name += [packet.sport, packet.dport]
        elif packet.haslayer(ARP):
            return (*name, bytes(packet))
        elif packet.__class__.__name__.startswith("ICMP"):
            # Types differ, echoes have identifiers, errors quote.
            name.append(bytes(packet)[:48])
        packet = packet.payload if packet.payload else None
    return tuple(name)


def by_flow(run):
    """What a replay sent, by port and flow: in a flow the order counts, between flows it does not."""
    flows = {}
    for port, frames in run.sent.items():
        for frame in frames:
            flows.setdefault((port, flow_of(frame)), []).append(frame)
    return flows


def summary(run):
    """What a replay says of itself, but for which worker did what."""
    report = {name: value for name, value in run.report.items() if name not in ("workers", "flows")}
    report["flows"] = sorted(
        json.dumps({name: value for name, value in flow.items() if name != "worker"}, sort_keys=True)
        for flow in run.report["flows"])
    return report


def assert_same_flows(run, other):
    """Two replays, with other numbers of workers, did the same to each flow."""
    assert summary(other) == summary(run)
    expected, got = by_flow(run), by_flow(other)
    assert got.keys() == expected.keys()
    for name, frames in expected.items():
        assert got[name] == frames, name


def changed(document, *path, to):
    """A copy with one value changed: changed(tables(), "vrfs", 0, "id", to=3). `...` as the value removes it."""
    document = copy.deepcopy(document)
    place = document
    for step in path[:-1]:
        place = place[step]
    if to is ...:
        del place[path[-1]]
    elif isinstance(place, list) and path[-1] == len(place):
        place.append(to)
    else:
        place[path[-1]] = to
    return document


def same(frame, expected):
    """Byte for byte, with scapy's view of both when they differ."""
    expected = bytes(expected)
    if frame != expected:
        raise AssertionError(
            f"\ngot      {frame.hex()}\nexpected {expected.hex()}\n"
            f"got      {Ether(frame)!r}\nexpected {Ether(expected)!r}")


def transport(kind, family, payload=b"weft", **fields):
    """A TCP, UDP, ICMP or other payload of an IP packet."""
    ports = {"sport": SOURCE_PORT, "dport": DESTINATION_PORT}
    if kind == "udp":
        return UDP(**ports | fields) / payload
    if kind == "tcp":
        options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
        return TCP(flags="A", seq=1000, ack=2000, options=options, **ports | fields) / payload
    if kind == "echo":
        return (ICMP if family == 4 else ICMPv6EchoRequest)(**{"id": 77, "seq": 3} | fields) / payload
    raise ValueError(kind)
