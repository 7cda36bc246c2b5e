"""The CNI spec's contract that needs no container: VERSION, the environment, standard input. A second."""
import json

import pytest
from cni import VERSIONS, execute

CONFIGURATION = {"cniVersion": "1.0.0", "name": "n", "type": "weft-cni", "weft": {"log-file": ""}}
GOOD = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/none", "CNI_IFNAME": "eth0"}
# What podman sends along with VERSION.
DUMMIES = {"CNI_CONTAINERID": "", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy", "CNI_ARGS": "dummy"}


def of(code, outcome, *words):
    """It failed as the spec has it: an error with this code on standard output, and these words in it."""
    assert outcome.status != 0 and set(outcome.json) <= {"cniVersion", "code", "msg", "details"}, outcome
    assert outcome.code == code, outcome
    assert outcome.json["cniVersion"] in VERSIONS and outcome.json["msg"]
    for word in words:
        assert word in outcome.text, outcome
    assert outcome.stderr.strip(), "nothing for people"
    return outcome


# MARK: VERSION. No agent runs where these run.


@pytest.mark.parametrize("stdin", ["", " \n", "{}"])
def test_version_needs_no_configuration(stdin):
    outcome = execute({"CNI_COMMAND": "VERSION"}, stdin)
    assert outcome.status == 0 and outcome.json == {"cniVersion": "1.1.0", "supportedVersions": VERSIONS}


@pytest.mark.parametrize("version", [*VERSIONS, "0.2.0", "9.9.9"])
@pytest.mark.parametrize("environment", [{}, DUMMIES, {"CNI_CONTAINERID": "-/", "CNI_IFNAME": "x" * 99}])
def test_version_is_echoed_whatever_else_there_is(version, environment):
    outcome = execute({**environment, "CNI_COMMAND": "VERSION"}, {"cniVersion": version, "weft": 7})
    assert outcome.status == 0 and outcome.json == {"cniVersion": version, "supportedVersions": VERSIONS}


# MARK: the environment


@pytest.mark.parametrize("verb, needed", [
    ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]), ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
    ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME"])])
def test_missing_variables_are_named(verb, needed):
    for empty in ({}, {name: "" for name in GOOD}):
        outcome = of(4, execute({"CNI_COMMAND": verb, **empty}, CONFIGURATION), *needed)
        assert "CNI_NETNS" in needed or "CNI_NETNS" not in outcome.text
    for missing in needed:
        rest = {name: value for name, value in GOOD.items() if name != missing}
        outcome = of(4, execute({"CNI_COMMAND": verb, **rest}, CONFIGURATION), missing)
        assert not [name for name in rest if name in outcome.text]


@pytest.mark.parametrize("verb", ["", "add", "Add", "ADD ", "DELETE", "PREPARE"])
def test_verbs_are_the_spec_s(verb):
    of(4, execute({"CNI_COMMAND": verb, **GOOD}, CONFIGURATION), "CNI_COMMAND")


@pytest.mark.parametrize("name, value", [
    *[("CNI_CONTAINERID", value) for value in ["-c", ".c", "_c", "a/b", "a b", "../../etc", "ä", "a\nb", "a" * 300]],
    *[("CNI_IFNAME", value) for value in ["1234567890123456", "a/b", "a:b", "a b", ".", "..", "eth%d", "a\tb"]],
    ("CNI_NETNS", "proc/1/ns/net")])
def test_values_that_cannot_be(name, value):
    of(4, execute({"CNI_COMMAND": "ADD", **GOOD, name: value}, CONFIGURATION), name)


@pytest.mark.parametrize("verb, since", [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
@pytest.mark.parametrize("version", VERSIONS)
def test_verbs_are_as_old_as_they_are(verb, since, version):
    """Below its version: code 1. From it on another error, since nobody is there."""
    outcome = execute({"CNI_COMMAND": verb, **GOOD}, {**CONFIGURATION, "cniVersion": version})
    if version < since:
        of(1, outcome, since)
    else:
        assert outcome.status != 0 and outcome.code != 1


# MARK: standard input


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("stdin", ["", "\n", "no JSON", "[]", "null", "7", '"x"', '{"cniVersion":', '{"a":1}{', "\x00", "[" * 5000])
def test_no_json_object(verb, stdin):
    of(6, execute({"CNI_COMMAND": verb, **GOOD}, stdin))


@pytest.mark.parametrize("change, code, word", [
    ({"name": None}, 7, "name"), ({"name": ""}, 7, "name"), ({"name": "-x"}, 7, "name"), ({"name": "a/b"}, 7, "name"),
    ({"name": 7}, 7, "name"), ({"cniVersion": None}, 1, "cniVersion"), ({"cniVersion": "0.1.0"}, 1, "0.1.0"),
    ({"cniVersion": "2.0.0"}, 1, "2.0.0"), ({"weft": {"vrouter-port": "x"}}, 7, "weft.vrouter-port"),
    ({"weft": {"config-dir": "relative"}}, 7, "weft.config-dir"), ({"weft": {"vif-type": "ipvlan"}}, 2, "vif-type"),
    ({"weft": []}, 7, "weft"), ({"contrail": {}}, 7, "contrail"), ({"prevResult": 7}, 6, "prevResult"),
    ({"ipam": 7}, 7, "ipam"), ({"ipam": {"type": 7}}, 7, "ipam.type"), ({"ipam": {"type": "../sh"}}, 7, "ipam.type")])
def test_configurations_that_are_wrong(change, code, word):
    configuration = {key: value for key, value in {**CONFIGURATION, **change}.items() if value is not None}
    outcome = of(code, execute({"CNI_COMMAND": "ADD", **GOOD}, json.dumps(configuration)), word)
    version = change.get("cniVersion", "1.0.0")
    assert outcome.json["cniVersion"] == (version if version in VERSIONS else "1.1.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_errors_come_in_the_version_that_was_asked_for(version):
    outcome = of(8, execute({"CNI_COMMAND": "ADD", **GOOD}, {**CONFIGURATION, "cniVersion": version}))
    assert outcome.json["cniVersion"] == version
