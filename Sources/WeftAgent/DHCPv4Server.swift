import WeftAPI
import WeftWire

/// Answers an interface's DHCPv4 messages (RFC 2131). Each interface has one address, its attachment's, for as long as that
/// is there: nothing is allocated here, and nothing has to be remembered.
struct DHCPv4Server {
  let binding: ServiceBinding

  private typealias Option = DHCPv4Option

  func answer(_ frame: HostFrame, _ octets: [UInt8], sourcePort: UInt16) -> ServiceOutcome {
    let request: DHCPv4Message
    do throws(MessageFault) { request = try DHCPv4Message(reading: octets) } catch {
      return .refused("DHCPv4: \(error)")
    }
    guard request.isRequest else { return .refused("DHCPv4: a reply, on its way to a server") }
    guard request.relay.isUnspecified, request.hops == 0, request[82] == nil else {
      return .refused("DHCPv4: from a relay agent (giaddr \(request.relay)), and there are none here")
    }
    guard frame.sourceMAC == binding.mac, request.hardware == binding.mac else {
      return .refused(
        "DHCPv4: for \(request.hardware) from \(frame.sourceMAC); the interface's MAC address is \(binding.mac)")
    }
    guard let kind = request.kind else { return .refused("BOOTP: the client asks without DHCP's option 53") }
    guard let lease = binding.v4 else { return .refused("DHCPv4: the interface has no IPv4 address") }
    let own = lease.address.address
    let server = lease.gateway
    if frame.destination != server, frame.destination.v4 != .max, !lease.isBroadcast(frame.destination) {
      return .refused("DHCPv4: to \(frame.destination), which is not the server here (\(server))")
    }
    var chosen: IPAddress?
    if let value = request[Option.server] {
      guard value.count == 4, let address = IPAddress(octets: value) else {
        return .refused("DHCPv4: option 54 is wrong")
      }
      chosen = address
    }
    var wanted: IPAddress?
    if let value = request[Option.requestedAddress] {
      guard value.count == 4, let address = IPAddress(octets: value) else {
        return .refused("DHCPv4: option 50 is wrong")
      }
      wanted = address
    }
    switch kind {
    case .discover:
      if request[Option.rapidCommit] != nil { return grant(request, .ack, lease, isRapid: true) }
      return grant(request, .offer, lease)
    case .request:
      if let chosen {
        guard chosen == server else { return .refused("DHCPv4: the client has chosen server \(chosen)") }
      }
      let claimed = request.clientAddress.isUnspecified ? wanted : request.clientAddress
      guard let claimed else { return .refused("DHCPv4: a request for no address") }
      guard claimed == own else { return refuse(request, lease, "the address here is \(own), not \(claimed)") }
      return grant(request, .ack, lease)
    case .inform:
      guard request.clientAddress == own else {
        return .refused("DHCPv4: an inform from \(request.clientAddress); the address here is \(own)")
      }
      return grant(request, .ack, lease, isInform: true)
    case .decline:
      return .noted(
        what: "decline", note: "\(wanted?.description ?? "its address") is in use by somebody else, the client says",
        isOdd: true)
    case .release: return .noted(what: "release", note: "\(request.clientAddress) is released", isOdd: false)
    case .offer, .ack, .nak: return .refused("DHCPv4: a server's message, on its way to a server")
    }
  }

  // MARK: answers

  private func grant(
    _ request: DHCPv4Message, _ kind: DHCPv4Message.Kind, _ lease: AttachmentAddress, isInform: Bool = false,
    isRapid: Bool = false
  ) -> ServiceOutcome {
    var answer = reply(to: request, kind, lease)
    answer.clientAddress = request.clientAddress
    if !isInform { answer.yourAddress = lease.address.address }
    let boot = binding.settings.boot
    answer.nextServer = boot.server ?? IPAddress(v4: 0)
    answer.bootServer = boot.serverName ?? ""
    answer.bootFile = boot.file ?? ""
    if !isInform {
      answer.options.append(.init(Option.leaseTime, Self.number(binding.settings.leaseTime)))
    }
    if isRapid { answer.options.append(.init(Option.rapidCommit, [])) }
    // In the order that the client wants them in (RFC 2132 section 9.8); one that says nothing gets the usual.
    let known = values(lease, isInform: isInform)
    let asked = request[Option.parameters] ?? known.map(\.code)
    for code in asked where answer[code] == nil {
      if let option = known.first(where: { $0.code == code }) { answer.options.append(option) }
    }
    return send(answer, to: request, lease, what: kind == .offer ? "offer" : "ack")
  }

  private func refuse(_ request: DHCPv4Message, _ lease: AttachmentAddress, _ reason: String) -> ServiceOutcome {
    var answer = reply(to: request, .nak, lease)
    answer.options.append(.init(Option.message, Array(reason.utf8.prefix(255))))
    return send(answer, to: request, lease, what: "nak", note: reason)
  }

  private func reply(
    to request: DHCPv4Message, _ kind: DHCPv4Message.Kind, _ lease: AttachmentAddress
  ) -> DHCPv4Message {
    var answer = DHCPv4Message(hardware: request.hardware)
    answer.isRequest = false
    answer.transaction = request.transaction
    answer.broadcasts = request.broadcasts
    answer.kind = kind
    answer.options = [.init(Option.server, lease.gateway.octets)]
    // RFC 6842.
    if let client = request[Option.client] { answer.options.append(.init(Option.client, client)) }
    return answer
  }

  /// To whom: RFC 2131 section 4.1.
  private func send(
    _ answer: DHCPv4Message, to request: DHCPv4Message, _ lease: AttachmentAddress, what: String, note: String? = nil
  ) -> ServiceOutcome {
    let size = request[Option.maximumSize].flatMap { $0.count == 2 ? Int($0[0]) << 8 | Int($0[1]) : nil } ?? 0
    // Of the IP packet, as clients mean it.
    let most = max(DHCPv4Message.leastMaximum, min(size, binding.mtu, 1500) - 28)
    let (octets, omitted) = answer.encoded(maximum: most)
    let everybody = IPAddress(v4: .max)
    let destination: IPAddress
    if answer.kind == .nak {
      destination = everybody
    } else if !request.clientAddress.isUnspecified {
      destination = request.clientAddress
    } else {
      destination = request.broadcasts ? everybody : answer.yourAddress
    }
    let text =
      omitted.isEmpty
      ? note : "no room for options \(omitted.map(String.init).joined(separator: ", ")) in \(most) bytes"
    return .answer(
      HostFrame(
        sourceMAC: .virtualRouter, destinationMAC: destination == everybody ? .broadcast : binding.mac,
        source: lease.gateway, destination: destination,
        payload: .udp(source: DHCPPorts.server, destination: DHCPPorts.client, octets)), what: what, note: text)
  }

  // MARK: what there is to tell

  /// Every option that there is a value for.
  private func values(_ lease: AttachmentAddress, isInform: Bool) -> [DHCPv4Message.Option] {
    let settings = binding.settings
    let length = lease.address.prefixLength
    let mask: UInt32 = length == 0 ? 0 : .max << UInt32(32 - length)
    let routes = binding.routes.filter { $0.destination.isV4 && $0.gateway.isV4 }
    var options: [DHCPv4Message.Option] = [.init(Option.subnetMask, Self.number(mask))]
    if let way = routes.first(where: { $0.destination.length == 0 }) {
      options.append(.init(Option.router, way.gateway.octets))
    }
    func add(_ code: UInt8, _ addresses: [IPAddress]) {
      let octets = addresses.filter(\.isV4).flatMap(\.octets)
      if !octets.isEmpty { options.append(.init(code, octets)) }
    }
    func add(_ code: UInt8, _ text: String?) {
      if let text, !text.isEmpty { options.append(.init(code, Array(text.utf8))) }
    }
    add(Option.nameServers, binding.dns)
    add(Option.hostName, binding.hostName)
    add(Option.domainName, (settings.domain ?? settings.search.first)?.description)
    options.append(.init(Option.mtu, [UInt8(min(binding.mtu, 65535) >> 8), UInt8(binding.mtu & 0xFF)]))
    if length < 31 { options.append(.init(Option.broadcast, Self.number(lease.address.address.v4 | ~mask))) }
    add(Option.timeServers, settings.timeServers)
    if !isInform {
      options.append(.init(Option.renewalTime, Self.number(settings.leaseTime / 2)))
      options.append(.init(Option.rebindingTime, Self.number(settings.leaseTime / 8 * 7)))
    }
    add(Option.bootServer, settings.boot.serverName)
    add(Option.bootFile, settings.boot.file)
    let search = settings.search.flatMap(\.octets)
    if !search.isEmpty { options.append(.init(Option.search, search)) }
    let ways = routes.flatMap { route in
      [UInt8(route.destination.length)] + route.destination.address.octets.prefix((route.destination.length + 7) / 8)
        + route.gateway.octets
    }
    if !ways.isEmpty { options += [.init(Option.routes, ways), .init(Option.oldRoutes, ways)] }
    return options
  }

  private static func number(_ value: UInt32) -> [UInt8] { IPAddress(v4: value).octets }
}

extension AttachmentAddress {
  /// The broadcast address of its IPv4 subnet.
  fileprivate func isBroadcast(_ other: IPAddress) -> Bool {
    let length = address.prefixLength
    guard other.isV4, length < 31 else { return false }
    return other.v4 == address.address.v4 | (length == 0 ? .max : ~(UInt32.max << UInt32(32 - length)))
  }
}
