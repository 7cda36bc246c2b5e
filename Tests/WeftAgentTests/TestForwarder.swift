import Glibc
import Synchronization
import WeftAgent
import WeftRing
import WeftWire

/// Tables that hold what they are told and refuse what would dangle, as a forwarder does.
struct CheckedTables: Sendable {
  var state = ForwarderState()
  var generation: UInt64 = 0
  private var generations: [String: UInt64] = [:]

  /// Nil when it was done.
  mutating func apply(_ command: Command) -> Refusal? {
    switch command {
    case .begin(let new):
      guard new >= generation else { return Refusal(.staleGeneration, "\(new) < \(generation)") }
      generation = new
    case .sweep(let current): return sweep(current)
    case .setVRF(let entry): return keep("vrf \(entry.id)") { $0.set(entry) }
    case .setInterface(let entry):
      guard entry.role == .fabric || state.vrfs[entry.vrf] != nil else { return missing("vrf \(entry.vrf)") }
      guard !state.interfaces.values.contains(where: { $0.device == entry.device && $0.id != entry.id }) else {
        return Refusal(.conflict, "another interface has device \(entry.device)")
      }
      if let vlan = entry.vlan, state.interfaces[vlan.parent].map({ $0.vlan == nil }) != true {
        return missing("interface \(vlan.parent)")
      }
      return keep("interface \(entry.id)") { $0.set(entry) }
    case .setNexthop(let entry):
      switch entry.action {
      case .encap(let interface, _): if state.interfaces[interface] == nil { return missing("interface \(interface)") }
      case .tunnel(let tunnel):
        if state.interfaces[tunnel.interface]?.role != .fabric { return missing("fabric \(tunnel.interface)") }
      case .vrfTranslate(let vrf): if state.vrfs[vrf] == nil { return missing("vrf \(vrf)") }
      case .ecmp(let members):
        for member in members where state.nexthops[member.nexthop] == nil {
          return missing("nexthop \(member.nexthop)")
        }
      case .discard, .receive: break
      // The agent sets no others.
      default: return Refusal(.malformed, "nexthop \(entry.id) is nothing that the agent would set")
      }
      return keep("nexthop \(entry.id)") { $0.set(entry) }
    case .setLabel(let entry): return refer(entry.nexthop, "label \(entry.label)") { $0.set(entry) }
    case .setVNI(let entry): return refer(entry.nexthop, "vni \(entry.vni)") { $0.set(entry) }
    case .setRoute(let entry):
      guard state.vrfs[entry.vrf] != nil else { return missing("vrf \(entry.vrf)") }
      return refer(entry.nexthop, "route \(entry.vrf) \(entry.prefix)") { $0.set(entry) }
    case .setBridge(let entry):
      guard state.vrfs[entry.vrf] != nil else { return missing("vrf \(entry.vrf)") }
      return refer(entry.nexthop, "bridge \(entry.vrf) \(entry.mac)") { $0.set(entry) }
    case .removeVRF(let id):
      let isUsed =
        state.interfaces.values.contains { $0.role == .virtual && $0.vrf == id }
        || state.routes.keys.contains { $0.vrf == id } || state.bridge.keys.contains { $0.vrf == id }
        || state.nexthops.values.contains { $0.action == .vrfTranslate(vrf: id) }
      return drop("vrf \(id)", isUsed) { $0.vrfs.removeValue(forKey: id) != nil }
    case .removeInterface(let id):
      let isUsed = state.nexthops.values.contains {
        switch $0.action {
        case .encap(let interface, _): interface == id
        case .tunnel(let tunnel): tunnel.interface == id
        default: false
        }
      }
      let isParent = state.interfaces.values.contains { $0.vlan?.parent == id }
      return drop("interface \(id)", isUsed || isParent) { $0.interfaces.removeValue(forKey: id) != nil }
    case .removeNexthop(let id):
      let isUsed =
        state.routes.values.contains { $0.nexthop == id } || state.bridge.values.contains { $0.nexthop == id }
        || state.labels.values.contains { $0.nexthop == id } || state.vnis.values.contains { $0.nexthop == id }
      return drop("nexthop \(id)", isUsed) { $0.nexthops.removeValue(forKey: id) != nil }
    case .removeLabel(let label): return drop("label \(label)") { $0.labels.removeValue(forKey: label) != nil }
    case .removeVNI(let vni): return drop("vni \(vni)") { $0.vnis.removeValue(forKey: vni) != nil }
    case .removeRoute(let vrf, let prefix):
      return drop("route \(vrf) \(prefix)") { $0.routes.removeValue(forKey: .init(vrf: vrf, prefix: prefix)) != nil }
    case .removeBridge(let vrf, let mac):
      return drop("bridge \(vrf) \(mac)") { $0.bridge.removeValue(forKey: .init(vrf: vrf, mac: mac)) != nil }
    // What does not touch these tables.
    default: break
    }
    return nil
  }

  private func missing(_ what: String) -> Refusal { Refusal(.notFound, "there is no \(what)") }

  private mutating func keep(_ key: String, _ body: (inout ForwarderState) -> Void) -> Refusal? {
    body(&state)
    generations[key] = generation
    return nil
  }

  private mutating func refer(_ nexthop: UInt32, _ key: String, _ body: (inout ForwarderState) -> Void) -> Refusal? {
    state.nexthops[nexthop] == nil ? missing("nexthop \(nexthop)") : keep(key, body)
  }

  private mutating func drop(
    _ key: String, _ isUsed: Bool = false, _ body: (inout ForwarderState) -> Bool
  ) -> Refusal? {
    if isUsed { return Refusal(.inUse, key) }
    generations[key] = nil
    return body(&state) ? nil : missing(key)
  }

  private mutating func sweep(_ current: UInt64) -> Refusal? {
    func isOld(_ key: String) -> Bool { (generations[key] ?? 0) < current }
    var kept = ForwarderState()
    for entry in state.vrfs.values where !isOld("vrf \(entry.id)") { kept.set(entry) }
    for entry in state.interfaces.values where !isOld("interface \(entry.id)") { kept.set(entry) }
    for entry in state.nexthops.values where !isOld("nexthop \(entry.id)") { kept.set(entry) }
    for entry in state.labels.values where !isOld("label \(entry.label)") { kept.set(entry) }
    for entry in state.vnis.values where !isOld("vni \(entry.vni)") { kept.set(entry) }
    for entry in state.routes.values where !isOld("route \(entry.vrf) \(entry.prefix)") { kept.set(entry) }
    for entry in state.bridge.values where !isOld("bridge \(entry.vrf) \(entry.mac)") { kept.set(entry) }
    for command in kept.commands(replacing: state) {
      if let refusal = apply(command) { return refusal }
    }
    return nil
  }
}

/// The forwarder's end of a real ring, on a thread of its own, with checked tables behind it.
final class TestForwarder: Sendable {
  struct Content: Sendable {
    var tables = CheckedTables()
    var commands: [Command] = []
    /// What is refused whatever the tables say.
    var refuse: @Sendable (Command) -> Refusal? = { _ in nil }
    var isStopping = false
    var isDone = false
  }

  let content: Mutex<Content>

  /// `tables`: what a forwarder holds that goes on.
  init(_ path: String, _ tables: CheckedTables = CheckedTables()) throws {
    content = Mutex(Content(tables: tables))
    let statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: 1, interfaces: 8, reasons: 1), reasons: [("test", "a reason for tests")])
    let server = try RingServer(path: path, statistics: statistics)
    var thread = pthread_t()
    let box = Unmanaged.passRetained(Box { [self] in serve(server) })
    let status = pthread_create(
      &thread, nil,
      { @Sendable argument in
        Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().run()
        return nil
      }, box.toOpaque())
    precondition(status == 0)
    pthread_detach(thread)
  }

  private final class Box: @unchecked Sendable {
    private var body: (() -> Void)?
    init(_ body: @escaping () -> Void) { self.body = body }
    func run() {
      body?()
      body = nil
    }
  }

  var state: ForwarderState { content.withLock { $0.tables.state } }
  var tables: CheckedTables { content.withLock { $0.tables } }
  var generation: UInt64 { content.withLock { $0.tables.generation } }

  /// Ends it and its channels; waits until that is done.
  func stop() {
    content.withLock { $0.isStopping = true }
    while !content.withLock({ $0.isDone }) { usleep(1000) }
  }

  private func serve(_ server: consuming RingServer) {
    var channels: [ServerChannel] = []
    while !content.withLock({ $0.isStopping }) {
      var entries = [pollfd(fd: server.descriptor, events: Int16(POLLIN), revents: 0)]
      for channel in channels {
        entries.append(pollfd(fd: channel.socketDescriptor, events: Int16(POLLIN), revents: 0))
        entries.append(pollfd(fd: channel.commandDescriptor, events: Int16(POLLIN), revents: 0))
      }
      _ = poll(&entries, nfds_t(entries.count), 20)
      var kept: [ServerChannel] = []
      for (index, channel) in channels.enumerated() where entries[1 + index * 2].revents == 0 {
        do {
          try run(channel)
          kept.append(channel)
        } catch {}
      }
      channels = kept
      if entries[0].revents != 0, let client = server.accept() {
        var hello = pollfd(fd: client.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&hello, 1, 1000)
        let hasAgent = channels.contains { $0.role == .agent }
        if let channel = server.admit(client, agentPresent: hasAgent) { channels.append(channel) }
      }
    }
    channels = []
    _ = consume server
    content.withLock { $0.isDone = true }
  }

  private func run(_ channel: ServerChannel) throws {
    channel.acknowledgeWakeup()
    var hasWritten = false
    while try channel.canComplete(1), let (sequence, command) = try channel.next() {
      try channel.complete(complete(sequence, command))
      hasWritten = true
    }
    if hasWritten { channel.wakeClient() }
  }

  private func complete(_ sequence: UInt64, _ command: Result<Command, Refusal>) -> Completion {
    switch command {
    case .failure(let refusal): return .refused(sequence: sequence, refusal)
    case .success(let command):
      let refusal = content.withLock { content in
        if case .dump = command {} else { content.commands.append(command) }
        return content.refuse(command) ?? content.tables.apply(command)
      }
      return refusal.map { .refused(sequence: sequence, $0) } ?? .done(sequence: sequence, cursor: 0)
    }
  }
}
