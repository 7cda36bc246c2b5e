import Testing
import WeftAgent
import WeftRing
import WeftWire

@Suite("DHCP")
struct DHCPTests {
  private func configuration(_ dhcp: String) throws -> AgentConfiguration {
    try AgentConfiguration(
      yaml: """
        node: n
        fabric: {interface: eth0}
        networks:
          - name: only
            subnets: [{prefix: 10.0.0.0/24}, {prefix: "fd00::/64"}]
            vni: 1
            dns: [10.0.0.53, "fd00::53"]
            dhcp: \(dhcp)
        """)
  }

  private func record(
    _ origin: AttachmentRecord.Origin, addresses: [String] = ["10.0.0.9", "fd00::9"]
  ) -> AttachmentRecord {
    AttachmentRecord(
      id: "i", containerID: "c", interface: "eth0", netns: "", network: "only", hostInterface: "tap1",
      mac: MACAddress("02:00:00:00:0d:01")!, addresses: addresses.map { IPAddress($0)! }, vmUUID: "v", podName: "vm1.x",
      origin: origin, isWanted: true, created: 0)
  }

  private func binding(_ dhcp: String = "{}", addresses: [String] = ["10.0.0.9", "fd00::9"]) throws -> ServiceBinding {
    try #require(
      try configuration(dhcp).serviceBinding(record(.port, addresses: addresses), interface: 7, fabricMTU: 1550))
  }

  @Test func whoHasIt() throws {
    for (dhcp, port, pod) in [
      ("{}", true, false), ("{pods: true}", true, true), ("{ports: false}", false, false),
      ("{ports: no, pods: yes}", false, true),
    ] {
      let configuration = try configuration(dhcp)
      for (origin, expected) in [(AttachmentRecord.Origin.port, port), (.cni, pod), (.pod, pod)] {
        #expect(configuration.hasDHCP(record(origin)) == expected)
        let planner = Planner(
          configuration,
          numbers: Dictionary(uniqueKeysWithValues: Planner.identifiers(configuration).map { ($0, 1) }))
        let state = planner.attachment(record(origin), interface: 7, nexthop: 8, fabricMTU: 1550)
        #expect(state?.interfaces[7]?.flags.contains(.dhcp) == expected)
      }
    }
  }

  @Test(arguments: [
    ("{port: true}", "dhcp.port", "is \"ports\" meant?"), ("{ports: 7}", "dhcp.ports", "neither true nor false"),
    ("{lease-time: 5}", "dhcp.lease-time", "60 to 31536000"), ("{domain: a b}", "dhcp.domain", "not a domain name"),
    ("{search: [a, \"-\"]}", "dhcp.search[1]", "not a domain name"), ("{ntp: [224.0.0.1]}", "dhcp.ntp[0]", "no host's"),
    ("{ipv6: maybe}", "dhcp.ipv6", "stateful, stateless or off"), ("{interval: 3}", "dhcp.interval", "4 to 1800"),
    ("{router-lifetime: 9}", "dhcp.router-lifetime", "less than the 600 s"),
    ("{boot: {file: x}}", "dhcp.boot", "no server"), ("{boot: {server: \"fd00::1\"}}", "dhcp.boot.server", "IPv4"),
    ("{boot: {server: 10.0.0.1, file: \"a b\"}}", "dhcp.boot.file", "without spaces"),
  ])
  func badConfiguration(dhcp: String, path: String, reason: String) {
    #expect {
      try configuration(dhcp)
    } throws: {
      let text = "\($0)"
      return text.contains("networks[0].\(path)") && text.contains(reason)
    }
  }

  @Test func settings() throws {
    let settings = try configuration(
      "{lease-time: 60, ipv6: off, interval: 1000, boot: {server: 10.0.0.2, file: f, url: u}, search: [a.b]}"
    ).networks[0].dhcp
    #expect(settings.leaseTime == 60 && settings.mode == .off && settings.routerLifetime == 3000)
    #expect(settings.boot.serverName == "10.0.0.2" && settings.boot.url == "u")
  }

  // MARK: answers

  private func ask(_ message: DHCPv4Message, to destination: String = "255.255.255.255") -> HostFrame {
    HostFrame(
      sourceMAC: MACAddress("02:00:00:00:0d:01")!, destinationMAC: .broadcast, source: message.clientAddress,
      destination: IPAddress(destination)!,
      payload: .udp(source: 68, destination: 67, message.encoded(maximum: 1400).octets))
  }

  private func question(_ kind: DHCPv4Message.Kind, _ options: [DHCPv4Message.Option] = []) -> DHCPv4Message {
    var message = DHCPv4Message(hardware: MACAddress("02:00:00:00:0d:01")!)
    message.kind = kind
    message.options = options
    return message
  }

  private func answered(_ outcome: ServiceOutcome) throws -> (frame: HostFrame, message: DHCPv4Message) {
    guard case .answer(let frame, _, _) = outcome, case .udp(67, 68, let octets) = frame.payload else {
      throw MessageFault("\(outcome)")
    }
    return (frame, try DHCPv4Message(reading: octets))
  }

  @Test func answersGoWhereTheClientHears() throws {
    let binding = try binding()
    var message = question(.discover, [.init(61, [1, 2, 3]), .init(55, [26, 6, 1, 99])])
    var (frame, offer) = try answered(HostServices.outcome(ask(message), binding))
    #expect(frame.destination == IPAddress("10.0.0.9") && frame.destinationMAC == binding.mac)
    #expect(frame.source == IPAddress("10.0.0.1") && frame.sourceMAC == .virtualRouter)
    // Server, client's identifier, lease time, then what was asked for in its order.
    #expect(offer.options.map(\.code) == [54, 61, 51, 26, 6, 1])
    #expect(offer[61] == [1, 2, 3] && offer[26] == [0x05, 0xDC] && offer[6] == [10, 0, 0, 53])
    message.broadcasts = true
    (frame, offer) = try answered(HostServices.outcome(ask(message), binding))
    #expect(frame.destination.v4 == .max && frame.destinationMAC == .broadcast && offer.broadcasts)
    message = question(.request)
    message.clientAddress = IPAddress("10.0.0.9")!
    (frame, offer) = try answered(HostServices.outcome(ask(message, to: "10.0.0.1"), binding))
    #expect(frame.destination == IPAddress("10.0.0.9") && offer.kind == .ack)
    #expect(offer[12] == Array("vm1".utf8))
    message.clientAddress = IPAddress("10.0.0.8")!
    (frame, offer) = try answered(HostServices.outcome(ask(message), binding))
    #expect(frame.destination.v4 == .max && offer.kind == .nak && offer.yourAddress.isUnspecified)
    guard case .refused = HostServices.outcome(ask(message, to: "10.0.0.7"), binding) else {
      Issue.record("an answer to what was for another server")
      return
    }
  }

  @Test func withoutAnAddressThereIsNoAnswer() throws {
    let binding = try binding(addresses: ["fd00::9"])
    guard case .refused(let reason) = HostServices.outcome(ask(question(.discover)), binding) else {
      Issue.record("an offer of nothing")
      return
    }
    #expect(reason.contains("no IPv4 address"))
    #expect(RouterAdvertiser(binding: binding).advertisement != nil)
    let other = try self.binding(addresses: ["10.0.0.9"])
    #expect(RouterAdvertiser(binding: other).advertisement == nil)
  }

  private func six(
    _ kind: DHCPv6Message.Kind, _ options: [DHCPv6Message.Option], _ binding: ServiceBinding,
    to destination: String = "ff02::1:2"
  ) throws -> DHCPv6Message? {
    var message = DHCPv6Message(kind, transaction: 77)
    message.options = options
    let frame = HostFrame(
      sourceMAC: binding.mac, destinationMAC: .broadcast, source: IPAddress("fe80::1")!,
      destination: IPAddress(destination)!, payload: .udp(source: 546, destination: 547, message.octets))
    guard case .answer(let answer, _, _) = HostServices.outcome(frame, binding),
      case .udp(547, 546, let octets) = answer.payload
    else { return nil }
    let read = try DHCPv6Message(reading: octets)
    #expect(read.transaction == 77 && read[1] == message[1] && read[2] == DHCPv6Server.identifier)
    #expect(answer.destination == IPAddress("fe80::1"))
    return read
  }

  @Test func dhcpv6() throws {
    let binding = try binding("{lease-time: 1000}")
    let client = DHCPv6Message.Option(1, [0, 3, 0, 1, 2, 0, 0, 0, 13, 1])
    let server = DHCPv6Message.Option(2, DHCPv6Server.identifier)
    let stranger = DHCPv6Message.Option(2, [0, 3, 0, 1, 9, 9, 9, 9, 9, 9])
    var association = DHCPv6Association(5)
    func asked(_ address: String? = nil) -> DHCPv6Message.Option {
      association.addresses = address.map { [.init(IPAddress($0)!, preferred: 1, valid: 1)] } ?? []
      return .init(3, association.octets)
    }
    let advertised = try #require(try six(.solicit, [client, asked(), .init(6, [0, 23])], binding))
    #expect(advertised.kind == .advertise && advertised[7] == [255] && advertised[23]?.count == 16)
    let given = try DHCPv6Association(reading: #require(advertised[3]))
    #expect(given.addresses == [.init(IPAddress("fd00::9")!, preferred: 1000, valid: 1000)])
    #expect(given.renew == 500 && given.rebind == 875 && given.identifier == 5)
    #expect(try six(.solicit, [client, asked(), .init(14, [])], binding)?.kind == .reply)
    // RFC 8415 section 16.
    #expect(try six(.solicit, [asked()], binding) == nil)
    #expect(try six(.solicit, [client, server, asked()], binding) == nil)
    #expect(try six(.request, [client, asked()], binding) == nil)
    #expect(try six(.request, [client, stranger, asked()], binding) == nil)
    #expect(try six(.renew, [client, server, asked("fd00::9")], binding, to: "fe80::200:5eff:fe00:100")?[13]?[1] == 5)
    let moved = try #require(try six(.rebind, [client, asked("fd00::8")], binding))
    #expect(
      try DHCPv6Association(reading: #require(moved[3])).addresses.map { [$0.address.low, UInt64($0.valid)] } == [
        [9, 1000], [8, 0],
      ])
    #expect(try six(.confirm, [client, asked("fd00::9")], binding)?[13]?[1] == 0)
    #expect(try six(.confirm, [client, asked("fd00::8")], binding)?[13]?[1] == 4)
    #expect(try six(.confirm, [client, asked()], binding) == nil)
    #expect(try six(.decline, [client, server, asked("fd00::9")], binding)?[3] == nil)
    #expect(try six(.release, [client, server, asked("fd00::8")], binding)?[3] != nil)
    #expect(try six(.informationRequest, [client, .init(6, [0, 23, 0, 32])], binding)?[32] == [0, 0, 3, 232])
    #expect(try six(.informationRequest, [client, asked()], binding) == nil)
    let stateless = try self.binding("{ipv6: stateless}")
    let nothing = try #require(try six(.solicit, [client, asked()], stateless))
    #expect(nothing[13]?[1] == 2)
    #expect(try six(.solicit, [client, asked()], self.binding("{ipv6: off}")) == nil)
  }

  @Test func hostileMessagesOfAllKinds() throws {
    let binding = try binding()
    var random = SystemRandomNumberGenerator()
    for _ in 0..<5000 {
      for destination in [UInt16(67), 547] {
        var octets = (0..<Int.random(in: 0...400)).map { _ in UInt8.random(in: 0...255, using: &random) }
        if destination == 547, !octets.isEmpty { octets[0] = UInt8.random(in: 1...13) }
        let isV4 = destination == 67
        let frame = HostFrame(
          sourceMAC: binding.mac, destinationMAC: .broadcast, source: IPAddress(isV4 ? "0.0.0.0" : "fe80::1")!,
          destination: IPAddress(isV4 ? "255.255.255.255" : "ff02::1:2")!,
          payload: .udp(source: 68, destination: destination, octets))
        _ = HostServices.outcome(frame, binding)
      }
    }
  }

  // MARK: advertisements

  @Test func advertisements() throws {
    let own = ["fd00::ff:fe00:d01"]
    for (dhcp, addresses, managed, other, autonomous) in [
      ("{}", own, true, true, false), ("{slaac: true}", own, true, true, true),
      ("{slaac: true}", ["fd00::9"], true, true, false), ("{ipv6: stateless, slaac: true}", own, false, true, true),
      ("{ipv6: off}", own, false, false, false),
    ] {
      let message = try #require(RouterAdvertiser(binding: try binding(dhcp, addresses: addresses)).advertisement)
      #expect(message.isManaged == managed && message.hasOther == other)
      #expect(message.prefixes.map(\.isAutonomous) == [autonomous] && message.prefixes[0].isOnLink)
      #expect(message.mtu == 1500 && message.lifetime == 1800 && message.nameServers == [IPAddress("fd00::53")!])
    }
    #expect(try RouterAdvertiser(binding: binding("{router-lifetime: 0}")).advertisement?.lifetime == 0)
  }

  @Test func schedule() {
    var schedule = AdvertisementSchedule(now: 100)
    for id in UInt32(0)..<1000 { schedule.add(id, interval: 600, now: 100) { $0.lowerBound } }
    var times: [UInt64] = []
    for now in UInt64(101)...1000 {
      let due = schedule.take(now: now) { $0.lowerBound }
      if due.contains(3) { times.append(now) }
      #expect(due.isEmpty || due.count == 1000)
    }
    // Three soon, then each third of the interval at the earliest.
    #expect(times == [101, 106, 111, 311, 511, 711, 911])
    schedule.remove(3)
    #expect(!schedule.take(now: 5000) { $0.upperBound }.contains(3))
    // After a long pause nobody is told twice at once.
    #expect(schedule.take(now: 1_000_000_000) { $0.upperBound }.count >= 999)
  }
}
