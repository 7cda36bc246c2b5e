"""Policers: of so many packets so many pass, to the byte, by a model of the token buckets."""

import random

import pytest
import weft
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether

FAMILIES = pytest.mark.parametrize("family", (4, 6))
VXLAN4 = ("vxlan", 4)
# A replay takes up to so many packets at once, with the time of the first.
BATCH = 32


class Bucket:
    """Tokens (bits, or thousandths of a packet) come as time goes, in whole ones since the beginning of time."""

    def __init__(self, rate, capacity):
        self.rate, self.capacity, self.gone = rate, capacity, None

    def level(self, now):
        come = now * self.rate // 1_000_000_000
        if self.gone is None or come - self.gone > self.capacity:
            self.gone = come - self.capacity
        return come - self.gone

    def take(self, count):
        self.gone += count


class Model:
    """RFC 2697 and RFC 2698 as they are written, but for the time, which comes by batches."""

    def __init__(self, rate, burst, kind="single-rate", unit="bits", aware=False, **more):
        scale, self.scale = (1, 8) if unit == "bits" else (1000, 1000)
        self.unit, self.kind, self.aware = unit, kind, aware
        self.committed = Bucket(rate * scale, burst * self.scale)
        if kind == "single-rate-three-color":
            # As long as the committed bucket is full, what comes goes into the excess bucket.
            self.excess = more["excess-burst"] * self.scale
            self.excess_limit = self.excess
            self.last = None
        if kind == "two-rate-three-color":
            self.peak = Bucket(more["peak-rate"] * scale, more["peak-burst"] * self.scale)
        self.counts = {"green": [0, 0], "yellow": [0, 0], "red": [0, 0]}

    def color(self, now, size, own="green"):
        cost = size * self.scale if self.unit == "bits" else self.scale
        color = self.decide(now, cost, own if self.aware else "green")
        self.counts[color][0] += 1
        self.counts[color][1] += size
        return color

    def decide(self, now, cost, own):
        if self.kind == "two-rate-three-color":
            peak, committed = self.peak.level(now), self.committed.level(now)
            if own == "red" or peak < cost:
                return "red"
            self.peak.take(cost)
            if own == "yellow" or committed < cost:
                return "yellow"
            self.committed.take(cost)
            return "green"
        come = now * self.committed.rate // 1_000_000_000
        if self.kind == "single-rate-three-color":
            if self.committed.gone is not None:
                overflow = max(0, come - self.committed.gone - self.committed.capacity)
                self.excess = min(self.excess_limit, self.excess + overflow)
        level = self.committed.level(now)
        if own == "green" and level >= cost:
            self.committed.take(cost)
            return "green"
        if self.kind == "single-rate-three-color" and own != "red" and self.excess >= cost:
            self.excess -= cost
            return "yellow"
        return "red"

    def report(self, number=1):
        names = {"green": "conforming", "yellow": "exceeding", "red": "violating"}
        return {"id": number, **{f"{names[color]}-{what}": self.counts[color][index]
                                 for color in names for index, what in enumerate(("packets", "bytes"))}}


def policed(document=None, interface=None, policer=None, **keys):
    """Tables with policer 1, which an interface refers to."""
    document = document or weft.tables()
    document["policers"] = [{"id": 1, **policer}]
    for entry in document["interfaces"]:
        if entry["device"] == interface:
            entry |= keys
    return document


def traffic(family, seed, count=400, source="a", destination="b", dscps=(0,), mean=0.002):
    """Frames at random times, of random sizes, mostly in bursts."""
    dice = random.Random(seed)
    time, result = 1_000_000, []
    for _ in range(count):
        if dice.random() < 0.3:
            time += int(dice.expovariate(1 / mean) * 1_000_000)
        packet = weft.ip(family, weft.pod(family, source), weft.pod(family, destination),
                         tos=dice.choice(dscps) << 2 | dice.choice((0, 1, 2)))
        frame = weft.routed(source, packet / weft.transport("udp", family, b"x" * dice.randrange(1400)))
        result.append((time / 1_000_000, bytes(frame)))
    return result


def batches(frames):
    """Times (ns) as the replay has them: the first packet's of each batch."""
    return [round(frames[index // BATCH * BATCH][0] * 1_000_000) * 1000 for index in range(len(frames))]


def parameters(policer):
    more = {key: policer[key] for key in ("excess-burst", "peak-rate", "peak-burst") if key in policer}
    return Model(policer["rate"], policer["burst"], policer.get("kind", "single-rate"), policer.get("unit", "bits"),
                 policer.get("color-aware", False), **more)


POLICERS = [
    {"rate": 1_000_000, "burst": 3000},
    {"rate": 999_983, "burst": 1514},
    {"rate": 200, "burst": 10, "unit": "packets"},
    {"rate": 333, "burst": 3, "unit": "packets"},
    {"kind": "single-rate-three-color", "rate": 800_000, "burst": 4000, "excess-burst": 9000},
    {"kind": "single-rate-three-color", "rate": 150, "burst": 4, "excess-burst": 9, "unit": "packets"},
    {"kind": "single-rate-three-color", "rate": 800_000, "burst": 4000, "excess-burst": 9000, "color-aware": True},
    {"kind": "two-rate-three-color", "rate": 800_000, "burst": 4000, "peak-rate": 1_500_000, "peak-burst": 6000},
    {"kind": "two-rate-three-color", "rate": 80, "burst": 4, "peak-rate": 150, "peak-burst": 6, "unit": "packets"},
    {"kind": "two-rate-three-color", "rate": 800_000, "burst": 4000, "peak-rate": 1_500_000, "peak-burst": 6000,
     "color-aware": True},
]
DSCPS = (0, 10, 12, 14, 18, 20, 22, 46, 63)
OWN = {12: "yellow", 14: "red", 20: "yellow", 22: "red"}


@FAMILIES
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("policer", POLICERS, ids=lambda policer: "-".join(str(value) for value in policer.values()))
@pytest.mark.parametrize("interface, key", [("a", "ingress-policer"), ("b", "egress-policer")])
def test_by_a_model(replay, family, policer, interface, key, seed):
    """What passes, and what it is marked with: yellow as DSCP 1, for what has three colours."""
    frames = traffic(family, seed, dscps=DSCPS)
    entry = policer | ({"yellow-dscp": 1} if "kind" in policer else {})
    run = replay({"a": frames}, policed(interface=interface, policer=entry, **{key: 1}))
    model = parameters(policer)
    expected = []
    for (_, frame), now in zip(frames, batches(frames), strict=True):
        packet = Ether(frame)[1]
        tos = packet.tos if family == 4 else packet.tc
        color = model.color(now, len(frame), OWN.get(tos >> 2, "green"))
        if color == "red":
            continue
        if color == "yellow":
            packet = packet.copy()
            if family == 4:
                packet.tos = 1 << 2 | tos & 3
            else:
                packet.tc = 1 << 2 | tos & 3
        expected.append(bytes(weft.delivered("b", packet)))
    assert run.frames("b") == expected
    assert run.report["policers"] == [model.report()]
    assert run.drops == {"policed": len(frames) - len(expected)}
    assert 0.05 < len(expected) / len(frames) < 0.95, "the rates are such that some pass and some do not"
    if "kind" in policer:
        assert all(count[0] > 5 for count in model.counts.values()), model.counts


@FAMILIES
def test_yellow_packets_keep_their_dscp_unless_told(replay, family):
    policer = {"kind": "single-rate-three-color", "rate": 8, "burst": 100, "excess-burst": 1000}
    frames = traffic(family, 1, 3, dscps=(46,))
    run = replay({"a": frames}, policed(interface="a", policer=policer, **{"ingress-policer": 1}))
    assert run.frames("b") == [bytes(weft.delivered("b", Ether(frame)[1])) for _, frame in frames[:len(run.frames("b"))]]


@FAMILIES
def test_long_run(replay, family):
    """An hour of four packets a second against three: three of four pass."""
    packet = weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"))
                         / weft.transport("udp", family))
    other = weft.routed("c", weft.ip(family, weft.pod(family, "c"), weft.pod(family, "d"))
                        / weft.transport("udp", family))
    count = 14400
    # Another port's packets between them keep batches apart.
    run = replay({"a": [(1 + n / 4, packet) for n in range(count)],
                  "c": [(1.125 + n / 4, other) for n in range(count)]},
                 policed(interface="a", policer={"rate": 3, "burst": 2, "unit": "packets"}, **{"ingress-policer": 1}))
    # Two that were there, and three each second after the first packet.
    assert len(run.frames("b")) == 2 + (count - 1) * 3 // 4
    assert len(run.frames("d")) == count


@FAMILIES
def test_rules(replay, family):
    """All flows of two rules share the policer, both directions; a third rule's do not."""
    policer = {"rate": 500, "burst": 20, "unit": "packets"}
    document = policed(policer=policer)
    document["interfaces"][2]["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [{"id": number, "priority": number, "direction": "ingress", "action": "allow", "protocol": 17,
                          "destination-ports": [port], **({"policer": 1} if number < 3 else {})}
                         for number, port in ((1, 1001), (2, 1002), (3, 1003))]
    a, b = weft.pod(family, "a"), weft.pod(family, "b")

    def ask(port, client):
        return weft.routed("a", weft.ip(family, a, b) / UDP(sport=client, dport=port) / b"weft")

    def answer(port, client):
        return weft.routed("b", weft.ip(family, b, a) / UDP(sport=port, dport=client) / b"weft")
    inputs = {"a": [], "b": []}
    model, expected = parameters(policer), {"a": 0, "b": 0}
    dice = random.Random(4)
    for number in range(60):
        time = 1_000_000 + number * 10_000
        for side, make, offset in (("a", ask, 0), ("b", answer, 5000)):
            now = time + offset
            for _ in range(dice.randrange(1, 12)):
                port = dice.choice((1001, 1002, 1003))
                inputs[side].append((now / 1_000_000, make(port, dice.choice((2000, 2001)))))
                if port == 1003 or model.color(now * 1000, len(inputs[side][-1][1])) == "green":
                    expected["b" if side == "a" else "a"] += 1
    # Each flow's first packet is a question.
    first = [(0.5, ask(port, client)) for port in (1001, 1002, 1003) for client in (2000, 2001)]
    run = replay({"a": first + inputs["a"], "b": inputs["b"]}, document)
    assert {side: len(run.frames(side)) for side in "ab"} == {"a": expected["a"], "b": expected["b"] + len(first)}
    report = model.report()
    report["conforming-packets"] += 4
    report["conforming-bytes"] += 4 * len(bytes(first[0][1]))
    assert run.report["policers"] == [report]


@FAMILIES
def test_both_ends_rules(replay, family):
    """The rule for where a flow comes from and that for where it goes each have a policer."""
    document = policed(policer={"rate": 1, "burst": 5, "unit": "packets"})
    document["policers"].append({"id": 2, "rate": 1, "burst": 3, "unit": "packets"})
    for interface in document["interfaces"][1:3]:
        interface["flags"] = ["policy", "bridging", "routing"]
    document["rules"] = [{"id": 1, "priority": 1, "direction": "egress", "action": "allow", "policer": 1},
                         {"id": 2, "priority": 1, "direction": "ingress", "action": "allow", "policer": 2}]
    frames = [weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b"))
                          / weft.transport("udp", family)) for _ in range(10)]
    run = replay({"a": [(1, frame) for frame in frames]}, document)
    assert len(run.frames("b")) == 3
    assert [(entry["conforming-packets"], entry["violating-packets"]) for entry in run.report["policers"]] == [
        (5, 5), (3, 2)]


@FAMILIES
@pytest.mark.parametrize("tunnel", weft.TUNNEL, ids=lambda tunnel: "-".join(map(str, tunnel)))
def test_fabric(replay, family, tunnel):
    """Tunnels' headers count: what comes in by the fabric, and what goes out."""
    packets = [weft.ip(family, weft.pod(family, "a"), weft.behind(family, tunnel))
               / weft.transport("udp", family, b"x" * size) for size in (100, 200, 300)]
    free = replay({"a": [weft.routed("a", packet) for packet in packets]})
    sizes = [len(frame) for frame in free.frames("fabric")]
    run = replay({"a": [weft.routed("a", packet) for packet in packets]}, policed(
        interface="fabric", policer={"rate": 8, "burst": sum(sizes[:2])}, **{"egress-policer": 1}))
    assert run.frames("fabric") == free.frames("fabric")[:2]
    run = replay({"a": [weft.routed("a", packet) for packet in packets]}, policed(
        interface="fabric", policer={"rate": 8, "burst": sum(sizes[:2]) - 1}, **{"egress-policer": 1}))
    assert run.frames("fabric") == free.frames("fabric")[:1]
    assert run.report["policers"][0]["violating-bytes"] == sum(sizes[1:])
    frames = [weft.remote(tunnel, weft.ip(family, weft.behind(family, tunnel), weft.pod(family, "a"))
                          / weft.transport("udp", family, b"x" * size)) for size in (100, 200, 300)]
    sizes = [len(bytes(frame)) for frame in frames]
    for short, passed in ((0, 2), (1, 1)):
        run = replay({"fabric": frames}, policed(
            interface="fabric", policer={"rate": 8, "burst": sum(sizes[:2]) - short}, **{"ingress-policer": 1}))
        assert len(run.frames("a")) == passed


@FAMILIES
@pytest.mark.parametrize("passed", range(6))
def test_segments_that_were_merged(replay, family, passed):
    """Five TCP segments from the fabric travel as one; the policer counts each, and what conforms arrives as it came."""
    header = weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, "a"))
    segments = [header.__class__(bytes(header / TCP(sport=1, dport=2, flags="PA" if n == 4 else "A", seq=1000 + 500 * n,
                                                    ack=7) / (b"%d" % n * 500))) for n in range(5)]
    frames = [weft.remote(VXLAN4, segment) for segment in segments]
    burst = sum(len(bytes(segment)) + 14 for segment in segments[:passed])
    run = replay({"fabric": [(1, frame) for frame in frames]}, policed(
        interface="a", policer={"rate": 8, "burst": max(64, burst)}, **{"egress-policer": 1}))
    assert run.frames("a") == [bytes(weft.delivered("a", segment)) for segment in segments[:passed]]
    assert run.drops == ({"policed": 5 - passed} if passed < 5 else {})
    report = run.report["policers"][0]
    assert (report["conforming-packets"], report["violating-packets"]) == (passed, 5 - passed)
    assert report["conforming-bytes"] + report["violating-bytes"] == sum(len(bytes(s)) + 14 for s in segments)


@FAMILIES
def test_merged_segments_of_a_batch_share_what_others_leave(replay, family):
    """Packets before, between and behind merged ones: in the end as many bytes have passed as the bucket had."""
    header = weft.ip(family, weft.behind(family, VXLAN4), weft.pod(family, "a"))
    dice = random.Random(7)
    frames, sequence = [], 1
    for number in range(32):
        if dice.random() < 0.7:
            frames.append(header / TCP(sport=1, dport=2, flags="A", seq=sequence, ack=7) / (b"x" * 400))
            sequence += 400
        else:
            frames.append(header / UDP(sport=3, dport=4) / (b"x" * 372))
    for passed in (1, 7, 20, 31, 32):
        run = replay({"fabric": [(1, weft.remote(VXLAN4, frame)) for frame in frames]}, policed(
            interface="a", policer={"rate": 1, "burst": passed, "unit": "packets"}, **{"egress-policer": 1}))
        assert len(run.frames("a")) == passed
        assert run.drops.get("policed", 0) == 32 - passed


@FAMILIES
def test_what_the_router_answers_is_not_policed(replay, family):
    frames = [weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.GATEWAY[family])
                          / weft.transport("echo", family, seq=n)) for n in range(5)]
    run = replay({"a": frames}, policed(interface="a", policer={"rate": 1, "burst": 1, "unit": "packets"},
                                        **{"egress-policer": 1}))
    assert len(run.frames("a")) == 5


ROW = {"id": 1, "rate": 1000, "burst": 1500}
THREE = {"kind": "single-rate-three-color"}
TWO = {"kind": "two-rate-three-color"}
BAD = [
    ("no rate", [{"id": 1, "burst": 1500}], "[0]", '"rate" is missing', True),
    ("rate zero", [ROW | {"rate": 0}], "[0].rate", "not within 1 to 1000000000000", True),
    ("a terabit and one", [ROW | {"rate": 10**12 + 1}], "[0].rate", "not within", True),
    ("too many packets", [ROW | {"unit": "packets", "rate": 10**9 + 1}], "[0].rate", "not within 1 to 1000000000", True),
    ("a burst of less than a packet", [ROW | {"burst": 63}], "[0].burst", "not within 64", True),
    ("a burst of no packet", [ROW | {"unit": "packets", "burst": 0}], "[0].burst", "not within 1", True),
    ("rate with fraction", [ROW | {"rate": 1.5}], "[0].rate", "not a whole number", True),
    ("unknown kind", [ROW | {"kind": "token-bucket"}], "[0].kind", "is none of single-rate", True),
    ("unknown unit", [ROW | {"unit": "bytes"}], "[0].unit", "is none of bits, packets", True),
    ("a peak rate of one rate", [ROW | {"peak-rate": 2000}], "[0].peak-rate", "goes with the kind two-rate", True),
    ("an excess burst of one colour", [ROW | {"excess-burst": 2000}], "[0].excess-burst", "goes with the kind", True),
    ("colours of one colour", [ROW | {"color-aware": True}], "[0].color-aware", "three colors", True),
    ("three colours without excess burst", [ROW | THREE], "[0]", '"excess-burst" is missing', True),
    ("two rates without peak", [ROW | TWO | {"peak-burst": 1500}], "[0]", '"peak-rate" is missing', True),
    ("a peak below the rate", [ROW | TWO | {"peak-rate": 999, "peak-burst": 1500}], "[0].peak-rate", "not within 1000",
     False),
    ("DSCP 64", [ROW | THREE | {"excess-burst": 1, "yellow-dscp": 64}], "[0].yellow-dscp", "not within 0 to 63", True),
    ("twice", [ROW, ROW | {"rate": 7}], "[1].id", "$.policers[0] already", False),
    ("beyond the table", [ROW | {"id": 65536}], "[0].id", "not within 0 to 65535", True),
]


@pytest.mark.parametrize("entries, place, reason, by_schema", [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_refused(replay, entries, place, reason, by_schema):
    document = weft.tables() | {"policers": entries}
    run = replay({"a": "/nonexistent.pcap"}, document, expect_status=1)
    assert f"at $.policers{place} (" in run.stderr and reason in run.stderr, run.stderr
    assert bool(list(weft.SCHEMA.iter_errors(document))) == by_schema


def test_references(replay):
    for key in ("ingress-policer", "egress-policer"):
        run = replay({"a": "/nonexistent.pcap"}, policed(interface="a", policer=ROW, **{key: 2}), expect_status=1)
        assert f"at $.interfaces[1].{key} (" in run.stderr and "there is no policer 2" in run.stderr
    document = weft.tables() | {"rules": [{"id": 1, "priority": 1, "direction": "ingress", "action": "allow",
                                           "policer": 3}]}
    run = replay({"a": "/nonexistent.pcap"}, document, expect_status=1)
    assert "at $.rules[0].policer (" in run.stderr and "there is no policer 3" in run.stderr
