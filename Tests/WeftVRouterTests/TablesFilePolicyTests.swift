import Testing
import WeftRing
import WeftVRouter
import WeftWire

/// A file with one interface, one address set and one rule, to which rows add what is wrong.
private func file(interface: String = "", sets: String = "", rule: String = "", rules: String = "") -> String {
  """
  {"vrfs": [{"id": 1, "name": "blue"}],
   "interfaces": [
     {"id": 1, "role": "virtual", "port": "pcap", "device": "a", "mac": "02:00:00:00:00:0a", "vrf": 1\(interface)}],
   "mirrors": [{"id": 2, "interface": 1}],
   "address-sets": [
     {"id": 3, "name": "pods", "members": ["10.0.0.0/8", "fd00::/8"], "except": ["10.1.0.0/16"]}\(sets)],
   "rules": [{"id": 1, "priority": 10, "direction": "ingress", "action": "allow"\(rule)}\(rules)]}
  """
}

private func read(_ text: String) throws(TablesFileError) -> TablesFile { try TablesFile(json: Array(text.utf8)) }

@Suite struct TablesFilePolicyTests {
  @Test func statesThePolicy() throws {
    let tables = try read(
      file(
        interface: #", "flags": ["policy", "routing", "clamp-mss"], "tags": [1, 4294967295]"#,
        sets: #", {"id": 0}"#,
        rule: #"""
          , "name": "web", "tag": 4, "vrf": 1, "remote-sets": [0, 3], "remote-prefix": "192.0.2.0/24",
          "local-prefix": "10.2.0.0/16", "protocol": 6, "source-ports": [53, "1024-65535"],
          "destination-ports": [80, "8000-8999"], "tcp-flags": {"mask": 18, "value": 2}, "log": true, "mirror": 2,
          "dscp": 46
          """#,
        rules: #"""
          , {"id": 2, "priority": 4294967295, "direction": "egress", "action": "reject", "protocol": 58,
             "icmp-type": 128, "icmp-code": 0}
          """#))
    let prefix = { (text: String) in IPPrefix(text)! }
    let expected: [Command] = [
      .setAddressSet(AddressSetConfiguration(id: 3, name: "pods")),
      .setAddressSetMember(AddressSetMember(set: 3, prefix: prefix("10.0.0.0/8"))),
      .setAddressSetMember(AddressSetMember(set: 3, prefix: prefix("fd00::/8"))),
      .setAddressSetMember(AddressSetMember(set: 3, prefix: prefix("10.1.0.0/16"), isExcluded: true)),
      .setAddressSet(AddressSetConfiguration(id: 0, name: "")),
      .setRule(
        RuleConfiguration(
          id: 1, name: "web", priority: 10, direction: .ingress, action: .allow, tag: 4, vrf: 1, remoteSets: [0, 3],
          remotePrefix: prefix("192.0.2.0/24"), localPrefix: prefix("10.2.0.0/16"), proto: 6,
          sourcePorts: [53...53, 1024...65535], destinationPorts: [80...80, 8000...8999], tcpFlagsMask: 18,
          tcpFlagsValue: 2, isLogged: true, mirror: 2, dscp: 46)),
      .setRule(
        RuleConfiguration(
          id: 2, priority: .max, direction: .egress, action: .reject, proto: 58, icmpType: 128, icmpCode: 0)),
    ]
    #expect(Array(tables.commands.suffix(expected.count)) == expected)
    #expect(
      Array(tables.sources.suffix(expected.count)) == [
        "$.address-sets[0]", "$.address-sets[0].members[0]", "$.address-sets[0].members[1]",
        "$.address-sets[0].except[0]", "$.address-sets[1]", "$.rules[0]", "$.rules[1]",
      ])
    guard case .setInterface(let interface) = tables.commands[1] else {
      Issue.record("no interface")
      return
    }
    #expect(interface.flags == [.policy, .routing, .clampMSS])
    #expect(interface.tags == [1, .max])
  }

  @Test func interfacesBridgeAndRouteUnlessToldOtherwise() throws {
    guard case .setInterface(let interface) = try read(file()).commands[1] else {
      Issue.record("no interface")
      return
    }
    #expect(interface.flags == [.bridging, .routing])
    #expect(interface.tags.isEmpty)
  }

  @Test(arguments: [
    (file(interface: #", "flags": ["firewall"]"#), "$.interfaces[0].flags[0]", "\"firewall\" is none of policy"),
    (file(interface: #", "flags": ["policy", "policy"]"#), "$.interfaces[0].flags[1]", "twice"),
    (file(interface: #", "tags": [0]"#), "$.interfaces[0].tags[0]", "not within 1"),
    (file(interface: #", "tags": [1, 2, 3, 4, 5, 6, 7, 8, 9]"#), "$.interfaces[0].tags", "at most 8"),
    (file(sets: #", {"id": 3}"#), "$.address-sets[1].id", "$.address-sets[0] already"),
    (file(sets: #", {"id": 4, "members": ["10.0.0.1/8"]}"#), "$.address-sets[1].members[0]", "beyond its length"),
    (
      file(sets: #", {"id": 4, "members": ["::/0"], "except": ["::/0"]}"#), "$.address-sets[1].except[0]", "already"
    ),
    (file(rules: #", {"id": 1, "priority": 1, "direction": "egress", "action": "deny"}"#), "$.rules[1].id", "already"),
    (file(rules: #", {"id": 4294967295, "priority": 1}"#), "$.rules[1].id", "not within"),
    (file(rules: #", {"id": 2, "direction": "egress", "action": "deny"}"#), "$.rules[1]", "\"priority\" is missing"),
    (file(rules: #", {"id": 2, "priority": 1, "direction": "in"}"#), "$.rules[1].direction", "ingress, egress"),
    (
      file(rules: #", {"id": 2, "priority": 1, "direction": "egress", "action": "drop"}"#), "$.rules[1].action",
      "allow, deny, reject"
    ),
    (file(rule: #", "vrf": 2"#), "$.rules[0].vrf", "no VRF 2"),
    (file(rule: #", "remote-sets": [4]"#), "$.rules[0].remote-sets[0]", "no address set 4"),
    (file(rule: #", "remote-sets": []"#), "$.rules[0].remote-sets", "1 to 8"),
    (
      file(rule: #", "remote-prefix": "::/0", "local-prefix": "10.0.0.0/8""#), "$.rules[0].local-prefix", "one family"
    ),
    (file(rule: #", "destination-ports": [80]"#), "$.rules[0].destination-ports", "protocol that has them"),
    (file(rule: #", "protocol": 1, "source-ports": [80]"#), "$.rules[0].source-ports", "protocol that has them"),
    (file(rule: #", "protocol": 17, "source-ports": ["9-8"]"#), "$.rules[0].source-ports[0]", "no range"),
    (file(rule: #", "protocol": 17, "source-ports": ["-8"]"#), "$.rules[0].source-ports[0]", "no range"),
    (file(rule: #", "protocol": 17, "source-ports": [65536]"#), "$.rules[0].source-ports[0]", "not within"),
    (file(rule: #", "protocol": 17, "icmp-type": 8"#), "$.rules[0].icmp-type", "ICMP"),
    (file(rule: #", "protocol": 1, "icmp-code": 8"#), "$.rules[0].icmp-code", "icmp-type"),
    (file(rule: #", "protocol": 17, "tcp-flags": {"mask": 1, "value": 1}"#), "$.rules[0].tcp-flags", "TCP"),
    (file(rule: #", "protocol": 6, "tcp-flags": {"mask": 1, "value": 2}"#), "$.rules[0].tcp-flags.value", "mask 1"),
    (file(rule: #", "dscp": 64"#), "$.rules[0].dscp", "not within"),
    (file(rule: #", "log": 1"#), "$.rules[0].log", "true or false"),
    (file(rule: #", "priorty": 1"#), "$.rules[0].priorty", "unknown key"),
  ]) func saysWhereItIsWrong(text: String, path: String, reason: String) throws {
    do throws(TablesFileError) {
      _ = try read(text)
      Issue.record("\(path) was not refused")
    } catch {
      #expect(error.path == path)
      #expect(error.reason.contains(reason), "\(error)")
    }
  }
}
