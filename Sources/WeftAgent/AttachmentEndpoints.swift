import Hummingbird
import WeftAPI

extension HTTPInterface {
  var attachmentEndpoints: [Endpoint] {
    [
      Endpoint(.post, "/v1/attachments", addAttachment),
      Endpoint(.get, "/v1/attachments", listAttachments),
      Endpoint(.get, "/v1/attachments/{container-id}/{interface}", getAttachment),
      Endpoint(.delete, "/v1/attachments/{container-id}/{interface}", deleteAttachment),
      Endpoint(.post, "/v1/attachments/{container-id}/{interface}/activate", activateAttachment),
    ]
  }

  var statusEndpoints: [Endpoint] {
    [
      Endpoint(.get, "/v1/status", getStatus)
    ]
  }

  @Sendable private func addAttachment(_ request: Request, _ context: Context) async throws -> Response {
    let start = UnderlayWatcher.now()
    let asked = try await JSON.decode(AttachmentRequest.self, request)
    let (record, isNew) = try await store.reserve(try newAttachment(asked))
    agent.metrics.addBegun(record.containerID, record.interface, at: start)
    if isNew {
      logger.info(
        "attachment reserved",
        metadata: [
          "id": "\(record.id)", "container": "\(record.containerID)", "network": "\(record.network)",
          "addresses": "\(record.addresses.map(\.description).joined(separator: " "))",
        ])
    }
    return JSON.answer(agent.attachment(record), isNew ? .created : .ok)
  }

  private func newAttachment(_ asked: AttachmentRequest) throws -> NewAttachment {
    let addresses = asked.addresses ?? []
    guard asked.addressesOnly != true || !addresses.isEmpty else {
      throw APIError(.badRequest, "addresses-only without addresses: an interface needs one at least")
    }
    return NewAttachment(
      containerID: try Checks.containerID(asked.containerID),
      interface: try Checks.interface(asked.interface, "interface"),
      netns: try Checks.netns(asked.netns, "netns"), network: asked.network ?? configuration.defaultNetwork,
      mac: asked.mac, addresses: addresses, addressesOnly: asked.addressesOnly ?? false, bandwidth: asked.bandwidth,
      podName: try Checks.label(asked.podName, "pod-name"),
      podNamespace: try Checks.label(asked.podNamespace, "pod-namespace"),
      podUID: try Checks.label(asked.podUID, "pod-uid"), origin: .cni)
  }

  @Sendable private func listAttachments(_ request: Request, _ context: Context) async throws -> Response {
    var records = try await store.attachments()
    for (key, value) in request.uri.queryParameters {
      let value = String(value)
      switch key {
      case "container-id": records = records.filter { $0.containerID == value }
      case "network": records = records.filter { $0.network == value }
      case "pod-name": records = records.filter { $0.podName == value }
      case "state":
        guard let state = AttachmentState(rawValue: value) else {
          throw APIError(
            .badRequest,
            "state \"\(value.short)\" is none of \(AttachmentState.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        records = records.filter { $0.state == state }
      default:
        throw APIError(
          .badRequest, "\"\(String(key).short)\" selects nothing; there are container-id, network, pod-name and state")
      }
    }
    return JSON.answer(records.map(agent.attachment))
  }

  @Sendable private func getAttachment(_ request: Request, _ context: Context) async throws -> Response {
    let containerID = try context.containerID()
    let interface = try context.interface()
    let records = try await store.attachments(where: "container_id = ? AND interface = ?", [containerID, interface])
    guard let record = records.first else {
      throw APIError(.notFound, "there is no attachment of container \(containerID) and interface \(interface)")
    }
    return JSON.answer(agent.attachment(record))
  }

  @Sendable private func deleteAttachment(_ request: Request, _ context: Context) async throws -> Response {
    try await agent.delete(containerID: try context.containerID(), interface: try context.interface())
    return Response(status: .noContent)
  }

  @Sendable private func activateAttachment(_ request: Request, _ context: Context) async throws -> Response {
    let record = try await agent.activate(containerID: try context.containerID(), interface: try context.interface())
    return JSON.answer(agent.attachment(record))
  }

  @Sendable private func getStatus(_ request: Request, _ context: Context) async throws -> Response {
    let records = try await store.attachments()
    return JSON.answer(
      AgentStatus(
        node: configuration.node, version: AgentProgram.version, forwarder: agent.forwarderStatus,
        attachments: records.count, activeAttachments: records.count { $0.state == .active },
        defaultNetwork: configuration.defaultNetwork, pools: store.pools(), peers: agent.peerStatus,
        gateways: agent.gateways.status))
  }
}
