import AsyncHTTPClient
import Crypto
import Foundation
import Logging
import NIOCore
import NIOHTTP1
import WeftWire

/// Answers what members of a network ask about themselves: by a metadata server that is told who asks, or by itself.
package struct MetadataResponder: Sendable {
  static let patience = TimeAmount.seconds(10)
  /// One that refuses is told of at once, not after having been tried for as long as we wait.
  private static let client: HTTPClient = {
    var configuration = HTTPClient.Configuration(redirectConfiguration: .disallow)
    configuration.connectionPool.retryConnectionEstablishment = false
    configuration.timeout.connect = patience
    return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
  }()
  static let maximumAnswer = 4 << 20

  let service: MetadataService
  let network: VirtualNetwork
  let members: ServiceMembers
  private let store: Store
  private let logger: Logger

  init(
    _ service: MetadataService, _ network: VirtualNetwork, _ members: ServiceMembers, store: Store, logger: Logger
  ) {
    self.service = service
    self.network = network
    self.members = members
    self.store = store
    self.logger = logger
  }

  func answer(_ request: MetadataRequest) async -> MetadataAnswer {
    do {
      // Each time anew: an address may have another owner by now.
      guard let record = try members.record(request.client) else {
        return MetadataAnswer(.notFound, "nobody on this node has the address \(request.client)\n")
      }
      if let upstream = service.upstream { return await pass(request, of: record, to: upstream) }
      return MetadataDocuments(record, network).answer(request.head)
    } catch {
      logger.warning("metadata of \(request.client) in network \(network.name): \(error)")
      return MetadataAnswer(.internalServerError, "the agent cannot look up \(request.client)\n")
    }
  }

  /// As Nova and Tungsten Fabric do: the server believes headers that only the proxy can sign.
  package static func identity(
    _ record: AttachmentRecord, client: IPAddress, tenant: String?, secret: [UInt8]
  ) -> HTTPHeaders {
    var headers = HTTPHeaders()
    headers.add(name: "X-Forwarded-For", value: client.description)
    headers.add(name: "X-Instance-ID", value: record.vmUUID)
    if let tenant { headers.add(name: "X-Tenant-ID", value: tenant) }
    let code = HMAC<SHA256>.authenticationCode(for: Array(record.vmUUID.utf8), using: SymmetricKey(data: secret))
    let digits = code.map { byte in
      let text = String(byte, radix: 16)
      return text.count == 1 ? "0" + text : text
    }
    headers.add(name: "X-Instance-ID-Signature", value: digits.joined())
    return headers
  }

  /// Never passed on: what a client could pretend to be by, and what belongs to one connection (RFC 9110 section 7.6.1).
  private static func kept(_ name: String) -> Bool {
    let name = name.lowercased()
    return !name.hasPrefix("x-instance-id") && !name.hasPrefix("x-tenant-id") && name != "x-forwarded-for"
      && name != "x-metadata-provider" && name != "x-metadata-provider-signature"
      && ![
        "connection", "keep-alive", "host", "content-length", "transfer-encoding", "te", "trailer", "upgrade",
        "proxy-authorization", "proxy-connection", "expect",
      ].contains(name)
  }

  private func pass(
    _ request: MetadataRequest, of record: AttachmentRecord, to upstream: String
  ) async -> MetadataAnswer {
    guard request.head.uri.hasPrefix("/"), request.head.uri.utf8.count <= 4096 else {
      return MetadataAnswer(.badRequest, "the request's target must be a path\n")
    }
    do {
      var secret: [UInt8] = []
      if let file = service.secretFile {
        secret = Array(try Data(contentsOf: URL(fileURLWithPath: file)))
        while let last = secret.last, last == 0x0A || last == 0x0D { secret.removeLast() }
      }
      let tenant = record.origin == .port ? try await store.port(record.id)?.vmProjectID : nil
      var out = HTTPClientRequest(url: upstream + request.head.uri)
      out.method = request.head.method
      for (name, value) in request.head.headers where Self.kept(name) { out.headers.add(name: name, value: value) }
      for (name, value) in Self.identity(record, client: request.client, tenant: tenant, secret: secret) {
        out.headers.add(name: name, value: value)
      }
      if request.body.readableBytes > 0 { out.body = .bytes(request.body) }
      let response = try await Self.client.execute(out, timeout: Self.patience)
      let body = try await response.body.collect(upTo: Self.maximumAnswer)
      var headers = HTTPHeaders()
      for (name, value) in response.headers where Self.kept(name) { headers.add(name: name, value: value) }
      return MetadataAnswer(response.status, headers, body)
    } catch {
      logger.warning("the metadata server \(upstream) did not answer for instance \(record.vmUUID): \(error)")
      return MetadataAnswer(.badGateway, "the metadata server does not answer\n")
    }
  }
}
