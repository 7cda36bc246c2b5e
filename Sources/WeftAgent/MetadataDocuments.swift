import FoundationEssentials
import NIOHTTP1
import WeftWire

/// What there is to say of an attachment, as EC2's and OpenStack's metadata servers lay it out, as far as cloud-init reads.
struct MetadataDocuments {
  private let record: AttachmentRecord
  private let network: VirtualNetwork

  init(_ record: AttachmentRecord, _ network: VirtualNetwork) {
    self.record = record
    self.network = network
  }

  private var host: String { record.podName ?? "instance-\(record.vmUUID.prefix(8))" }

  /// EC2's versions that differ in nothing that is here.
  private static let versions = ["2009-04-04", "2016-09-02", "2021-03-23", "latest"]
  private static let openStackVersions = ["2012-08-10", "2013-10-17", "2018-08-27", "latest"]

  func answer(_ head: HTTPRequestHead) -> MetadataAnswer {
    guard head.method == .GET || head.method == .HEAD else {
      // A token is asked for by PUT; where there is none, clients go on without (IMDSv1).
      return MetadataAnswer(.notFound, "there is no \(head.method.rawValue) here\n")
    }
    let path = head.uri.prefix { $0 != "?" }.split(separator: "/").map(String.init)
    if path.isEmpty { return Self.list(Self.versions + ["openstack"]) }
    if path[0] == "openstack" { return openStack(Array(path.dropFirst())) }
    guard Self.versions.contains(path[0]) else { return Self.nothing(head) }
    if path.count == 1 { return Self.list(["meta-data/"]) }
    guard path[1] == "meta-data" else { return Self.nothing(head) }
    return find(Array(path.dropFirst(2))) ?? Self.nothing(head)
  }

  private static func list(_ names: [String]) -> MetadataAnswer { MetadataAnswer(.ok, names.joined(separator: "\n")) }

  private static func nothing(_ head: HTTPRequestHead) -> MetadataAnswer {
    MetadataAnswer(.notFound, "there is no \(head.uri.prefix(200))\n")
  }

  /// Leaves by their paths; what begins one is a folder.
  private var leaves: [(path: [String], value: String)] {
    let v4 = record.addresses.filter(\.isV4).map(\.description)
    let v6 = record.addresses.filter { !$0.isV4 }.map(\.description)
    let mac = record.mac.description
    let interface = ["network", "interfaces", "macs", mac]
    var leaves = [
      (["hostname"], host), (["instance-id"], record.vmUUID), (["local-hostname"], host), (["mac"], mac),
      (interface + ["device-number"], "0"), (interface + ["interface-id"], record.id), (interface + ["mac"], mac),
    ]
    if let first = v4.first {
      leaves.append((["local-ipv4"], first))
      leaves.append((interface + ["local-ipv4s"], v4.joined(separator: "\n")))
    }
    if let first = v6.first {
      leaves.append((["ipv6"], first))
      leaves.append((interface + ["ipv6s"], v6.joined(separator: "\n")))
    }
    return leaves
  }

  private func find(_ path: [String]) -> MetadataAnswer? {
    let below = leaves.filter { $0.path.starts(with: path) }
    if let leaf = below.first(where: { $0.path.count == path.count }) { return MetadataAnswer(.ok, leaf.value) }
    guard !below.isEmpty else { return nil }
    let names = below.map { $0.path[path.count] + ($0.path.count > path.count + 1 ? "/" : "") }
    return Self.list(Array(Set(names)).sorted())
  }

  // MARK: OpenStack

  private struct MetaData: Encodable {
    var uuid: String
    var name: String
    var hostname: String
    var launchIndex = 0
    var meta: [String: String]

    enum CodingKeys: String, CodingKey {
      case uuid, name, hostname, meta
      case launchIndex = "launch_index"
    }
  }

  private struct NetworkData: Encodable {
    struct Link: Encodable {
      var id: String
      var type = "phy"
      var mac: String

      enum CodingKeys: String, CodingKey {
        case id, type
        case mac = "ethernet_mac_address"
      }
    }
    struct Network: Encodable {
      var id: String
      var type: String
      var link: String
      var address: String
      var netmask: String
      var routes: [Route]

      enum CodingKeys: String, CodingKey {
        case id, type, link, netmask, routes
        case address = "ip_address"
      }
    }
    struct Route: Encodable {
      var network: String
      var netmask: String
      var gateway: String
    }
    struct Service: Encodable {
      var type = "dns"
      var address: String
    }
    var links: [Link]
    var networks: [Network]
    var services: [Service]
  }

  private func openStack(_ path: [String]) -> MetadataAnswer {
    let nothing = MetadataAnswer(.notFound, "there is no /openstack/\(path.joined(separator: "/").prefix(200))\n")
    guard let version = path.first else { return Self.list(Self.openStackVersions) }
    guard Self.openStackVersions.contains(version), path.count <= 2 else { return nothing }
    guard path.count == 2 else { return Self.list(["meta_data.json", "network_data.json"]) }
    switch path[1] {
    case "meta_data.json":
      var meta = ["network": network.name]
      meta["namespace"] = record.podNamespace
      return Self.json(MetaData(uuid: record.vmUUID, name: host, hostname: host, meta: meta))
    case "network_data.json": return Self.json(networkData)
    default: return nothing
    }
  }

  private var networkData: NetworkData {
    let link = NetworkData.Link(id: record.interface, mac: record.mac.description)
    var families: Set<Bool> = []
    let networks = record.addresses.enumerated().compactMap { index, address -> NetworkData.Network? in
      guard let subnet = network.subnet(of: address) else { return nil }
      let isV4 = address.isV4
      let none = isV4 ? "0.0.0.0" : "::"
      let routes =
        network.routes == nil && families.insert(isV4).inserted
        ? [NetworkData.Route(network: none, netmask: none, gateway: subnet.gateway.description)] : []
      return NetworkData.Network(
        id: "network\(index)", type: isV4 ? "ipv4" : "ipv6", link: link.id, address: address.description,
        netmask: subnet.prefix.mask.description, routes: routes)
    }
    return NetworkData(
      links: [link], networks: networks, services: network.dns.map { NetworkData.Service(address: $0.description) })
  }

  private static func json(_ value: some Encodable) -> MetadataAnswer {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(value) else { return MetadataAnswer(.internalServerError, "") }
    return MetadataAnswer(.ok, String(decoding: data, as: UTF8.self), type: "application/json")
  }
}

extension IPPrefix {
  /// As an address: 255.255.0.0.
  fileprivate var mask: IPAddress {
    (address.isV4 ? IPAddress(v4: .max) : IPAddress(high: .max, low: .max)).masked(to: length)
  }
}
