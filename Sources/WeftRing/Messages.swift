import WeftWire

/// The tables that can be read back.
public enum TableName: UInt8, Sendable, CaseIterable {
  case interfaces = 1
  case vrfs, nexthops, labels, vnis, routes, bridge, flows
  case natPools, sourceNAT, staticNAT, destinationNAT, services, backends
  case addressSets, addressSetMembers, rules
  case neighbors
  case policers, classifiers, remarks
  case mirrors, interfaceMirrors
  case flowExport, flowSettings
}

/// Agent to forwarder.
public enum Command: Hashable, Sendable {
  /// Everything that is set from here on carries this generation, which must not be lower than the one before.
  /// Setting an entry again as it is only renews its generation: forwarding does not notice.
  case begin(generation: UInt64)
  /// Removes what older generations left, in an order that leaves nothing dangling.
  case sweep(generation: UInt64)
  case setInterface(InterfaceConfiguration)
  case removeInterface(id: UInt32)
  case setVRF(VRFConfiguration)
  case removeVRF(id: UInt32)
  case setNexthop(NexthopConfiguration)
  case removeNexthop(id: UInt32)
  case setLabel(LabelConfiguration)
  case removeLabel(label: UInt32)
  case setVNI(VNIConfiguration)
  case removeVNI(vni: UInt32)
  case setRoute(RouteConfiguration)
  case removeRoute(vrf: UInt32, prefix: IPPrefix)
  case setBridge(BridgeConfiguration)
  case removeBridge(vrf: UInt32, mac: MACAddress)
  /// Answered by up to `limit` entries and a `done` whose cursor is where to go on (0: that was all).
  case dump(table: TableName, cursor: UInt64, limit: UInt32)
  /// Answered when everything before it is in force on every worker.
  case barrier
  case setNATPool(NATPoolConfiguration)
  case removeNATPool(id: UInt32)
  case setSourceNAT(SourceNATConfiguration)
  case removeSourceNAT(id: UInt32)
  case setStaticNAT(StaticNATConfiguration)
  case removeStaticNAT(insideVRF: UInt32, inside: IPAddress)
  case setDestinationNAT(DestinationNATConfiguration)
  case removeDestinationNAT(ServiceKey)
  case setService(ServiceConfiguration)
  /// With its backends.
  case removeService(ServiceKey)
  case setBackend(BackendConfiguration)
  case removeBackend(service: ServiceKey, vrf: UInt32, address: IPAddress, port: UInt16)
  case setAddressSet(AddressSetConfiguration)
  /// With its members.
  case removeAddressSet(id: UInt32)
  case setAddressSetMember(AddressSetMember)
  case removeAddressSetMember(set: UInt32, prefix: IPPrefix)
  /// Rules are in force after the batch of commands that they came with, at the latest when a barrier is answered;
  /// members at once. Who empties a set that a rule no longer refers to waits for a barrier in between.
  case setRule(RuleConfiguration)
  case removeRule(id: UInt32)
  case setNeighbor(NeighborConfiguration)
  case removeNeighbor(vrf: UInt32, address: IPAddress)
  case setPolicer(PolicerConfiguration)
  case removePolicer(id: UInt32)
  case setClassifier(ClassifierConfiguration)
  case removeClassifier(id: UInt32)
  case setRemark(RemarkConfiguration)
  case removeRemark(id: UInt32)
  case setMirror(MirrorConfiguration)
  case removeMirror(id: UInt32)
  case setInterfaceMirror(InterfaceMirrorConfiguration)
  case removeInterfaceMirror(interface: UInt32)
  /// nil: what holds as long as nothing is set.
  case setFlowExport(FlowExportConfiguration?)
  case setFlowSettings(FlowSettingsConfiguration?)
  /// This channel gets `Event.flow`, which else only an agent does.
  case watchFlows
  /// A part of what a later command of this channel takes (`StagedBytes`); offset 0 begins anew.
  case stage(offset: UInt32, bytes: [UInt8])
  /// What would become of a frame, `length` bytes that have been staged, that came in by an interface. Answered by steps
  /// and frames, then `done`.
  case trace(interface: UInt32, length: UInt32)
  /// Frames from here on, into memory whose descriptor comes over the channel's socket; the filter has been staged.
  /// Answered by `done`, whose cursor is the capture's number.
  case startCapture(CaptureConfiguration)
  case stopCapture(id: UInt32)
  /// A frame, `length` bytes that have been staged, goes out of an interface: an answer to `Event.trap`, or what the agent
  /// has to say by itself. Answered when it is with the worker that sends it; refused as `tableFull` where too many are.
  case transmit(interface: UInt32, length: UInt32)
}

/// Why a command was refused. What a refused command would have changed is as it was.
public enum RefusalCode: UInt16, Sendable, CaseIterable {
  /// A message kind that this forwarder does not know.
  case unknownMessage = 1
  /// A message that does not hold what its kind needs.
  case malformed
  /// An index, label, VNI, length or address outside its range.
  case outOfRange
  /// It names an interface, VRF or nexthop that is not there.
  case notFound
  /// Something still refers to it.
  case inUse
  /// The table is full.
  case tableFull
  /// It contradicts what is there, such as a second interface on one device.
  case conflict
  /// The kernel would not open or set up the device.
  case device
  /// A generation lower than the current one.
  case staleGeneration
  /// This channel may only read.
  case readOnly

  public var name: String {
    switch self {
    case .unknownMessage: "unknown_message"
    case .malformed: "malformed"
    case .outOfRange: "out_of_range"
    case .notFound: "not_found"
    case .inUse: "in_use"
    case .tableFull: "table_full"
    case .conflict: "conflict"
    case .device: "device"
    case .staleGeneration: "stale_generation"
    case .readOnly: "read_only"
    }
  }
}

/// A refused command: a code for programs and a sentence for people (what, where, what to do).
public struct Refusal: Error, Hashable, Sendable, CustomStringConvertible {
  public var code: RefusalCode
  public var reason: String

  public init(_ code: RefusalCode, _ reason: String) {
    self.code = code
    self.reason = reason
  }

  public var description: String { "\(code.name): \(reason)" }
}

/// An entry as read back.
public enum TableEntry: Hashable, Sendable {
  case interface(InterfaceConfiguration, InterfaceState)
  case vrf(VRFConfiguration)
  case nexthop(NexthopConfiguration)
  case label(LabelConfiguration)
  case vni(VNIConfiguration)
  case route(RouteConfiguration)
  case bridge(BridgeConfiguration, BridgeState)
  case flow(FlowRecord)
  case natPool(NATPoolConfiguration, NATPoolState)
  case sourceNAT(SourceNATConfiguration)
  case staticNAT(StaticNATConfiguration)
  case destinationNAT(DestinationNATConfiguration)
  case service(ServiceConfiguration)
  case backend(BackendConfiguration)
  case addressSet(AddressSetConfiguration)
  case addressSetMember(AddressSetMember)
  /// `hits`: flows that the rule has decided on.
  case rule(RuleConfiguration, hits: UInt64)
  case neighbor(NeighborConfiguration)
  case policer(PolicerConfiguration, PolicerState)
  case classifier(ClassifierConfiguration)
  case remark(RemarkConfiguration)
  case mirror(MirrorConfiguration, MirrorState)
  case interfaceMirror(InterfaceMirrorConfiguration)
  case flowExport(FlowExportConfiguration)
  case flowSettings(FlowSettingsConfiguration)

  /// The table it stands in.
  public var table: TableName {
    switch self {
    case .interface: .interfaces
    case .vrf: .vrfs
    case .nexthop: .nexthops
    case .label: .labels
    case .vni: .vnis
    case .route: .routes
    case .bridge: .bridge
    case .flow: .flows
    case .natPool: .natPools
    case .sourceNAT: .sourceNAT
    case .staticNAT: .staticNAT
    case .destinationNAT: .destinationNAT
    case .service: .services
    case .backend: .backends
    case .addressSet: .addressSets
    case .addressSetMember: .addressSetMembers
    case .rule: .rules
    case .neighbor: .neighbors
    case .policer: .policers
    case .classifier: .classifiers
    case .remark: .remarks
    case .mirror: .mirrors
    case .interfaceMirror: .interfaceMirrors
    case .flowExport: .flowExport
    case .flowSettings: .flowSettings
    }
  }
}

/// Forwarder to agent: what became of a command. `sequence` is the command's, counted from 0 on each channel.
public enum Completion: Hashable, Sendable {
  case entry(sequence: UInt64, TableEntry)
  case traceStep(sequence: UInt64, TraceStep)
  case traceFrame(sequence: UInt64, TraceFrame)
  /// Done. `cursor` is used by `dump` alone.
  case done(sequence: UInt64, cursor: UInt64)
  case refused(sequence: UInt64, Refusal)

  public var sequence: UInt64 {
    switch self {
    case .entry(let sequence, _), .traceStep(let sequence, _), .traceFrame(let sequence, _), .done(let sequence, _),
      .refused(let sequence, _):
      sequence
    }
  }

  /// No more is said about the command.
  public var isLast: Bool {
    switch self {
    case .done, .refused: true
    case .entry, .traceStep, .traceFrame: false
    }
  }
}

/// Forwarder to agent, unasked.
public enum Event: Hashable, Sendable {
  /// An interface's link went up or down, or its device went away.
  case interfaceState(id: UInt32, isUp: Bool)
  /// A packet that the forwarder leaves to the agent (`InterfaceFlags.dhcp`): its frame as it came from the interface, but
  /// without VLAN tags, with its checksums finished, and without what stands behind the IP packet.
  case trap(interface: UInt32, vrf: UInt32, frame: [UInt8])
  /// Events were lost because the ring was full.
  case lost(count: UInt64)
  /// A learned MAC address, and where it is now (aged: was).
  case station(StationChange, BridgeConfiguration)
  /// A packet waits for the MAC address of a host of a subnet on this interface (`NexthopConfiguration.Action.resolve`).
  case resolve(interface: UInt32, vrf: UInt32, address: IPAddress)
  /// A flow has begun, goes on or has ended.
  case flow(FlowReport)
}
