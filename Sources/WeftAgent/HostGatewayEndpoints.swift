import Hummingbird
import WeftAPI
import WeftWire

/// A virtual gateway as Tungsten Fabric's API has it (port_ipc_handler.cc; `vrouter-port-control`).
private struct PostedGateway: Decodable {
  struct Prefix: Decodable {
    var address: String
    var length: Int

    enum CodingKeys: String, CodingKey {
      case address = "ip-address"
      case length = "prefix-len"
    }
  }

  var interface: String
  var routingInstance: String
  /// What the host reaches by it.
  var subnets: [Prefix]
  /// What the network reaches by it.
  var routes: [Prefix]

  enum CodingKeys: String, CodingKey {
    case interface, subnets, routes
    case routingInstance = "routing-instance"
  }
}

private struct PostedName: Decodable { var interface: String }

// Virtual gateways: the host's way into a network, as the field asks for it.

extension HTTPInterface {
  var gatewayEndpoints: [Endpoint] {
    [Endpoint(.post, "/gateway", addGateways), Endpoint(.delete, "/gateway", removeGateways)]
  }

  /// All of them are looked at before the first is made. Those before one that cannot be made stay.
  @Sendable private func addGateways(_ request: Request, _ context: Context) async throws -> Response {
    let posted = try JSON.decode([PostedGateway].self, await JSON.body(request))
    var gateways: [(VirtualNetwork, HostGateway)] = []
    for (index, one) in posted.enumerated() {
      let path = "[\(index)]"
      let network = try network(routingInstance: one.routingInstance, path)
      guard !gateways.contains(where: { $0.0.name == network.name }) else {
        throw APIError(.badRequest, "\(path).routing-instance: network \(network.name) stands here twice")
      }
      let subnets = try Self.prefixes(one.subnets, "\(path).subnets")
      for prefix in subnets where !network.subnets.contains(where: { $0.prefix.contains(prefix) }) {
        throw APIError(.badRequest, "\(path).subnets: \(prefix) is in no subnet of network \(network.name)")
      }
      gateways.append(
        (
          network,
          HostGateway(
            interface: try Checks.interface(one.interface, "\(path).interface"), addresses: nil, subnets: subnets,
            routes: try Self.prefixes(one.routes, "\(path).routes"), masquerade: false)
        ))
    }
    for (network, gateway) in gateways {
      let before = try agent.gateways.add(gateway, network)
      await agent.hostPortsChanged()
      guard let reason = agent.gateways.reason(network.name) else { continue }
      try agent.gateways.restore(before, network)
      await agent.hostPortsChanged()
      throw APIError(.conflict, "gateway of network \(network.name): \(reason)")
    }
    return JSON.empty
  }

  /// One that is not there is no error.
  @Sendable private func removeGateways(_ request: Request, _ context: Context) async throws -> Response {
    let posted = try JSON.decode([PostedName].self, await JSON.body(request))
    for one in posted { _ = try agent.gateways.remove(interface: one.interface) }
    await agent.hostPortsChanged()
    return JSON.empty
  }

  /// "NETWORK", or as Tungsten Fabric names it: "domain:project:NETWORK:NETWORK".
  private func network(routingInstance: String, _ path: String) throws(APIError) -> VirtualNetwork {
    let name = routingInstance.split(separator: ":").last.map(String.init) ?? ""
    guard let network = configuration.network(name) else {
      throw APIError(
        .unknownNetwork,
        "\(path).routing-instance: no network is named \"\(name.short)\"; there are "
          + AgentConfiguration.names(configuration.networks))
    }
    return network
  }

  private static func prefixes(_ list: [PostedGateway.Prefix], _ path: String) throws(APIError) -> [IPPrefix] {
    var prefixes: [IPPrefix] = []
    for (index, one) in list.enumerated() {
      guard let address = IPAddress(one.address), let prefix = IPPrefix(address, length: one.length) else {
        throw APIError(.badRequest, "\(path)[\(index)]: \(one.address.short)/\(one.length) is no prefix")
      }
      if !prefixes.contains(prefix) { prefixes.append(prefix) }
    }
    return prefixes
  }
}
