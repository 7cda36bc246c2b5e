import Testing
import WeftRing
import WeftVRouter
import WeftWire

private func read(_ text: String) throws(TablesFileError) -> TablesFile { try TablesFile(json: Array(text.utf8)) }

/// A file with a bit of everything, into which rows put what is wrong.
private func file(
  limits: String = "", vrfs: String = "", interfaces: String = "", nexthops: String = "", labels: String = "",
  vnis: String = "", routes: String = "", bridge: String = ""
) -> String {
  """
  {
    "limits": {"flows": 1024\(limits)},
    "vrfs": [{"id": 1, "name": "blue"}\(vrfs)],
    "interfaces": [
      {"id": 0, "role": "fabric", "port": "pcap", "device": "fabric", "mac": "02:00:00:00:00:01", "mtu": 9000,
       "addresses": ["192.0.2.1", "2001:db8::1"]},
      {"id": 1, "role": "virtual", "port": "pcap", "device": "a", "mac": "02:00:00:00:00:0a", "vrf": 1}\(interfaces)
    ],
    "nexthops": [
      {"id": 0, "action": "discard"},
      {"id": 1, "action": "receive"},
      {"id": 2, "action": "encap", "interface": 1, "destination-mac": "02:00:00:00:00:0a"},
      {"id": 3, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": "192.0.2.1",
       "destination": "192.0.2.2", "destination-mac": "02:00:00:00:00:02", "inner-destination-mac": "2:0:0:0:0:3"},
      {"id": 4, "action": "tunnel", "encapsulation": "mpls-over-udp", "interface": 0, "source": "2001:db8::1",
       "destination": "2001:db8::2"},
      {"id": 5, "action": "vrf-translate", "vrf": 1}\(nexthops)
    ],
    "labels": [{"label": 16, "nexthop": 2}\(labels)],
    "vnis": [{"vni": 100, "nexthop": 5}\(vnis)],
    "routes": [
      {"vrf": 1, "prefix": "10.0.0.0/24", "nexthop": 3, "label": 100},
      {"vrf": 1, "prefix": "fd00::1/128", "nexthop": 1}\(routes)
    ],
    "bridge": [{"vrf": 1, "mac": "02:00:00:00:00:0a", "nexthop": 2}\(bridge)]
  }
  """
}

@Test func tablesFileStatesEveryTable() throws {
  let tables = try read(file())
  var limits = TableLimits()
  limits.flows = 1024
  #expect(tables.limits == limits)
  let here = try #require(IPAddress("192.0.2.1"))
  let there = try #require(IPAddress("192.0.2.2"))
  let here6 = try #require(IPAddress("2001:db8::1"))
  let there6 = try #require(IPAddress("2001:db8::2"))
  let pod = MACAddress(bits: 0x0200_0000_000A)
  let expected: [(Command, String)] = [
    (.setVRF(VRFConfiguration(id: 1, name: "blue")), "$.vrfs[0]"),
    (
      .setInterface(
        InterfaceConfiguration(
          id: 0, role: .fabric, port: .pcap, device: "fabric", mac: MACAddress(bits: 0x0200_0000_0001), mtu: 9000,
          addresses: [here, here6])), "$.interfaces[0]"
    ),
    (
      .setInterface(InterfaceConfiguration(id: 1, role: .virtual, port: .pcap, device: "a", mac: pod, vrf: 1)),
      "$.interfaces[1]"
    ),
    (.setNexthop(NexthopConfiguration(id: 0, action: .discard)), "$.nexthops[0]"),
    (.setNexthop(NexthopConfiguration(id: 1, action: .receive)), "$.nexthops[1]"),
    (.setNexthop(NexthopConfiguration(id: 2, action: .encap(interface: 1, destinationMAC: pod))), "$.nexthops[2]"),
    (
      .setNexthop(
        NexthopConfiguration(
          id: 3,
          action: .tunnel(
            TunnelConfiguration(
              encapsulation: .vxlan, interface: 0, source: here, destination: there,
              destinationMAC: MACAddress(bits: 0x0200_0000_0002),
              innerDestinationMAC: MACAddress(bits: 0x0200_0000_0003))))), "$.nexthops[3]"
    ),
    (
      .setNexthop(
        NexthopConfiguration(
          id: 4,
          action: .tunnel(
            TunnelConfiguration(
              encapsulation: .mplsOverUDP, interface: 0, source: here6, destination: there6, destinationMAC: .zero)))),
      "$.nexthops[4]"
    ),
    (.setNexthop(NexthopConfiguration(id: 5, action: .vrfTranslate(vrf: 1))), "$.nexthops[5]"),
    (.setLabel(LabelConfiguration(label: 16, nexthop: 2)), "$.labels[0]"),
    (.setVNI(VNIConfiguration(vni: 100, nexthop: 5)), "$.vnis[0]"),
    (
      .setRoute(RouteConfiguration(vrf: 1, prefix: try #require(IPPrefix("10.0.0.0/24")), nexthop: 3, label: 100)),
      "$.routes[0]"
    ),
    (.setRoute(RouteConfiguration(vrf: 1, prefix: try #require(IPPrefix("fd00::1/128")), nexthop: 1)), "$.routes[1]"),
    (.setBridge(BridgeConfiguration(vrf: 1, mac: pod, nexthop: 2)), "$.bridge[0]"),
  ]
  #expect(tables.commands == expected.map(\.0))
  #expect(tables.sources == expected.map(\.1))
}

@Test func tablesFileNeedsInterfacesAlone() throws {
  let tables = try read(#"{"interfaces": []}"#)
  #expect(tables.commands.isEmpty && tables.sources.isEmpty)
  #expect(tables.limits == TableLimits())
}

@Test(arguments: [
  // What is wrong, the path that is named, a part of the reason.
  ("[]", "$", "an array where an object is expected"),
  ("{}", "$", "\"interfaces\" is missing"),
  (file(limits: #", "labels": 3"#), "$.limits.labels", "unknown key; the keys here are interfaces, vrfs"),
  (file(limits: #", "flows": 2048"#), "$.limits.flows", "twice"),
  (file(limits: #", "a b": 2048"#), "$.limits[\"a b\"]", "unknown key"),
  (file(limits: #", "vrfs": 0"#), "$.limits.vrfs", "0 is not within 1 to"),
  (file(limits: #", "vrfs": 1"#), "$.vrfs[0].id", "1 is beyond the table, which ends at 0; raise limits.vrfs"),
  (file(vrfs: #", {"id": 1, "name": "red"}"#), "$.vrfs[1].id", "VRF 1 stands at $.vrfs[0] already"),
  (file(vrfs: #", {"id": 2, "name": "blue"}"#), "$.vrfs[1].name", "VRF \"blue\" stands at $.vrfs[0] already"),
  (file(vrfs: #", {"id": 2}"#), "$.vrfs[1]", "\"name\" is missing"),
  (file(vrfs: #", {"id": 2, "name": ""}"#), "$.vrfs[1].name", "1 to 63 bytes"),
  (file(vrfs: #", {"id": 2.0, "name": "red"}"#), "$.vrfs[1].id", "2.0 is not a whole number"),
  (file(vrfs: #", {"id": -1, "name": "red"}"#), "$.vrfs[1].id", "-1 is not within"),
  (file(vrfs: #", {"id": 99999999999999999999, "name": "red"}"#), "$.vrfs[1].id", "not within"),
  (file(vrfs: #", {"id": "2", "name": "red"}"#), "$.vrfs[1].id", "a string where a number is expected"),
  (file(vrfs: #", null"#), "$.vrfs[1]", "null where an object is expected"),
  (
    file(interfaces: #", {"id": 2, "role": "pod"}"#), "$.interfaces[2].role", "\"pod\" is none of virtual, fabric"
  ),
  (
    file(interfaces: #", {"id": 2, "role": "virtual", "port": "pcap", "device": "../x"}"#), "$.interfaces[2].device",
    "not a device's name"
  ),
  (
    file(interfaces: #", {"id": 2, "role": "virtual", "port": "pcap", "device": "a"}"#), "$.interfaces[2].device",
    "stands at $.interfaces[1] already"
  ),
  (
    file(interfaces: #", {"id": 2, "role": "virtual", "port": "pcap", "device": "b", "mac": "02:00"}"#),
    "$.interfaces[2].mac", "\"02:00\" is not a MAC address such as"
  ),
  (
    file(interfaces: #", {"id": 2, "role": "virtual", "port": "pcap", "device": "b", "mac": "03:0:0:0:0:1"}"#),
    "$.interfaces[2].mac", "a group address"
  ),
  (
    file(
      interfaces: #", {"id": 2, "role": "virtual", "port": "pcap", "device": "b", "mac": "2:0:0:0:0:1", "vrf": 2}"#),
    "$.interfaces[2].vrf", "there is no VRF 2"
  ),
  (
    file(
      interfaces:
        #", {"id": 2, "role": "virtual", "port": "pcap", "device": "b", "mac": "2:0:0:0:0:1", "vrf": 1, "addresses": []}"#
    ), "$.interfaces[2].addresses", "only fabric interfaces"
  ),
  (
    file(
      interfaces:
        #", {"id": 2, "role": "fabric", "port": "pcap", "device": "b", "mac": "2:0:0:0:0:1", "addresses": ["10.0.0.256"]}"#
    ), "$.interfaces[2].addresses[0]", "\"10.0.0.256\" is not an IPv4 or IPv6 address"
  ),
  (file(nexthops: #", {"id": 6, "action": "drop"}"#), "$.nexthops[6].action", "none of discard, receive"),
  (file(nexthops: #", {"id": 6, "action": "discard", "vrf": 1}"#), "$.nexthops[6].vrf", "its keys are id, action"),
  (
    file(nexthops: #", {"id": 6, "action": "encap", "interface": 9, "destination-mac": "2:0:0:0:0:1"}"#),
    "$.nexthops[6].interface", "there is no interface 9"
  ),
  (
    file(
      nexthops:
        #", {"id": 6, "action": "tunnel", "encapsulation": "vxlan", "interface": 1, "source": "1.1.1.1", "destination": "1.1.1.2"}"#
    ), "$.nexthops[6].interface", "interface 1 is virtual"
  ),
  (
    file(
      nexthops:
        #", {"id": 6, "action": "tunnel", "encapsulation": "vxlan", "interface": 0, "source": "1.1.1.1", "destination": "fd00::1"}"#
    ), "$.nexthops[6].destination", "not of one family"
  ),
  (file(labels: #", {"label": 15, "nexthop": 5}"#), "$.labels[1].label", "15 is not within 16 to 1048575"),
  (file(labels: #", {"label": 17, "nexthop": 9}"#), "$.labels[1].nexthop", "there is no nexthop 9"),
  (file(vnis: #", {"vni": 16777216, "nexthop": 5}"#), "$.vnis[1].vni", "not within 0 to 16777215"),
  (file(vnis: #", {"vni": 100, "nexthop": 5}"#), "$.vnis[1].vni", "VNI 100 stands at $.vnis[0] already"),
  (
    file(routes: #", {"vrf": 1, "prefix": "10.0.0.1/24", "nexthop": 1}"#), "$.routes[2].prefix",
    "the prefix is 10.0.0.0/24"
  ),
  (
    file(routes: #", {"vrf": 1, "prefix": "10.0.0.1", "nexthop": 1}"#), "$.routes[2].prefix",
    "the prefix of this one address is 10.0.0.1/32"
  ),
  (file(routes: #", {"vrf": 1, "prefix": "10.0.0.0/33", "nexthop": 1}"#), "$.routes[2].prefix", "from 0 to 32"),
  (file(routes: #", {"vrf": 1, "prefix": "10.0.0/24", "nexthop": 1}"#), "$.routes[2].prefix", "not a prefix"),
  (
    file(routes: #", {"vrf": 1, "prefix": "10.0.0.0/24", "nexthop": 1}"#), "$.routes[2].prefix",
    "stands at $.routes[0] already"
  ),
  (file(routes: #", {"vrf": 1, "prefix": "10.0.1.0/24", "nexthop": 3}"#), "$.routes[2]", "say the VNI"),
  (
    file(routes: #", {"vrf": 1, "prefix": "10.0.1.0/24", "nexthop": 4, "label": 3}"#), "$.routes[2].label",
    "3 is not within 16 to"
  ),
  (
    file(routes: #", {"vrf": 1, "prefix": "10.0.1.0/24", "nexthop": 2, "label": 30}"#), "$.routes[2].label",
    "only a tunnel takes a label"
  ),
  (file(bridge: #", {"vrf": 1, "mac": "02:00:00:00:00:0A", "nexthop": 1}"#), "$.bridge[1].mac", "already"),
])
func tablesFileRefuses(text: String, path: String, reason: String) throws {
  let error = try #require(throws: TablesFileError.self) { try read(text) }
  #expect(error.path == path)
  #expect(error.reason.contains(reason), "\(error.reason)")
  #expect(error.description.hasPrefix("TABLES.json: at \(path) (line "))
}

@Test(arguments: [
  // The text, the line, the column, a part of the reason.
  ("", 1, 1, "the file ends"),
  ("{\n  \"vrfs\": [,]\n}", 2, 12, "\",\" where a value is expected"),
  ("{\n  \"vrfs\": []\n  \"labels\": []}", 3, 3, "where \",\" or \"}\" is expected"),
  ("{\"vrfs\": [1,]}", 1, 13, "\"]\" where a value is expected"),
  ("{\"vrfs\": [01]}", 1, 12, "a number that begins with 0"),
  ("{\"vrfs\": [1.]}", 1, 13, "where a digit is expected"),
  ("{\"vrfs\": [+1]}", 1, 11, "where a value is expected"),
  ("{\"vrfs\": [tru]}", 1, 11, "\"true\" was begun"),
  ("{\"vrfs", 1, 2, "a string that does not end"),
  ("{\"vr\nfs\": []}", 1, 2, "a string that does not end"),
  ("{\"vr\u{1}fs\": []}", 1, 5, "control character"),
  ("{\"\\x\": []}", 1, 3, "an escape that JSON does not have"),
  ("{\"\\ud800\": []}", 1, 3, "an escape that JSON does not have"),
  ("{vrfs: []}", 1, 2, "a key in double quotes"),
  ("{} {}", 1, 4, "after the end of the value"),
  ("\u{FEFF}{}", 1, 1, "byte order mark"),
  ("/* tables */ {}", 1, 1, "where a value is expected"),
])
func tablesFileSaysWhereJSONEnds(text: String, line: Int, column: Int, reason: String) throws {
  let error = try #require(throws: TablesFileError.self) { try read(text) }
  #expect(error.path == nil)
  #expect((error.line, error.column) == (line, column))
  #expect(error.reason.contains(reason), "\(error.reason)")
}

@Test func tablesFileBearsAnything() throws {
  // Every prefix of a good file but the whole is refused; nothing traps.
  let bytes = Array(file().utf8)
  for count in 0..<bytes.count {
    #expect(throws: TablesFileError.self) { try TablesFile(json: Array(bytes[..<count])) }
  }
  // Every byte changed to one that means something in JSON, to one that is no UTF-8, or gone.
  for index in bytes.indices {
    for byte in [UInt8(ascii: "\""), UInt8(ascii: "{"), UInt8(ascii: "]"), UInt8(ascii: "\\"), 0x00, 0xFF] {
      var changed = bytes
      changed[index] = byte
      _ = try? TablesFile(json: changed)
    }
    var shorter = bytes
    shorter.remove(at: index)
    _ = try? TablesFile(json: shorter)
  }
  // Deep nesting is refused before it can exhaust the stack.
  let deep = [UInt8](repeating: UInt8(ascii: "["), count: 1_000_000)
  #expect(throws: TablesFileError.self) { try TablesFile(json: deep) }
}

@Test func tablesFileReadsEscapes() throws {
  let tables = try read(#"{"interfaces": [], "vrfs": [{"\u0069d": 7, "name": "bl\u00fc \ud83d\ude00\/"}]}"#)
  #expect(tables.commands == [.setVRF(VRFConfiguration(id: 7, name: "bl\u{fc} \u{1F600}/"))])
}
