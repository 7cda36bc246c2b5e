import Testing
import WeftRing
import WeftVRouter
import WeftWire

private func read(_ tables: String) throws(TablesFileError) -> TablesFile {
  try TablesFile(
    json: Array(
      """
      {"vrfs": [{"id": 1, "name": "inside"}, {"id": 2, "name": "outside"}], "interfaces": [], \(tables)}
      """.utf8))
}

@Suite("TABLES.json, address translation")
struct TablesFileNATTests {
  @Test("every table becomes commands")
  func states() throws {
    let file = try read(
      """
      "nat-pools": [
        {"id": 0, "vrf": 2, "first": "203.0.113.1"},
        {"id": 1, "name": "v6", "vrf": 2, "first": "2001:db8::1", "last": "2001:db8::f", "first-port": 2000,
         "last-port": 2999, "block-ports": 64}],
      "source-nat": [
        {"id": 1, "priority": 1, "vrf": 1, "source": "10.0.0.0/8", "destination": "192.0.2.0/24"},
        {"id": 2, "priority": 2, "vrf": 1, "source": "fd00::/8", "egress": 2, "pool": 1}],
      "static-nat": [{"inside-vrf": 1, "inside": "10.0.0.5", "outside-vrf": 2, "outside": "203.0.113.5"}],
      "destination-nat": [
        {"vrf": 1, "address": "169.254.169.254", "protocol": "tcp", "port": 80, "target-vrf": 2,
         "target": "192.0.2.9", "target-port": 8775},
        {"vrf": 1, "address": "192.0.2.1", "protocol": "udp", "port": 53, "target": "10.0.0.53"}],
      "services": [
        {"vrf": 1, "address": "10.96.0.1", "protocol": "sctp", "port": 80, "name": "web", "local-only": true,
         "pool": 0, "affinity": 3600, "hairpin": "169.254.0.1", "backends": [
           {"address": "10.0.1.1"},
           {"address": "10.0.1.2", "port": 8080, "vrf": 2, "weight": 0, "draining": true, "local": true}]}]
      """)
    let vrfCommands = 2
    let key = ServiceKey(vrf: 1, address: IPAddress("10.96.0.1")!, proto: 132, port: 80)
    let expected: [(Command, String)] = [
      (
        .setNATPool(
          NATPoolConfiguration(id: 0, vrf: 2, first: IPAddress("203.0.113.1")!, last: IPAddress("203.0.113.1")!)),
        "$.nat-pools[0]"
      ),
      (
        .setNATPool(
          NATPoolConfiguration(
            id: 1, name: "v6", vrf: 2, first: IPAddress("2001:db8::1")!, last: IPAddress("2001:db8::f")!,
            firstPort: 2000, lastPort: 2999, blockPorts: 64)), "$.nat-pools[1]"
      ),
      (
        .setSourceNAT(
          SourceNATConfiguration(
            id: 1, priority: 1, vrf: 1, source: IPPrefix("10.0.0.0/8")!, destination: IPPrefix("192.0.2.0/24")!,
            pool: nil)), "$.source-nat[0]"
      ),
      (
        .setSourceNAT(
          SourceNATConfiguration(id: 2, priority: 2, vrf: 1, source: IPPrefix("fd00::/8")!, egress: 2, pool: 1)),
        "$.source-nat[1]"
      ),
      (
        .setStaticNAT(
          StaticNATConfiguration(
            insideVRF: 1, inside: IPAddress("10.0.0.5")!, outsideVRF: 2, outside: IPAddress("203.0.113.5")!)),
        "$.static-nat[0]"
      ),
      (
        .setDestinationNAT(
          DestinationNATConfiguration(
            key: ServiceKey(vrf: 1, address: IPAddress("169.254.169.254")!, proto: 6, port: 80),
            target: IPAddress("192.0.2.9")!, targetVRF: 2, targetPort: 8775)), "$.destination-nat[0]"
      ),
      (
        .setDestinationNAT(
          DestinationNATConfiguration(
            key: ServiceKey(vrf: 1, address: IPAddress("192.0.2.1")!, proto: 17, port: 53),
            target: IPAddress("10.0.0.53")!, targetVRF: 1)), "$.destination-nat[1]"
      ),
      (
        .setService(
          ServiceConfiguration(
            key: key, name: "web", flags: [.localOnly, .sourceNAT], pool: 0, affinitySeconds: 3600,
            hairpin: IPAddress("169.254.0.1")!)), "$.services[0]"
      ),
      (
        .setBackend(BackendConfiguration(service: key, address: IPAddress("10.0.1.1")!, port: 0, vrf: 1)),
        "$.services[0].backends[0]"
      ),
      (
        .setBackend(
          BackendConfiguration(
            service: key, address: IPAddress("10.0.1.2")!, port: 8080, vrf: 2, weight: 0, flags: [.draining, .local])),
        "$.services[0].backends[1]"
      ),
    ]
    #expect(Array(file.commands.dropFirst(vrfCommands)) == expected.map(\.0))
    #expect(Array(file.sources.dropFirst(vrfCommands)) == expected.map(\.1))
  }

  @Test(
    "what is wrong is refused with its path",
    arguments: [
      (#""nat-pools": [{"id": 4096, "vrf": 2, "first": "203.0.113.1"}]"#, "$.nat-pools[0].id"),
      (#""nat-pools": [{"id": 0, "vrf": 3, "first": "203.0.113.1"}]"#, "$.nat-pools[0].vrf"),
      (#""nat-pools": [{"id": 0, "vrf": 2, "first": "203.0.113.2", "last": "203.0.113.1"}]"#, "$.nat-pools[0].last"),
      (#""nat-pools": [{"id": 0, "vrf": 2, "first": "203.0.113.2", "last": "fd00::1"}]"#, "$.nat-pools[0].last"),
      (#""nat-pools": [{"id": 0, "vrf": 2, "first": "203.0.113.2", "last-port": 80}]"#, "$.nat-pools[0]"),
      (#""nat-pools": [{"id": 0, "vrf": 2, "first": "203.0.113.2", "block-ports": 65}]"#, "$.nat-pools[0].block-ports"),
      (
        #""nat-pools": [{"id": 0, "vrf": 2, "first": "1.1.1.1"}, {"id": 0, "vrf": 2, "first": "1.1.1.2"}]"#,
        "$.nat-pools[1].id"
      ),
      (
        #""source-nat": [{"id": 0, "priority": 1, "vrf": 1, "source": "10.0.0.0/8", "pool": 1}]"#,
        "$.source-nat[0].pool"
      ),
      (
        #""source-nat": [{"id": 0, "priority": 1, "vrf": 1, "source": "10.0.0.0/8", "destination": "::/0"}]"#,
        "$.source-nat[0].destination"
      ),
      (
        #""static-nat": [{"inside-vrf": 1, "inside": "10.0.0.5", "outside-vrf": 2, "outside": "fd00::1"}]"#,
        "$.static-nat[0].outside"
      ),
      (
        #""destination-nat": [{"vrf": 1, "address": "10.0.0.5", "protocol": "icmp", "port": 1, "target": "10.0.0.6"}]"#,
        "$.destination-nat[0].protocol"
      ),
      (
        #""destination-nat": [{"vrf": 1, "address": "10.0.0.5", "protocol": "tcp", "port": 0, "target": "10.0.0.6"}]"#,
        "$.destination-nat[0].port"
      ),
      (
        #""destination-nat": [{"vrf": 1, "address": "10.0.0.5", "protocol": "tcp", "port": 1, "target": "10.0.0.6"}], "#
          + #""services": [{"vrf": 1, "address": "10.0.0.5", "protocol": "tcp", "port": 1}]"#, "$.services[0]"
      ),
      (
        #""services": [{"vrf": 1, "address": "10.0.0.5", "protocol": "tcp", "port": 1, "pool": 0}]"#,
        "$.services[0].pool"
      ),
      (
        #""services": [{"vrf": 1, "address": "10.0.0.5", "protocol": "tcp", "port": 1, "local-only": 1}]"#,
        "$.services[0].local-only"
      ),
      (
        #""services": [{"vrf": 1, "address": "10.0.0.5", "protocol": "tcp", "port": 1, "#
          + #""backends": [{"address": "10.0.0.6"}, {"address": "10.0.0.6", "weight": 2}]}]"#,
        "$.services[0].backends[1].address"
      ),
    ])
  func refuses(tables: String, path: String) {
    do throws(TablesFileError) {
      _ = try read(tables)
      Issue.record("taken: \(tables)")
    } catch {
      #expect(error.path == path)
    }
  }
}
