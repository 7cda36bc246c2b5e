import WeftRing

extension AgentConfiguration {
  /// What an agent with this configuration would do, for people: a line each.
  public var summary: String {
    var lines = [
      "node \(node)",
      "  fabric      \(fabric.interface)\(fabric.addresses.map { ", tunnels end at \($0.map(\.description).joined(separator: ", "))" } ?? ", tunnels end at its own addresses")",
      "  ports       \(fabric.port.kind.name) to the fabric, \(pods.kind.name) to pods, "
        + "\(machines.isVhost ? "vhost-user" : "packet") to virtual machines",
      "  forwarder   \(forwarderSocket)",
      "  database    \(database)",
      "  HTTP        \(api.tcp == .none ? "no TCP" : "\(listen)\(listen.isLoopback ? "" : "  (reachable from other machines, with the token)")\(api.tcp == .read ? "  (read only)" : "")")",
      "  default     \(defaultNetwork)",
    ]
    if let socket = api.socket {
      let group = socket.group.map { ", group \($0)" } ?? ""
      lines.insert("  socket      \(socket.path) (mode \(String(socket.mode, radix: 8))\(group))", at: lines.count - 1)
    }
    for network in networks {
      let number = network.encapsulation == .vxlan ? "VNI" : "label"
      lines.append("network \(network.name): \(network.encapsulation.name), \(number) \(network.identifier)")
      for subnet in network.subnets {
        let pool = AddressPool(subnet: subnet, elsewhere: addressesElsewhere(network, subnet))
        lines.append(
          "  \(subnet.prefix)  gateway \(subnet.gateway), gives out \(pool.capacity) addresses of \(subnet.range)")
      }
      if let host = network.host {
        let routes = host.routes(of: network).map(\.description).joined(separator: ", ")
        lines.append(
          "  host \(host.interface), \(host.addresses(in: network).map(\.description).joined(separator: ", ")); out by it: "
            + (routes.isEmpty ? "nothing" : routes + (host.masquerade ? ", masqueraded" : "")))
      }
      if let service = network.services?.dns {
        let servers = service.servers.isEmpty ? ["the host's"] : service.servers.map(\.description)
        lines.append(
          "  DNS proxy at \(service.addresses.map(\.description).joined(separator: ", ")), resolvers \(servers.joined(separator: ", "))"
        )
      }
      if let service = network.services?.metadata {
        lines.append(
          "  metadata at \(service.addresses.map(\.description).joined(separator: ", ")), from \(service.upstream ?? "the agent")"
        )
      }
      if let mtu = network.mtu { lines.append("  MTU at most \(mtu)") }
      if !network.dns.isEmpty { lines.append("  DNS \(network.dns.map(\.description).joined(separator: ", "))") }
      if let routes = network.routes {
        lines.append("  routes \(routes.map { "\($0.destination) via \($0.gateway)" }.joined(separator: ", "))")
      }
    }
    for peer in peers {
      lines.append("peer \(peer.name) at \(peer.address)")
      for member in peer.networks {
        let what = (member.prefixes.map(\.description) + member.macs.map(\.description)).joined(separator: ", ")
        let mac = member.routerMAC == .virtualRouter ? "" : " (router MAC \(member.routerMAC))"
        lines.append("  \(member.name): \(what.isEmpty ? "nothing" : what)\(mac)")
      }
    }
    return lines.joined(separator: "\n")
  }
}
