"""An agent whose database is gone or cannot be read finds on the node what it had told the forwarder."""
import contextlib
import json
import pathlib
import re
import sqlite3
import time

import pytest
from lab import Lab, Pod, run, undisturbed, wait_for
from test_lifecycle import records

PORT = {
    "id": "5a9c0f6e-0000-4000-8000-000000000001", "instance-id": "5a9c0f6e-0000-4000-8000-0000000000aa",
    "ip-address": "10.1.1.200", "ip6-address": "None", "vn-id": "blue", "display-name": "machine", "type": 0,
    "mac-address": "02:5a:9c:0f:6e:01", "vm-project-id": "", "tx-vlan-id": -1, "rx-vlan-id": -1, "system-name": "tapmachine",
    "author": "port-control", "time": "2026-01-01 00:00:00"}


@pytest.fixture(scope="module", params=["packet", "tap"])
def node(request):
    """n1 with pods and a virtual machine's port, n2 with a pod."""
    lab = Lab("--pods", request.param, "--blue", "host: {}")
    try:
        lab.n1.exec("ip", "tuntap", "add", "dev", "tapmachine", "mode", "tap", "vnet_hdr")
        lab.n1.exec("ip", "link", "set", "tapmachine", "up")
        # As Tungsten Fabric's script does: a file first, then the request.
        folder = pathlib.Path(lab.folder) / "n1" / "var" / "lib" / "contrail" / "ports"
        folder.mkdir(parents=True)
        (folder / PORT["id"]).write_text(json.dumps(PORT))
        lab.tool("http", "n1", "POST", "/port", json.dumps(PORT))
        lab.members = [lab.pod("n1", "one"), lab.pod("n1", "two", "green"), lab.pod("n2", "far"), lab.pod("n2", "farther", "green")]
        yield lab
    finally:
        left = lab.down()
    assert left == "", f"left behind:\n{left}"


@pytest.fixture(autouse=True)
def ended(node):
    yield
    node.end_processes()


def damage(lab, how):
    lab.tool("stop", "n1", "agent", "KILL")
    database = pathlib.Path(lab.folder) / "n1" / "agent.db"
    # All of it into the one file.
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    for file in database.parent.glob("agent.db*" if how == "lost" else "agent.db-*"):
        file.unlink()
    if how == "no database":
        database.write_bytes(b"This was a database once.\n" * 1000)
    elif how == "damaged":
        # Pages within the file, which only a look at each of them finds.
        content = bytearray(database.read_bytes())
        assert len(content) > 8 * 4096
        content[4096:-4096] = b"\xa5" * (len(content) - 2 * 4096)
        database.write_bytes(content)
    return database


def attachments(lab):
    """Without what is chosen anew."""
    kept = ("container-id", "interface", "netns", "network", "host-interface", "mac", "addresses", "state", "pod-name",
            "pod-namespace", "mtu", "routes", "tap")
    return sorted(json.dumps({key: one.get(key) for key in kept}) for one in lab.attachments("n1"))


@pytest.mark.parametrize("how", ["lost", "no database", "damaged"])
def test_nothing_is_noticed(node, how):
    """No packet is lost, the forwarder's tables are the same to the last number, and no address is given out twice."""
    before, tables = attachments(node), node.tables("n1")
    port = node.http("n1", "GET", f"/port/{PORT['id']}")
    one, two, far, farther = node.members
    with undisturbed((one, far), (two, farther)):
        database = damage(node, how)
        node.tool("start", "n1", "agent")
        time.sleep(1)
    assert attachments(node) == before
    assert node.tables("n1") == tables
    assert node.http("n1", "GET", f"/port/{PORT['id']}") == {**port, "time": PORT["time"]}
    aside = list(database.parent.glob("agent.db.damaged-*"))
    assert len(aside) == (0 if how == "lost" else 1)
    for file in aside:
        file.unlink()
    log = (database.parent / "agent.log").read_text()
    assert "the database was new: 3 attachments were found on the node" in log
    new = node.pod("n1", "new")
    assert f'"{new.address(4)}/' not in "".join(before) and far.reaches(new.address(4), count=3)
    node.delete(new)
    assert attachments(node) == before


def test_only_the_forwarder_knows(node):
    """The files of the plugin are gone too: addresses stay theirs until their interfaces go."""
    one, two, far, farther = node.members
    kept = {path: pathlib.Path(path).read_bytes() for path in records(node, "n1")}
    for path in kept:
        pathlib.Path(path).unlink()
    tables = node.tables("n1")
    with undisturbed((one, far), (two, farther)):
        damage(node, "lost")
        node.tool("start", "n1", "agent")
        time.sleep(1)
    assert node.tables("n1") == tables
    found = {row["host-interface"]: row for row in node.attachments("n1")}
    assert len(found) == 3
    strangers = [row for row in found.values() if row["container-id"].startswith("recovered-")]
    assert {address["address"].split("/")[0] for row in strangers for address in row["addresses"]} == {
        pod.address(family) for pod in (one, two) for family in (4, 6)}
    new = node.pod("n1", "new")
    assert new.address(4) not in (one.address(4), two.address(4))
    node.delete(new)
    # DEL takes the interface away, and the agent notices.
    for pod in (one, two):
        node.delete(pod)
    wait_for(lambda: len(node.attachments("n1")) == 1, 30, "attachments of interfaces that are gone")
    node.members[:2] = [node.pod("n1", "one"), node.pod("n1", "two", "green")]
    assert far.reaches(node.members[0].address(4), count=3)


def test_a_reboot(node):
    """Everything in the kernel is gone, files are there: pods that are no more leave nothing, new ones come."""
    one, two, far, farther = node.members
    for what in ("agent", "forwarder"):
        node.tool("stop", "n1", what, "KILL")
    for pod in (one, two):
        pod.exec("ip", "link", "delete", "eth0")
    node.n1.exec("ip", "link", "delete", "tapmachine")
    for what in ("forwarder", "agent"):
        node.tool("start", "n1", what)
    # They are remembered, and nothing forwards for them.
    assert [row["role"] for row in node.weft("n1", "vif") if row["role"] != "host"] == ["fabric"]
    again = node.pod("n1", "again")
    assert far.reaches(again.address(4), count=3)
    # The runtime deletes what it knows of from before.
    for pod in (one, two):
        node.delete(pod)
    assert [row["pod-name"] for row in node.attachments("n1") if row["host-interface"] != "tapmachine"] == ["again"]
    node.tool("http", "n1", "DELETE", f"/port/{PORT['id']}")
    node.delete(again)
    assert node.attachments("n1") == [] and records(node, "n1") == []


def test_a_database_of_the_first_schema(node):
    """It is brought up to date, and what it remembers holds."""
    node.tool("stop", "n1", "agent")
    database = pathlib.Path(node.folder) / "n1" / "agent.db"
    for file in database.parent.glob("agent.db*"):
        file.unlink()
    connection = sqlite3.connect(database)
    connection.executescript(pathlib.Path(__file__).with_name("first-schema.sql").read_text())
    connection.close()
    node.tool("start", "n1", "agent")
    (old,) = node.attachments("n1")
    assert (old["container-id"], old["state"]) == ("old-container", "reserved")
    assert [address["address"] for address in old["addresses"]] == ["10.1.1.77/16", "fd00:1::1:77/64"]
    new = node.pod("n1", "new")
    assert new.address(4) == "10.1.1.78"
    node.delete(new)
    node.tool("http", "n1", "DELETE", "/v1/attachments/old-container/eth0")
    assert node.attachments("n1") == []


def test_a_full_disk(node):
    """What cannot be remembered is refused and leaves nothing; what forwards goes on; with room again all is well."""
    folder = pathlib.Path(node.folder) / "n1" / "disk"
    folder.mkdir()
    config = pathlib.Path(node.folder) / "n1" / "agent.yaml"
    text = config.read_text()
    node.tool("stop", "n1", "agent")
    run("mount", "-t", "tmpfs", "-o", "size=8m", "none", folder)
    try:
        config.write_text(re.sub("^database: .*$", f"database: {folder}/agent.db", text, flags=re.M))
        node.tool("start", "n1", "agent")
        there = node.attachments("n1")
        pod = node.pod("n1", "before")
        with contextlib.suppress(OSError), open(folder / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        outcomes = []
        for number in range(40):
            outcome = node.tool("pod-add", "n1", f"full{number}", "blue", check=False)
            outcomes.append(outcome)
            if outcome.returncode != 0:
                break
        failed = outcomes[-1]
        assert failed.returncode != 0 and "database" in failed.stdout, failed.stdout
        assert far_reaches(node, pod)
        (folder / "ballast").unlink()
        for number in range(len(outcomes) - 1):
            made = Pod(node, "n1", f"full{number}", "blue")
            node.delete(made)
        again = node.pod("n1", "again")
        assert far_reaches(node, again)
        node.delete(again)
        node.delete(pod)
        assert node.attachments("n1") == there
    finally:
        node.tool("stop", "n1", "agent", check=False)
        run("umount", "-l", folder)
        folder.rmdir()
        config.write_text(text)
        node.tool("start", "n1", "agent")


def far_reaches(node, pod):
    return node.members[2].reaches(pod.address(4), count=3)
