"""TABLES.json: what is refused, by the program with a JSON path and by the schema as far as a schema can say it."""

import json

import pytest
import weft

ROUTE = {"vrf": 1, "prefix": "198.51.100.0/24", "nexthop": 1}
FABRIC_PORT = {"id": 9, "role": "fabric", "port": "pcap", "device": "f2", "mac": "02:00:00:00:ff:09",
               "addresses": ["192.0.2.9"]}
POD_PORT = {"id": 9, "role": "virtual", "port": "pcap", "device": "e", "mac": "02:00:00:00:01:09", "vrf": 1}
VXLAN = {"id": 40, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": "192.0.2.1",
         "destination": "192.0.2.4", "destination-mac": "02:00:00:00:ff:04"}
MPLS = VXLAN | {"encapsulation": "mpls-over-udp"}
COUNT = {table: len(rows) for table, rows in weft.tables().items()}


def added(table, **row):
    return weft.changed(weft.tables(), table, COUNT[table], to=row)


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


def at(table, *steps):
    return f"$.{table}[{COUNT[table]}]" + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)


# What is wrong, the document, the path that the program names, a part of its reason, whether the schema refuses it too.
BAD = [
    ("an array", [], "$", "an array where an object is expected", True),
    ("no interfaces", weft.changed(weft.tables(), "interfaces", to=...), "$", '"interfaces" is missing', True),
    ("unknown table", weft.changed(weft.tables(), "policies", to=[]), "$.policies", "unknown key", True),
    ("table is an object", weft.changed(weft.tables(), "routes", to={}), "$.routes", "an array is expected", True),
    ("row is a number", weft.changed(weft.tables(), "routes", 0, to=7), "$.routes[0]", "an object is expected", True),
    # limits
    ("unknown limit", weft.changed(weft.tables(), "limits", "labels", to=1), "$.limits.labels", "unknown key", True),
    ("limit zero", weft.changed(weft.tables(), "limits", "flows", to=0), "$.limits.flows", "not within", True),
    ("limit too large", weft.changed(weft.tables(), "limits", "interfaces", to=65537), "$.limits.interfaces",
     "not within", True),
    ("limit is no whole number", weft.changed(weft.tables(), "limits", "flows", to=1.5), "$.limits.flows",
     "not a whole number", True),
    ("more routes than the limit", weft.changed(weft.tables(), "limits", "routes", to=5), "$.routes[5]", "in use",
     False),
    ("more nexthops than the limit", weft.changed(weft.tables(), "limits", "nexthops", to=15), "$.nexthops[8].id",
     "raise limits.nexthops", False),
    ("more bridge entries than the limit", weft.changed(weft.tables(), "limits", "bridge", to=1), "$.bridge[", "in use",
     False),
    ("too few route nodes for VRFs", weft.changed(weft.tables(), "limits", "route-nodes", to=1), "$.vrfs[1]",
     "route nodes", False),
    ("too few route nodes", weft.changed(weft.tables(), "limits", "route-nodes", to=3), "$.routes[0]", "route nodes",
     False),
    # VRFs
    ("VRF twice", added("vrfs", id=1, name="green"), at("vrfs", "id"), "$.vrfs[0] already", False),
    ("VRF's name twice", added("vrfs", id=3, name="blue"), at("vrfs", "name"), "$.vrfs[0] already", False),
    ("VRF without name", added("vrfs", id=3), at("vrfs"), '"name" is missing', True),
    ("VRF with an empty name", added("vrfs", id=3, name=""), at("vrfs", "name"), "1 to 63 bytes", True),
    ("VRF with a long name", added("vrfs", id=3, name="x" * 64), at("vrfs", "name"), "1 to 63 bytes", True),
    ("VRF with a long name in UTF-8", added("vrfs", id=3, name="\u00e4" * 32), at("vrfs", "name"), "1 to 63 bytes",
     False),
    ("VRF with a line break in its name", added("vrfs", id=3, name="a\nb"), at("vrfs", "name"), "control", True),
    ("VRF beyond the limit", added("vrfs", id=16, name="green"), at("vrfs", "id"), "raise limits.vrfs", False),
    ("VRF's id is text", added("vrfs", id="3", name="green"), at("vrfs", "id"), "a number is expected", True),
    ("VRF's id is negative", added("vrfs", id=-1, name="green"), at("vrfs", "id"), "not within", True),
    # interfaces
    *[(f"interface without {key}", added("interfaces", **without(POD_PORT, key)), at("interfaces"),
       f'"{key}" is missing', True) for key in POD_PORT],
    ("fabric interface without addresses", added("interfaces", **without(FABRIC_PORT, "addresses")), at("interfaces"),
     '"addresses" is missing', True),
    ("fabric interface with no address", added("interfaces", **FABRIC_PORT | {"addresses": []}),
     at("interfaces", "addresses"), "1 to 4 addresses", True),
    ("fabric interface with five addresses", added("interfaces", **FABRIC_PORT | {
        "addresses": [f"192.0.2.{i}" for i in range(10, 15)]}), at("interfaces", "addresses"), "1 to 4 addresses",
     True),
    ("fabric interface with a VRF", added("interfaces", **FABRIC_PORT, vrf=1), at("interfaces", "vrf"),
     "belong to no VRF", True),
    ("fabric interface's address", added("interfaces", **FABRIC_PORT | {"addresses": ["192.0.2.9", "192.0.2.256"]}),
     at("interfaces", "addresses", 1), "is not an IPv4 or IPv6 address", True),
    ("fabric interface's address is a group", added("interfaces", **FABRIC_PORT | {"addresses": ["224.0.0.1"]}),
     at("interfaces", "addresses", 0), "a group address", False),
    ("virtual interface with addresses", added("interfaces", **POD_PORT, addresses=["192.0.2.9"]),
     at("interfaces", "addresses"), "only fabric interfaces", True),
    ("unknown role", added("interfaces", **POD_PORT | {"role": "pod"}), at("interfaces", "role"),
     '"pod" is none of virtual, fabric', True),
    ("unknown port kind", added("interfaces", **POD_PORT | {"port": "dpdk"}), at("interfaces", "port"),
     '"dpdk" is none of packet, tap, pcap', True),
    ("a port that a replay does not open", added("interfaces", **POD_PORT | {"port": "tap"}), at("interfaces"),
     "pcap", False),
    ("a port of af_xdp in a replay", added("interfaces", **POD_PORT | {"port": "af_xdp"}, **{
        "xdp-mode": "native", "xdp-copy": "zero-copy", "busy-poll": 1000, "busy-poll-budget": 1024}),
     at("interfaces"), "pcap", False),
    ("unknown mode of XDP", added("interfaces", **POD_PORT | {"port": "af_xdp", "xdp-mode": "offload"}),
     at("interfaces", "xdp-mode"), '"offload" is none of auto, native, skb', True),
    ("unknown way to copy", added("interfaces", **POD_PORT | {"port": "af_xdp", "xdp-copy": "no"}),
     at("interfaces", "xdp-copy"), '"no" is none of auto, copy, zero-copy', True),
    ("no copies in the stack", added("interfaces", **POD_PORT | {
        "port": "af_xdp", "xdp-mode": "skb", "xdp-copy": "zero-copy"}),
     at("interfaces"), "takes a program in the driver", True),
    ("busy polling for too long", added("interfaces", **POD_PORT | {"port": "af_xdp", "busy-poll": 1001}),
     at("interfaces", "busy-poll"), "1000", True),
    ("a budget of nothing", added("interfaces", **POD_PORT | {"port": "af_xdp", "busy-poll-budget": 0}),
     at("interfaces", "busy-poll-budget"), "1024", True),
    ("XDP's mode on another kind of port", added("interfaces", **POD_PORT, **{"xdp-mode": "auto"}),
     at("interfaces", "xdp-mode"), "only a port of kind af_xdp", True),
    ("busy polling on another kind of port", added("interfaces", **POD_PORT, **{"busy-poll": 0}),
     at("interfaces", "busy-poll"), "only a port of kind af_xdp", True),
    ("a tap port in a replay", added("interfaces", **POD_PORT | {"port": "tap"}, **{
        "queues": 0, "netns": "/run/netns/pod", "netns-device": "eth0"}), at("interfaces"), "pcap", False),
    ("too many queues", added("interfaces", **POD_PORT | {"port": "tap", "queues": 257}), at("interfaces", "queues"),
     "256", True),
    ("a relative network namespace", added("interfaces", **POD_PORT | {"port": "tap", "netns": "pod"}),
     at("interfaces", "netns"), "an absolute path", True),
    ("a long network namespace", added("interfaces", **POD_PORT | {"port": "tap", "netns": "/" + 95 * "n"}),
     at("interfaces", "netns"), "at most 95 bytes", True),
    ("a name in no namespace", added("interfaces", **POD_PORT | {"port": "tap", "netns-device": "eth0"}),
     at("interfaces"), "another network namespace", True),
    ("a bad name in a namespace", added("interfaces", **POD_PORT | {
        "port": "tap", "netns": "/n", "netns-device": "a/b"}), at("interfaces", "netns-device"), "not a device's name",
     True),
    *[(f"{key} on another kind of port", added("interfaces", **POD_PORT, **{key: value}), at("interfaces", key),
       "only a port of kind tap", True) for key, value in {
           "queues": 1, "netns": "/run/netns/pod", "netns-device": "eth0"}.items()],
    ("device with a slash", added("interfaces", **POD_PORT | {"device": "../e"}), at("interfaces", "device"),
     "not a device's name", True),
    ("device is ..", added("interfaces", **POD_PORT | {"device": ".."}), at("interfaces", "device"),
     "not a device's name", True),
    ("device of 16 letters", added("interfaces", **POD_PORT | {"device": "e" * 16}), at("interfaces", "device"),
     "not a device's name", True),
    ("device twice", added("interfaces", **POD_PORT | {"device": "a"}), at("interfaces", "device"),
     "$.interfaces[1] already", False),
    ("MAC cut", added("interfaces", **POD_PORT | {"mac": "02:00:00:00:01"}), at("interfaces", "mac"),
     "is not a MAC address", True),
    ("MAC with hyphens", added("interfaces", **POD_PORT | {"mac": "02-00-00-00-01-09"}), at("interfaces", "mac"),
     "is not a MAC address", True),
    ("MAC is a group", added("interfaces", **POD_PORT | {"mac": "01:00:5e:00:00:01"}), at("interfaces", "mac"),
     "a group address", True),
    ("MAC is zero", added("interfaces", **POD_PORT | {"mac": "00:00:00:00:00:00"}), at("interfaces", "mac"), "zero",
     True),
    ("MTU 67", added("interfaces", **POD_PORT, mtu=67), at("interfaces", "mtu"), "not within 68 to 65535", True),
    ("MTU 65536", added("interfaces", **POD_PORT, mtu=65536), at("interfaces", "mtu"), "not within", True),
    ("unknown VRF", added("interfaces", **POD_PORT | {"vrf": 7}), at("interfaces", "vrf"), "there is no VRF 7", False),
    ("unknown key of an interface", added("interfaces", **POD_PORT, speed=10), at("interfaces", "speed"),
     "the keys here are id, role", True),
    # nexthops
    ("unknown action", added("nexthops", id=40, action="drop"), at("nexthops", "action"), '"drop" is none of', True),
    ("nexthop twice", added("nexthops", id=1, action="discard"), at("nexthops", "id"), "$.nexthops[0] already", False),
    ("key of another action", added("nexthops", id=40, action="discard", vrf=1), at("nexthops", "vrf"),
     "its keys are id, action", True),
    ("encap without MAC", added("nexthops", id=40, action="encap", interface=1), at("nexthops"),
     '"destination-mac" is missing', True),
    ("encap to the fabric", added("nexthops", **{"id": 40, "action": "encap", "interface": 0,
                                                 "destination-mac": weft.MAC["a"]}), at("nexthops", "interface"),
     "interface 0 is fabric", False),
    ("encap to nowhere", added("nexthops", **{"id": 40, "action": "encap", "interface": 12,
                                              "destination-mac": weft.MAC["a"]}), at("nexthops", "interface"),
     "there is no interface 12", False),
    ("tunnel by a pod's interface", added("nexthops", **VXLAN | {"interface": 1}), at("nexthops", "interface"),
     "interface 1 is virtual", False),
    *[(f"tunnel without {key}", added("nexthops", **without(VXLAN, key)), at("nexthops"), f'"{key}" is missing', True)
      for key in ("encapsulation", "interface", "source", "destination")],
    ("unknown encapsulation", added("nexthops", **VXLAN | {"encapsulation": "geneve"}), at("nexthops", "encapsulation"),
     '"geneve" is none of vxlan, mpls-over-udp', True),
    ("tunnel of two families", added("nexthops", **VXLAN | {"destination": "2001:db8::4"}),
     at("nexthops", "destination"), "not of one family", False),
    ("MPLS with an inner MAC", added("nexthops", **MPLS, **{"inner-destination-mac": weft.MAC["a"]}),
     at("nexthops", "inner-destination-mac"), "carries no Ethernet header", True),
    ("unresolved by zero MAC", added("nexthops", **VXLAN | {"destination-mac": "00:00:00:00:00:00"}),
     at("nexthops", "destination-mac"), "zero", True),
    ("translation to no VRF", added("nexthops", **{"id": 40, "action": "vrf-translate", "vrf": 7}),
     at("nexthops", "vrf"), "there is no VRF 7", False),
    # labels and VNIs
    ("reserved label", added("labels", label=15, nexthop=31), at("labels", "label"), "not within 16", True),
    ("label of 21 bits", added("labels", label=1 << 20, nexthop=31), at("labels", "label"), "not within", True),
    ("label twice", added("labels", label=100, nexthop=32), at("labels", "label"), "$.labels[0] already", False),
    ("label to nowhere", added("labels", label=300, nexthop=40), at("labels", "nexthop"), "no nexthop 40", False),
    ("label to a receive nexthop", added("labels", label=300, nexthop=weft.RECEIVE), at("labels"), "cannot end", False),
    ("VNI of 25 bits", added("vnis", vni=1 << 24, nexthop=31), at("vnis", "vni"), "not within", True),
    ("VNI twice", added("vnis", vni=100, nexthop=32), at("vnis", "vni"), "$.vnis[0] already", False),
    ("VNI to a tunnel", added("vnis", vni=300, nexthop=10), at("vnis"), "cannot end", False),
    # routes
    *[(f"route without {key}", added("routes", **without(ROUTE, key)), at("routes"), f'"{key}" is missing', True)
      for key in ROUTE],
    ("host bits", added("routes", **ROUTE | {"prefix": "198.51.100.7/24"}), at("routes", "prefix"),
     "the prefix is 198.51.100.0/24", False),
    ("IPv6 host bits", added("routes", **ROUTE | {"prefix": "2001:db8:7::7/64"}), at("routes", "prefix"),
     "the prefix is 2001:db8:7::/64", False),
    ("prefix without length", added("routes", **ROUTE | {"prefix": "198.51.100.7"}), at("routes", "prefix"),
     "198.51.100.7/32", True),
    ("prefix of length 33", added("routes", **ROUTE | {"prefix": "198.51.100.0/33"}), at("routes", "prefix"), "0 to 32",
     False),
    ("prefix with a mask", added("routes", **ROUTE | {"prefix": "198.51.100.0/255.255.255.0"}), at("routes", "prefix"),
     "0 to 32", True),
    ("prefix is a name", added("routes", **ROUTE | {"prefix": "default"}), at("routes", "prefix"), "not a prefix",
     True),
    ("route twice", added("routes", **ROUTE | {"prefix": weft.tables()["routes"][0]["prefix"]}),
     at("routes", "prefix"), "$.routes[0] already", False),
    ("route of no VRF", added("routes", **ROUTE | {"vrf": 7}), at("routes", "vrf"), "no VRF 7", False),
    ("route to nowhere", added("routes", **ROUTE | {"nexthop": 40}), at("routes", "nexthop"), "no nexthop 40", False),
    ("tunnel route without label", added("routes", **ROUTE | {"nexthop": 10}), at("routes"), "say the VNI", False),
    ("tunnel route with a reserved label", added("routes", **ROUTE | {"nexthop": 12}, label=3), at("routes", "label"),
     "not within 16", False),
    ("local route with a label", added("routes", **ROUTE, label=100), at("routes", "label"), "only a tunnel", False),
    ("label of 25 bits", added("routes", **ROUTE | {"nexthop": 10}, label=1 << 24), at("routes", "label"), "not within",
     True),
    # bridge
    ("bridge entry twice", added("bridge", vrf=1, mac=weft.MAC["a"].upper(), nexthop=1), at("bridge", "mac"),
     "$.bridge[0] already", False),
    ("bridge entry for a group", added("bridge", vrf=1, mac="ff:ff:ff:ff:ff:ff", nexthop=1), at("bridge", "mac"),
     "a group address", False),
    ("bridge entry to a VRF", added("bridge", vrf=1, mac="02:00:00:00:09:01", nexthop=31), at("bridge"), "cannot lead",
     False),
]


def messages(document):
    return [error.message for error in weft.SCHEMA.iter_errors(document)]


@pytest.mark.parametrize("document, path, reason, by_schema", [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_refused(replay, document, path, reason, by_schema):
    # The capture is not there: tables come first.
    run = replay({"a": "/nonexistent.pcap"}, json.dumps(document), expect_status=1)
    assert f": at {path}" in run.stderr and reason in run.stderr, run.stderr
    assert not run.out.exists()
    assert (messages(document) != []) == by_schema, messages(document)


@pytest.mark.parametrize("text, place, reason", [
    ("", "line 1, column 1", "the file ends"),
    ('{"interfaces": [\n  {"id": 0,}\n]}', "line 2, column 12", "a key in double quotes"),
    ('{"interfaces": []} x', "line 1, column 20", "after the end"),
    ('{"interfaces": [], "interfaces": []}', "$.interfaces (line 1, column 34)", "twice"),
    ("[" * 100000, "line 1, column 17", "within each other"),
    ('{"interfaces": [NaN]}', "line 1, column 17", "where a value is expected"),
    ("# tables\n{}", "line 1, column 1", "where a value is expected"),
])
def test_not_json(replay, text, place, reason):
    run = replay({"a": "/nonexistent.pcap"}, text, expect_status=1)
    assert place in run.stderr and reason in run.stderr, run.stderr
    assert not run.out.exists()


def test_schema_is_one():
    weft.SCHEMA.check_schema(weft.SCHEMA.schema)
    assert messages(weft.tables()) == []


def test_schema_knows_what_the_program_knows(replay):
    # Every key that the schema names is taken by the program: a document that uses them all.
    document = weft.tables()
    document["$schema"] = "tables.schema.json"
    document["interfaces"][0]["mtu"] = 65535
    document["nexthops"][4]["fragment"] = True
    document["nexthops"].append({"id": 60, "action": "ecmp", "members": [{"nexthop": 10, "label": 5, "weight": 2}]})
    document["interfaces"][1] |= {"flags": ["policy", "bridging", "routing"], "tags": [1]}
    document["vrfs"][0] |= {"flags": ["flood-unknown", "learning", "suppression"], "ageing": 10, "moves": 1,
                            "move-seconds": 1, "mac-limit": 0}
    document["interfaces"] += [
        {"id": 8, "role": "virtual", "port": "vlan", "parent": 1, "vlan": 1, "inner-vlan": 4094, "tpid": "0x9100",
         "device": "a.1", "mac": weft.MAC["c"], "vrf": 1, "flags": ["bridging", "learning"], "mac-limit": 0},
        {"id": 9, "role": "host", "port": "pcap", "device": "host", "mac": weft.MAC["d"], "vrf": 1},
        {"id": 10, "role": "monitoring", "port": "pcap", "device": "tap", "mac": weft.MAC["d"]}]
    document["nexthops"] += [
        {"id": 61, "action": "multicast", "members": [{"nexthop": 10, "label": 5, "group": 65535}, {"nexthop": 1}]},
        {"id": 62, "action": "receive", "interface": 9}, {"id": 63, "action": "resolve", "interface": 1}]
    document["nexthops"].append({"id": 59, "action": "l2-receive", "vrf": 1})
    document["nexthops"].append({"id": 58, "action": "l3-receive", "vrf": 1})
    document["neighbors"] = [{"vrf": 1, "address": "10.1.0.9", "mac": weft.MAC["d"]}]
    document["interfaces"][1] |= {"fat-flows": [
        {"protocol": 17, "port": 53, "local": "ignore", "remote": {"prefix": "10.0.0.0/8", "length": 16}}],
        "ingress-policer": 1, "egress-policer": 2, "qos-classifier": 1, "qos-marks": 1}
    document["nexthops"][4]["outer-dscp"] = 8
    document["policers"] = [
        {"id": 1, "name": "gold", "kind": "single-rate-three-color", "unit": "bits", "rate": 1000, "burst": 1500,
         "excess-burst": 3000, "color-aware": True, "yellow-dscp": 12},
        {"id": 2, "kind": "two-rate-three-color", "unit": "packets", "rate": 1000, "burst": 10, "peak-rate": 2000,
         "peak-burst": 20}]
    document["qos-classifiers"] = [{"id": 1, "name": "trust", "default": 0, "dscp": [{"values": [46], "class": 5}],
                                    "pcp": [{"values": [5], "class": 5}], "exp": [{"values": [5], "class": 5}]}]
    document["qos-marks"] = [{"id": 1, "name": "core", "classes": [
        {"class": 5, "dscp": 46, "outer-dscp": 46, "exp": 5, "pcp": 5}]}]
    document["address-sets"] = [{"id": 1, "name": "pods", "members": ["10.0.0.0/8"], "except": ["10.1.0.0/16"]}]
    document["rules"] = [
        {"id": 1, "name": "web", "priority": 1, "direction": "ingress", "action": "allow", "tag": 1, "vrf": 1,
         "remote-sets": [1], "remote-prefix": "10.2.0.0/16", "local-prefix": "10.1.0.0/16", "protocol": 6,
         "source-ports": ["1024-65535"], "destination-ports": [80], "tcp-flags": {"mask": 2, "value": 2},
         "log": True, "mirror": 1, "dscp": 1, "policer": 1},
        {"id": 2, "priority": 2, "direction": "egress", "action": "deny", "protocol": 1, "icmp-type": 8,
         "icmp-code": 0}]
    document["mirrors"] = [{"id": 1, "interface": 4, "truncate": 64}, {"id": 2, "nexthop": 10, "vni": 7}]
    document["interface-mirrors"] = [{"interface": 1, "ingress": 1, "egress": 2}]
    document["nat-pools"] = [{"id": 0, "name": "out", "vrf": 2, "first": "203.0.113.1", "last": "203.0.113.9",
                              "first-port": 2000, "last-port": 2999, "block-ports": 64}]
    document["source-nat"] = [{"id": 1, "priority": 1, "vrf": 1, "source": "10.0.0.0/8",
                               "destination": "192.0.2.0/24", "egress": 2, "pool": 0}]
    document["static-nat"] = [{"inside-vrf": 1, "inside": "10.0.0.5", "outside-vrf": 2, "outside": "203.0.113.50"}]
    document["destination-nat"] = [{"vrf": 1, "address": "169.254.169.254", "protocol": "tcp", "port": 80,
                                    "target-vrf": 2, "target": "192.0.2.9", "target-port": 8775}]
    document["services"] = [{"vrf": 1, "address": "10.96.0.1", "protocol": "tcp", "port": 80, "name": "web",
                             "local-only": True, "pool": 0, "affinity": 60, "hairpin": "169.254.0.1", "backends": [
                                 {"address": "10.0.1.2", "port": 8080, "vrf": 2, "weight": 1, "draining": True,
                                  "local": True}]}]
    document["flow-export"] = {"flows": "all", "sample": 10, "rate": 100, "update-seconds": 5}
    document["flow-settings"] = {"tcp": "strict", "timeouts": {
        "tcp-opening": 1, "tcp-established": 2, "tcp-closing": 3, "udp": 4, "udp-stream": 5, "icmp": 6, "other": 7,
        "denied": 8}}
    replay({"a": []}, document)
    used = set()

    def collect(value):
        if isinstance(value, dict):
            used.update(value)
            for field in value.values():
                collect(field)
        elif isinstance(value, list):
            for entry in value:
                collect(entry)
    collect(document)
    named = set()

    def walk(schema):
        if isinstance(schema, dict):
            named.update(schema.get("properties", {}))
            for value in schema.values():
                walk(value)
        elif isinstance(schema, list):
            for value in schema:
                walk(value)
    walk(weft.SCHEMA.schema)
    # A replay refuses ports of the kinds that have these.
    assert used == named - {
        "xdp-mode", "xdp-copy", "busy-poll", "busy-poll-budget", "queues", "netns", "netns-device", "socket",
        "vhostuser-mode"}
