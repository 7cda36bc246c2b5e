import WeftAPI

/// The answer to `GET /port/{uuid}`: the port as it was posted, with the addresses that it really has and what goes with
/// them under the names of Tungsten Fabric's agent, and how far it has come.
struct PortAnswer: Encodable {
  private var port: Port
  private let facts: Facts

  private struct Facts: Encodable {
    var plen: Int?
    var gateway: String?
    var dnsServer: String?
    var v6Address: String?
    var v6PrefixLength: Int?
    var v6Gateway: String?
    var v6DNSServer: String?
    var state: AttachmentState
    var reason: String?

    enum CodingKeys: String, CodingKey {
      case plen, gateway
      case dnsServer = "dns-server"
      case v6Address = "v6-ip-address"
      case v6PrefixLength = "v6-plen"
      case v6Gateway = "v6-gateway"
      case v6DNSServer = "v6-dns-server"
      case state, reason
    }
  }

  init(_ port: Port, _ attachment: Attachment) {
    let v4 = attachment.addresses.first { $0.address.address.isV4 }
    let v6 = attachment.addresses.first { !$0.address.address.isV4 }
    self.port = port
    if let v4 { self.port.ipAddress = v4.address.address.description }
    if let v6 { self.port.ip6Address = v6.address.address.description }
    facts = Facts(
      plen: v4?.address.prefixLength, gateway: v4?.gateway.description,
      dnsServer: v4.map { (attachment.dns.first { $0.isV4 } ?? $0.gateway).description },
      v6Address: v6?.address.address.description, v6PrefixLength: v6?.address.prefixLength,
      v6Gateway: v6?.gateway.description,
      v6DNSServer: v6.map { (attachment.dns.first { !$0.isV4 } ?? $0.gateway).description },
      state: attachment.state, reason: attachment.reason)
  }

  func encode(to encoder: any Encoder) throws {
    try port.encode(to: encoder)
    try facts.encode(to: encoder)
  }
}
