"""Addresses from IPAM plugins: Debian's host-local and static, and one that speaks CNI 1.1.0. 8 s."""
import json
import stat

import cni_results
import pytest
from cni import PLUGINS, execute

# An IPAM plugin of CNI 1.1.0, which none that is packaged is: it writes down what it gets, and answers as its file says.
RECORDER = """#!/usr/bin/python3
import json, os, sys
folder = os.path.dirname(sys.argv[0])
verb, stdin = os.environ["CNI_COMMAND"], json.load(sys.stdin)
with open(folder + "/calls", "a") as calls:
    calls.write(json.dumps({"verb": verb, "stdin": stdin, "environment": dict(os.environ)}) + "\\n")
answers = json.load(open(folder + "/answers"))
answer = answers.get(verb)
if isinstance(answer, str):
    print(answer)
elif answer:
    print(json.dumps(answer))
sys.exit(1 if isinstance(answer, dict) and "code" in answer else 0)
"""


class HostLocal:
    """A configuration with host-local, and what that keeps on disk."""

    def __init__(self, node, folder):
        self.node, self.data = node, folder / "networks"

    def configuration(self, version="1.0.0", end=12, **more):
        ipam = {"type": "host-local", "dataDir": str(self.data), "ranges": [
            [{"subnet": "10.8.0.0/16", "rangeStart": "10.8.1.10", "rangeEnd": f"10.8.1.{end}"}],
            [{"subnet": "fd00:8::/64", "rangeStart": "fd00:8::1:10", "rangeEnd": "fd00:8::1:1f"}]], **more.pop("ipam", {})}
        return self.node.configuration(version, settings={"network": "wide"}, ipam=ipam, **more)

    def held(self):
        folder = self.data / self.node.network_name
        return sorted(path.name for path in folder.iterdir() if path.name[:1] in "1f") if folder.exists() else []


@pytest.fixture
def host_local(node, tmp_path):
    made = HostLocal(node, tmp_path)
    yield made
    for container in node.containers:
        node.run("DEL", container, made.configuration())
    assert made.held() == []


@pytest.fixture
def recorder(node, tmp_path):
    path = tmp_path / "recorder"
    path.write_text(RECORDER)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)

    class Recorder:
        configuration = node.configuration(settings={"network": "wide"}, ipam={"type": "recorder", "own": [1, {"a": None}]})

        def answer(self, **answers):
            (tmp_path / "answers").write_text(json.dumps(answers))

        def run(self, verb, container=None, configuration=None, **more):
            environment = node.environment(verb, container) if container else {"CNI_COMMAND": verb}
            return execute({**environment, "CNI_PATH": f"/nowhere:{tmp_path}", "OTHER": "kept"},
                           {**(configuration or self.configuration), **more}, node.place.namespace)

        def calls(self):
            path = tmp_path / "calls"
            calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            path.unlink(missing_ok=True)
            return calls

    made = Recorder()
    made.answer(ADD={"cniVersion": "1.1.0", "ips": [{"address": "10.8.3.3/24", "gateway": "10.8.3.1"}]})
    return made


def addresses(result):
    return [ip["address"] for ip in result["ips"]]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_host_local(node, host_local, version):
    """Its addresses, in the network's prefixes and with the network's gateways; the agent knows them as the pod's."""
    one, two = node.container("one"), node.container("two")
    result = node.add(one, host_local.configuration(version))
    cni_results.check(result, version)
    assert addresses(result) == ["10.8.1.10/16", "fd00:8::1:10/64"] and one.addresses() == set(addresses(result))
    assert [ip["gateway"] for ip in result["ips"]] == ["10.8.0.1", "fd00:8::1"]
    assert [route["dst"] for route in result["routes"]] == ["0.0.0.0/0", "::/0"]
    attachment = node.attachments()[0]
    assert [entry["address"] for entry in attachment["addresses"]] == addresses(result)
    assert host_local.held() == ["10.8.1.10", "fd00:8::1:10"]
    other = node.add(two, host_local.configuration(version))
    assert addresses(other) == ["10.8.1.11/16", "fd00:8::1:11/64"]
    for address in addresses(other):
        assert one.ping(address.split("/")[0])
    if version >= "0.4.0":
        configuration = host_local.configuration(version, prevResult=result)
        assert node.run("CHECK", one, configuration).status == 0
        for address in addresses(result):
            (host_local.data / node.network_name / address.split("/")[0]).unlink()
        outcome = node.run("CHECK", one, configuration)
        assert outcome.status != 0 and "host-local" in outcome.text
    for _ in range(2):
        node.delete(one, host_local.configuration(version))
    assert host_local.held() == ["10.8.1.11", "fd00:8::1:11"]
    node.delete(two, host_local.configuration(version), netns="")
    assert host_local.held() == []


def test_routes_and_name_servers_are_its_own(node, host_local, tmp_path):
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 10.8.0.53\nsearch pods.example\noptions ndots:3\n")
    container = node.container("a")
    routes = [{"dst": "192.0.2.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.8.0.7"}, {"dst": "2001:db8::/32"}]
    result = node.add(container, host_local.configuration(ipam={"routes": routes, "resolvConf": str(resolv)}))
    assert [(route["dst"], route["gw"]) for route in result["routes"]] == [
        ("192.0.2.0/24", "10.8.0.1"), ("198.51.100.0/24", "10.8.0.7"), ("2001:db8::/32", "fd00:8::1")]
    assert result["dns"] == {"nameservers": ["10.8.0.53"], "search": ["pods.example"], "options": ["ndots:3"]}
    assert not [route for route in container.ip("route") if route["dst"] == "default"]


@pytest.mark.parametrize("more, arguments", [
    ({"runtimeConfig": {"ips": ["10.8.1.12/16"]}}, ""), ({"args": {"cni": {"ips": ["10.8.1.12"]}}}, ""),
    ({}, "IgnoreUnknown=1;IP=10.8.1.12")])
def test_host_local_is_asked_for_an_address(node, host_local, more, arguments):
    container = node.container("a")
    assert "10.8.1.12/16" in addresses(node.add(container, host_local.configuration(**more), arguments=arguments))


def test_host_local_has_run_out(node, host_local):
    """Half of it: nothing is left of the other half, at host-local or here."""
    containers = [node.container(f"c{number}") for number in range(3)]
    configuration = host_local.configuration(end=11)
    for container in containers[:2]:
        node.add(container, configuration)
    before = (host_local.held(), node.records(), node.used(), node.links())
    outcome = node.run("ADD", containers[2], configuration)
    assert outcome.status != 0 and "ipam plugin host-local" in outcome.text and "10.8.1.10-10.8.1.11" in outcome.text
    assert (host_local.held(), node.records(), node.used(), node.links()) == before
    node.delete(containers[0], configuration)
    node.add(containers[2], configuration)


def test_failures_give_back(node, host_local):
    """The agent is down, refuses the address or has given it to another: host-local has it back."""
    one, two = node.container("one"), node.container("two")
    with node.without("agent"):
        assert node.run("ADD", one, host_local.configuration()).code == 11
        assert host_local.held() == [] and node.records() == []
    refused = node.run("ADD", one, {**host_local.configuration(), "weft": node.section(network="four")})
    assert refused.code == 101 and "10.8.1.1" in refused.text
    assert host_local.held() == [] and node.records() == []
    node.add(two, node.configuration(settings={"network": "wide"}, runtimeConfig={"ips": ["10.8.1.10"]}))
    taken = node.run("ADD", one, host_local.configuration(ipam={"dataDir": str(host_local.data) + "2"}))
    assert taken.code == 100 and "10.8.1.10" in taken.text
    assert len(node.records()) == len(node.attachments()) == 1 and one.link() is None


def test_static(node):
    one, two = node.container("one"), node.container("two")

    def configuration(number):
        return node.configuration("1.0.0", settings={"network": "wide"}, ipam={
            "type": "static", "addresses": [{"address": f"10.8.2.{number}/16", "gateway": "10.8.0.1"}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.8.0.54"], "domain": "x.example"}})

    result = node.add(one, configuration(5))
    # One address, though the network has two subnets: the agent adds none.
    assert addresses(result) == ["10.8.2.5/16"] and one.addresses() == {"10.8.2.5/16"}
    assert result["dns"] == {"nameservers": ["10.8.0.54"], "domain": "x.example"}
    assert [(route["dst"], route["gw"]) for route in result["routes"]] == [("0.0.0.0/0", "10.8.0.1")]
    node.add(two, configuration(6))
    assert two.ping("10.8.2.5")
    outcome = node.run("CHECK", one, {**configuration(5), "prevResult": result})
    assert outcome.status == 0, outcome
    node.delete(one, configuration(5))
    node.delete(two, configuration(6))


def test_what_it_gets(node, recorder):
    """The configuration and the environment as they came, for each verb."""
    container = node.container("a")
    result = recorder.run("ADD", container)
    assert result.status == 0, result
    cni_results.check(result.json, "1.1.0")
    assert container.addresses() == {"10.8.3.3/16"}
    previous = {"prevResult": result.json}
    listed = {"cni.dev/valid-attachments": [{"containerID": container.id, "ifname": "eth0"}]}
    assert recorder.run("CHECK", container, **previous).status == 0
    assert recorder.run("STATUS").status == 0
    assert recorder.run("GC", **listed).status == 0
    assert recorder.run("DEL", container, **previous).status == 0
    calls = recorder.calls()
    assert [call["verb"] for call in calls] == ["ADD", "CHECK", "STATUS", "GC", "DEL"]
    for call, more in zip(calls, [{}, previous, {}, listed, previous]):
        assert call["stdin"] == {**recorder.configuration, **more}
        assert call["environment"]["OTHER"] == "kept" and "/nowhere:" in call["environment"]["CNI_PATH"]
        if call["verb"] in ("ADD", "CHECK", "DEL"):
            assert call["environment"]["CNI_NETNS"] == container.netns
            assert call["environment"]["CNI_CONTAINERID"] == container.id


@pytest.mark.parametrize("answer, code, word", [
    ({"cniVersion": "1.1.0", "code": 11, "msg": "no lease yet", "details": "try later"}, 11, "no lease yet"),
    ({"cniVersion": "1.1.0", "code": 105, "msg": "its own number"}, 999, "its own number"),
    (None, 5, "no result"), ("no JSON", 5, "recorder"), ({"cniVersion": "1.1.0", "ips": []}, 5, "no address"),
    ({"cniVersion": "1.1.0", "ips": [{"address": "x"}]}, 5, "address x"),
    ({"cniVersion": "1.1.0", "ips": [{"address": "10.8.3.3/24"}], "routes": [{"dst": "x"}]}, 5, "route x")])
def test_answers_that_are_none(node, recorder, answer, code, word):
    recorder.answer(ADD=answer)
    container = node.container("a")
    outcome = recorder.run("ADD", container)
    assert outcome.code == code and "recorder" in outcome.text and word in outcome.text, outcome
    assert [call["verb"] for call in recorder.calls()] == ["ADD", "DEL"]
    assert container.link() is None
    node.expect_nothing()


def test_its_word_counts(node, recorder):
    """STATUS, CHECK, GC and DEL fail with it, after doing their own part."""
    container = node.container("a")
    result = recorder.run("ADD", container).json
    error = {"cniVersion": "1.1.0", "code": 50, "msg": "out of order"}
    recorder.answer(STATUS=error, CHECK=error, GC=error, DEL=error)
    status = recorder.run("STATUS")
    assert status.code == 50 and "out of order" in status.text
    assert recorder.run("CHECK", container, prevResult=result).code == 50
    collected = recorder.run("GC", **{"cni.dev/valid-attachments": []})
    assert collected.status != 0 and "out of order" in collected.text
    assert node.attachments() == [] and node.records() == []
    outcome = recorder.run("DEL", container)
    assert outcome.status != 0 and "out of order" in outcome.text and container.link() is None
    recorder.answer()
    assert recorder.run("DEL", container).status == 0


def test_none_such(node):
    container = node.container("a")
    for verb in ("ADD", "DEL"):
        outcome = node.run(verb, container, node.configuration(ipam={"type": "none-such"}))
        assert outcome.code == 7 and "none-such" in outcome.text and str(PLUGINS) in outcome.text
    environment = {**node.environment("ADD", container), "CNI_PATH": ""}
    outcome = execute(environment, node.configuration(ipam={"type": "static"}), node.place.namespace)
    assert outcome.code == 4 and "CNI_PATH" in outcome.text
    # The agent's addresses, as configurations in the field have it.
    node.add(container, node.configuration(ipam={}))
