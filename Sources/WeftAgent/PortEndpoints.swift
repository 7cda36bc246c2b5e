import FoundationEssentials
import Hummingbird
import WeftAPI
import WeftWire

// The side of virtual machines: OpenStack's compute driver plugs ports by it.

extension HTTPInterface {
  var portEndpoints: [Endpoint] {
    [
      Endpoint(.post, "/port", addPorts),
      Endpoint(.get, "/port/{uuid}", getPort),
      Endpoint(.delete, "/port/{uuid}", deletePort),
      Endpoint(.post, "/syncports", synchronizePorts),
      Endpoint(.put, "/enable-port/{uuid}", enablePort),
      Endpoint(.put, "/disable-port/{uuid}", disablePort),
    ]
  }

  /// One port or a list of them: all, or of those that are new none.
  @Sendable private func addPorts(_ request: Request, _ context: Context) async throws -> Response {
    let body = try await JSON.body(request)
    let isList = body.first { $0 > 0x20 } == UInt8(ascii: "[")
    let ports = isList ? try JSON.decode([Port].self, body) : [try JSON.decode(Port.self, body)]
    var added: [String] = []
    for (index, port) in ports.enumerated() {
      do { if try await add(port), let id = Derived.uuid(port.id) { added.append(id) } } catch let error as APIError {
        for id in added { _ = try await agent.delete(id: id) }
        throw isList ? APIError(error.code, "[\(index)]: \(error.reason)") : error
      }
    }
    return JSON.empty
  }

  /// True when it is new.
  private func add(_ posted: Port) async throws -> Bool {
    var port = posted
    guard let id = Derived.uuid(port.id) else { throw APIError(.badRequest, "id \"\(port.id.short)\" is no UUID") }
    guard let instance = Derived.uuid(port.instanceID) else {
      throw APIError(.badRequest, "instance-id \"\(port.instanceID.short)\" is no UUID")
    }
    port.id = id
    port.instanceID = instance
    let device = try Checks.interface(port.systemName, "system-name")
    guard let mac = MACAddress(port.macAddress) else {
      throw APIError(
        .badRequest, "mac-address \"\(port.macAddress.short)\" is no MAC address such as 02:00:00:00:00:01")
    }
    let vlan = try Self.vlan(port)
    // A VLAN has no interface of its own: system-name is that of the port that its frames are on.
    let hostInterface = vlan.map { Store.name(ofVLAN: $0, parent: device, id: id) } ?? device
    guard (0...1).contains(port.type ?? 0) else {
      throw APIError(.notSupported, "type \(port.type ?? 0) is not supported: 0 (a VM's TAP) or 1 (a namespace's veth)")
    }
    let vhost = vlan == nil ? try port.vhost(configuration.machines) : nil
    let network = try network(port.vnID)
    var addresses: [IPAddress] = []
    for (key, text) in [("ip-address", port.ipAddress), ("ip6-address", port.ip6Address)] {
      guard let text, !["", "None"].contains(text) else { continue }
      let given = IPAddress(text)
      if given?.isUnspecified == true { continue }
      guard let address = given, address.isV4 == (key == "ip-address") else {
        throw APIError(.badRequest, "\(key) \"\(text.short)\" is no such address")
      }
      addresses.append(address)
    }
    let there = try await store.attachments(where: "id = ?", [id]).first
    if let there {
      guard there.origin == .port, there.containerID == instance, there.network == network, there.mac == mac,
        there.vhost == vhost, there.vlan == vlan, vlan == nil || there.parent == device,
        Set(addresses).isSubset(of: there.addresses)
      else { throw APIError(.conflict, "port \(id) is there with other properties; delete it first") }
    } else {
      let before = try await agent.claim(hostInterface: hostInterface, mac: mac)
      if addresses.isEmpty { addresses = before }
      let (record, isNew) = try await store.reserve(
        NewAttachment(
          id: id, containerID: instance, interface: hostInterface, netns: "", network: network,
          hostInterface: hostInterface,
          mac: mac, addresses: addresses, vmUUID: instance, podName: try Checks.label(port.displayName, "display-name"),
          origin: .port, parent: vlan == nil ? nil : device, vlan: vlan, vhost: vhost))
      guard isNew || record.id == id else {
        throw APIError(.conflict, "instance \(instance) has \(hostInterface) as port \(record.id) already")
      }
    }
    try await store.setPort(port, time: Date().formatted(.iso8601))
    if port.linkState?.isUp == false {
      try await agent.deactivate(id: id)
    } else if there != nil, vlan == nil {
      _ = try await agent.place(
        id: id, containerID: instance, interface: device, netns: "", hostInterface: device)
    } else {
      _ = try await agent.activate(id: id, waits: true)
    }
    stalePorts.heard(id)
    return there == nil
  }

  /// The VLAN of a port that is one of another port's; nil for a port of its own.
  private static func vlan(_ port: Port) throws -> Int? {
    let (sent, received) = (port.txVLANID ?? -1, port.rxVLANID ?? -1)
    guard sent == received else {
      throw APIError(
        .badRequest, "tx-vlan-id \(sent) and rx-vlan-id \(received) differ; a VLAN has one number in both directions")
    }
    guard sent != -1 else { return nil }
    guard (1...4094).contains(sent) else {
      throw APIError(.badRequest, "tx-vlan-id and rx-vlan-id \(sent) must be 1 to 4094, or -1 for a port without VLAN")
    }
    return sent
  }

  private func network(_ vnID: String?) throws -> String {
    if let network = configuration.network(id: vnID) { return network.name }
    let known = configuration.networks.map { "\($0.name) (\(Derived.networkUUID($0.name)))" }
    throw APIError(
      .unknownNetwork,
      "vn-id \"\((vnID ?? "").short)\" is no network of this agent's; there are \(known.joined(separator: ", "))")
  }

  private func port(_ context: Context) async throws -> Port {
    let id = try context.uuid("uuid")
    guard let port = try await store.port(id) else { throw APIError(.notFound, "there is no port \(id)") }
    return port
  }

  @Sendable private func getPort(_ request: Request, _ context: Context) async throws -> Response {
    let port = try await port(context)
    guard let record = try await store.attachments(where: "id = ?", [port.id]).first else {
      throw APIError(.notFound, "there is no port \(port.id)")
    }
    return JSON.answer(PortAnswer(port, agent.attachment(record)))
  }

  @Sendable private func deletePort(_ request: Request, _ context: Context) async throws -> Response {
    let id = try context.uuid("uuid")
    // Also where the agent died before it had noted what was posted.
    if try await !store.attachments(where: "id = ? AND origin = 'port'", [id]).isEmpty {
      _ = try await agent.delete(id: id)
    }
    return JSON.empty
  }

  @Sendable private func synchronizePorts(_ request: Request, _ context: Context) async throws -> Response {
    try await agent.synchronizePorts()
    try await stalePorts.begin()
    return JSON.empty
  }

  @Sendable private func enablePort(_ request: Request, _ context: Context) async throws -> Response {
    _ = try await agent.activate(id: try await port(context).id, waits: true)
    return JSON.empty
  }

  @Sendable private func disablePort(_ request: Request, _ context: Context) async throws -> Response {
    try await agent.deactivate(id: try await port(context).id)
    return JSON.empty
  }
}

extension AgentConfiguration {
  /// A network as the field's clients name it, by its UUID or name; the default one where they name none.
  func network(id: String?) -> VirtualNetwork? {
    guard let id, !id.isEmpty, id != "None" else { return network(defaultNetwork) }
    let uuid = Derived.uuid(id)
    return networks.first { $0.name == id || uuid != nil && Derived.networkUUID($0.name) == uuid }
  }
}
