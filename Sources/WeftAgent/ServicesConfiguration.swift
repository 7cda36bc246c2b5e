import WeftWire

/// What the agent serves to the members of a network at addresses of its own.
public struct NetworkServices: Hashable, Sendable {
  public var dns: DNSService?
  public var metadata: MetadataService?

  package var addresses: [IPAddress] { Array(Set((dns?.addresses ?? []) + (metadata?.addresses ?? []))).sorted() }
}

/// A proxy to resolvers.
public struct DNSService: Hashable, Sendable {
  public static let standard = [IPAddress("169.254.169.253")!, IPAddress("fd00:ec2::253")!]

  public var addresses: [IPAddress]
  /// Empty: the host's, as its resolv.conf says.
  public var servers: [IPAddress]
  public var port = 53
}

/// What virtual machines ask about themselves.
public struct MetadataService: Hashable, Sendable {
  public static let standard = [IPAddress("169.254.169.254")!, IPAddress("fd00:ec2::254")!]

  public var addresses: [IPAddress]
  /// Of a metadata server such as Nova's, without a slash at its end; nil: the agent answers.
  public var upstream: String?
  /// The file with the secret that requests to it are signed by.
  public var secretFile: String?
}

extension NetworkServices {
  init(_ node: ConfigurationNode, _ subnets: [Subnet]) throws(ConfigurationError) {
    let mapping = try node.mapping(["dns", "metadata"])
    func addresses(_ mapping: ConfigurationMapping, _ standard: [IPAddress]) throws(ConfigurationError) -> [IPAddress] {
      guard let list = mapping["addresses"] else {
        return standard.filter { address in subnets.contains { $0.prefix.isV4 == address.isV4 } }
      }
      var addresses: [IPAddress] = []
      for node in try list.list() {
        let address = try node.address()
        guard !address.isMulticast, !address.isUnspecified, address.isV4 || !address.isLinkLocal else {
          throw node.error("\(address) cannot be a service's address")
        }
        if let subnet = subnets.first(where: { $0.prefix.contains(address) }),
          address == subnet.gateway || subnet.range.contains(address) || Subnet.isReserved(address, in: subnet.prefix)
        {
          throw node.error(
            "\(address) is the gateway of \(subnet.prefix), or in the range that members get addresses of")
        }
        guard !addresses.contains(address) else { throw node.error("\(address) stands here twice") }
        addresses.append(address)
      }
      guard (1...4).contains(addresses.count) else { throw list.error("must hold 1 to 4 addresses") }
      return addresses
    }
    if let node = mapping["dns"] {
      let mapping = try node.mapping(["addresses", "servers"])
      var servers: [IPAddress] = []
      for node in try mapping.items("servers") {
        let address = try node.address()
        guard !address.isMulticast, !address.isUnspecified else {
          throw node.error("\(address) is no server's address")
        }
        servers.append(address)
      }
      if let list = mapping["servers"], !(1...DNSServers.maximum).contains(servers.count) {
        throw list.error("must hold 1 to \(DNSServers.maximum) servers; leave it out for those of \(DNSServers.file)")
      }
      dns = DNSService(addresses: try addresses(mapping, DNSService.standard), servers: servers)
    }
    if let node = mapping["metadata"] {
      let mapping = try node.mapping(["addresses", "url", "secret-file"])
      metadata = MetadataService(addresses: try addresses(mapping, MetadataService.standard))
      if let node = mapping["url"] {
        var url = try node.text("a URL such as http://192.0.2.9:8775")
        while url.hasSuffix("/") { url.removeLast() }
        guard url.hasPrefix("http://") || url.hasPrefix("https://"), url.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }),
          url.drop(while: { $0 != ":" }).count > 3
        else { throw node.error("\"\(url)\" is no URL such as http://192.0.2.9:8775") }
        metadata?.upstream = url
      }
      if let node = mapping["secret-file"] {
        guard metadata?.upstream != nil else { throw node.error("goes with url") }
        let path = try node.text("an absolute path")
        guard path.hasPrefix("/"), !path.utf8.contains(0) else {
          throw node.error("\"\(path)\" must be an absolute path")
        }
        metadata?.secretFile = path
      }
    }
    if let dns, let metadata, let clash = dns.addresses.first(where: { metadata.addresses.contains($0) }) {
      throw node.error("\(clash) is dns's and metadata's address; each has its own")
    }
  }
}
