"""How flows are kept: what is asked of TCP, and how long they may be idle."""

import pytest
import weft
from scapy.layers.inet import TCP, UDP, fragment

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def tables(**settings):
    return weft.tables() | {"flow-settings": settings}


def segment(family, source, flags, payload=b""):
    destination = "b" if source == "a" else "a"
    ports = (1000, 80) if source == "a" else (80, 1000)
    return weft.routed(source, weft.ip(family, weft.pod(family, source), weft.pod(family, destination)) / TCP(
        sport=ports[0], dport=ports[1], flags=flags, seq=1, ack=1) / payload)


def connection(replay, family, steps, tcp):
    """Segments, each from a or b, some time apart; which of them were dropped for their state."""
    dropped = []
    inputs = {"a": [], "b": []}
    for index, (source, flags) in enumerate(steps):
        inputs[source].append((10 + index / 4, segment(family, source, flags, b"%02d" % index)))
    run = replay(inputs, tables(tcp=tcp))
    arrived = {bytes(weft.Ether(frame)[TCP].payload) for port in "ab" for frame in run.frames(port)}
    dropped = [index for index in range(len(steps)) if b"%02d" % index not in arrived]
    assert run.drops == ({"tcp_state": len(dropped)} if dropped else {})
    return dropped


OPEN = [("a", "S"), ("b", "SA"), ("a", "A")]
CASES = {
    # Segments, and those that are dropped: by the mode.
    "whole": (OPEN + [("a", "PA"), ("b", "PA"), ("a", "FA"), ("b", "FA"), ("a", "A")], [], []),
    "met-on-its-way": ([("a", "PA"), ("b", "A"), ("a", "PA")], [0, 1, 2], [0, 1, 2]),
    "answer-first": ([("b", "SA"), ("a", "A")], [0, 1], [0, 1]),
    "data-before-answer": ([("a", "S"), ("a", "PA"), ("b", "SA"), ("a", "A"), ("a", "PA")], [], [1]),
    "fin-before-answer": ([("a", "S"), ("a", "FA"), ("b", "FA"), ("b", "SA"), ("a", "A")], [], [1, 2]),
    "answers-itself": ([("a", "S"), ("a", "SA"), ("b", "SA"), ("a", "SA"), ("a", "A")], [], [1, 3]),
    "challenged": ([("a", "S"), ("b", "A"), ("a", "R"), ("a", "S"), ("b", "SA"), ("a", "A")], [], []),
    "refused": ([("a", "S"), ("b", "RA"), ("a", "S"), ("b", "RA")], [], []),
    "after-reset": (OPEN + [("b", "R"), ("a", "PA"), ("b", "A"), ("a", "S"), ("b", "SA"), ("a", "A")], [], [4, 5]),
    "both-open": ([("a", "S"), ("b", "S"), ("a", "SA"), ("b", "SA"), ("a", "A"), ("b", "A")], [], []),
    "syn-in-the-middle": (OPEN + [("a", "S"), ("b", "A"), ("a", "PA")], [], []),
}


@families
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tcp", ["liberal", "opened", "strict"])
def test_connections(replay, family, case, tcp):
    steps, opened, strict = CASES[case]
    wanted = {"liberal": [], "opened": opened, "strict": strict}[tcp]
    assert connection(replay, family, steps, tcp) == wanted


@pytest.mark.parametrize("tcp", ["opened", "strict"])
def test_fragments_pass(replay, tcp):
    whole = segment(4, "a", "PA", b"x" * 1000)
    run = replay({"a": [segment(4, "a", "S"), *fragment(whole, 400)], "b": [(1.0005, segment(4, "b", "SA"))]},
                 tables(tcp=tcp))
    assert run.drops == {}
    # A packet of another kind is nobody's connection.
    other = weft.routed("a", weft.ip(4, weft.pod(4, "a"), weft.pod(4, "b")) / UDP())
    assert replay({"a": [other]}, tables(tcp=tcp)).drops == {}


def test_sessions_that_share_a_flow_are_not_asked(replay):
    document = tables(tcp="strict")
    document["interfaces"][2]["fat-flows"] = [{"protocol": 6, "port": 80}]
    run = replay({"a": [segment(4, "a", "PA"), segment(4, "a", "FA"), segment(4, "a", "S"), segment(4, "a", "PA")]},
                 document)
    assert run.drops == {}


@families
@pytest.mark.parametrize("seconds", [5, 60])
def test_timeouts(replay, family, seconds):
    # A packet, a time without any, another one: of the same flow or of a new one.
    frame = weft.routed("a", weft.ip(family, weft.pod(family, "a"), weft.pod(family, "b")) / UDP(
        sport=weft.SOURCE_PORT, dport=weft.DESTINATION_PORT))
    clock = {"c": [(10 + second, weft.routed("c", weft.ip(family, weft.pod(family, "c"), weft.pod(family, "d")) / UDP()))
                   for second in range(30)]}
    run = replay({"a": [(10, frame), (39, frame)]} | clock, tables(timeouts={"udp": seconds}))
    packets = [flow["packets"] for flow in run.report["flows"] if flow["vrf"] == 1 and flow["direction"] == "forward"]
    assert packets == ([1] if seconds == 5 else [2])


@pytest.mark.parametrize("settings,words", [
    ({"tcp": "loose"}, ["$.flow-settings.tcp", '"loose"', '"opened"']),
    ({"timeouts": {"udp": 0}}, ["$.flow-settings.timeouts.udp"]),
    ({"timeouts": {"tcp": 5}}, ["$.flow-settings.timeouts.tcp"]),
    ({"what": 5}, ["$.flow-settings.what"]),
])
def test_refused(replay, settings, words):
    run = replay({"a": []}, tables(**settings), expect_status=1)
    for word in words:
        assert word in run.stderr, run.stderr
