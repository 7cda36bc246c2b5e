import FoundationEssentials
import Hummingbird
import WeftAPI
import WeftWire

// What Tungsten Fabric's plugin asks. Nobody announces pods to an agent that stands alone, so the first question about
// a pod is what makes it known: an interface of it is reserved in the default network.

extension HTTPInterface {
  var podEndpoints: [Endpoint] {
    [
      Endpoint(.get, "/vm-cfg/{pod}", getPod),
      Endpoint(.get, "/vm-cfg-by-uuid/{vm-uuid}", getPodByUUID),
      Endpoint(.post, "/vm", reportInterface),
      Endpoint(.get, "/vm/{vm-uuid}", getInterfaces),
      Endpoint(.get, "/vm/{vm-uuid}/{vmi-uuid}", getInterfaces),
      Endpoint(.delete, "/vm/{vm-uuid}", deletePod),
    ]
  }

  /// Reservations that nobody claims go after so many seconds, and the oldest when there are more than so many.
  static let reservationSeconds: Int64 = 600
  static let reservationLimit = 1024

  @Sendable private func getPod(_ request: Request, _ context: Context) async throws -> Response {
    let pod = try PodName(try context.component("pod"))
    var records = try await find(pod)
    if records.isEmpty {
      try await agent.expireReservations(olderThan: Self.reservationSeconds, limit: Self.reservationLimit - 1)
      let (record, isNew) = try await store.reserve(
        NewAttachment(
          containerID: "pod-\(pod.text)", interface: "eth0", netns: "", network: configuration.defaultNetwork,
          vmUUID: pod.uuid ?? UUID().uuidString.lowercased(), podName: pod.name, podNamespace: pod.namespace,
          origin: .pod))
      if isNew { logger.info("reserved for pod \(pod.text)", metadata: ["id": "\(record.id)"]) }
      records = [record]
    }
    return JSON.answer(records.enumerated().map { describe($1, index: $0, of: records.count) })
  }

  /// No machine's own port; a VLAN of one is that of a pod in it.
  private static let isPod = "(origin <> 'port' OR vlan IS NOT NULL)"

  /// Unlike a name, a UUID is nothing to begin with: one that nobody has heard of reserves nothing.
  @Sendable private func getPodByUUID(_ request: Request, _ context: Context) async throws -> Response {
    let uuid = try context.uuid("vm-uuid")
    let records = try await find(PodName(uuid))
    guard !records.isEmpty else { throw APIError(.notFound, "there is no pod \(uuid)") }
    return JSON.answer(records.enumerated().map { describe($1, index: $0, of: records.count) })
  }

  private func find(_ pod: PodName) async throws -> [AttachmentRecord] {
    if let uuid = pod.uuid {
      let records = try await store.attachments(where: "vm_uuid = ? AND \(Self.isPod)", [uuid])
      if !records.isEmpty { return records }
    }
    return try await store.attachments(where: "pod_name = ? AND \(Self.isPod)", [pod.name])
      .filter { pod.namespace == nil || $0.podNamespace == nil || $0.podNamespace == pod.namespace }
  }

  @Sendable private func reportInterface(_ request: Request, _ context: Context) async throws -> Response {
    let report = try await JSON.decode(VMReport.self, request)
    let containerID = try Checks.containerID(report.vmID, "vm-id")
    let hostInterface = try Checks.interface(report.hostIfname, "host-ifname")
    let interface = try Checks.interface(report.vmIfname, "vm-ifname")
    let netns = try Checks.netns(report.vmNamespace, "vm-namespace")
    guard let vmUUID = Derived.uuid(report.vmUUID) else {
      throw APIError(.badRequest, "vm-uuid \"\(report.vmUUID.short)\" is no UUID")
    }
    var records = try await store.attachments(where: "vm_uuid = ? AND origin <> 'port'", [vmUUID])
    if let text = report.vmiUUID, !text.isEmpty {
      guard let id = Derived.uuid(text) else { throw APIError(.badRequest, "vmi-uuid \"\(text.short)\" is no UUID") }
      records = records.filter { $0.id == id }
    }
    guard let record = records.first, records.count == 1 else {
      throw APIError(
        .notFound,
        records.isEmpty
          ? "there is no interface \(report.vmiUUID ?? "") of \(vmUUID); ask /vm-cfg/{pod} first"
          : "\(vmUUID) has \(records.count) interfaces; vmi-uuid must say which is meant")
    }
    let placed = try await agent.place(
      id: record.id, containerID: containerID, interface: interface, netns: netns, hostInterface: hostInterface)
    logger.info(
      "interface \(hostInterface) of container \(containerID) is \(placed.state.rawValue)",
      metadata: ["id": "\(record.id)", "reason": "\(placed.reason ?? "-")"])
    return JSON.empty
  }

  @Sendable private func getInterfaces(_ request: Request, _ context: Context) async throws -> Response {
    let vmUUID = try context.uuid("vm-uuid")
    let all = try await store.attachments(where: "vm_uuid = ? AND \(Self.isPod)", [vmUUID])
    let id = context.parameters.get("vmi-uuid") == nil ? nil : try context.uuid("vmi-uuid")
    let active = all.enumerated().filter { (id == nil || $1.id == id) && $1.state == .active }
    guard !active.isEmpty else {
      throw APIError(
        .notFound,
        all.isEmpty
          ? "there is no pod \(vmUUID)"
          : "no interface of \(vmUUID) is active: \(all.first?.reason ?? "none was reported yet")")
    }
    return JSON.answer(active.map { describe($0.element, index: $0.offset, of: all.count) })
  }

  @Sendable private func deletePod(_ request: Request, _ context: Context) async throws -> Response {
    let vmUUID = try context.uuid("vm-uuid")
    // The plugin sends what it sent with POST /vm, most of it empty. A container that has been replaced deletes nothing.
    let body = try await JSON.body(request)
    struct Sender: Decodable {
      var containerID: String?
      enum CodingKeys: String, CodingKey { case containerID = "vm-id" }
    }
    let sender = body.isEmpty ? nil : try JSON.decode(Sender.self, body).containerID
    let count = try await agent.delete(
      vmUUID: vmUUID, onlyContainer: sender.flatMap { $0.isEmpty ? nil : $0 })
    if count == 0 { logger.info("nothing to delete of \(vmUUID)") }
    return JSON.empty
  }

  private func describe(_ record: AttachmentRecord, index: Int, of count: Int) -> VMInterface {
    let attachment = agent.attachment(record)
    let v4 = attachment.addresses.first { $0.address.address.isV4 }
    let v6 = attachment.addresses.first { !$0.address.address.isV4 }
    let dns = attachment.dns.first { $0.isV4 } ?? attachment.dns.first
    let facts = [
      ("cluster", configuration.node), ("kind", "Pod"), ("name", record.podName ?? record.containerID),
      ("namespace", record.podNamespace ?? "default"), ("network", record.network), ("owner", "weft"),
      ("project", record.podNamespace ?? "default"), ("index", "\(index)/\(count)"), ("interface", record.interface),
    ]
    return VMInterface(
      vmUUID: record.vmUUID, id: record.id, vnID: Derived.networkUUID(record.network), vnName: record.network,
      macAddress: record.mac.description, vlanID: record.vlan ?? VMInterface.noVLAN,
      ipAddress: v4?.address.address.description ?? "",
      plen: v4?.address.prefixLength ?? 0, gateway: v4?.gateway.description ?? "",
      dnsServer: dns?.description ?? v4?.gateway.description ?? "",
      ip6Address: v6?.address.address.description, ip6PLen: v6?.address.prefixLength,
      ip6Gateway: v6?.gateway.description, networkLabel: record.network,
      annotations: facts.map { "{\($0):\($1)}" })
  }
}

/// A pod as the field's plugin names it: its name, "cluster__namespace__name", or a UUID.
private struct PodName {
  let text: String
  let name: String
  let namespace: String?
  let uuid: String?

  init(_ text: String) throws {
    // The longest that still makes a container id of "pod-NAME". An empty cluster leaves the name with "__" in front.
    guard text.utf8.count <= 250, Names.isValid(String(text.drop { $0 == "_" })) else {
      throw APIError(
        .badRequest,
        "pod name \"\(text.short)\" must be at most 250 letters, digits, '_', '.' and '-', the first a letter or digit")
    }
    self.text = text
    uuid = Derived.uuid(text)
    let parts = text.split("__")
    name = parts.last ?? text
    namespace = parts.count > 1 ? parts[parts.count - 2] : nil
  }
}

extension String {
  /// The parts between occurrences of a separator, empty ones left out.
  fileprivate func split(_ separator: String) -> [String] {
    split(separator: separator, omittingEmptySubsequences: true).map(String.init)
  }
}
