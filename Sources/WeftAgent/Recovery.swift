import FoundationEssentials
import Glibc
import Logging
import WeftAPI
import WeftRing
import WeftWire

/// Fills a new database with what there is on the node already: an agent that has lost its own (a new disk, a file that
/// SQLite cannot read) must neither give an address out twice nor disturb a forwarder that goes on. Attachments come from
/// the files of the plugin and of Tungsten Fabric's port-control script; what the forwarder has beside them is kept under
/// a name of its own until its interface is gone. Entries keep their numbers, so that the first replay changes nothing.
struct Recovery {
  let configuration: AgentConfiguration
  let logger: Logger

  /// To be called before anything else is remembered.
  func run(into store: Store) throws(APIError) {
    guard try store.isNew() else { return }
    let remains: ForwarderRemains?
    do throws(RingError) { remains = try ForwarderRemains.read(socket: configuration.forwarderSocket) } catch {
      throw APIError(
        .database,
        "the database \(configuration.database) is new, and what the forwarder at \(configuration.forwarderSocket) holds "
          + "cannot be read: \(error); start again when it answers, or stop it to begin with nothing")
    }
    var finds = Finds(configuration, remains)
    for record in RecoveryFiles.plugin(configuration.recovery.plugin) { finds.take(record) }
    for port in RecoveryFiles.ports(configuration.recovery.ports) { finds.take(port) }
    finds.takeRest()
    let left = try store.adopt(finds)
    for problem in finds.problems + left { logger.warning("recovery: \(problem)") }
    let count = finds.attachments.count - left.count
    guard count > 0 else { return }
    logger.notice(
      "the database was new: \(count) attachments were found on the node",
      metadata: [
        "files": "\(configuration.recovery.plugin), \(configuration.recovery.ports)",
        "forwarder": "\(remains == nil ? "not running" : configuration.forwarderSocket)",
        "without-a-file": "\(finds.attachments.filter { $0.origin == .recovered }.count)",
      ])
  }

  struct Finds {
    private let configuration: AgentConfiguration
    private let remains: ForwarderRemains?
    private(set) var attachments: [AttachmentRecord] = []
    /// As they were posted.
    private(set) var ports: [Port] = []
    private(set) var numbers: [Identifier: UInt32] = [:]
    /// By attachment: how fast it may be.
    private(set) var bandwidths: [String: Bandwidth] = [:]
    private(set) var problems: [String] = []
    /// The forwarder's interfaces that nobody has claimed, by device.
    private var unclaimed: [String: ForwarderRemains.Interface] = [:]

    init(_ configuration: AgentConfiguration, _ remains: ForwarderRemains?) {
      self.configuration = configuration
      self.remains = remains
      for interface in remains?.interfaces.values.filter({ $0.configuration.role == .virtual }) ?? [] {
        unclaimed[interface.configuration.device] = interface
      }
    }

    mutating func take(_ record: PluginRecord) {
      // The agent had not answered yet: nothing was given out.
      guard let device = record.hostInterface, let mac = record.mac, let network = record.network,
        let addresses = record.addresses
      else { return }
      let there = unclaimed.removeValue(forKey: device)
      let isTap = record.isTap == true
      bandwidths[Self.id(of: device)] = record.bandwidth
      let isThere = isTap ? access(record.netns, F_OK) == 0 : if_nametoindex(device) != 0
      add(
        AttachmentRecord(
          id: Self.id(of: device), containerID: record.containerID, interface: record.interface, netns: record.netns,
          network: network,
          hostInterface: device, mac: mac, addresses: addresses.map(\.address),
          vmUUID: Derived.podUUID(uid: record.podUID, containerID: record.containerID), podName: record.podName,
          podNamespace: record.podNamespace, podUID: record.podUID, origin: .cni, isWanted: there != nil || isThere,
          created: Self.now,
          tapQueues: isTap ? Int(there?.configuration.tap.queues ?? configuration.pods.queues) : nil,
          state: there != nil || isThere ? .waiting : .reserved),
        there)
    }

    mutating func take(_ posted: Port) {
      var port = posted
      guard let id = Derived.uuid(port.id), let instance = Derived.uuid(port.instanceID),
        let mac = MACAddress(port.macAddress), Names.isInterface(port.systemName)
      else { return problems.append("port \(port.id.short) has no sense; post it again") }
      guard let network = configuration.network(id: port.vnID) else {
        return problems.append("port \(id) is of no network that is here (\(port.vnID?.short ?? "-")); post it again")
      }
      port.id = id
      port.instanceID = instance
      let vlan = port.txVLANID.flatMap { $0 == -1 ? nil : $0 }
      let device = vlan.map { Store.name(ofVLAN: $0, parent: port.systemName, id: id) } ?? port.systemName
      let there = unclaimed[device]
      let stated = [port.ipAddress, port.ip6Address].compactMap { $0.flatMap { IPAddress($0) } }.filter {
        !$0.isUnspecified
      }
      // Where the agent chose them only the forwarder knows.
      guard let addresses = there?.addresses ?? (stated.isEmpty ? nil : stated) else {
        return problems.append("the addresses of port \(id) are not known; post it again")
      }
      unclaimed[device] = nil
      let isUp = port.linkState?.isUp != false
      let vhost = vlan == nil ? (try? port.vhost(configuration.machines)) ?? nil : nil
      add(
        AttachmentRecord(
          id: id, containerID: instance, interface: device, netns: "", network: network.name, hostInterface: device,
          mac: mac, addresses: addresses, vmUUID: instance, podName: port.displayName, origin: .port, isWanted: isUp,
          created: Self.now, state: isUp ? .waiting : .disabled, parent: vlan == nil ? nil : port.systemName,
          vlan: vlan,
          vhost: vhost), there)
      ports.append(port)
    }

    /// What the forwarder has that no file speaks of, and the numbers of its other entries.
    mutating func takeRest() {
      for (device, there) in unclaimed.sorted(by: { $0.key < $1.key }) {
        guard let network = there.network else { continue }
        let tap = there.configuration.tap
        let isPods = there.configuration.port == .tap && !tap.namespace.isEmpty
        add(
          AttachmentRecord(
            id: Self.id(of: device), containerID: "recovered-\(device)",
            interface: isPods ? tap.name : device, netns: tap.namespace, network: network, hostInterface: device,
            mac: there.configuration.mac, addresses: there.addresses, vmUUID: Derived.named("recovered/\(device)"),
            origin: .recovered, isWanted: true, created: Self.now, tapQueues: isPods ? Int(tap.queues) : nil,
            state: .waiting, parent: parent(of: there.configuration),
            vlan: there.configuration.vlan.map { Int($0.outer) },
            vhost: there.configuration.port == .vhostUser ? there.configuration.vhost : nil), there)
      }
      unclaimed = [:]
      guard let remains else { return }
      numbers[Identifier(.nexthop, "discard")] = remains.nexthop(.discard)
      numbers[Identifier(.nexthop, "receive")] = remains.nexthop(.receive)
      numbers[Identifier(.interface, "fabric")] =
        remains.interfaces.first {
          $0.value.configuration.role == .fabric && $0.value.configuration.device == configuration.fabric.interface
        }?.key
      for (id, name) in remains.vrfs {
        numbers[Planner.vrf(name)] = id
        numbers[Planner.translation(name)] = remains.nexthop(.vrfTranslate(vrf: id))
      }
      for peer in configuration.peers {
        for member in peer.networks {
          guard let network = configuration.network(member.name) else { continue }
          numbers[Planner.tunnel(peer, network, member)] = remains.tunnel(
            to: peer, network.encapsulation,
            innerMAC: network.encapsulation == .vxlan ? member.routerMAC : .virtualRouter)
        }
      }
      for network in configuration.networks {
        if let host = network.host {
          keep(HostGateways.identifiers(network.name, interface: host.interface), device: host.interface)
        }
        if network.services != nil {
          keep(Services.identifiers(network.name), device: Services.device(network.name))
        }
      }
      // The others are not given out before a sweep has removed them.
      let known = Dictionary(grouping: numbers.keys, by: \.kind).mapValues { Set($0.compactMap { numbers[$0] }) }
      let there: [(IdentifierKind, [UInt32])] = [
        (.interface, Array(remains.interfaces.keys)), (.vrf, Array(remains.vrfs.keys)),
        (.nexthop, remains.nexthops.map(\.id)),
      ]
      for (kind, all) in there {
        for number in all where known[kind]?.contains(number) != true {
          numbers[Identifier(kind, "left/\(number)")] = number
        }
      }
    }

    /// The numbers of one of the host's own interfaces, and of what leads to it.
    private mutating func keep(_ identifiers: [Identifier], device: String) {
      guard let there = remains?.interfaces.values.first(where: { $0.configuration.device == device }) else { return }
      numbers[identifiers[0]] = there.configuration.id
      numbers[identifiers[1]] = remains?.nexthop(.receiveAt(interface: there.configuration.id))
    }

    /// The device whose port a VLAN's frames are on.
    private func parent(of interface: InterfaceConfiguration) -> String? {
      interface.vlan.flatMap { remains?.interfaces[$0.parent]?.configuration.device }
    }

    private mutating func add(_ record: AttachmentRecord, _ there: ForwarderRemains.Interface?) {
      var record = record
      let subnets = configuration.network(record.network)?.subnets ?? []
      func position(_ address: IPAddress) -> Int {
        subnets.firstIndex { $0.prefix.contains(address) } ?? subnets.count
      }
      record.addresses.sort { position($0) < position($1) }
      attachments.append(record)
      guard let there else { return }
      let identifiers = Store.identifiers(of: record.id)
      numbers[identifiers[0]] = there.configuration.id
      numbers[identifiers[1]] = there.nexthop
    }

    /// The host interface's name begins as the id did, where it is one of ours; the rest follows from the name.
    private static func id(of device: String) -> String {
      let rest = Derived.named("port/\(device)")
      let digits = device.hasPrefix("weft") ? device.dropFirst(4) : ""
      guard digits.count == 11, digits.allSatisfy({ $0.isHexDigit && !$0.isUppercase }) else { return rest }
      let all = digits + rest.filter { $0 != "-" }.dropFirst(11)
      return all.indices.reduce(into: "") { id, index in
        if [8, 12, 16, 20].contains(all.distance(from: all.startIndex, to: index)) { id.append("-") }
        id.append(all[index])
      }
    }

    private static var now: Int64 { Int64(Date().timeIntervalSince1970) }
  }
}
