/// A table of the forwarder whose entries' numbers the agent chooses.
public enum IdentifierKind: String, Hashable, Sendable, CaseIterable {
  case interface, vrf, nexthop

  /// VRF 0 is what fabric interfaces have: none.
  var first: UInt32 { self == .vrf ? 1 : 0 }
}

/// An entry whose number is to stay the same for as long as the entry is there, over restarts too, so that a replay
/// changes nothing in a forwarder that went on.
public struct Identifier: Hashable, Sendable {
  public var kind: IdentifierKind
  /// "fabric", "network/NAME", "tunnel/PEER/…", "vmi/UUID".
  public var name: String

  public init(_ kind: IdentifierKind, _ name: String) {
    self.kind = kind
    self.name = name
  }
}

/// The numbers of one kind: always the lowest that is free, so that a small table suffices.
struct NumberSpace: Sendable {
  private var used: Set<UInt32> = []
  private var lowest: UInt32

  init(first: UInt32) { lowest = first }

  /// The lowest free number; not taken yet.
  mutating func free() -> UInt32 {
    while used.contains(lowest) { lowest += 1 }
    return lowest
  }

  mutating func take(_ number: UInt32) { used.insert(number) }

  mutating func release(_ number: UInt32) {
    guard used.remove(number) != nil else { return }
    lowest = min(lowest, number)
  }
}
