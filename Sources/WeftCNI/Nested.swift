import CLinux
import Glibc
import WeftAPI
import WeftNetlink
import WeftWire

// Nested mode (vif-type macvlan): the plugin runs in a virtual machine, whose port the hypervisor's forwarder serves. A
// pod's frames leave the machine with the VLAN that the hypervisor's agent tells for it; nothing is reported to the agent.

extension Settings {
  /// The machine's interface, in nested mode; nil in all others.
  static func nestedParent(_ fields: Fields) throws(CNIError) -> String? {
    let kind = try fields.string("vif-type") ?? ""
    let parent = try fields.string("parent-interface") ?? ""
    switch kind.lowercased() {
    case "", "veth": return nil
    case "macvlan":
      guard parent.isEmpty || LinkName.isValid(parent) else {
        throw fields.wrong("parent-interface", .string(parent), "is an interface's name: 1 to 15 bytes")
      }
      return parent.isEmpty ? "eth0" : parent
    default:
      throw CNIError(
        .unsupportedField, "\(fields.path).vif-type \"\(kind)\" is not supported",
        details: "it is \"veth\" or left out, or \"macvlan\" in a virtual machine")
    }
  }
}

extension Run {
  func nested(_ parent: String) throws(CNIError) -> JSON? {
    switch verb {
    case .add: return try addNested(parent)
    case .delete: try deleteNested()
    case .check: try checkNested(parent)
    case .status: try nestedStatus(parent)
    case .gc: try collectNestedGarbage()
    case .version: break
    }
    return nil
  }

  // MARK: ADD

  private func addNested(_ parent: String) throws(CNIError) -> JSON {
    let arguments = try Arguments(self.arguments)
    let namespace = try openNamespace()
    let container = try kernel { () throws(NetlinkError) in try Netlink(in: namespace) }
    let host = try kernel { () throws(NetlinkError) in try Netlink() }
    let interface = key.interface
    if try kernel({ () throws(NetlinkError) in try container.link(named: interface) }) != nil {
      throw CNIError(
        .environment, "CNI_IFNAME \(interface) exists in the container already",
        details: "in \(netns); nothing was changed")
    }
    let outer = try machineInterface(parent, host)
    let told = try askForVLAN(try NestedPod(settings, arguments))
    let mtu = try mtu(over: outer, told)
    let attachment = try told.attachment(key, netns: netns, mtu: mtu)
    var record = PluginRecord(
      configuration: configuration.name, containerID: key.containerID, interface: interface, netns: netns)
    record.vlanInterface = told.interfaceName(parent)
    record.network = attachment.network
    record.mac = attachment.mac
    record.mtu = mtu
    record.addresses = attachment.addresses.map(\.address)
    record.routes = attachment.routes
    if let before = records.read(key), before.vlanInterface == record.vlanInterface {
      record.isVLANOurs = before.isVLANOurs
    }
    // Before there is anything that a DEL would have to find.
    try records.write(record)
    do throws(CNIError) {
      // A DEL that removes the VLAN as the last one on it is either before this or after it.
      record = try alone { () throws(CNIError) in
        var record = record
        let vlan = try vlanInterface(told, outer, &record, host)
        record.routes = try makeMacvlan(attachment, mtu, vlan, namespace, host, container)
        try records.write(record)
        return record
      }
      return AddResult(
        version: configuration.version, attachment: attachment, hostMAC: nil, sandbox: netns, mtu: mtu,
        routes: record.routes ?? []
      ).json(after: configuration.previousResult)
    } catch {
      try? deleteNested()
      throw error
    }
  }

  private func machineInterface(_ name: String, _ host: Netlink) throws(CNIError) -> Link {
    guard let link = try kernel({ () throws(NetlinkError) in try host.link(named: name) }) else {
      throw CNIError(
        .configuration, "parent-interface \(name) does not exist",
        details: "it is the interface of this virtual machine that pods' frames leave by")
    }
    guard link.isUp else {
      throw CNIError(.tryAgainLater, "parent-interface \(name) is down", details: "ip link set \(name) up")
    }
    return link
  }

  /// The VLAN that the agent has for a pod: asked for `poll-retries` times, `poll-timeout` seconds apart, until the pod is
  /// known there.
  private func askForVLAN(_ pod: NestedPod) throws(CNIError) -> NestedInterface {
    var retries = settings.pollRetries
    while true {
      let reason: CNIError
      do throws(AgentFailure) {
        let interfaces = try agent.interfaces(ofPod: pod.name)
        if let found = NestedInterface.choose(interfaces, key.interface) { return found }
        reason = CNIError(
          .tryAgainLater, "the agent at \(settings.agent) has no VLAN for pod \(pod.name)",
          details: "there, POST /port with tx-vlan-id and rx-vlan-id gives it one, display-name being the pod's")
      } catch {
        guard case .refused(let refusal, 404) = error, refusal.code == .notFound else {
          throw agent.error(error, "tell the interfaces of pod \(pod.name)")
        }
        reason = agent.error(error, "tell the interfaces of pod \(pod.name)")
      }
      guard retries > 0 else { throw reason }
      retries -= 1
      log.log(.info, "\(reason); asking again in \(settings.pollTimeout) s")
      sleep(UInt32(settings.pollTimeout))
    }
  }

  private func mtu(over outer: Link, _ told: NestedInterface) throws(CNIError) -> Int {
    let mtu = min(settings.mtu ?? Int(outer.mtu), Int(outer.mtu))
    if let asked = settings.mtu, asked > mtu {
      log.log(.warning, "mtu \(asked) of the configuration is more than \(outer.name) carries: set to \(mtu)")
    }
    guard mtu >= 1280 || told.address6 == nil else {
      throw CNIError(
        .configuration, "an MTU of \(mtu) bytes is too small for IPv6", details: "RFC 8200 section 5: 1280 at least")
    }
    return mtu
  }

  /// The machine's interface for the VLAN, up; made if it is not there. One that somebody else made under its name is
  /// taken as it is.
  private func vlanInterface(
    _ told: NestedInterface, _ outer: Link, _ record: inout PluginRecord, _ host: Netlink
  ) throws(CNIError) -> Link {
    let name = told.interfaceName(outer.name)
    if try kernel({ () throws(NetlinkError) in try host.link(named: name) }) == nil {
      record.isVLANOurs = true
      try records.write(record)
      do throws(NetlinkError) {
        try host.createVLAN(name, identifier: told.vlan, over: outer.index)
      } catch {
        switch error.code {
        case EOPNOTSUPP:
          throw CNIError(
            .io, "the kernel of this machine knows no VLANs (802.1Q)",
            details: "modprobe 8021q, or a kernel with CONFIG_VLAN_8021Q; or make \(name) by other means")
        case EEXIST: break
        default: throw CNIError(.io, "cannot \(error)", details: "VLAN \(told.vlan) of \(outer.name) for \(key)")
        }
      }
    } else if let there = otherRecords(name).first(where: { $0.isVLANOurs == true }) {
      // A pod's earlier container, whose DEL has not come: who is last removes it.
      record.isVLANOurs = there.isVLANOurs
      try records.write(record)
    }
    guard let link = try kernel({ () throws(NetlinkError) in try host.link(named: name) }) else {
      throw CNIError(
        .io, "VLAN \(told.vlan) of \(outer.name) cannot be made: another interface has it",
        details: "ip -d link show type vlan; \(name) is what the plugin calls it")
    }
    if !link.isUp {
      try kernel { () throws(NetlinkError) in try host.changeLink(index: link.index, LinkChange(isUp: true)) }
    }
    return link
  }

  /// The container's interface, up and with its addresses; the routes that were set.
  private func makeMacvlan(
    _ attachment: Attachment, _ mtu: Int, _ vlan: Link, _ namespace: borrowing NetworkNamespace, _ host: Netlink,
    _ container: Netlink
  ) throws(CNIError) -> [AttachmentRoute] {
    do {
      try host.createMacvlan(
        attachment.interface, mac: attachment.mac, mtu: UInt32(mtu), over: vlan.index, in: namespace)
      guard let link = try container.link(named: attachment.interface) else {
        throw NetlinkError("find", attachment.interface, code: ENODEV)
      }
      try ContainerEnd.setAddresses(attachment, namespace, container, link.index)
      try container.changeLink(index: link.index, LinkChange(isUp: true))
      return try ContainerEnd.setRoutes(attachment, container, link.index)
    } catch {
      throw CNIError(.io, "cannot \(error)", details: "while making \(key.interface) in \(netns) over \(vlan.name)")
    }
  }

  // MARK: the other verbs

  /// The container's interface, then the machine's for its VLAN where no other container has it. What is gone is fine.
  private func deleteNested() throws(CNIError) {
    let record = records.read(key)
    let path = netns.isEmpty ? record?.netns ?? "" : netns
    try remove(key, record, netns: path)
  }

  private func remove(_ key: InterfaceKey, _ record: PluginRecord?, netns: String) throws(CNIError) {
    if !netns.isEmpty, let namespace = try? NetworkNamespace(path: netns), !namespace.isCurrent,
      let container = try? Netlink(in: namespace)
    {
      try kernel { () throws(NetlinkError) in
        guard let link = try container.link(named: key.interface), link.kind == "macvlan",
          // A late DEL of an earlier container in a namespace of the same path; without a record it goes with that.
          link.mac == record?.mac
        else { return }
        do throws(NetlinkError) { try container.deleteLink(index: link.index) } catch {
          if error.code != ENODEV { throw error }
        }
      }
    }
    guard let name = record?.vlanInterface, record?.isVLANOurs == true else { return records.remove(key) }
    try alone { () throws(CNIError) in
      if otherRecords(name, than: key).isEmpty {
        let host = try kernel { () throws(NetlinkError) in try Netlink() }
        try kernel { () throws(NetlinkError) in
          guard let link = try host.link(named: name), link.kind == "vlan" else { return }
          do throws(NetlinkError) { try host.deleteLink(index: link.index) } catch {
            if error.code != ENODEV { throw error }
          }
        }
      }
      records.remove(key)
    }
  }

  /// While no other run of the plugin makes or removes a VLAN.
  private func alone<T>(_ body: () throws(CNIError) -> T) throws(CNIError) -> T {
    let outcome = records.exclusively(milliseconds: settings.pollTimeout * 1000) { () -> Result<T, CNIError> in
      do throws(CNIError) { return .success(try body()) } catch { return .failure(error) }
    }
    guard let outcome else {
      throw CNIError(
        .tryAgainLater, "another run of the plugin makes or removes VLANs for more than \(settings.pollTimeout) s",
        details: "config-dir \(records.directory) is locked")
    }
    return try outcome.get()
  }

  /// Of other interfaces over the same VLAN.
  private func otherRecords(_ vlan: String, than own: InterfaceKey? = nil) -> [PluginRecord] {
    records.present().filter { $0 != own ?? key }.compactMap { records.read($0) }.filter { $0.vlanInterface == vlan }
  }

  private func checkNested(_ parent: String) throws(CNIError) {
    guard let result = configuration.previousResult else {
      throw CNIError(.configuration, "CHECK without prevResult", details: "it is the result that ADD gave")
    }
    let reported = try ReportedInterface(result, interface: key.interface)
    let namespace = try openNamespace()
    let container = try kernel { () throws(NetlinkError) in try Netlink(in: namespace) }
    let host = try kernel { () throws(NetlinkError) in try Netlink() }
    let record = records.read(key)
    var problems: [String] = []
    if let link = try kernel({ () throws(NetlinkError) in try container.link(named: key.interface) }) {
      problems += checkLink(link, "macvlan", reported, mtu: reported.mtu ?? record?.mtu)
      problems += try kernel { () throws(NetlinkError) in
        try checkAddresses(link, reported.addresses, container) + checkRoutes(link, record?.routes ?? [], container)
      }
      if let name = record?.vlanInterface {
        let vlan = try kernel { () throws(NetlinkError) in try host.link(named: name) }
        if vlan == nil { problems.append("\(name), which it is on, is gone") }
        if let vlan, vlan.index != link.peerIndex { problems.append("\(link.name) is not on \(name)") }
        if let vlan, !vlan.isUp { problems.append("\(name), which it is on, is down") }
      }
    } else {
      problems.append("\(key.interface) is not in \(netns)")
    }
    guard problems.isEmpty else { throw CNIError(.checkFailed, problems.joined(separator: "; "), details: "of \(key)") }
    _ = try machineInterface(parent, host)
  }

  private func nestedStatus(_ parent: String) throws(CNIError) {
    let host = try kernel { () throws(NetlinkError) in try Netlink() }
    do throws(CNIError) { _ = try machineInterface(parent, host) } catch {
      throw CNIError(.unavailable, error.message, details: error.details)
    }
    let status: AgentStatus
    do throws(AgentFailure) { status = try agent.status() } catch {
      let reason = agent.error(error, "tell its status")
      throw CNIError(.unavailable, reason.message, details: reason.details)
    }
    guard status.forwarder.connected else {
      throw CNIError(
        .unavailableAndLimited,
        "the hypervisor's forwarder does not run: \(status.forwarder.reason ?? "no reason given")",
        details: "the agent at \(settings.agent) says so")
    }
  }

  private func collectNestedGarbage() throws(CNIError) {
    let valid = try configuration.validAttachments()
    var failures: [CNIError] = []
    for key in records.present().filter({ !valid.contains($0) }).sorted(by: { $0.description < $1.description }) {
      let record = records.read(key)
      guard record == nil || record?.configuration == configuration.name else { continue }
      do throws(CNIError) {
        try remove(key, record, netns: record?.netns ?? "")
        log.log(.notice, "\(key) is no longer valid and removed")
      } catch { failures.append(error) }
    }
    if let first = failures.first {
      throw CNIError(first.code, first.message, details: "\(failures.count) interfaces remain; \(first.details)")
    }
  }
}
