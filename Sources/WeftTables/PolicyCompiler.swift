import WeftWire

/// One direction's rules as bit vectors, and what it takes to add a subject or a class of addresses to them.
@safe final class PolicySideCompiler {
  /// A rule, the number of its hit counter, and the sets of which one must hold the remote address (none: any will do)
  /// and the one that must hold the local address.
  struct Rule {
    let rule: PolicyRule
    let slot: UInt32
    let remote: [UInt32]
    let local: UInt32?
  }

  /// What a rule asks of its subject; nil is any VRF, 0 any tag.
  private struct SubjectKey: Hashable {
    let vrf: UInt32?
    let tag: UInt32
  }

  private let memory: PolicyMemory
  private(set) var side: PolicySide
  /// Rules that ask nothing of the remote or local address, and the others by set.
  private let anyRemote: PolicyVector
  private let anyLocal: PolicyVector
  private var remoteRules: [[UInt32]]
  private var localRules: [[UInt32]]
  /// Vectors by the sets that rules ask for: classes that differ in other sets share one.
  private var remoteVectors: [[UInt32]: PolicyVector] = [:]
  private var localVectors: [[UInt32]: PolicyVector] = [:]
  private let anySubject: PolicyVector
  private var subjectRules: [SubjectKey: [UInt32]] = [:]

  /// `rules` in the order in which they are asked.
  init(_ rules: [Rule], setLimit: Int, subjects: Int, classes: Int) {
    let memory = PolicyMemory(blocks: (rules.count + 255) / 256)
    self.memory = memory
    let verdicts = unsafe memory.array(of: PolicyVerdict.self, rules.count, .noRule)
    remoteRules = Array(repeating: [], count: setLimit)
    localRules = Array(repeating: [], count: setLimit)
    let all = memory.vector()
    anyRemote = memory.vector()
    anyLocal = memory.vector()
    anySubject = memory.vector()
    var usesLocal = false
    for (index, entry) in rules.enumerated() {
      let rule = entry.rule
      unsafe verdicts[index] = PolicyVerdict(
        rule: rule.id, slot: entry.slot, mirror: rule.mirror, action: rule.action, isLogged: rule.isLogged,
        dscp: rule.dscp)
      all.set(index)
      if entry.remote.isEmpty { anyRemote.set(index) }
      for set in entry.remote { remoteRules[Int(set)].append(UInt32(index)) }
      if let local = entry.local {
        localRules[Int(local)].append(UInt32(index))
        usesLocal = true
      } else {
        anyLocal.set(index)
      }
      if rule.vrf == nil, rule.tag == 0 {
        anySubject.set(index)
      } else {
        subjectRules[SubjectKey(vrf: rule.vrf, tag: rule.tag), default: []].append(UInt32(index))
      }
    }
    let ports = PolicyPorts(rules.map(\.rule), memory, all: all)
    unsafe side = PolicySide(
      blocks: memory.blocks, subjects: memory.array(of: PolicyVector?.self, subjects, nil), subjectCapacity: subjects,
      classes: memory.array(of: PolicyVector?.self, classes * 2, nil), classCapacity: classes,
      protocols: ports.protocols, serviceKeys: ports.serviceKeys, services: ports.services,
      sourceCount: ports.sourceCount, sourceKeys: ports.sourceKeys, sources: ports.sources, tcpFlags: ports.tcpFlags,
      usesLocal: usesLocal, all: all, verdicts: verdicts)
  }

  /// Adds a subject; false when there is no room.
  func add(subject number: Int, vrf: UInt32, tags: [UInt32]) -> Bool {
    guard number < side.subjectCapacity else { return false }
    var lists: [[UInt32]] = []
    if let rules = subjectRules[SubjectKey(vrf: vrf, tag: 0)] { lists.append(rules) }
    for tag in tags {
      if let rules = subjectRules[SubjectKey(vrf: nil, tag: tag)] { lists.append(rules) }
      if let rules = subjectRules[SubjectKey(vrf: vrf, tag: tag)] { lists.append(rules) }
    }
    unsafe side.subjects[number] = vector(anySubject, lists)
    return true
  }

  /// Adds a class of addresses; false when there is no room.
  func add(class number: Int, sets: [UInt32]) -> Bool {
    guard number < side.classCapacity else { return false }
    unsafe side.classes[number * 2] = vector(anyRemote, sets, remoteRules, &remoteVectors)
    unsafe side.classes[number * 2 + 1] = vector(anyLocal, sets, localRules, &localVectors)
    return true
  }

  /// True when no rule tells one class from the other.
  func areAlike(_ a: UInt32, _ b: UInt32) -> Bool {
    unsafe side.classes[Int(a) * 2] == side.classes[Int(b) * 2]
      && side.classes[Int(a) * 2 + 1] == side.classes[Int(b) * 2 + 1]
  }

  private func vector(
    _ any: PolicyVector, _ sets: [UInt32], _ rules: [[UInt32]], _ known: inout [[UInt32]: PolicyVector]
  ) -> PolicyVector {
    // Sets made after this was compiled have no rules in it.
    let asked = sets.filter { Int($0) < rules.count && !rules[Int($0)].isEmpty }
    if asked.isEmpty { return any }
    if let vector = known[asked] { return vector }
    let made = vector(any, asked.map { rules[Int($0)] })
    known[asked] = made
    return made
  }

  private func vector(_ any: PolicyVector, _ lists: [[UInt32]]) -> PolicyVector {
    if lists.isEmpty { return any }
    let vector = memory.vector(copying: any)
    for list in lists { for rule in list { vector.set(Int(rule)) } }
    return vector
  }
}

/// Memory of one compiled side, which goes as a whole.
@safe final class PolicyMemory {
  /// Of 256 bits in each vector.
  let blocks: Int
  private var chunks: [UnsafeMutableRawPointer] = unsafe []
  private var next: UnsafeMutableRawPointer
  private var left = 0
  private var chunkBytes = 1 << 14

  private static let largestChunk = 1 << 20

  init(blocks: Int) {
    self.blocks = blocks
    unsafe next = .allocate(byteCount: 32, alignment: 32)
    unsafe chunks.append(next)
  }

  deinit { for index in 0..<(unsafe chunks.count) { unsafe chunks[index].deallocate() } }

  private func take(_ bytes: Int) -> UnsafeMutableRawPointer {
    let rounded = (max(bytes, 1) + 31) & ~31
    if rounded > left {
      left = max(rounded, chunkBytes)
      chunkBytes = min(chunkBytes * 2, Self.largestChunk)
      unsafe next = .allocate(byteCount: left, alignment: 32)
      unsafe chunks.append(next)
    }
    let taken = unsafe next
    unsafe next += rounded
    left -= rounded
    return unsafe taken
  }

  func array<Element>(of type: Element.Type, _ count: Int, _ value: Element) -> UnsafeMutablePointer<Element> {
    unsafe take(count * MemoryLayout<Element>.stride).initializeMemory(as: type, repeating: value, count: count)
  }

  /// Zeros.
  func vector() -> PolicyVector { unsafe PolicyVector(array(of: PolicyBlock.self, blocks, .zero)) }

  func vector(copying other: PolicyVector) -> PolicyVector {
    unsafe PolicyVector(
      take(blocks * MemoryLayout<PolicyBlock>.stride)
        .initializeMemory(as: PolicyBlock.self, from: other.blocks, count: blocks))
  }

  /// True when the bits are the same.
  func isEqual(_ a: PolicyVector, _ b: PolicyVector) -> Bool {
    for block in 0..<blocks where a[block] != b[block] { return false }
    return true
  }
}
