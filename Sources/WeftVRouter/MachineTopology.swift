import Glibc

/// Cores, NUMA nodes and NICs of the machine, as the kernel shows them below /sys and /proc (the kernel's
/// sysfs-devices-system-cpu, sysfs-devices-node and procfs documents). Read once at start, NICs when they are asked for.
public struct MachineTopology: Sendable {
  public struct Core: Hashable, Sendable {
    /// The kernel's number.
    public let number: Int
    /// 0 where the kernel knows no nodes.
    public let node: Int
    /// All cores that are threads of the same physical one, this one among them, in order.
    public let siblings: [Int]
    /// The kernel's scheduler keeps others away from it (isolcpus=).
    public let isIsolated: Bool
  }

  /// An interrupt of a NIC.
  public struct Interrupt: Hashable, Sendable {
    public let number: Int
    /// What the driver calls it, such as "eth0-TxRx-3"; empty where it says nothing.
    public let name: String
    /// The receive queue that it is for; nil where its name says none.
    public let queue: Int?
    /// Where the kernel delivers it.
    public let cores: [Int]
  }

  /// Cores that are online, by number.
  public let cores: [Core]
  /// Nodes that are online, those without cores too.
  public let nodes: [Int]
  /// The folder below which all is read, "/" but in tests; without a slash at the end.
  private let root: String
  private let distances: [Int: [Int]]

  /// Reads from below `root`.
  public init(root: String = "/") {
    var root = root
    while root.hasSuffix("/") { root.removeLast() }
    self.root = root
    let files = SystemFiles(root: root)
    let system = "/sys/devices/system"
    let nodes = files.numbers("\(system)/node/online") ?? [0]
    var nodeOf: [Int: Int] = [:]
    for node in nodes {
      for core in files.numbers("\(system)/node/node\(node)/cpulist") ?? [] { nodeOf[core] = node }
    }
    var distances: [Int: [Int]] = [:]
    for node in nodes {
      // A column for each node that is online.
      let words = files.text("\(system)/node/node\(node)/distance")?.split(whereSeparator: \.isWhitespace) ?? []
      distances[node] = words.compactMap { Int($0) }
    }
    let isolated = Set(files.numbers("\(system)/cpu/isolated") ?? [])
    let online = files.numbers("\(system)/cpu/online") ?? [0]
    cores = online.map { number in
      let siblings = files.numbers("\(system)/cpu/cpu\(number)/topology/thread_siblings_list") ?? [number]
      return Core(
        number: number, node: nodeOf[number] ?? nodes.first ?? 0,
        siblings: siblings.contains(number) ? siblings : [number], isIsolated: isolated.contains(number))
    }
    self.nodes = nodes
    self.distances = distances
  }

  public func core(_ number: Int) -> Core? { cores.first { $0.number == number } }
  /// The node of a core; 0 for one that is not known.
  public func node(ofCore number: Int) -> Int { core(number)?.node ?? 0 }

  /// How far memory of one node is from cores of another, as firmware says: 10 for a node's own.
  public func distance(_ from: Int, _ to: Int) -> Int {
    if from == to { return 10 }
    guard let column = nodes.firstIndex(of: to), let row = distances[from], column < row.count else { return 20 }
    return row[column]
  }

  // MARK: NICs

  public func hasDevice(_ device: String) -> Bool { files.exists("/sys/class/net/\(device)") }

  /// The node that a NIC's slot belongs to; that of the NICs below a bond or VLAN, where those are of one node. nil: there is
  /// none, as for devices that are not hardware and where firmware does not say.
  public func node(ofDevice device: String) -> Int? { node(ofDevice: device, depth: 0) }

  private func node(ofDevice device: String, depth: Int) -> Int? {
    let folder = "/sys/class/net/\(device)"
    if files.exists("\(folder)/device") {
      // A virtio device's is that of the PCI device that it is in.
      let text = files.text("\(folder)/device/numa_node") ?? files.text("\(folder)/device/../numa_node")
      guard let node = text.flatMap({ Int($0) }), nodes.contains(node) else { return nil }
      return node
    }
    guard depth < 4 else { return nil }
    let lower = files.names(folder).filter { $0.hasPrefix("lower_") }.map { String($0.dropFirst(6)) }
    let found = Set(lower.map { node(ofDevice: $0, depth: depth + 1) })
    return found.count == 1 ? found.first ?? nil : nil
  }

  /// Interfaces that are hardware.
  public var hardware: [String] {
    files.names("/sys/class/net").filter { files.exists("/sys/class/net/\($0)/device") }.sorted()
  }

  /// The node of all NICs of the machine whose node is known, if they are of one.
  public var hardwareNode: Int? {
    let found = Set(hardware.compactMap { node(ofDevice: $0) })
    return found.count == 1 ? found.first : nil
  }

  /// Receive queues by which the kernel receives from a device.
  public func queues(ofDevice device: String) -> Int {
    max(1, files.names("/sys/class/net/\(device)/queues").count { $0.hasPrefix("rx-") })
  }

  /// A NIC's interrupts, by number; none for what is no hardware.
  public func interrupts(ofDevice device: String) -> [Interrupt] {
    let folder = "/sys/class/net/\(device)/device"
    // A virtio device's are those of the PCI device that it is in.
    var numbers =
      ["\(folder)/msi_irqs", "\(folder)/../msi_irqs"].lazy.map { files.names($0).compactMap { Int($0) } }
      .first { !$0.isEmpty } ?? []
    if numbers.isEmpty, let one = files.text("\(folder)/irq").flatMap({ Int($0) }), one > 0 { numbers = [one] }
    return numbers.sorted().map { number in
      let own = "/proc/irq/\(number)"
      // The driver's name for it is that of the one folder there.
      let name = files.names(own).first { files.isFolder("\(own)/\($0)") } ?? ""
      let effective = files.numbers("\(own)/effective_affinity_list") ?? []
      return Interrupt(
        number: number, name: name, queue: Self.queue(inName: name),
        cores: effective.isEmpty ? files.numbers("\(own)/smp_affinity_list") ?? [] : effective)
    }
  }

  /// "eth0-TxRx-3", "eth0-rx-3", "virtio1-input.3", "mlx5_comp3@pci:0000:3b:00.0": queue 3. Interrupts for sending alone and
  /// for events of the device are no queue's.
  public static func queue(inName name: String) -> Int? {
    let name = name.split(separator: "@").first.map { $0.lowercased() } ?? ""
    let digits = String(name.reversed().prefix { $0.isNumber }.reversed())
    guard ["rx", "input", "comp"].contains(where: { name.contains($0) }), !digits.isEmpty else { return nil }
    return Int(digits)
  }

  private var files: SystemFiles { SystemFiles(root: root) }
}

/// Small files of the kernel's below a root.
private struct SystemFiles {
  let root: String

  /// What a file says, without the end of the line; nil where it cannot be read.
  func text(_ path: String) -> String? {
    let descriptor = open(root + path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 4096)
    while bytes.count < 1 << 20 {
      let count = read(descriptor, &piece, piece.count)
      guard count >= 0 else { return nil }
      if count == 0 { break }
      bytes += piece.prefix(count)
    }
    while let last = bytes.last, last == 0x0A || last == 0x20 { bytes.removeLast() }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// A list such as "0-3,8": its numbers in order. Empty for an empty file; nil where it cannot be read.
  func numbers(_ path: String) -> [Int]? {
    guard let text = text(path) else { return nil }
    var numbers: Set<Int> = []
    for part in text.split(separator: ",") {
      let ends = part.split(separator: "-").compactMap { Int($0) }
      guard let first = ends.first, let last = ends.last, first >= 0, first <= last, last < 65536 else { return nil }
      numbers.formUnion(first...last)
    }
    return numbers.sorted()
  }

  /// Names in a folder; none where there is no such folder.
  func names(_ path: String) -> [String] {
    guard let folder = opendir(root + path) else { return [] }
    defer { closedir(folder) }
    var names: [String] = []
    while let entry = readdir(folder) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }

  func exists(_ path: String) -> Bool { access(root + path, F_OK) == 0 }

  func isFolder(_ path: String) -> Bool {
    var status = stat()
    return stat(root + path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
  }
}
