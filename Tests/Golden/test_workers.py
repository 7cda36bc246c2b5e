"""Several workers do to each flow what one does, whichever of them a packet comes to.

Tests of other files, with their tables and packets: each replay is run by one worker and by several, and what becomes of
each flow is compared, byte for byte. To add one, import it.
"""

import subprocess

import pytest
import weft
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Raw
from test_answers import test_echo, test_echo_from_the_fabric  # noqa: F401
from test_decapsulate import test_fragments as test_fragments_from_a_tunnel  # noqa: F401
from test_decapsulate import test_tcp_segments_come_out_as_they_came  # noqa: F401
from test_encapsulate import test_fragments_take_one_path, test_source_port_tells_flows_apart  # noqa: F401
from test_errors import *  # noqa: F401, F403
from test_flow_export import test_a_flow_from_beginning_to_end, test_how_connections_end  # noqa: F401
from test_flow_export import test_those_that_a_rule_logs, test_translation_shows_in_answers  # noqa: F401
from test_flow_settings import test_connections, test_timeouts  # noqa: F401
from test_links import test_flows_are_divided, test_local_members  # noqa: F401
from test_local import *  # noqa: F401, F403
from test_mirror import *  # noqa: F401, F403
from test_nat import *  # noqa: F401, F403
from test_nat import POOL, SERVICE, WORLD, made, parsed, ports, service, source_nat
from test_policy import *  # noqa: F401, F403
from weft import pod, routed

# Not the same by their nature: tables that are full at other times, errors of which each worker may send so many.
for name in ("test_a_full_flow_table_drops_nothing", "test_limit"):
    del globals()[name]

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture(params=[2, 4], ids="{}-workers".format)
def workers(request):
    return request.param


@pytest.fixture
def replay(tmp_path, workers):
    """Runs a replay with one worker and with several, compares, and gives the first. Where there is source NAT, ports
    are not the same: the replay with several is given, and what the test says must hold for that."""
    count = 0

    def run(inputs, tables=None, **options):
        nonlocal count
        count += 1
        runs = []
        has_ports = isinstance(tables, dict) and "nat-pools" in tables
        for number in (workers,) if has_ports else (1, workers):
            directory = tmp_path / f"{count}-{number}"
            directory.mkdir()
            runs.append(weft.replay(directory, inputs, tables, workers=number, **options))
        if has_ports:
            return runs[0]
        if runs[0].status == 0:
            weft.assert_same_flows(*runs)
        else:
            assert runs[1].status == runs[0].status
        return runs[0]

    return run


@pytest.fixture
def alone(tmp_path, workers):
    """A replay with several workers, without comparing."""
    count = 0

    def run(inputs, tables=None, **options):
        nonlocal count
        count += 1
        directory = tmp_path / f"alone-{count}"
        directory.mkdir()
        return weft.replay(directory, inputs, tables, workers=workers, **options)

    return run


def shared(run):
    """Frames handed over, and redirects that are left."""
    return (sum(worker["handed-over"] for worker in run.report["workers"]),
            sum(worker["redirects"] for worker in run.report["workers"]))


@families
def test_answers_find_translated_flows(alone, workers, family):
    """Ports differ with the number of workers: the answers are to those that a first replay shows."""
    requests = [routed("a", made(family, pod(family, "a"), WORLD[family], kind, sport=20000 + number))
                for number in range(60) for kind in ("udp", "tcp")]
    sent = [parsed(frame) for frame in alone({"a": requests}, source_nat()).frames("c")]
    assert len(sent) == 120 and len({(TCP in packet, ports(packet)) for packet in sent}) == 120
    answers = []
    for packet in sent:
        kind = "udp" if UDP in packet else "tcp"
        source, target = ports(packet)
        answers.append(routed("c", made(family, WORLD[family], POOL[family], kind, sport=target, dport=source)))
    both = alone({"a": requests, "c": [(10 + index / 1000, packet) for index, packet in enumerate(answers)]},
                 source_nat())
    back = [parsed(frame) for frame in both.frames("a")]
    assert len(back) == 120 and both.drops == {}
    assert {packet.dst for packet in back} == {pod(family, "a")}
    assert sorted(ports(packet)[1] for packet in back) == sorted([20000 + number for number in range(60)] * 2)
    handed_over, redirects = shared(both)
    assert handed_over > 0
    # The flows that have their answers' keys elsewhere: all but one in `workers`.
    assert 0 < redirects < 120
    assert {flow["worker"] for flow in both.report["flows"]} == set(range(workers))


@families
def test_redirects_end_with_their_flows(alone, family):
    requests = [(1 + number / 1000, routed("a", made(family, pod(family, "a"), WORLD[family], "udp",
                                                     sport=20000 + number))) for number in range(50)]
    assert shared(alone({"a": requests}, source_nat()))[1] > 0
    # A minute later they have gone; packets that pass let the workers know the time.
    later = [(60 + number / 10, routed("b", made(family, pod(family, "b"), pod(family, "a"), "udp", sport=number + 1)))
             for number in range(5)]
    run = alone({"a": requests, "b": later}, source_nat())
    assert shared(run)[1] == 0
    assert len(run.report["flows"]) == 10


@families
def test_errors_about_translated_flows(alone, family):
    requests = [routed("a", made(family, pod(family, "a"), WORLD[family], "udp", sport=20000 + number))
                for number in range(40)]
    sent = [parsed(frame) for frame in alone({"a": requests}, source_nat()).frames("c")]
    errors = []
    for packet in sent:
        message = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
        errors.append(routed("c", weft.ip(family, WORLD[family], POOL[family]) / message / Raw(bytes(packet))))
    run = alone({"a": requests, "c": [(10 + index / 1000, packet) for index, packet in enumerate(errors)]},
                source_nat())
    back = [parsed(frame) for frame in run.frames("a")]
    assert len(back) == 40 and run.drops == {}
    assert {packet.dst for packet in back} == {pod(family, "a")}
    quoted = [bytes(packet)[(20 if family == 4 else 40) + 8:] for packet in back]
    header = 20 if family == 4 else 40
    assert sorted(int.from_bytes(quote[header:header + 2], "big") for quote in quoted) == \
        list(range(20000, 20040))


def pieces(family, packet, size, ident):
    if family == 4:
        packet.id = ident
        return fragment(packet, fragsize=size)
    packet = IPv6(bytes(packet))
    return fragment6(IPv6(src=packet.src, dst=packet.dst) / IPv6ExtHdrFragment(id=ident) / packet.payload, size)


@families
def test_fragments_of_a_service_flow(replay, family):
    """The fragments meet at one worker, which knows the ports, and go on to the one that has the flow: whole packets and
    fragments of a flow reach one backend."""
    document = service(lambda family: [pod(family, "b"), weft.behind(family, ("vxlan", 4))], protocol="udp")
    packets = []
    for number in range(30):
        whole = made(family, pod(family, "a"), SERVICE[family], "udp", sport=30000 + number, dport=80,
                     payload=bytes([number]) * 1000)
        small = made(family, pod(family, "a"), SERVICE[family], "udp", sport=30000 + number, dport=80)
        packets += [routed("a", small)] + [routed("a", piece) for piece in pieces(family, whole, 600, 900 + number)]
    run = replay({"a": packets}, document)
    assert run.drops == {}
    assert len(run.frames("b")) + len(run.frames("fabric")) == len(packets)


@families
def test_a_client_of_two_services_keeps_its_backends(replay, family):
    document = service(lambda family: [pod(family, "b"), weft.behind(family, ("vxlan", 4))], affinity=60)
    packets = [routed("a", made(family, pod(family, "a"), SERVICE[family], "tcp", sport=30000 + number, dport=80))
               for number in range(40)]
    run = replay({"a": packets}, document)
    # All of them to one.
    assert sorted(len(run.frames(port)) for port in ("b", "fabric")) == [0, 40]


@families
def test_a_pool_with_less_than_a_block_for_each(alone, family):
    """64 ports, one block: whichever worker a flow belongs to, it gets one of them."""
    packets = [routed("a", made(family, pod(family, "a"), WORLD[family], "udp", sport=30000 + number))
               for number in range(70)]
    document = source_nat(**{"first-port": 5000, "last-port": 5063, "block-ports": 64})
    run = alone({"a": packets}, document)
    sent = [parsed(frame) for frame in run.frames("c")]
    assert len({ports(packet)[0] for packet in sent}) == 64 and run.drops == {"nat_exhausted": 6}


def test_connections_one_after_the_other(replay):
    """A client uses a port again after its connection has ended: the new one takes the old one's place in the same way."""
    packets = []
    for turn in range(3):
        for number, flags in enumerate(("S", "A", "FA")):
            packets.append((1 + turn * 5 + number, routed("a", IP(src=pod(4, "a"), dst=pod(4, "b"), id=7)
                                                          / TCP(sport=1000, dport=80, flags=flags, seq=turn))))
    answers = [(1.5 + turn * 5 + number, routed("b", IP(src=pod(4, "b"), dst=pod(4, "a"), id=7)
                                                / TCP(sport=80, dport=1000, flags=flags, seq=turn)))
               for turn in range(3) for number, flags in enumerate(("SA", "A", "FA"))]
    # The server opens one in the other direction, with the same ports, once that has ended.
    packets.append((40, routed("b", IP(src=pod(4, "b"), dst=pod(4, "a"), id=7)
                               / TCP(sport=80, dport=1000, flags="S", seq=9))))
    run = replay({"a": [packet for packet in packets if packet[1].src == weft.MAC["a"]],
                  "b": answers + packets[-1:]})
    assert len(run.frames("b")) == 9 and len(run.frames("a")) == 10


def test_the_same_input_gives_the_same_output(tmp_path, workers):
    packets = {device: [routed(device, made(4, pod(4, device), WORLD[4], "udp", sport=20000 + number))
                        for number in range(50)] for device in "ab"}
    outputs = []
    for turn in range(3):
        directory = tmp_path / str(turn)
        directory.mkdir()
        run = weft.replay(directory, packets, source_nat(), workers=workers)
        outputs.append((run.sent, run.report))
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("value, problem", [
    ("0", "--workers is 1 to 64, not 0"), ("65", "--workers is 1 to 64, not 65"), ("-1", "Missing value"),
    ("two", "two"), ("1.5", "1.5"), ("", "workers")])
def test_bad_numbers_of_workers(tmp_path, value, problem):
    result = subprocess.run(
        [str(weft.program), "replay", "--tables", "t.json", "--in", "a=a.pcap", "--out", str(tmp_path / "out"),
         "--workers", value], capture_output=True, text=True, timeout=60)
    assert result.returncode == 64 and problem in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_many_workers(tmp_path):
    packets = [routed("a", made(4, pod(4, "a"), pod(4, "b"), "udp", sport=20000 + number)) for number in range(200)]
    directory = tmp_path / "64"
    directory.mkdir()
    run = weft.replay(directory, {"a": packets}, workers=64)
    one = tmp_path / "1"
    one.mkdir()
    weft.assert_same_flows(weft.replay(one, {"a": packets}, workers=1), run)
    assert len(run.report["workers"]) == 64 and len({flow["worker"] for flow in run.report["flows"]}) > 50
