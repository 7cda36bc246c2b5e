import WeftWire

// A message in a slot: kind (2 bytes), two bytes of zero, payload length (4 bytes), sequence (8 bytes), payload.

enum MessageLayout {
  static let headerBytes = 16
}

/// A message taken out of a slot: a private copy, so that the other side cannot change it under the reader.
struct RawMessage {
  let kind: UInt16
  let sequence: UInt64
  let payload: [UInt8]

  func read<T>(_ body: (inout SlotReader) throws(SlotFault) -> T) throws(SlotFault) -> T {
    var result: Result<T, SlotFault> = .failure(SlotFault(what: "payload"))
    unsafe payload.withUnsafeBytes { bytes in
      var reader = unsafe SlotReader(bytes)
      do throws(SlotFault) {
        let value = try body(&reader)
        try reader.finish()
        result = .success(value)
      } catch { result = .failure(error) }
    }
    return try result.get()
  }
}

extension Command {
  private enum Kind: UInt16 {
    case begin = 1
    case sweep, setInterface, removeInterface, setVRF, removeVRF, setNexthop, removeNexthop, setLabel, removeLabel
    case setVNI, removeVNI, setRoute, removeRoute, setBridge, removeBridge, dump, barrier
    case setNATPool, removeNATPool, setSourceNAT, removeSourceNAT, setStaticNAT, removeStaticNAT
    case setDestinationNAT, removeDestinationNAT, setService, removeService, setBackend, removeBackend
    case setAddressSet, removeAddressSet, setAddressSetMember, removeAddressSetMember, setRule, removeRule
    case setNeighbor, removeNeighbor
    case setPolicer, removePolicer, setClassifier, removeClassifier, setRemark, removeRemark
    case setMirror, removeMirror, setInterfaceMirror, removeInterfaceMirror, stage, trace
    case startCapture, stopCapture
    case setFlowExport, watchFlows, setFlowSettings
    case transmit
  }

  var kindValue: UInt16 {
    let kind: Kind =
      switch self {
      case .begin: .begin
      case .sweep: .sweep
      case .setInterface: .setInterface
      case .removeInterface: .removeInterface
      case .setVRF: .setVRF
      case .removeVRF: .removeVRF
      case .setNexthop: .setNexthop
      case .removeNexthop: .removeNexthop
      case .setLabel: .setLabel
      case .removeLabel: .removeLabel
      case .setVNI: .setVNI
      case .removeVNI: .removeVNI
      case .setRoute: .setRoute
      case .removeRoute: .removeRoute
      case .setBridge: .setBridge
      case .removeBridge: .removeBridge
      case .dump: .dump
      case .barrier: .barrier
      case .setNATPool: .setNATPool
      case .removeNATPool: .removeNATPool
      case .setSourceNAT: .setSourceNAT
      case .removeSourceNAT: .removeSourceNAT
      case .setStaticNAT: .setStaticNAT
      case .removeStaticNAT: .removeStaticNAT
      case .setDestinationNAT: .setDestinationNAT
      case .removeDestinationNAT: .removeDestinationNAT
      case .setService: .setService
      case .removeService: .removeService
      case .setBackend: .setBackend
      case .removeBackend: .removeBackend
      case .setAddressSet: .setAddressSet
      case .removeAddressSet: .removeAddressSet
      case .setAddressSetMember: .setAddressSetMember
      case .removeAddressSetMember: .removeAddressSetMember
      case .setRule: .setRule
      case .removeRule: .removeRule
      case .setNeighbor: .setNeighbor
      case .removeNeighbor: .removeNeighbor
      case .setPolicer: .setPolicer
      case .removePolicer: .removePolicer
      case .setClassifier: .setClassifier
      case .removeClassifier: .removeClassifier
      case .setRemark: .setRemark
      case .removeRemark: .removeRemark
      case .setMirror: .setMirror
      case .removeMirror: .removeMirror
      case .setInterfaceMirror: .setInterfaceMirror
      case .removeInterfaceMirror: .removeInterfaceMirror
      case .stage: .stage
      case .trace: .trace
      case .startCapture: .startCapture
      case .stopCapture: .stopCapture
      case .setFlowExport: .setFlowExport
      case .watchFlows: .watchFlows
      case .setFlowSettings: .setFlowSettings
      case .transmit: .transmit
      }
    return kind.rawValue
  }

  func write(to writer: inout SlotWriter) {
    switch self {
    case .begin(let generation), .sweep(let generation): writer.put(generation)
    case .setInterface(let entry): writer.put(entry)
    case .setVRF(let entry): writer.put(entry)
    case .setNexthop(let entry): writer.put(entry)
    case .setLabel(let entry): writer.put(entry)
    case .setVNI(let entry): writer.put(entry)
    case .setRoute(let entry): writer.put(entry)
    case .setBridge(let entry): writer.put(entry)
    case .removeInterface(let id), .removeVRF(let id), .removeNexthop(let id): writer.put(id)
    case .removeLabel(let label): writer.put(label)
    case .removeVNI(let vni): writer.put(vni)
    case .removeRoute(let vrf, let prefix):
      writer.put(vrf)
      writer.put(prefix)
    case .removeBridge(let vrf, let mac):
      writer.put(vrf)
      writer.put(mac)
    case .dump(let table, let cursor, let limit):
      writer.put(table.rawValue)
      writer.put(cursor)
      writer.put(limit)
    case .barrier: break
    case .setNATPool(let entry): writer.put(entry)
    case .setSourceNAT(let entry): writer.put(entry)
    case .setStaticNAT(let entry): writer.put(entry)
    case .setDestinationNAT(let entry): writer.put(entry)
    case .setService(let entry): writer.put(entry)
    case .setBackend(let entry): writer.put(entry)
    case .removeNATPool(let id), .removeSourceNAT(let id): writer.put(id)
    case .removeStaticNAT(let vrf, let inside):
      writer.put(vrf)
      writer.put(inside)
    case .removeDestinationNAT(let key), .removeService(let key): writer.put(key)
    case .removeBackend(let service, let vrf, let address, let port):
      writer.put(service)
      writer.put(vrf)
      writer.put(address)
      writer.put(port)
    case .setAddressSet(let entry): writer.put(entry)
    case .setAddressSetMember(let entry): writer.put(entry)
    case .setRule(let entry): writer.put(entry)
    case .removeAddressSet(let id), .removeRule(let id): writer.put(id)
    case .setMirror(let entry): writer.put(entry)
    case .setInterfaceMirror(let entry): writer.put(entry)
    case .removeMirror(let id), .removeInterfaceMirror(let id): writer.put(id)
    case .stage(let offset, let bytes):
      writer.put(offset)
      let kept = bytes.prefix(StagedBytes.partBytes)
      writer.put(UInt16(kept.count))
      writer.put(bytes: kept)
    case .startCapture(let capture): writer.put(capture)
    case .stopCapture(let id): writer.put(id)
    case .setFlowExport(let entry):
      writer.put(UInt8(entry == nil ? 0 : 1))
      if let entry { writer.put(entry) }
    case .setFlowSettings(let entry):
      writer.put(UInt8(entry == nil ? 0 : 1))
      if let entry { writer.put(entry) }
    case .watchFlows: break
    case .trace(let interface, let length), .transmit(let interface, let length):
      writer.put(interface)
      writer.put(length)
    case .removeAddressSetMember(let set, let prefix):
      writer.put(set)
      writer.put(prefix)
    case .setNeighbor(let entry): writer.put(entry)
    case .removeNeighbor(let vrf, let address):
      writer.put(vrf)
      writer.put(address)
    case .setPolicer(let entry): writer.put(entry)
    case .setClassifier(let entry): writer.put(entry)
    case .setRemark(let entry): writer.put(entry)
    case .removePolicer(let id), .removeClassifier(let id), .removeRemark(let id): writer.put(id)
    }
  }

  /// The command in a message, or what is wrong with it.
  static func read(_ message: RawMessage) -> Result<Command, Refusal> {
    guard let kind = Kind(rawValue: message.kind) else {
      return .failure(
        Refusal(
          .unknownMessage, "message kind \(message.kind) is not known; are agent and forwarder of one version?"))
    }
    do throws(SlotFault) {
      return .success(
        try message.read { r throws(SlotFault) in
          switch kind {
          case .begin: .begin(generation: try r.get("generation"))
          case .sweep: .sweep(generation: try r.get("generation"))
          case .setInterface: .setInterface(try r.interface())
          case .removeInterface: .removeInterface(id: try r.get("interface id"))
          case .setVRF: .setVRF(try r.vrf())
          case .removeVRF: .removeVRF(id: try r.get("vrf id"))
          case .setNexthop: .setNexthop(try r.nexthop())
          case .removeNexthop: .removeNexthop(id: try r.get("nexthop id"))
          case .setLabel: .setLabel(try r.label())
          case .removeLabel: .removeLabel(label: try r.get("label"))
          case .setVNI: .setVNI(try r.vni())
          case .removeVNI: .removeVNI(vni: try r.get("vni"))
          case .setRoute: .setRoute(try r.route())
          case .removeRoute: .removeRoute(vrf: try r.get("vrf"), prefix: try r.prefix("prefix"))
          case .setBridge: .setBridge(try r.bridge())
          case .removeBridge: .removeBridge(vrf: try r.get("vrf"), mac: try r.mac("mac"))
          case .dump: .dump(table: try r.option("table"), cursor: try r.get("cursor"), limit: try r.get("limit"))
          case .barrier: .barrier
          case .setNATPool: .setNATPool(try r.natPool())
          case .removeNATPool: .removeNATPool(id: try r.get("pool id"))
          case .setSourceNAT: .setSourceNAT(try r.sourceNAT())
          case .removeSourceNAT: .removeSourceNAT(id: try r.get("rule id"))
          case .setStaticNAT: .setStaticNAT(try r.staticNAT())
          case .removeStaticNAT:
            .removeStaticNAT(insideVRF: try r.get("inside vrf"), inside: try r.address("inside address"))
          case .setDestinationNAT: .setDestinationNAT(try r.destinationNAT())
          case .removeDestinationNAT: .removeDestinationNAT(try r.serviceKey())
          case .setService: .setService(try r.service())
          case .removeService: .removeService(try r.serviceKey())
          case .setBackend: .setBackend(try r.backend())
          case .removeBackend:
            .removeBackend(
              service: try r.serviceKey(), vrf: try r.get("backend vrf"), address: try r.address("backend address"),
              port: try r.get("backend port"))
          case .setAddressSet: .setAddressSet(try r.addressSet())
          case .removeAddressSet: .removeAddressSet(id: try r.get("set id"))
          case .setAddressSetMember: .setAddressSetMember(try r.addressSetMember())
          case .removeAddressSetMember: .removeAddressSetMember(set: try r.get("set"), prefix: try r.prefix("prefix"))
          case .setRule: .setRule(try r.rule())
          case .removeRule: .removeRule(id: try r.get("rule id"))
          case .setNeighbor: .setNeighbor(try r.neighbor())
          case .removeNeighbor: .removeNeighbor(vrf: try r.get("vrf"), address: try r.address("address"))
          case .setPolicer: .setPolicer(try r.policer())
          case .removePolicer: .removePolicer(id: try r.get("policer id"))
          case .setClassifier: .setClassifier(try r.classifier())
          case .removeClassifier: .removeClassifier(id: try r.get("classifier id"))
          case .setRemark: .setRemark(try r.remark())
          case .removeRemark: .removeRemark(id: try r.get("remark id"))
          case .setMirror: .setMirror(try r.mirror())
          case .removeMirror: .removeMirror(id: try r.get("mirror id"))
          case .setInterfaceMirror: .setInterfaceMirror(try r.interfaceMirror())
          case .removeInterfaceMirror: .removeInterfaceMirror(interface: try r.get("interface id"))
          case .stage:
            .stage(
              offset: try r.get("offset"),
              bytes: try r.octets("bytes", count: Int(try r.get("byte count", as: UInt16.self))))
          case .startCapture: .startCapture(try r.capture())
          case .setFlowExport: .setFlowExport(try r.flag("is set") ? try r.flowExport() : nil)
          case .watchFlows: .watchFlows
          case .setFlowSettings: .setFlowSettings(try r.flag("is set") ? try r.flowSettings() : nil)
          case .stopCapture: .stopCapture(id: try r.get("capture id"))
          case .trace: .trace(interface: try r.get("interface id"), length: try r.get("frame length"))
          case .transmit: .transmit(interface: try r.get("interface id"), length: try r.get("frame length"))
          }
        })
    } catch {
      return .failure(Refusal(.malformed, "message kind \(message.kind): field \"\(error.what)\" is missing or wrong"))
    }
  }
}

extension Completion {
  private static let done: UInt16 = 1
  private static let refused: UInt16 = 2
  private static let traceStep: UInt16 = 3
  private static let traceFrame: UInt16 = 4
  /// Entries: this plus the table's number.
  private static let entry: UInt16 = 16
  private static let reasonBytes = 200

  var kindValue: UInt16 {
    switch self {
    case .done: Self.done
    case .refused: Self.refused
    case .traceStep: Self.traceStep
    case .traceFrame: Self.traceFrame
    case .entry(_, let entry): Self.entry + UInt16(entry.table.rawValue)
    }
  }

  func write(to writer: inout SlotWriter) {
    switch self {
    case .done(_, let cursor): writer.put(cursor)
    case .refused(_, let refusal):
      writer.put(refusal.code.rawValue)
      writer.put(refusal.reason, maximum: Self.reasonBytes)
    case .traceStep(_, let step): writer.put(step)
    case .traceFrame(_, let frame): writer.put(frame)
    case .entry(_, let entry):
      switch entry {
      case .interface(let configuration, let state):
        writer.put(configuration)
        writer.put(UInt8(state.isUp ? 1 : 0))
        writer.put(state.kernelIndex)
      case .vrf(let entry): writer.put(entry)
      case .nexthop(let entry): writer.put(entry)
      case .label(let entry): writer.put(entry)
      case .vni(let entry): writer.put(entry)
      case .route(let entry): writer.put(entry)
      case .bridge(let entry, let state):
        writer.put(entry)
        writer.put(state)
      case .flow(let entry): writer.put(entry)
      case .natPool(let configuration, let state):
        writer.put(configuration)
        writer.put(state)
      case .sourceNAT(let entry): writer.put(entry)
      case .staticNAT(let entry): writer.put(entry)
      case .destinationNAT(let entry): writer.put(entry)
      case .service(let entry): writer.put(entry)
      case .backend(let entry): writer.put(entry)
      case .addressSet(let entry): writer.put(entry)
      case .addressSetMember(let entry): writer.put(entry)
      case .rule(let entry, let hits):
        writer.put(entry)
        writer.put(hits)
      case .neighbor(let entry): writer.put(entry)
      case .policer(let entry, let state):
        writer.put(entry)
        writer.put(state)
      case .classifier(let entry): writer.put(entry)
      case .remark(let entry): writer.put(entry)
      case .mirror(let entry, let state):
        writer.put(entry)
        writer.put(state)
      case .interfaceMirror(let entry): writer.put(entry)
      case .flowExport(let entry): writer.put(entry)
      case .flowSettings(let entry): writer.put(entry)
      }
    }
  }

  static func read(_ message: RawMessage) throws(SlotFault) -> Completion {
    let sequence = message.sequence
    return try message.read { r throws(SlotFault) in
      if message.kind == Self.done { return .done(sequence: sequence, cursor: try r.get("cursor")) }
      if message.kind == Self.refused {
        let code: RefusalCode = try r.option("code")
        return .refused(sequence: sequence, Refusal(code, try r.text("reason", maximum: Self.reasonBytes)))
      }
      if message.kind == Self.traceStep { return .traceStep(sequence: sequence, try r.traceStep()) }
      if message.kind == Self.traceFrame { return .traceFrame(sequence: sequence, try r.traceFrame()) }
      guard message.kind > Self.entry, message.kind - Self.entry <= 255,
        let table = TableName(rawValue: UInt8(message.kind - Self.entry))
      else { throw SlotFault(what: "completion kind") }
      let entry: TableEntry
      switch table {
      case .interfaces:
        let configuration = try r.interface()
        let isUp = try r.flag("up")
        entry = .interface(configuration, InterfaceState(isUp: isUp, kernelIndex: try r.get("kernel index")))
      case .vrfs: entry = .vrf(try r.vrf())
      case .nexthops: entry = .nexthop(try r.nexthop())
      case .labels: entry = .label(try r.label())
      case .vnis: entry = .vni(try r.vni())
      case .routes: entry = .route(try r.route())
      case .bridge:
        let configuration = try r.bridge()
        entry = .bridge(configuration, try r.bridgeState())
      case .flows: entry = .flow(try r.flow())
      case .natPools:
        let configuration = try r.natPool()
        entry = .natPool(configuration, try r.natPoolState())
      case .sourceNAT: entry = .sourceNAT(try r.sourceNAT())
      case .staticNAT: entry = .staticNAT(try r.staticNAT())
      case .destinationNAT: entry = .destinationNAT(try r.destinationNAT())
      case .services: entry = .service(try r.service())
      case .backends: entry = .backend(try r.backend())
      case .addressSets: entry = .addressSet(try r.addressSet())
      case .addressSetMembers: entry = .addressSetMember(try r.addressSetMember())
      case .rules:
        let rule = try r.rule()
        entry = .rule(rule, hits: try r.get("hits"))
      case .neighbors: entry = .neighbor(try r.neighbor())
      case .policers:
        let policer = try r.policer()
        entry = .policer(policer, try r.policerState())
      case .classifiers: entry = .classifier(try r.classifier())
      case .remarks: entry = .remark(try r.remark())
      case .mirrors:
        let mirror = try r.mirror()
        entry = .mirror(mirror, try r.mirrorState())
      case .interfaceMirrors: entry = .interfaceMirror(try r.interfaceMirror())
      case .flowExport: entry = .flowExport(try r.flowExport())
      case .flowSettings: entry = .flowSettings(try r.flowSettings())
      }
      return .entry(sequence: sequence, entry)
    }
  }
}
