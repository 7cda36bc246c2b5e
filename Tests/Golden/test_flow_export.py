"""What is told of flows: that they begin, go on and end, which of them, and how often at most."""

import pytest
import weft
from scapy.layers.inet import TCP, UDP

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
SECOND = 1_000_000_000


def tables(export=None, rules=None, **limits):
    document = weft.tables()
    if export is not None:
        document["flow-export"] = export
    if rules is not None:
        document["interfaces"][2]["flags"] = ["policy", "bridging", "routing"]
        document["rules"] = rules
    document["limits"] |= limits
    return document


def allow(**fields):
    return {"id": 5, "priority": 10, "direction": "ingress", "action": "allow"} | fields


def udp(family, source, destination, sport=1000, dport=2000, size=100):
    return weft.routed(source, weft.ip(family, weft.pod(family, source), weft.pod(family, destination)) / UDP(
        sport=sport, dport=dport) / (b"x" * size))


def tcp(family, source, destination, flags, sport=1000, dport=80):
    return weft.routed(source, weft.ip(family, weft.pod(family, source), weft.pod(family, destination)) / TCP(
        sport=sport, dport=dport, flags=flags, seq=1, ack=1))


def events(run, *names):
    return [event for event in run.report.get("flow-events", []) if not names or event["event"] in names]


@families
def test_a_flow_from_beginning_to_end(replay, family):
    # Idle after 30 s; another pod's packet is what time goes on with.
    frames = [(10, udp(family, "a", "b")), (11, udp(family, "a", "b")), (12, udp(family, "a", "b", size=7))]
    back = [(13, udp(family, "b", "a", 2000, 1000))]
    run = replay({"a": frames, "b": back, "c": [(500, udp(family, "c", "d"))]}, tables({"flows": "all"}))
    size = len(frames[0][1]) - 14
    a, b = weft.pod(family, "a"), weft.pod(family, "b")
    shared = {"vrf": 1, "source": a, "destination": b, "protocol": 17, "source-port": 1000, "destination-port": 2000,
              "first-seen": 10 * SECOND, "action": "allow"}
    assert [event for event in events(run) if event["vrf"] == 1] == [
        shared | {"event": "started", "packets": 0, "bytes": 0, "reverse-packets": 0, "reverse-bytes": 0,
                  "last-seen": 10 * SECOND},
        shared | {"event": "ended", "reason": "aged", "packets": 3, "bytes": 3 * size - 93, "reverse-packets": 1,
                  "reverse-bytes": size, "last-seen": 13 * SECOND}]


@families
@pytest.mark.parametrize("way", ["closed", "reset", "renewed"])
def test_how_connections_end(replay, family, way):
    last = {"closed": [("a", "FA"), ("b", "FA"), ("a", "A")], "reset": [("b", "R")],
            "renewed": [("a", "FA"), ("b", "FA"), ("a", "A"), ("a", "S")]}[way]
    inputs = {"a": [], "b": [], "c": [(400 if way != "renewed" else 12, udp(family, "c", "d"))]}
    for index, (port, flags) in enumerate([("a", "S"), ("b", "SA"), ("a", "A"), *last]):
        other = "b" if port == "a" else "a"
        ports = (1000, 80) if port == "a" else (80, 1000)
        inputs[port].append((10 + index / 10, tcp(family, port, other, flags, *ports)))
    run = replay(inputs, tables({"flows": "all"}))
    ended = [event for event in events(run, "ended") if event["protocol"] == 6]
    assert [event["reason"] for event in ended] == [way]


@families
def test_those_that_a_rule_logs(replay, family):
    rules = [allow(id=7, priority=5, protocol=17, **{"destination-ports": [2000]}, log=True),
             {"id": 8, "priority": 6, "direction": "ingress", "action": "deny", "protocol": 17, "log": True,
              "destination-ports": [2001]},
             {"id": 9, "priority": 7, "direction": "ingress", "action": "reject", "protocol": 6, "log": True},
             allow(id=10, priority=9)]
    inputs = {"a": [(10, udp(family, "a", "b")), (10.1, udp(family, "a", "b", dport=2001)),
                    (10.2, udp(family, "a", "b", dport=2002)), (10.3, tcp(family, "a", "b", "S"))]}
    # Nothing is set: logged flows are told of.
    run = replay(inputs, tables(rules=rules))
    assert [(event["rule"], event["action"]) for event in events(run, "started")] == [
        (7, "allow"), (8, "deny"), (9, "reject")]
    assert replay(inputs, tables({"rate": 0}, rules)).report.get("flow-events") is None


@families
def test_updates(replay, family):
    # A packet a second for 100 s; every 20 s the flow is told of.
    frames = [(10 + second, udp(family, "a", "b")) for second in range(100)]
    run = replay({"a": frames}, tables({"flows": "all", "update-seconds": 20}))
    updates = events(run, "updated")
    assert 4 <= len(updates) <= 5
    counts = [event["packets"] for event in updates]
    assert counts == sorted(counts) and counts[-1] > 60
    # One that has no packets any more is not.
    run = replay({"a": frames[:1], "c": [(second, udp(family, "c", "d")) for second in range(11, 39)]},
                 tables({"flows": "all", "update-seconds": 5}))
    assert [event for event in events(run, "updated") if event["vrf"] == 1] == []


@families
def test_a_sample_is_of_whole_flows(replay, family):
    frames = [(10 + port / 10_000, udp(family, "a", "b", sport=1000 + port)) for port in range(1000)]
    end = {"c": [(100 + second, udp(family, "c", "d")) for second in range(20)]}
    run = replay({"a": frames} | end, tables({"flows": "all", "sample": 10, "rate": 1_000_000}, flows=8192))
    started = {event["source-port"] for event in events(run, "started") if event["vrf"] == 1}
    ended = {event["source-port"] for event in events(run, "ended") if event["vrf"] == 1}
    assert started == ended
    assert 50 < len(started) < 160


def test_a_rate_bounds_it(replay):
    frames = [(10 + port / 10_000, udp(4, "a", "b", sport=1000 + port)) for port in range(1000)]
    late = (20, udp(4, "a", "b", sport=9))
    run = replay({"a": [*frames, late]}, tables({"flows": "all", "rate": 100, "update-seconds": 0}, flows=8192))
    started = events(run, "started")
    # A tenth of a second's at once, and 100 a second: the last batch of 32 comes 0.0992 s after the first.
    assert len(started) == 10 + 9 + 1
    # What was not told of is counted.
    assert sum(event.get("missed", 0) for event in started) == 1001 - len(started)


@families
def test_translation_shows_in_answers(replay, family):
    outside = "203.0.113.5" if family == 4 else "2001:db8:5::5"
    document = tables({"flows": "all"})
    document["static-nat"] = [{"inside-vrf": 1, "inside": weft.pod(family, "a"), "outside-vrf": 1, "outside": outside}]
    run = replay({"a": [udp(family, "a", "b")]}, document)
    assert events(run)[0]["answers"] == {
        "vrf": 1, "source": weft.pod(family, "b"), "destination": outside, "source-port": 2000, "destination-port": 1000}


@pytest.mark.parametrize("export,words", [
    ({"flows": "some"}, ["$.flow-export.flows", '"some"']),
    ({"sample": 2}, ["$.flow-export.sample", '"all"']),
    ({"flows": "all", "sample": 0}, ["$.flow-export.sample"]),
    ({"rate": -1}, ["$.flow-export.rate"]),
    ({"update-seconds": 65536}, ["$.flow-export.update-seconds"]),
    ({"what": 1}, ["$.flow-export.what"]),
])
def test_refused(replay, export, words):
    run = replay({"a": []}, tables(export), expect_status=1)
    for word in words:
        assert word in run.stderr, run.stderr
