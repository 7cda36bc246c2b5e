import WeftAPI
import WeftNetlink
import WeftWire

extension Run {
  /// CHECK: the interface against prevResult and the plugin's record, then the agent's word that it forwards. Names all
  /// that is wrong, not the first only. What other plugins added is none of its business.
  func check() throws(CNIError) {
    guard let result = configuration.previousResult else {
      throw CNIError(.configuration, "CHECK without prevResult", details: "it is the result that ADD gave")
    }
    let reported = try ReportedInterface(result, interface: key.interface)
    let namespace = try openNamespace()
    let container = try kernel { () throws(NetlinkError) in try Netlink(in: namespace) }
    let host = try kernel { () throws(NetlinkError) in try Netlink() }
    let attachment = try ask("tell about \(key)") { () throws(AgentFailure) in try agent.attachment(key) }
    let record = records.read(key)

    let isTap = record?.isTap ?? (attachment?.tap != nil)

    var problems: [String] = []
    var hasCarrier = true
    if let link = try kernel({ () throws(NetlinkError) in try container.link(named: key.interface) }) {
      hasCarrier = link.isRunning
      problems += checkLink(link, isTap ? "tun" : "veth", reported, mtu: reported.mtu ?? record?.mtu)
      problems += try kernel { () throws(NetlinkError) in
        try checkAddresses(link, reported.addresses, container)
          + checkRoutes(link, record?.routes ?? attachment?.routes ?? [], container)
      }
      if let name = record?.hostInterface ?? attachment?.hostInterface {
        if isTap, link.alias != name {
          problems.append("\(link.name) does not have the alias \(name): it is another one")
        }
        if !isTap {
          problems += try kernel { () throws(NetlinkError) in try checkHostEnd(name, link, host) }
        }
      }
    } else {
      problems.append("\(key.interface) is not in \(netns)")
    }
    problems += checkAttachment(attachment, reported)
    guard problems.isEmpty else { throw CNIError(.checkFailed, problems.joined(separator: "; "), details: "of \(key)") }
    let status = try ask("tell its status") { () throws(AgentFailure) in try agent.status() }
    guard status.forwarder.connected else {
      throw CNIError(
        .tryAgainLater, "the forwarder does not run: \(status.forwarder.reason ?? "no reason given")",
        details: "the agent at \(settings.agent) looks for it at \(status.forwarder.socket)")
    }
    // Without a forwarder a TAP interface has no carrier; with one it must.
    guard hasCarrier || !isTap else {
      throw CNIError(
        .checkFailed, "\(key.interface) has no carrier: the forwarder does not have it open", details: "of \(key)")
    }
    try delegate()?.run(.check)
  }

  func checkLink(_ link: Link, _ kind: String, _ reported: ReportedInterface, mtu: Int?) -> [String] {
    var problems: [String] = []
    if link.kind != kind { problems.append("\(link.name) is a \(link.kind ?? "physical link"), not a \(kind)") }
    if !link.isUp { problems.append("\(link.name) is down") }
    if let mac = reported.mac, link.mac != mac {
      problems.append("\(link.name) has MAC address \(link.mac?.description ?? "none"), not \(mac)")
    }
    // Less is what another plugin may have wanted; more would not fit.
    if let mtu, Int(link.mtu) > mtu { problems.append("\(link.name) has MTU \(link.mtu), more than \(mtu)") }
    return problems
  }

  func checkAddresses(
    _ link: Link, _ expected: [InterfaceAddress], _ container: Netlink
  ) throws(NetlinkError) -> [String] {
    let present = try container.addresses(interface: link.index)
    return expected.filter { wanted in
      !present.contains { $0.address == wanted.address && $0.prefixLength == wanted.prefixLength }
    }.map { "\(link.name) lacks address \($0)" }
  }

  func checkRoutes(
    _ link: Link, _ expected: [AttachmentRoute], _ container: Netlink
  ) throws(NetlinkError) -> [String] {
    guard !expected.isEmpty else { return [] }
    // Another plugin may have moved them to a table of their own.
    let present = try container.routes(interface: link.index, table: nil)
    return expected.filter { wanted in
      !present.contains { $0.destination == wanted.destination && $0.gateway == wanted.gateway }
    }.map { "the route to \($0.destination) via \($0.gateway) is gone" }
  }

  private func checkHostEnd(_ name: String, _ inner: Link, _ host: Netlink) throws(NetlinkError) -> [String] {
    guard let outer = try host.link(named: name) else { return ["\(name), the host's end of \(inner.name), is gone"] }
    if outer.peerIndex != inner.index { return ["\(name) is not the other end of \(inner.name)"] }
    return outer.isUp ? [] : ["\(name), the host's end of \(inner.name), is down"]
  }

  private func checkAttachment(_ attachment: Attachment?, _ reported: ReportedInterface) -> [String] {
    guard let attachment else { return ["the agent knows no attachment of \(key)"] }
    var problems: [String] = []
    if attachment.state != .active {
      problems.append(
        "the agent's attachment is \(attachment.state.rawValue)\(attachment.reason.map { ": \($0)" } ?? "")")
    }
    if let mac = reported.mac, mac != attachment.mac {
      problems.append("prevResult gives it MAC address \(mac), the agent's attachment has \(attachment.mac)")
    }
    for entry in attachment.addresses where !reported.addresses.contains(entry.address) {
      problems.append("the agent's attachment has \(entry.address), which prevResult lacks")
    }
    return problems
  }
}
