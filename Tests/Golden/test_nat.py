"""Address translation: source NAT, addresses that stand for others, destination NAT, services."""

import pytest
import weft
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Raw

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
kinds = pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])

# VRF 1 is inside, with the pods a and b; VRF 2 is outside, and pod c there stands for the world.
POOL = {4: "203.0.113.1", 6: "2001:db8:113::1"}
FLOATING = {4: "203.0.113.77", 6: "2001:db8:113::77"}
WORLD = {4: "198.51.100.9", 6: "2001:db8:100::9"}
WORLD_ROUTER = {4: "198.51.100.1", 6: "2001:db8:100::1"}
SERVICE = {4: "10.96.0.1", 6: "fd96::1"}
METADATA = {4: "169.254.169.254", 6: "fd00:ec2::254"}


def tables(**additions):
    document = weft.tables()
    for prefix in ("198.51.100.0/24", "2001:db8:100::/64"):
        document["routes"] += [{"vrf": 1, "prefix": prefix, "nexthop": weft.VRF2},
                               {"vrf": 2, "prefix": prefix, "nexthop": weft.ENCAP["c"]}]
    for name, entries in additions.items():
        document[name.replace("_", "-")] = entries
    return document


def source_nat(**pool):
    pools = [{"id": number, "vrf": 2, "first": POOL[family], **pool} for number, family in enumerate((4, 6))]
    rules = [{"id": number, "priority": 1, "vrf": 1, "source": prefix, "egress": 2, "pool": number}
             for number, prefix in enumerate(("10.0.0.0/8", "fd00::/8"))]
    return tables(nat_pools=pools, source_nat=rules)


def floating():
    return tables(static_nat=[{"inside-vrf": 1, "inside": weft.pod(family, "a"), "outside-vrf": 2,
                               "outside": FLOATING[family]} for family in (4, 6)])


def service(backends, protocol="tcp", **fields):
    return tables(services=[
        {"vrf": 1, "address": SERVICE[family], "protocol": protocol, "port": 80,
         "backends": [backend if isinstance(backend, dict) else {"address": backend, "port": 8080}
                      for backend in backends(family)], **fields} for family in (4, 6)])


def answer(kind, family, sport, dport, payload=b"weft", ident=77):
    """What the other side sends back."""
    if kind == "echo":
        reply = ICMP(type=0, id=ident, seq=3) if family == 4 else ICMPv6EchoReply(id=ident, seq=3)
        return reply / payload
    if kind == "udp":
        return UDP(sport=sport, dport=dport) / payload
    return TCP(sport=sport, dport=dport, flags="A", seq=2000, ack=1000) / payload


def parsed(frame):
    packet = Ether(frame)
    return packet.getlayer(IPv6) or packet.getlayer(IP)


def ports(packet):
    layer = packet.getlayer(TCP) or packet.getlayer(UDP)
    if layer is not None:
        return layer.sport, layer.dport
    layer = packet.getlayer(ICMP) or packet.getlayer(ICMPv6EchoRequest) or packet.getlayer(ICMPv6EchoReply)
    return layer.id, layer.id


def made(family, source, destination, kind, sport=weft.SOURCE_PORT, dport=weft.DESTINATION_PORT, **fields):
    if kind == "echo":
        return weft.ip(family, source, destination) / weft.transport(kind, family, id=sport, **fields)
    return weft.ip(family, source, destination) / weft.transport(kind, family, sport=sport, dport=dport, **fields)


def bare(frame):
    """An IP packet anew, every length and checksum made by scapy."""
    packet = parsed(frame).copy()
    layer = packet
    while layer is not None and not isinstance(layer, Raw):
        for field in ("chksum", "len", "plen", "cksum"):
            if field in layer.fields:
                layer.delfieldval(field)
        layer = layer.payload if layer.payload else None
    return packet.__class__(bytes(packet))


# MARK: source NAT

@families
@kinds
def test_source_nat_and_back(replay, family, kind):
    out = made(family, weft.pod(family, "a"), WORLD[family], kind)
    first = parsed(replay({"a": [weft.routed("a", out)]}, source_nat()).only("c"))
    port = ports(first)[0]
    assert first.src == POOL[family] and first.dst == WORLD[family] and 1024 <= port <= 65535
    expected = made(family, POOL[family], WORLD[family], kind, sport=port)
    back = weft.ip(family, WORLD[family], POOL[family]) / answer(
        kind, family, weft.DESTINATION_PORT, port, ident=port)
    run = replay({"a": [(1, weft.routed("a", out)), (3, weft.routed("a", out))], "c": [(2, weft.routed("c", back))]},
                 source_nat())
    assert len(run.frames("c")) == 2
    for frame in run.frames("c"):
        weft.same(frame, weft.delivered("c", expected))
    inner = weft.ip(family, WORLD[family], weft.pod(family, "a")) / answer(
        kind, family, weft.DESTINATION_PORT, weft.SOURCE_PORT, ident=weft.SOURCE_PORT)
    weft.same(run.frames("a")[0], weft.delivered("a", inner))
    assert run.drops == {}


@families
def test_source_nat_gives_each_flow_a_port(replay, family):
    frames = [weft.routed("a", made(family, weft.pod(family, "a"), WORLD[family], "udp", sport=2000 + number))
              for number in range(200)]
    run = replay({"a": frames}, source_nat())
    used = {ports(parsed(frame))[0] for frame in run.frames("c")}
    assert len(used) == 200


def test_source_nat_runs_out(replay):
    frames = [weft.routed("a", made(4, weft.pod(4, "a"), WORLD[4], "udp", sport=2000 + number))
              for number in range(100)]
    run = replay({"a": frames}, source_nat(**{"first-port": 5000, "last-port": 5063}))
    assert len(run.frames("c")) == 64
    assert run.drops == {"nat_exhausted": 36}
    assert {ports(parsed(frame))[0] for frame in run.frames("c")} == set(range(5000, 5064))


def test_ports_come_back_when_flows_end(replay):
    # In a replay time passes with packets: between the bursts there are some that need no port.
    other = weft.routed("a", made(4, weft.pod(4, "a"), weft.pod(4, "b"), "udp"))
    frames = []
    for hour in range(3):
        frames += [(1 + hour * 3600 + number / 1000,
                    weft.routed("a", made(4, weft.pod(4, "a"), WORLD[4], "udp", sport=2000 + hour * 100 + number)))
                   for number in range(64)]
        frames += [(10 + hour * 3600 + second, other) for second in range(3000)]
    run = replay({"a": frames}, source_nat(**{"first-port": 5000, "last-port": 5063}))
    assert run.drops == {} and len(run.frames("c")) == 192


@families
def test_no_source_nat_within_the_vrf(replay, family):
    out = made(family, weft.pod(family, "a"), weft.pod(family, "b"), "tcp")
    weft.same(replay({"a": [weft.routed("a", out)]}, source_nat()).only("b"), weft.delivered("b", out))


@families
def test_udp_without_checksum_stays_without(replay, family):
    out = weft.ip(family, weft.pod(family, "a"), WORLD[family]) / UDP(sport=1, dport=2, chksum=0) / b"x"
    packet = parsed(replay({"a": [weft.routed("a", out)]}, source_nat()).only("c"))
    assert packet[UDP].chksum == 0 and packet.src == POOL[family]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 577, 1400])
@families
def test_odd_and_even_lengths(replay, family, size):
    out = made(family, weft.pod(family, "a"), WORLD[family], "udp", payload=bytes(range(256)) * 6)
    out = made(family, weft.pod(family, "a"), WORLD[family], "udp", payload=bytes(out.lastlayer())[:size])
    frame = replay({"a": [weft.routed("a", out)]}, source_nat()).only("c")
    assert bytes(parsed(frame)) == bytes(bare(frame))


def test_damaged_stays_damaged(replay):
    out = made(4, weft.pod(4, "a"), WORLD[4], "tcp")
    out[TCP].chksum = 0x1234
    frame = replay({"a": [weft.routed("a", out)]}, source_nat()).only("c")
    assert parsed(frame)[TCP].chksum != bare(frame)[TCP].chksum


@families
def test_sctp(replay, family):
    out = weft.ip(family, weft.pod(family, "a"), WORLD[family]) / SCTP(sport=7, dport=8, tag=9) / SCTPChunkData(
        data=b"weft", beginning=1, ending=1)
    if family == 6:
        out.nh = 132
    frame = replay({"a": [weft.routed("a", out)]}, source_nat()).only("c")
    packet = parsed(frame)
    assert packet.src == POOL[family] and packet[SCTP].sport >= 1024 and packet[SCTP].dport == 8
    anew = packet.copy()
    del anew[SCTP].chksum
    assert packet[SCTP].chksum == anew.__class__(bytes(anew))[SCTP].chksum


def test_fragments_follow_the_first(replay):
    whole = made(4, weft.pod(4, "a"), WORLD[4], "udp", payload=bytes(range(250)) * 10)
    pieces = fragment(whole, fragsize=800)
    run = replay({"a": [weft.routed("a", piece) for piece in pieces]}, source_nat())
    frames = [parsed(frame) for frame in run.frames("c")]
    assert len(frames) == len(pieces) and {packet.src for packet in frames} == {POOL[4]}
    # Put together again, it is one datagram with a right checksum.
    body = b"".join(bytes(packet.payload) for packet in sorted(frames, key=lambda packet: packet.frag))
    port = int.from_bytes(body[:2], "big")
    assert port >= 1024 and body[2:4] == weft.DESTINATION_PORT.to_bytes(2, "big")
    checked = IP(bytes(IP(src=POOL[4], dst=WORLD[4], proto=17) / Raw(body)))
    assert checked[UDP].chksum == bare(bytes(Ether() / checked))[UDP].chksum


def test_merged_segments_are_all_translated(replay):
    # From the fabric, toward a pod behind an outside address: merged on the way in, rewritten each.
    segments = [weft.ip(4, weft.behind(4, ("vxlan", 4)), FLOATING[4], id=7 + number)
                / TCP(sport=1, dport=2, flags="A", seq=1000 + 500 * number, ack=1) / bytes([number] * 500)
                for number in range(5)]
    document = floating()
    run = replay({"fabric": [weft.remote(("vxlan", 4), segment, label=200) for segment in segments]}, document)
    frames = run.frames("a")
    assert len(frames) == 5
    for frame, segment in zip(frames, segments, strict=True):
        segment[IP].dst = weft.pod(4, "a")
        weft.same(frame, weft.delivered("a", segment))


# MARK: addresses that stand for others

@families
@kinds
def test_floating_address_from_inside(replay, family, kind):
    out = made(family, weft.pod(family, "a"), WORLD[family], kind)
    back = weft.ip(family, WORLD[family], FLOATING[family]) / answer(
        kind, family, weft.DESTINATION_PORT, weft.SOURCE_PORT, ident=weft.SOURCE_PORT)
    run = replay({"a": [(1, weft.routed("a", out))], "c": [(2, weft.routed("c", back))]}, floating())
    weft.same(run.frames("c")[0],
              weft.delivered("c", made(family, FLOATING[family], WORLD[family], kind)))
    inner = weft.ip(family, WORLD[family], weft.pod(family, "a")) / answer(
        kind, family, weft.DESTINATION_PORT, weft.SOURCE_PORT, ident=weft.SOURCE_PORT)
    weft.same(run.frames("a")[0], weft.delivered("a", inner))


@families
@kinds
def test_floating_address_from_outside(replay, family, kind):
    into = made(family, WORLD[family], FLOATING[family], kind)
    back = weft.ip(family, weft.pod(family, "a"), WORLD[family]) / answer(
        kind, family, weft.DESTINATION_PORT, weft.SOURCE_PORT, ident=weft.SOURCE_PORT)
    run = replay({"c": [(1, weft.routed("c", into))], "a": [(2, weft.routed("a", back))]}, floating())
    weft.same(run.frames("a")[0], weft.delivered("a", made(family, WORLD[family], weft.pod(family, "a"), kind)))
    outer = weft.ip(family, FLOATING[family], WORLD[family]) / answer(
        kind, family, weft.DESTINATION_PORT, weft.SOURCE_PORT, ident=weft.SOURCE_PORT)
    weft.same(run.frames("c")[0], weft.delivered("c", outer))


def test_floating_address_of_another_protocol(replay):
    out = weft.ip(4, weft.pod(4, "a"), WORLD[4], proto=47) / Raw(b"\x00\x00\x08\x00 anything")
    weft.same(replay({"a": [weft.routed("a", out)]}, floating()).only("c"),
              weft.delivered("c", weft.ip(4, FLOATING[4], WORLD[4], proto=47) / Raw(b"\x00\x00\x08\x00 anything")))


# MARK: destination NAT and services

@families
def test_metadata_address(replay, family):
    document = tables(destination_nat=[
        {"vrf": 1, "address": METADATA[family], "protocol": "tcp", "port": 80, "target-vrf": 2,
         "target": WORLD[family], "target-port": 8775}])
    out = made(family, weft.pod(family, "a"), METADATA[family], "tcp", dport=80)
    back = weft.ip(family, WORLD[family], weft.pod(family, "a")) / answer("tcp", family, 8775, weft.SOURCE_PORT)
    run = replay({"a": [(1, weft.routed("a", out))], "c": [(2, weft.routed("c", back))]}, document)
    weft.same(run.frames("c")[0],
              weft.delivered("c", made(family, weft.pod(family, "a"), WORLD[family], "tcp", dport=8775)))
    weft.same(run.frames("a")[0], weft.delivered(
        "a", weft.ip(family, METADATA[family], weft.pod(family, "a")) / answer("tcp", family, 80, weft.SOURCE_PORT)))


@families
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_service_and_back(replay, family, kind):
    document = service(lambda family: [weft.pod(family, "b")], protocol=kind)
    out = made(family, weft.pod(family, "a"), SERVICE[family], kind, dport=80)
    back = weft.ip(family, weft.pod(family, "b"), weft.pod(family, "a")) / answer(kind, family, 8080, weft.SOURCE_PORT)
    run = replay({"a": [(1, weft.routed("a", out))], "b": [(2, weft.routed("b", back))]}, document)
    weft.same(run.frames("b")[0],
              weft.delivered("b", made(family, weft.pod(family, "a"), weft.pod(family, "b"), kind, dport=8080)))
    weft.same(run.frames("a")[0], weft.delivered(
        "a", weft.ip(family, SERVICE[family], weft.pod(family, "a")) / answer(kind, family, 80, weft.SOURCE_PORT)))


@families
def test_service_with_a_backend_on_another_node(replay, family):
    tunnel = ("vxlan", 4)
    server = weft.behind(family, tunnel)
    document = service(lambda family: [weft.behind(family, tunnel)])
    out = made(family, weft.pod(family, "a"), SERVICE[family], "tcp", dport=80)
    back = weft.ip(family, server, weft.pod(family, "a")) / answer("tcp", family, 8080, weft.SOURCE_PORT)
    run = replay({"a": [(1, weft.routed("a", out))], "fabric": [(2, weft.remote(tunnel, back))]}, document)
    sent = Ether(run.frames("fabric")[0])
    inner = sent[UDP].payload.payload.payload
    assert bytes(inner) == bytes(weft.aged(made(family, weft.pod(family, "a"), server, "tcp", dport=8080)))
    weft.same(run.frames("a")[0], weft.delivered(
        "a", weft.ip(family, SERVICE[family], weft.pod(family, "a")) / answer("tcp", family, 80, weft.SOURCE_PORT)))


@families
def test_service_hairpin(replay, family):
    # Pod a reaches itself through the service: as its client it sees the service's address.
    document = service(lambda family: [weft.pod(family, "a")])
    out = made(family, weft.pod(family, "a"), SERVICE[family], "tcp", dport=80)
    back = weft.ip(family, weft.pod(family, "a"), SERVICE[family]) / answer("tcp", family, 8080, weft.SOURCE_PORT)
    run = replay({"a": [(1, weft.routed("a", out)), (2, weft.routed("a", back))]}, document)
    weft.same(run.frames("a")[0],
              weft.delivered("a", made(family, SERVICE[family], weft.pod(family, "a"), "tcp", dport=8080)))
    weft.same(run.frames("a")[1], weft.delivered(
        "a", weft.ip(family, SERVICE[family], weft.pod(family, "a")) / answer("tcp", family, 80, weft.SOURCE_PORT)))


@families
def test_hairpins_of_one_port_are_kept_apart(replay, family):
    # Two services with one backend: its answers to both would have one key.
    document = service(lambda family: [weft.pod(family, "a")])
    document["services"] += [dict(entry, port=81) for entry in document["services"]]
    frames = [weft.routed("a", made(family, weft.pod(family, "a"), SERVICE[family], "tcp", dport=port))
              for port in (80, 81)]
    run = replay({"a": frames}, document)
    seen = [ports(parsed(frame)) for frame in run.frames("a")]
    assert [port for _, port in seen] == [8080, 8080] and len(set(seen)) == 2


@families
def test_service_spreads_and_drains(replay, family):
    document = service(lambda family: [weft.pod(family, "b"), weft.behind(family, ("vxlan", 4))])
    frames = [weft.routed("a", made(family, weft.pod(family, "a"), SERVICE[family], "tcp", sport=2000 + number,
                                    dport=80)) for number in range(300)]
    run = replay({"a": frames}, document)
    shares = {port: len(frames) for port, frames in run.sent.items()}
    assert set(shares) == {"b", "fabric"} and min(shares.values()) > 100
    for entry in document["services"]:
        entry["backends"][1]["draining"] = True
    assert {port: len(frames) for port, frames in replay({"a": frames}, document).sent.items()} == {"b": 300}


@families
def test_service_without_backends(replay, family):
    document = service(lambda family: [{"address": weft.pod(family, "b"), "weight": 0}])
    out = made(family, weft.pod(family, "a"), SERVICE[family], "tcp", dport=80)
    run = replay({"a": [weft.routed("a", out)]}, document, conserve=False)
    assert run.drops == {"service_no_backend": 1} and set(run.sent) == {"a"}
    # The client is told, about what it sent to the service.
    error = parsed(run.frames("a")[0])
    assert error.src == weft.GATEWAY[family] and error.dst == weft.pod(family, "a")
    layer = error.getlayer(ICMP) or error.getlayer(ICMPv6DestUnreach)
    assert (layer.type, layer.code) == ((3, 3) if family == 4 else (1, 4))
    assert bytes(out) in bytes(error)


@families
def test_service_that_translates_its_clients(replay, family):
    document = source_nat()
    document["source-nat"] = []
    document["services"] = [
        {"vrf": 1, "address": SERVICE[family], "protocol": "tcp", "port": 30080, "pool": 0 if family == 4 else 1,
         "backends": [{"address": weft.pod(family, "b"), "port": 8080}]}]
    out = made(family, weft.pod(family, "a"), SERVICE[family], "tcp", dport=30080)
    first = parsed(replay({"a": [weft.routed("a", out)]}, document).only("b"))
    port = ports(first)[0]
    assert first.src == POOL[family] and first.dst == weft.pod(family, "b")
    back = weft.ip(family, weft.pod(family, "b"), POOL[family]) / answer("tcp", family, 8080, port)
    run = replay({"a": [(1, weft.routed("a", out))], "b": [(2, weft.routed("b", back))]}, document)
    weft.same(run.frames("a")[0], weft.delivered(
        "a", weft.ip(family, SERVICE[family], weft.pod(family, "a")) / answer("tcp", family, 30080, weft.SOURCE_PORT)))


# MARK: ICMP errors

def unreachable(family, source, destination, quoted):
    """Port unreachable from `source`, about a packet."""
    outer = weft.ip(family, source, destination)
    quoted = bytes(quoted)[:548 if family == 4 else 1232]
    if family == 4:
        return IP(bytes(outer / ICMP(type=3, code=3) / Raw(quoted)))
    return IPv6(bytes(outer / ICMPv6DestUnreach(code=4) / Raw(quoted)))


@families
@kinds
@pytest.mark.parametrize("reporter", ["host", "router"])
def test_error_about_a_source_translated_flow(replay, family, kind, reporter):
    out = made(family, weft.pod(family, "a"), WORLD[family], kind)
    outside = parsed(replay({"a": [weft.routed("a", out)]}, source_nat()).only("c"))
    sender = WORLD[family] if reporter == "host" else WORLD_ROUTER[family]
    error = unreachable(family, sender, POOL[family], outside)
    run = replay({"a": [(1, weft.routed("a", out))], "c": [(2, weft.routed("c", error))]}, source_nat())
    # As if the pod's own packet, one hop on, had met the fault.
    expected = unreachable(family, sender, weft.pod(family, "a"), weft.aged(out))
    weft.same(run.frames("a")[0], weft.delivered("a", expected))


@families
def test_error_about_a_service(replay, family):
    # The backend refuses: the client hears it from the service, about what it sent there.
    document = service(lambda family: [weft.pod(family, "b")], protocol="udp")
    out = made(family, weft.pod(family, "a"), SERVICE[family], "udp", dport=80)
    inside = parsed(replay({"a": [weft.routed("a", out)]}, document).only("b"))
    error = unreachable(family, weft.pod(family, "b"), weft.pod(family, "a"), inside)
    run = replay({"a": [(1, weft.routed("a", out))], "b": [(2, weft.routed("b", error))]}, document)
    expected = unreachable(family, SERVICE[family], weft.pod(family, "a"), weft.aged(out))
    weft.same(run.frames("a")[0], weft.delivered("a", expected))


@families
def test_error_from_inside_a_floating_address(replay, family):
    # From the outside, the pod's refusal comes from the address that it was asked at.
    into = made(family, WORLD[family], FLOATING[family], "udp")
    inside = parsed(replay({"c": [weft.routed("c", into)]}, floating()).only("a"))
    error = unreachable(family, weft.pod(family, "a"), WORLD[family], inside)
    run = replay({"c": [(1, weft.routed("c", into))], "a": [(2, weft.routed("a", error))]}, floating())
    expected = unreachable(family, FLOATING[family], WORLD[family], weft.aged(into))
    weft.same(run.frames("c")[0], weft.delivered("c", expected))
    # tshark reads it too, checksums and all.
    row = run.tshark("c", "ip.src" if family == 4 else "ipv6.src", "icmp.checksum.status", "icmpv6.checksum.status")[0]
    assert (row["icmp.checksum.status"] or row["icmpv6.checksum.status"])[0] == "1"


def test_error_that_quotes_little(replay):
    # RFC 792's eight bytes: ports, but no TCP checksum.
    out = made(4, weft.pod(4, "a"), WORLD[4], "tcp")
    outside = parsed(replay({"a": [weft.routed("a", out)]}, source_nat()).only("c"))
    error = IP(bytes(weft.ip(4, WORLD[4], POOL[4]) / ICMP(type=11) / Raw(bytes(outside)[:28])))
    run = replay({"a": [(1, weft.routed("a", out))], "c": [(2, weft.routed("c", error))]}, source_nat())
    packet = parsed(run.frames("a")[0])
    assert packet.dst == weft.pod(4, "a") and packet[IPerror].src == weft.pod(4, "a")
    assert packet[TCPerror].sport == weft.SOURCE_PORT and packet[TCPerror].dport == weft.DESTINATION_PORT
    assert bytes(packet)[28:] == bytes(weft.aged(out))[:28]
