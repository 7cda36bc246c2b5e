import WeftAPI
import WeftWire

/// What ADD answers (CNI spec 1.1, section 5, "ADD Success"), in the form of the configuration's version.
public struct AddResult: Sendable {
  public var version: SpecVersion
  public var attachment: Attachment
  public var hostMAC: MACAddress?
  /// CNI_NETNS as it came.
  public var sandbox: String
  /// Bytes, as it was set.
  public var mtu: Int
  /// Those that were set.
  public var routes: [AttachmentRoute]
  /// A delegate's, in place of the network's name servers.
  public var dns: JSON?

  public init(
    version: SpecVersion, attachment: Attachment, hostMAC: MACAddress?, sandbox: String, mtu: Int,
    routes: [AttachmentRoute], dns: JSON? = nil
  ) {
    self.version = version
    self.attachment = attachment
    self.hostMAC = hostMAC
    self.sandbox = sandbox
    self.mtu = mtu
    self.routes = routes
    self.dns = dns
  }

  /// Added to the result of the plugins before: their entries come first and stay as they are.
  public func json(after previous: JSON? = nil) -> JSON {
    var members = previous?.members ?? [:]
    members["cniVersion"] = .string(version.rawValue)
    var interfaces = previous?["interfaces"]?.elements ?? []
    // A TAP interface has no other end that would be an interface, and a macvlan none at all.
    let isTap = attachment.tap != nil || attachment.hostInterface.isEmpty
    let containerIndex = Int64(interfaces.count + (isTap ? 0 : 1))
    var host: [String: JSON] = ["name": .string(attachment.hostInterface)]
    if let hostMAC { host["mac"] = .string(hostMAC.description) }
    var container: [String: JSON] = [
      "name": .string(attachment.interface), "mac": .string(attachment.mac.description), "sandbox": .string(sandbox),
    ]
    if version >= .v110 {
      host["mtu"] = .integer(Int64(mtu))
      container["mtu"] = .integer(Int64(mtu))
    }
    interfaces += isTap ? [.object(container)] : [.object(host), .object(container)]
    members["interfaces"] = .array(interfaces)

    members["ips"] = .array(
      (previous?["ips"]?.elements ?? [])
        + attachment.addresses.map { entry in
          var ip: [String: JSON] = [
            "interface": .integer(containerIndex), "address": .string(entry.address.description),
            "gateway": .string(entry.gateway.description),
          ]
          if version < .v100 { ip["version"] = .string(entry.address.address.isV4 ? "4" : "6") }
          return .object(ip)
        })
    members["routes"] = .array(
      (previous?["routes"]?.elements ?? [])
        + routes.map {
          .object(["dst": .string($0.destination.description), "gw": .string($0.gateway.description)])
        })
    members["dns"] = dns(after: previous?["dns"])
    return .object(members)
  }

  private func dns(after previous: JSON?) -> JSON {
    var members = previous?.members ?? [:]
    // A delegate's domain, search and options, where no plugin before has said anything.
    members.merge(dns?.members ?? [:]) { before, _ in before }
    var servers = previous?["nameservers"]?.elements ?? []
    let own = dns?["nameservers"]?.elements ?? attachment.dns.map { JSON.string($0.description) }
    for server in own where !servers.contains(server) {
      servers.append(server)
    }
    if !servers.isEmpty { members["nameservers"] = .array(servers) }
    return .object(members)
  }
}

/// The container's interface as a result tells of it: what CHECK holds the real one against.
struct ReportedInterface {
  /// Nil: the result does not say.
  var mac: MACAddress?
  var mtu: Int?
  var addresses: [InterfaceAddress]

  /// Refuses, with code 7, a result in which the interface is not.
  init(_ result: JSON, interface: String) throws(CNIError) {
    let interfaces = result["interfaces"]?.elements ?? []
    guard
      let index = interfaces.firstIndex(where: {
        $0["name"]?.text == interface && !($0["sandbox"]?.text ?? "").isEmpty
      })
    else {
      throw CNIError(
        .configuration, "prevResult has no interface \(interface) in a sandbox",
        details: "CHECK needs the result that ADD gave")
    }
    mac = interfaces[index]["mac"]?.text.flatMap { MACAddress($0) }
    mtu = interfaces[index]["mtu"]?.integer.flatMap { Int(exactly: $0) }.flatMap { $0 > 0 ? $0 : nil }
    addresses = []
    for ip in result["ips"]?.elements ?? [] where ip["interface"]?.integer == Int64(index) {
      guard let address = ip["address"]?.text.flatMap({ InterfaceAddress($0) }) else {
        throw CNIError(
          .configuration, "prevResult.ips has \(ip["address"]?.text ?? "no address")", details: "of \(interface)")
      }
      addresses.append(address)
    }
  }
}
