import CLinux
import WeftSystem
import WeftWire

/// Longest-prefix match for the IPv6 routes of all VRFs: compressed multibit trees, 10 bits at the root and 6 a step.
///
/// Slots are those of `PrefixTrees`: the path of the longest prefix that ends in a node and covers the slot, and the node
/// of the next step. But a node holds one entry for each run of equal slots, a bitmap says where runs begin, and a node
/// says which bits on the way to it are the same for all below, so that there are no nodes with one way out. 200,000
/// routes of the Internet's mix take a thirtieth of the memory, and most of a lookup's nodes are in the cache.
///
/// A root has all its slots and never moves. Of other nodes:
///
///     word 0      bit n: slot n begins a run; bit 0 is set
///     word 1      bits 63...10: the bits skipped on the way here, from the top; bits 5...0: how many (0, 6 ... 54);
///                 bit 6: the way here begins at bit 64 of the address
///     then        an entry a run: node of the next step (63...32), length of the prefix within this node (31...28), the
///                 last bit of that prefix (27), path (26...0)
///
/// Steps begin at bits 10, 16 ... 58, 64, 70 ... 124, and none is skipped from one half of the address to the other, so that
/// a lookup has one word in hand. A run with a node of the next step is one slot. Prefixes of the same length are told apart by their last bit, so that
/// what a prefix owns are whole runs: moving it to another path or taking it out stores whole words in place, and only a new
/// prefix needs memory. Where runs change, the node is written anew and published with one store in its parent; a worker
/// sees the routes before or after, and nothing else. A change writes few nodes, whatever the size of the table.
public final class CompressedTrees: @unchecked Sendable {
  /// Memory is handed out in units of 32 bytes.
  static let unit = 32
  static let rootUnits = 256
  static let rootBits = 10
  static let stepBits = 6
  /// Steps that a node may skip.
  static let mostSkipped = 9
  /// The first step of the address's second half.
  static let halfStep = 9
  /// In a node's word 1.
  static let bitsMask: UInt64 = 0x3F
  static let halfMark: UInt64 = 0x40
  private static let slabUnits = 512
  private static let rootClass = 10

  /// Nodes at most, of whatever size, those among them that wait for workers.
  public let capacity: Int
  private let memory: Mapping
  private let epochs: Epochs
  private let roots: Int
  private var used = 0
  private var rootsUsed = 0
  private var bytes = 0
  /// Free blocks for each size: 2, 6, 14, 22 ... 70 entries; roots.
  private var free = [[UInt32]](repeating: [], count: rootClass + 1)
  private var firstUnusedUnit = rootUnits
  /// The slots of the node that is being changed, and the way that led there.
  private var slots = [UInt64](repeating: 0, count: 64)
  private var trail: [Place] = []

  /// A node and the entry that leads to it.
  private struct Place {
    var link: Int
    var node: UInt32
  }

  /// `roots`: how many trees there may be, those among them that wait for workers; as many as nodes without.
  public init(nodes: Int, roots: Int? = nil, epochs: Epochs) throws(SystemError) {
    capacity = nodes
    self.roots = roots ?? nodes
    self.epochs = epochs
    // No size of nodes can need more than all of them. Pages come into being when they are touched.
    var slabs = 1
    for size in 0...Self.rootClass {
      slabs += ((size == Self.rootClass ? self.roots : nodes) + Self.blocks(size) - 1) / Self.blocks(size)
    }
    precondition(slabs * Self.slabUnits < Int(UInt32.max))
    memory = try Mapping(anonymous: (slabs * Self.slabUnits + Self.rootUnits) * Self.unit, what: "IPv6 routes")
    memory.preferHugePages()
  }

  public var reader: CompressedTreesReader { unsafe CompressedTreesReader(base: memory.base) }
  public var nodesUsed: Int { used }
  public var nodesFree: Int { capacity - used }
  /// Bytes of the nodes in use.
  public var bytesUsed: Int { bytes }

  /// An empty tree; nil when no node is free.
  public func makeRoot() -> UInt32? {
    guard rootsUsed < roots, let root = take(Self.rootClass) else { return nil }
    rootsUsed += 1
    return root
  }

  /// Gives an empty tree back; the caller has made it unreachable.
  public func releaseRoot(_ root: UInt32) { retire(root, Self.rootClass) }

  /// Nodes that a new prefix of this length may need, at most: a way of its own, one node in the address's first half and
  /// two in the second, and where it leaves another way the node of the parting and the parted one anew.
  public static func nodesNeeded(length: Int) -> Int { length <= rootBits ? 0 : length <= 64 ? 3 : 5 }

  /// Sets the path of a prefix; `number` is not 0. If the prefix is new, the caller has made sure of `nodesNeeded` free
  /// nodes.
  public func set(root: UInt32, _ prefix: IPPrefix, path number: UInt32) {
    let own = Prefix(prefix, number)
    var link = rootLink(root, prefix.address)
    guard own.step >= 0 else {
      for slot in own.slots {
        let at = offset(root) + slot * 8
        let entry = load(at)
        if Entry.length(entry) <= own.within { store(at, Entry.replace(entry, own.low)) }
      }
      return
    }
    var step = 0
    while true {
      let node = Entry.child(load(link))
      guard node != 0 else { return setChild(link, makeWay(own, from: step)) }
      let skipped = skippedSteps(node)
      let reached = min(equalSteps(node, own, from: step), own.step - step)
      guard reached == skipped else { return part(link, node, own, from: step, after: reached) }
      step += skipped
      if step == own.step {
        expand(node)
        for slot in own.slots where Entry.length(slots[slot]) <= own.within {
          slots[slot] = Entry.replace(slots[slot], own.low)
        }
        return write(link, node)
      }
      let slot = own.group(step)
      let next = entry(node, slot)
      guard Entry.child(load(next)) != 0 else {
        let way = makeWay(own, from: step + 1)
        expand(node)
        slots[slot] |= UInt64(way) << 32
        return write(link, node)
      }
      link = next
      step += 1
    }
  }

  /// Takes a prefix out. `covering` answers the path of a prefix of the same tree, or nil if it is not there.
  public func remove(root: UInt32, _ prefix: IPPrefix, covering: (IPPrefix) -> UInt32?) {
    let own = Prefix(prefix, 0)
    let start = own.step < 0 ? 0 : Self.rootBits + own.step * Self.stepBits
    // What shows instead: the next shorter prefix that ends in the same node. Length 0 ends in the root.
    var replacement: UInt64 = 0
    var length = prefix.length - 1
    while length >= (start == 0 ? 0 : start + 1) {
      if let candidate = IPPrefix(prefix.address, length: length), let path = covering(candidate) {
        replacement = Prefix(candidate, path).low
        break
      }
      length -= 1
    }
    guard own.step >= 0 else {
      for slot in own.slots {
        let at = offset(root) + slot * 8
        let entry = load(at)
        if Entry.length(entry) == own.within { store(at, Entry.replace(entry, replacement)) }
      }
      return
    }
    trail.removeAll(keepingCapacity: true)
    var link = rootLink(root, prefix.address)
    var step = 0
    while true {
      let node = Entry.child(load(link))
      guard node != 0, equalSteps(node, own, from: step) == skippedSteps(node) else { return }
      trail.append(Place(link: link, node: node))
      step += skippedSteps(node)
      if step >= own.step { break }
      link = entry(node, own.group(step))
      step += 1
    }
    guard step == own.step, let place = trail.last else { return }
    for slot in own.slots {
      let at = entry(place.node, slot)
      let entry = load(at)
      // The slots of a run have one entry, which is changed once.
      if Entry.length(entry) == own.within { store(at, Entry.replace(entry, replacement)) }
    }
    tidy()
  }

  // MARK: ways

  /// Nodes from `step` to the one in which a prefix ends; answers the first.
  private func makeWay(_ own: Prefix, from step: Int) -> UInt32 {
    let last = step < Self.halfStep ? Self.halfStep - 1 : step + Self.mostSkipped
    let skipped = min(own.step, last) - step
    let below = step + skipped == own.step ? 0 : makeWay(own, from: step + skipped + 1)
    clearSlots()
    if below != 0 {
      slots[own.group(step + skipped)] = UInt64(below) << 32
    } else {
      for slot in own.slots { slots[slot] = own.low }
    }
    return make(own.skipped(from: step, steps: skipped))
  }

  /// A prefix ends on the way to a node, or leaves it there: `after` steps of those that the node skips.
  private func part(_ link: Int, _ node: UInt32, _ own: Prefix, from step: Int, after reached: Int) {
    let word = skipWord(node)
    let group = Int((word << UInt64(reached * Self.stepBits)) >> 58)
    let rest = Int(word & Self.bitsMask) - (reached + 1) * Self.stepBits
    let shortened = Self.skipWord(word << UInt64((reached + 1) * Self.stepBits), bits: rest)
    let parted = copy(node, shortened)
    let parting = step + reached
    let way = parting == own.step ? 0 : makeWay(own, from: parting + 1)
    clearSlots()
    if way == 0 {
      for slot in own.slots { slots[slot] = own.low }
    } else {
      slots[own.group(parting)] = UInt64(way) << 32
    }
    slots[group] |= UInt64(parted) << 32
    setChild(link, make(own.skipped(from: step, steps: reached)))
    retire(node)
  }

  /// After something was taken out of the trail's last node: empty nodes go, one that only leads on becomes part of the
  /// next one's way, and one that has become much smaller moves to less memory, as far as there is room.
  private func tidy() {
    while let place = trail.popLast() {
      expand(place.node)
      var isEmpty = true
      var only: Int? = nil
      var others = false
      for slot in 0..<64 where slots[slot] != 0 {
        if isEmpty, Entry.child(slots[slot]) != 0, Entry.low(slots[slot]) == 0 { only = slot } else { others = true }
        isEmpty = false
      }
      if isEmpty {
        setChild(place.link, 0)
        retire(place.node)
        continue
      }
      if let only, !others {
        let child = Entry.child(slots[only])
        let skipped = skippedSteps(place.node)
        let steps = skipped + 1 + skippedSteps(child)
        guard skipWord(child) & Self.halfMark == 0, steps <= Self.mostSkipped, used < capacity else { return }
        let above = UInt64(only) << UInt64(58 - skipped * Self.stepBits)
        let below = skipWord(child) & ~0x3FF
        let word = skipWord(place.node)
        let bits = word & ~0x3FF | above | below >> UInt64((skipped + 1) * Self.stepBits)
        let merged = Self.skipWord(bits, bits: steps * Self.stepBits) | word & Self.halfMark
        setChild(place.link, copy(child, merged))
        retire(place.node)
        retire(child)
        return
      }
      if used < capacity, Self.size(entries: runs().nonzeroBitCount) < size(place.node) {
        rewrite(place.link, place.node)
      }
      return
    }
  }

  // MARK: nodes

  /// Where runs of `slots` begin.
  private func runs() -> UInt64 {
    var bitmap: UInt64 = 1
    for slot in 1..<64 where slots[slot] != slots[slot - 1] { bitmap |= 1 << UInt64(slot) }
    return bitmap
  }

  private func clearSlots() { for slot in 0..<64 { slots[slot] = 0 } }

  private func expand(_ node: UInt32) {
    let base = offset(node)
    let bitmap = load(base)
    var at = base + 8
    for slot in 0..<64 {
      if bitmap >> UInt64(slot) & 1 != 0 { at += 8 }
      slots[slot] = load(at)
    }
  }

  /// Gives a node the slots: in place where no run has to be parted, else anew.
  private func write(_ link: Int, _ node: UInt32) {
    let bitmap = load(offset(node))
    if runs() & ~bitmap == 0 {
      var at = offset(node) + 16
      for slot in 0..<64 where bitmap >> UInt64(slot) & 1 != 0 {
        if load(at) != slots[slot] { store(at, slots[slot]) }
        at += 8
      }
      return
    }
    rewrite(link, node)
  }

  private func rewrite(_ link: Int, _ node: UInt32) {
    setChild(link, make(skipWord(node)))
    retire(node)
  }

  /// A node with the slots.
  private func make(_ skip: UInt64) -> UInt32 {
    let bitmap = runs()
    let node = promised(Self.size(entries: bitmap.nonzeroBitCount))
    let base = offset(node)
    store(base, bitmap)
    store(base + 8, skip)
    var at = base + 16
    for slot in 0..<64 where bitmap >> UInt64(slot) & 1 != 0 {
      store(at, slots[slot])
      at += 8
    }
    return node
  }

  private func copy(_ node: UInt32, _ skip: UInt64) -> UInt32 {
    let size = size(node)
    let made = promised(size)
    unsafe memcpy(memory.base + offset(made), memory.base + offset(node), Self.units(size) * Self.unit)
    store(offset(made) + 8, skip)
    return made
  }

  // MARK: places: an entry is known by its offset in memory

  private func setChild(_ link: Int, _ node: UInt32) {
    store(link, UInt64(node) << 32 | load(link) & 0xFFFF_FFFF)
  }

  private func rootLink(_ root: UInt32, _ address: IPAddress) -> Int {
    offset(root) + Int(address.high >> UInt64(64 - Self.rootBits)) * 8
  }

  private func entry(_ node: UInt32, _ slot: Int) -> Int {
    let base = offset(node)
    return base + 8 + (load(base) & (2 << UInt64(slot) &- 1)).nonzeroBitCount * 8
  }

  private func skipWord(_ node: UInt32) -> UInt64 { load(offset(node) + 8) }
  private func skippedSteps(_ node: UInt32) -> Int { Int(skipWord(node) & Self.bitsMask) / Self.stepBits }
  private func size(_ node: UInt32) -> Int { Self.size(entries: load(offset(node)).nonzeroBitCount) }

  /// Of the steps that a node skips, how many a prefix shares from the first on. The way to the node begins at `step`.
  private func equalSteps(_ node: UInt32, _ own: Prefix, from step: Int) -> Int {
    let word = skipWord(node)
    let bits = word & Self.bitsMask
    let different = (own.bits(from: step) ^ word) & ~(UInt64.max >> bits)
    return min(different.leadingZeroBitCount, Int(bits)) / Self.stepBits
  }

  /// The first `bits` of `word`, and how many they are.
  fileprivate static func skipWord(_ word: UInt64, bits: Int) -> UInt64 {
    word & ~(UInt64.max >> UInt64(bits)) | UInt64(bits)
  }

  // MARK: memory

  private static func size(entries: Int) -> Int { entries <= 2 ? 0 : (entries + 9) / 8 }
  private static func units(_ size: Int) -> Int { size == rootClass ? rootUnits : size == 0 ? 1 : size * 2 }
  private static func blocks(_ size: Int) -> Int { slabUnits / units(size) }

  private func promised(_ size: Int) -> UInt32 {
    guard let node = take(size) else { preconditionFailure("no node where room was promised") }
    return node
  }

  private func take(_ size: Int) -> UInt32? {
    guard used < capacity else { return nil }
    if free[size].isEmpty {
      let blocks = Self.blocks(size)
      for block in (0..<blocks).reversed() {
        free[size].append(UInt32(firstUnusedUnit + block * Self.units(size)))
      }
      firstUnusedUnit += Self.slabUnits
    }
    used += 1
    bytes += Self.units(size) * Self.unit
    return free[size].popLast()
  }

  private func retire(_ node: UInt32) { retire(node, size(node)) }

  /// The node goes back when no worker can be in it; a root zeroed.
  private func retire(_ node: UInt32, _ size: Int) {
    epochs.retire { [self] in
      if size == Self.rootClass {
        unsafe memset(memory.base + offset(node), 0, Self.rootUnits * Self.unit)
        rootsUsed -= 1
      }
      used -= 1
      bytes -= Self.units(size) * Self.unit
      free[size].append(node)
    }
  }

  private func offset(_ node: UInt32) -> Int { Int(node) * Self.unit }
  private func load(_ at: Int) -> UInt64 { unsafe weft_load_relaxed_u64(memory.base + at) }
  private func store(_ at: Int, _ value: UInt64) { unsafe weft_store_release_u64(memory.base + at, value) }
}

/// The parts of an entry.
private enum Entry {
  static func child(_ entry: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: entry >> 32) }
  static func low(_ entry: UInt64) -> UInt64 { entry & 0xFFFF_FFFF }
  static func length(_ entry: UInt64) -> Int { Int(entry >> 28 & 0xF) }
  static func replace(_ entry: UInt64, _ low: UInt64) -> UInt64 { entry & 0xFFFF_FFFF_0000_0000 | low }
}

/// A prefix as the trees see it.
private struct Prefix {
  let address: IPAddress
  /// The step in which it ends; -1 is the root.
  let step: Int
  /// Its length within that node: 1...6, in the root 0...10.
  let within: Int
  /// The slots that it covers there.
  let slots: Range<Int>
  /// Its part of an entry.
  let low: UInt64

  init(_ prefix: IPPrefix, _ path: UInt32) {
    address = prefix.address
    let width: Int
    let first: Int
    if prefix.length <= CompressedTrees.rootBits {
      step = -1
      within = prefix.length
      width = CompressedTrees.rootBits
      first = Int(prefix.address.high >> UInt64(64 - CompressedTrees.rootBits))
    } else {
      step = (prefix.length - CompressedTrees.rootBits - 1) / CompressedTrees.stepBits
      within = prefix.length - CompressedTrees.rootBits - step * CompressedTrees.stepBits
      width = CompressedTrees.stepBits
      first = Int(Self.bits(prefix.address, from: step) >> 58)
    }
    slots = first..<first + 1 << (width - within)
    let last = within == 0 ? 0 : UInt64(first >> (width - within) & 1)
    low = path == 0 ? 0 : UInt64(within) << 28 | last << 27 | UInt64(path)
  }

  /// The address from a step on, to the end of its half; zeros behind.
  func bits(from step: Int) -> UInt64 { Self.bits(address, from: step) }

  private static func bits(_ address: IPAddress, from step: Int) -> UInt64 {
    step < CompressedTrees.halfStep
      ? address.high << (CompressedTrees.rootBits + step * CompressedTrees.stepBits)
      : address.low << ((step - CompressedTrees.halfStep) * CompressedTrees.stepBits)
  }

  /// The slot in a node of this step.
  func group(_ step: Int) -> Int { Int(bits(from: step) >> 58) }

  /// What a node says of the steps on the way to it.
  func skipped(from step: Int, steps: Int) -> UInt64 {
    CompressedTrees.skipWord(bits(from: step), bits: steps * CompressedTrees.stepBits)
      | (step == CompressedTrees.halfStep ? CompressedTrees.halfMark : 0)
  }
}
