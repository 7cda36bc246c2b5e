import WeftWire

/// Answers an interface's DHCPv6 messages (RFC 8415 section 18.3). As with IPv4, its addresses are its attachment's.
package struct DHCPv6Server {
  let binding: ServiceBinding

  private typealias Option = DHCPv6Option

  /// Of all nodes, which serve as one: a DUID-LL (RFC 8415 section 11.4) of the router's MAC address.
  package static let identifier: [UInt8] = [0, 3, 0, 1] + MACAddress.virtualRouter.octets
  /// All_DHCP_Relay_Agents_and_Servers, All_DHCP_Servers.
  private static let groups = [
    IPAddress(high: 0xFF02_0000_0000_0000, low: 0x1_0002), IPAddress(high: 0xFF05_0000_0000_0000, low: 0x1_0003),
  ]

  func answer(_ frame: HostFrame, _ octets: [UInt8]) -> ServiceOutcome {
    let request: DHCPv6Message
    do throws(MessageFault) { request = try DHCPv6Message(reading: octets) } catch {
      return .refused("DHCPv6: \(error)")
    }
    guard frame.sourceMAC == binding.mac else {
      return .refused("DHCPv6: from \(frame.sourceMAC); the interface's MAC address is \(binding.mac)")
    }
    switch request.kind {
    case .relayForward, .relayReply: return .refused("DHCPv6: from a relay agent, and there are none here")
    case .advertise, .reply, .reconfigure: return .refused("DHCPv6: a server's message, on its way to a server")
    default: break
    }
    guard binding.settings.mode != .off else { return .refused("DHCPv6: the network has none (ipv6: off)") }
    let client = request[Option.client]
    let server = request[Option.server]
    // RFC 8415 section 16: who says who it is, and to whom it speaks.
    if let client {
      guard (3...130).contains(client.count) else {
        return .refused("DHCPv6: a client identifier of \(client.count) bytes")
      }
    } else if request.kind != .informationRequest {
      return .refused("DHCPv6: no client identifier")
    }
    switch request.kind {
    case .solicit, .confirm, .rebind:
      guard server == nil else { return .refused("DHCPv6: a \(request.kind) with a server identifier") }
    case .informationRequest:
      guard server == nil || server == Self.identifier else { return .refused("DHCPv6: another server is asked") }
      guard request[Option.association] == nil, request[Option.temporary] == nil, request[Option.prefixes] == nil else {
        return .refused("DHCPv6: an information request that asks for addresses")
      }
    default:
      guard server == Self.identifier else {
        return .refused(server == nil ? "DHCPv6: no server identifier" : "DHCPv6: another server is asked")
      }
    }
    // Section 18.4: nobody was told to send to us alone.
    let isUnicast = !Self.groups.contains(frame.destination)
    if isUnicast {
      guard [.request, .renew, .release, .decline].contains(request.kind) else {
        return .refused("DHCPv6: a \(request.kind) to \(frame.destination), not to all servers")
      }
      return send(reply(to: request, .reply) + [status(.useMulticast, "send to all servers")], frame, request, .reply)
    }
    return answer(frame, request)
  }

  private func answer(_ frame: HostFrame, _ request: DHCPv6Message) -> ServiceOutcome {
    let isStateful = binding.settings.mode == .stateful && !binding.v6.isEmpty
    let asks = request.options.contains {
      [Option.association, Option.temporary, Option.prefixes].contains($0.code)
    }
    let associations: [DHCPv6Message.Option]
    do throws(MessageFault) {
      switch request.kind {
      case .confirm: return try confirm(frame, request)
      case .informationRequest: associations = []
      case .release, .decline: return try letGo(frame, request)
      default: associations = try answers(to: request, isStateful)
      }
    } catch { return .refused("DHCPv6: \(error)") }
    if request.kind == .solicit {
      let isRapid = request[Option.rapidCommit] != nil && isStateful
      var options = reply(to: request, isRapid ? .reply : .advertise)
      if !isRapid { options.append(.init(Option.preference, [255])) }
      if isRapid { options.append(.init(Option.rapidCommit, [])) }
      if asks, !isStateful {
        options.append(status(.noAddresses, "addresses are not given out by DHCPv6 here"))
      }
      return send(options + associations + values(request), frame, request, isRapid ? .reply : .advertise)
    }
    return send(reply(to: request, .reply) + associations + values(request), frame, request, .reply)
  }

  // MARK: associations

  /// One for each that was asked for: the first gets the first address, and so on.
  private func answers(
    to request: DHCPv6Message, _ isStateful: Bool
  ) throws(MessageFault) -> [DHCPv6Message.Option] {
    var free = isStateful ? binding.v6.map(\.address.address)[...] : []
    let settings = binding.settings
    var result: [DHCPv6Message.Option] = []
    for option in request.options.prefix(64) {
      switch option.code {
      case Option.association:
        let asked = try DHCPv6Association(reading: option.value)
        var answer = DHCPv6Association(asked.identifier)
        if let address = free.popFirst() {
          answer.renew = settings.leaseTime / 2
          answer.rebind = settings.leaseTime / 8 * 7
          answer.addresses = [.init(address, preferred: settings.leaseTime, valid: settings.leaseTime)]
        } else {
          answer.status = (.noAddresses, "no address for this association")
        }
        // What it had and has not any more (section 18.3.4).
        if request.kind != .solicit {
          let kept = answer.addresses.map(\.address)
          for old in asked.addresses.prefix(16) where !kept.contains(old.address) {
            answer.addresses.append(.init(old.address, preferred: 0, valid: 0))
          }
        }
        result.append(.init(Option.association, answer.octets))
      case Option.temporary where option.value.count >= 4:
        let refusal = DHCPv6Message.Option(Option.status, DHCPv6Status.noAddresses.option("no temporary addresses"))
        result.append(.init(option.code, option.value.prefix(4) + DHCPv6Message.encoded([refusal])))
      case Option.prefixes where option.value.count >= 12:
        let refusal = DHCPv6Message.Option(Option.status, DHCPv6Status.noPrefixes.option("no prefixes to delegate"))
        let head = option.value.prefix(4) + [UInt8](repeating: 0, count: 8)
        result.append(.init(option.code, head + DHCPv6Message.encoded([refusal])))
      case Option.temporary, Option.prefixes: throw MessageFault("option \(option.code)")
      default: continue
      }
    }
    return result
  }

  private func addresses(in request: DHCPv6Message) throws(MessageFault) -> [IPAddress] {
    var result: [IPAddress] = []
    for option in request.options.prefix(64) where option.code == Option.association {
      result += try DHCPv6Association(reading: option.value).addresses.map(\.address)
    }
    return result
  }

  /// Whether what it has fits the link: here, whether it is its own, since no other address leads to it.
  private func confirm(_ frame: HostFrame, _ request: DHCPv6Message) throws(MessageFault) -> ServiceOutcome {
    let claimed = try addresses(in: request)
    guard !claimed.isEmpty else { return .refused("DHCPv6: nothing to confirm") }
    let own = binding.v6.map(\.address.address)
    let fits = claimed.allSatisfy { own.contains($0) }
    let text = fits ? "all addresses are yours" : "not your address: \(claimed.first { !own.contains($0) }!)"
    return send(
      reply(to: request, .reply) + [status(fits ? .success : .notOnLink, text)], frame, request, .reply,
      note: fits ? nil : text)
  }

  /// Release and decline: noted; associations that are not the interface's own are told so.
  private func letGo(_ frame: HostFrame, _ request: DHCPv6Message) throws(MessageFault) -> ServiceOutcome {
    let own = binding.v6.map(\.address.address)
    var options = reply(to: request, .reply) + [status(.success, "noted")]
    for option in request.options.prefix(64) where option.code == Option.association {
      let asked = try DHCPv6Association(reading: option.value)
      guard !asked.addresses.contains(where: { own.contains($0.address) }) else { continue }
      var answer = DHCPv6Association(asked.identifier)
      answer.status = (.noBinding, "not bound here")
      options.append(.init(Option.association, answer.octets))
    }
    let named = try addresses(in: request).prefix(8).map(\.description).joined(separator: ", ")
    return send(
      options, frame, request, .reply,
      note: request.kind == .decline ? "\(named) in use by somebody else, the client says" : "\(named) released")
  }

  // MARK: answers

  private func status(_ code: DHCPv6Status, _ text: String) -> DHCPv6Message.Option {
    .init(Option.status, code.option(text))
  }

  private func reply(to request: DHCPv6Message, _ kind: DHCPv6Message.Kind) -> [DHCPv6Message.Option] {
    var options: [DHCPv6Message.Option] = []
    if let client = request[Option.client] { options.append(.init(Option.client, client)) }
    return options + [.init(Option.server, Self.identifier)]
  }

  private func send(
    _ options: [DHCPv6Message.Option], _ frame: HostFrame, _ request: DHCPv6Message, _ kind: DHCPv6Message.Kind,
    note: String? = nil
  ) -> ServiceOutcome {
    var answer = DHCPv6Message(kind, transaction: request.transaction)
    answer.options = options
    var octets = answer.octets
    // A datagram in one piece on every link: what was asked for beyond that is left out, from the end.
    while octets.count > 1232, answer.options.count > 2 {
      answer.options.removeLast()
      octets = answer.octets
    }
    return .answer(
      HostFrame(
        sourceMAC: .virtualRouter, destinationMAC: binding.mac, source: ServiceBinding.routerLinkLocal,
        destination: frame.source,
        payload: .udp(source: DHCPPorts.server6, destination: DHCPPorts.client6, octets)),
      what: kind == .advertise ? "advertise" : "reply", note: note)
  }

  /// What the client asks for (option 6), in its order.
  private func values(_ request: DHCPv6Message) -> [DHCPv6Message.Option] {
    let list = request[Option.requested] ?? []
    let codes = stride(from: 0, to: list.count - list.count % 2, by: 2).map {
      UInt16(list[$0]) << 8 | UInt16(list[$0 + 1])
    }
    var seen: Set<UInt16> = []
    var options = codes.filter { seen.insert($0).inserted }.compactMap { value($0) }
    if request.kind == .informationRequest, codes.contains(Option.refreshTime) || !codes.isEmpty {
      options.append(.init(Option.refreshTime, IPAddress(v4: max(600, binding.settings.leaseTime)).octets))
    }
    return options
  }

  private func value(_ code: UInt16) -> DHCPv6Message.Option? {
    let settings = binding.settings
    let octets: [UInt8]
    switch code {
    case Option.nameServers: octets = binding.dns.filter { !$0.isV4 }.flatMap(\.octets)
    case Option.search:
      octets = (settings.search.isEmpty ? [settings.domain].compactMap { $0 } : settings.search).flatMap(\.octets)
    case Option.timeServers: octets = settings.timeServers.filter { !$0.isV4 }.flatMap(\.octets)
    case Option.bootFile: octets = Array((settings.boot.url ?? "").utf8)
    default: return nil
    }
    return octets.isEmpty ? nil : .init(code, octets)
  }
}
