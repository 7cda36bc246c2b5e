import WeftRing
import WeftWire

/// The tables that hostile packets go through: every kind of nexthop and translation, thousands of rules.
///
/// Interfaces 1, 2, 3 are pods of VRF 1, 6 one of VRF 2 (outside), 4 and 5 fabrics. 1, 2 and 4 forward and nothing else
/// but what flows need; 3, 5 and 6 do all that interfaces can do besides. Odd ones carry no virtio-net headers, 4 takes
/// UDP super-frames. (Tests/Fuzz/seeds.py makes packets for these tables.)
enum FuzzTables {
  static let interfaces: UInt32 = 8

  static let json = """
    {"vrfs": [{"id": 1, "name": "inside", "flags": ["flood-unknown", "learning", "suppression"]}, {"id": 2, "name": "outside"}],
     "policers": [
       {"id": 0, "rate": 1000000000, "burst": 100000},
       {"id": 1, "unit": "packets", "rate": 200, "burst": 20},
       {"id": 2, "kind": "single-rate-three-color", "rate": 2000000, "burst": 9000, "excess-burst": 9000,
        "color-aware": true, "yellow-dscp": 12},
       {"id": 3, "kind": "two-rate-three-color", "unit": "packets", "rate": 300, "burst": 10, "peak-rate": 600,
        "peak-burst": 20, "yellow-dscp": 1}],
     "qos-classifiers": [{"id": 0, "default": 1, "dscp": [{"values": [46], "class": 5}],
                          "exp": [{"values": [5], "class": 5}], "pcp": [{"values": [5], "class": 5}]}],
     "qos-marks": [{"id": 0, "classes": [{"class": 5, "dscp": 34, "outer-dscp": 40, "exp": 5, "pcp": 5},
                                         {"class": 1, "dscp": 0}]}],
     "interfaces": [
       \(pod(1, 1, #""flags": ["policy", "bridging", "routing"], "tags": [1]"#)),
       \(pod(2, 1, #""flags": ["policy", "bridging", "routing", "clamp-mss", "dhcp"], "tags": [2, 3]"#)),
       \(pod(3, 1, #"""
         "flags": ["policy", "bridging", "routing", "clamp-mss", "learning"], "tags": [3], "mtu": 1400, "ingress-policer": 0,
         "egress-policer": 3, "qos-classifier": 0, "qos-marks": 0, "fat-flows": [
           {"protocol": 17, "port": 53}, {"protocol": 6, "port": 443, "remote": "ignore"}, {"protocol": 132},
           {"protocol": 17, "port": 5000, "remote": {"prefix": "10.1.0.0/16", "length": 24}},
           {"protocol": 17, "port": 5001, "remote": {"prefix": "fd00:1::/48", "length": 112}}]
         """#)),
       \(fabric(4, "")),
       \(fabric(5, #", "ingress-policer": 2, "egress-policer": 2, "qos-classifier": 0, "qos-marks": 0"#)),
       \(pod(6, 2, #""egress-policer": 1, "flags": ["bridging", "routing", "anti-spoofing", "dhcp"]"#)),
       \(vlan(7, on: 3, #""vlan": 100, "vrf": 1, "mtu": 1300"#)),
       \(vlan(9, on: 5, #""vlan": 100, "inner-vlan": 7, "vrf": 1"#))],
     "nexthops": [
       {"id": 0, "action": "discard"}, {"id": 1, "action": "receive"}, {"id": 5, "action": "vrf-translate", "vrf": 1},
       {"id": 6, "action": "vrf-translate", "vrf": 2},
       \([1, 2, 3].map { encap(1 + $0, $0) }.joined(separator: ",\n")), \(encap(7, 6)),
       \(tunnels.joined(separator: ",\n")),
       \(encap(32, 7)), \(encap(33, 9)),
       {"id": 34, "action": "multicast", "members": [
          {"nexthop": 2}, {"nexthop": 4}, {"nexthop": 32}, {"nexthop": 8, "label": 5001, "group": 1},
          {"nexthop": 13, "label": 5001, "group": 2}]},
       {"id": 35, "action": "multicast", "members": [
          {"nexthop": 3}, {"nexthop": 33}, {"nexthop": 34}, {"nexthop": 10, "label": 5001, "group": 1}]},
       {"id": 36, "action": "l2-receive", "vrf": 1}, {"id": 37, "action": "resolve", "interface": 3},
       {"id": 30, "action": "ecmp", "members": [{"nexthop": 2}, {"nexthop": 3, "weight": 7}, {"nexthop": 4}]},
       {"id": 31, "action": "ecmp", "members": [
          {"nexthop": 8, "label": 5001}, {"nexthop": 10, "label": 5001}, {"nexthop": 16, "label": 5001},
          {"nexthop": 13, "label": 5001, "weight": 3}, {"nexthop": 22, "label": 5001}]}],
     "vnis": [{"vni": 5001, "nexthop": 5}, {"vni": 5002, "nexthop": 6}, {"vni": 5003, "nexthop": 3},
              {"vni": 5004, "nexthop": 36}],
     "labels": [{"label": 1002, "nexthop": 5}, {"label": 1003, "nexthop": 2}, {"label": 1004, "nexthop": 6},
                {"label": 1005, "nexthop": 36}],
     "neighbors": [{"vrf": 1, "address": "10.1.1.9", "mac": "02:00:00:00:02:00"},
                   {"vrf": 1, "address": "fd00:1::1:9", "mac": "02:00:00:00:02:00"}],
     "routes": [{"vrf": 1, "prefix": "239.1.2.3/32", "nexthop": 34}, {"vrf": 1, "prefix": "ff0e::1/128", "nexthop": 34},
                {"vrf": 1, "prefix": "10.1.9.0/24", "nexthop": 37},
                \(routes.joined(separator: ",\n"))],
     "bridge": [{"vrf": 1, "mac": "ff:ff:ff:ff:ff:ff", "nexthop": 35},
                \(bridge.joined(separator: ",\n"))],
     "nat-pools": [{"id": 0, "vrf": 2, "first": "203.0.113.1", "last": "203.0.113.2", "block-ports": 64},
                   {"id": 1, "vrf": 2, "first": "2001:db8:113::1", "first-port": 2000, "last-port": 2127,
                    "block-ports": 64}],
     "source-nat": [
       {"id": 0, "priority": 1, "vrf": 1, "source": "10.1.1.3/32", "destination": "198.51.100.0/25", "egress": 2},
       {"id": 1, "priority": 2, "vrf": 1, "source": "10.0.0.0/8", "egress": 2, "pool": 0},
       {"id": 2, "priority": 2, "vrf": 1, "source": "fd00::/8", "egress": 2, "pool": 1}],
     "static-nat": [
       {"inside-vrf": 1, "inside": "10.1.1.2", "outside-vrf": 2, "outside": "203.0.113.77"},
       {"inside-vrf": 1, "inside": "fd00:1::1:2", "outside-vrf": 2, "outside": "2001:db8:113::77"}],
     "destination-nat": [
       {"vrf": 1, "address": "169.254.169.254", "protocol": "tcp", "port": 80, "target-vrf": 2,
        "target": "198.51.100.9", "target-port": 8775}],
     "mirrors": [{"id": 1, "interface": 3}, {"id": 2, "nexthop": 8, "vni": 77, "truncate": 100},
                 {"id": 3, "nexthop": 15, "vni": 78}, {"id": 4, "interface": 7}],
     "interface-mirrors": [{"interface": 3, "ingress": 2, "egress": 3}, {"interface": 5, "ingress": 1, "egress": 4},
                           {"interface": 6, "ingress": 4}, {"interface": 7, "egress": 1}],
     "flow-export": {"flows": "all", "sample": 2, "update-seconds": 1},
     "services": [\(services.joined(separator: ",\n"))],
     "address-sets": [{"id": 0, "members": ["10.0.0.0/8", "fd00::/8"], "except": ["10.1.2.4/32"]}],
     "rules": [
       {"id": 0, "priority": 1, "direction": "egress", "action": "reject", "protocol": 6, "destination-ports": [25]},
       {"id": 1, "priority": 2, "direction": "egress", "action": "allow", "tag": 1, "protocol": 17, "dscp": 46,
        "policer": 1},
       {"id": 2, "priority": 2, "direction": "ingress", "action": "allow", "tag": 2, "remote-sets": [0], "policer": 2,
        "mirror": 2, "log": true},
       {"id": 3, "priority": 4000000000, "direction": "egress", "action": "allow"},
       {"id": 4, "priority": 4000000000, "direction": "ingress", "action": "allow"}]}
    """

  private static func pod(_ id: Int, _ vrf: Int, _ more: String) -> String {
    #"{"id": \#(id), "role": "virtual", "port": "packet", "device": "pod\#(id)", "mac": "\#(mac(id))", "vrf": \#(vrf), "#
      + more + "}"
  }

  /// A VLAN on another interface's port. It takes what that takes: both are odd, or both even.
  private static func vlan(_ id: Int, on parent: Int, _ more: String) -> String {
    #"{"id": \#(id), "role": "virtual", "port": "vlan", "device": "vlan\#(id)", "mac": "\#(mac(id))", "parent": \#(parent), "#
      + more + "}"
  }

  private static func fabric(_ id: Int, _ more: String) -> String {
    #"{"id": \#(id), "role": "fabric", "port": "packet", "device": "fab\#(id)", "mac": "02:00:00:00:0f:01", "#
      + #""mtu": 1550, "addresses": ["192.0.2.1", "2001:db8::1"]\#(more)}"#
  }

  private static func mac(_ id: Int) -> String { "02:00:00:00:00:0\(id)" }

  private static func encap(_ id: Int, _ interface: Int) -> String {
    #"{"id": \#(id), "action": "encap", "interface": \#(interface), "destination-mac": "\#(mac(interface))"}"#
  }

  /// 8 to 19: for each fabric each encapsulation over each family. 20 to 23: what may be fragmented, has a DSCP of its
  /// own, is not resolved.
  private static let tunnels: [String] = {
    var list: [String] = []
    for fabric in [4, 5] {
      for encapsulation in ["vxlan", "mpls-over-udp", "mpls-over-gre"] {
        for isV6 in [false, true] { list.append(tunnel(8 + list.count, encapsulation, fabric, isV6)) }
      }
    }
    for (encapsulation, isV6) in [("vxlan", false), ("mpls-over-gre", true)] {
      list.append(tunnel(8 + list.count, encapsulation, 4, isV6, #", "fragment": true, "outer-dscp": 8"#))
    }
    list.append(tunnel(8 + list.count, "vxlan", 4, false, "", isResolved: false))
    list.append(tunnel(8 + list.count, "mpls-over-udp", 5, true, #", "fragment": true"#))
    return list
  }()

  private static func tunnel(
    _ id: Int, _ encapsulation: String, _ fabric: Int, _ isV6: Bool, _ more: String = "", isResolved: Bool = true
  ) -> String {
    let (source, destination) = isV6 ? ("2001:db8::1", "2001:db8::2") : ("192.0.2.1", "192.0.2.2")
    return #"{"id": \#(id), "action": "tunnel", "encapsulation": "\#(encapsulation)", "interface": \#(fabric), "#
      + #""source": "\#(source)", "destination": "\#(destination)""#
      + (isResolved ? #", "destination-mac": "02:00:00:00:0f:02""# : "") + more + "}"
  }

  private static let routes: [String] = {
    var list: [String] = []
    func route(_ vrf: Int, _ prefix: String, _ nexthop: Int, _ label: Int? = nil) {
      list.append(
        #"{"vrf": \#(vrf), "prefix": "\#(prefix)", "nexthop": \#(nexthop)\#(label.map { ", \"label\": \($0)" } ?? "")}"#
      )
    }
    route(1, "10.1.0.0/16", 0)
    route(1, "10.1.0.1/32", 1)
    route(1, "fd00:1::1/128", 1)
    for pod in [1, 2, 3] {
      route(1, "10.1.1.\(pod)/32", 1 + pod)
      route(1, "fd00:1::1:\(pod)/128", 1 + pod)
    }
    for index in tunnels.indices {
      route(1, "10.1.2.\(index)/32", 8 + index, 5001)
      route(1, "fd00:1::2:\(String(index, radix: 16))/128", 8 + index, 5001)
    }
    for (v4, v6, nexthop) in [("10.1.3.0/24", "fd00:1::3:0/112", 30), ("10.1.4.0/24", "fd00:1::4:0/112", 31)] {
      route(1, v4, nexthop)
      route(1, v6, nexthop)
    }
    for prefix in ["198.51.100.0/24", "2001:db8:100::/64"] {
      route(1, prefix, 6)
      route(2, prefix, 7)
    }
    route(2, "198.51.100.1/32", 1)
    route(2, "2001:db8:100::1/128", 1)
    // Leads to itself.
    route(2, "10.9.0.0/16", 6)
    return list
  }()

  private static let bridge: [String] = {
    var list = [1, 2, 3].map { #"{"vrf": 1, "mac": "\#(mac($0))", "nexthop": \#(1 + $0)}"# }
    for index in tunnels.indices where index % 6 < 2 || index == 12 {
      let mac = "02:00:00:00:02:" + (index < 16 ? "0" : "") + String(index, radix: 16)
      list.append(#"{"vrf": 1, "mac": "\#(mac)", "nexthop": \#(8 + index), "label": 5001}"#)
    }
    return list
  }()

  private static let services: [String] = {
    var list: [String] = []
    for (isV6, proto) in [(false, "tcp"), (false, "udp"), (true, "tcp"), (true, "udp"), (false, "sctp")] {
      let backends = [2, 3].map {
        #"{"address": "\#(isV6 ? "fd00:1::1:\($0)" : "10.1.1.\($0)")", "port": \#(8000 + $0)}"#
      }
      list.append(
        #"{"vrf": 1, "address": "\#(isV6 ? "fd96::1" : "10.96.0.1")", "protocol": "\#(proto)", "port": 80, "#
          + #""affinity": 60, "hairpin": "\#(isV6 ? "fd96::fe" : "169.254.9.9")", "#
          + #""backends": [\#(backends.joined(separator: ", "))]}"#)
    }
    list.append(#"{"vrf": 1, "address": "10.96.0.2", "protocol": "udp", "port": 80, "backends": []}"#)
    list.append(
      #"{"vrf": 2, "address": "203.0.113.80", "protocol": "tcp", "port": 80, "pool": 0, "#
        + #""backends": [{"address": "10.1.1.1", "port": 8080, "vrf": 1}]}"#)
    return list
  }()

  /// Three thousand rules, of which few match anything.
  static let rules: [Command] = (0..<3000).flatMap { number -> [Command] in
    let id = UInt32(1000 + number)
    var rule = RuleConfiguration(
      id: id, priority: 100 + id, direction: number % 2 == 0 ? .ingress : .egress,
      action: RuleAction.allCases[number % 3], tag: UInt32(number % 5), vrf: number % 7 == 0 ? 1 : nil)
    rule.proto = [6, 17, 1, 58, 132, nil][number % 6]
    if rule.proto == 6 || rule.proto == 17 || rule.proto == 132 {
      let port = UInt16(number * 7 % 60000)
      rule.destinationPorts = [port...port + 2]
      if number % 4 == 0 { rule.sourcePorts = [port...UInt16.max] }
    }
    if rule.proto == 1 || rule.proto == 58 { rule.icmpType = UInt8(number % 256) }
    if rule.proto == 6 {
      rule.tcpFlagsMask = 0x12
      rule.tcpFlagsValue = 0x02
    }
    rule.remotePrefix = IPPrefix(IPAddress(v4: 0x0A02_0000 | UInt32(number) << 2).masked(to: 30), length: 30)
    return [.setRule(rule)]
  }
}
