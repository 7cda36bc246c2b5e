import WeftWire

/// An instruction of classic BPF (linux/filter.h, bpf(4)).
@frozen public struct FilterInstruction: Hashable, Sendable {
  public var code: UInt16
  /// Instructions to skip where a condition holds, and where it does not.
  public var jumpTrue: UInt8
  public var jumpFalse: UInt8
  public var k: UInt32

  public init(code: UInt16, jumpTrue: UInt8, jumpFalse: UInt8, k: UInt32) {
    self.code = code
    self.jumpTrue = jumpTrue
    self.jumpFalse = jumpFalse
    self.k = k
  }
}

/// Why a program is not run.
public struct FilterFault: Error, Hashable, Sendable, CustomStringConvertible {
  /// nil where the program as a whole is wrong.
  public let instruction: Int?
  public let reason: String

  public var description: String { instruction.map { "instruction \($0): \(reason)" } ?? reason }
}

/// A classic BPF program that has been checked: every jump goes forward and stays within, every return is there, no
/// memory is touched but sixteen words of its own and the packet as far as it goes. So it ends, and cannot do harm,
/// whoever wrote it.
@safe public struct PacketFilter: @unchecked Sendable {
  public static let maximumInstructions = 4096
  private static let words: UInt32 = 16

  private let program: UnsafeMutablePointer<FilterInstruction>?
  public let count: Int

  /// Takes every packet.
  public init() {
    unsafe program = nil
    count = 0
  }

  /// Checks a program and keeps it in memory that `deallocate` frees. An empty one takes every packet.
  public init(_ instructions: [FilterInstruction]) throws(FilterFault) {
    if !instructions.isEmpty { try Self.check(instructions) }
    let memory = UnsafeMutablePointer<FilterInstruction>.allocate(capacity: max(1, instructions.count))
    for (index, instruction) in instructions.enumerated() { unsafe (memory + index).initialize(to: instruction) }
    unsafe program = memory
    count = instructions.count
  }

  public func deallocate() { unsafe program?.deallocate() }

  // MARK: checking

  private enum Class {
    static let load: UInt16 = 0
    static let loadX: UInt16 = 1
    static let store: UInt16 = 2
    static let storeX: UInt16 = 3
    static let arithmetic: UInt16 = 4
    static let jump: UInt16 = 5
    static let result: UInt16 = 6
    static let other: UInt16 = 7
  }

  private static func check(_ program: [FilterInstruction]) throws(FilterFault) {
    guard program.count <= maximumInstructions else {
      throw FilterFault(
        instruction: nil, reason: "\(program.count) instructions; a filter has at most \(maximumInstructions)")
    }
    for (index, instruction) in program.enumerated() {
      func fail(_ reason: String) -> FilterFault { FilterFault(instruction: index, reason: reason) }
      let left = program.count - index - 1
      switch instruction.code & 7 {
      case Class.load:
        switch instruction.code {
        // LD W, H, B of ABS and IND; IMM, LEN.
        case 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x00, 0x80: break
        case 0x60: guard instruction.k < words else { throw fail("word \(instruction.k) of 16") }
        default: throw fail("code \(instruction.code) is no load")
        }
      case Class.loadX:
        switch instruction.code {
        // IMM, LEN, MSH.
        case 0x01, 0x81, 0xB1: break
        case 0x61: guard instruction.k < words else { throw fail("word \(instruction.k) of 16") }
        default: throw fail("code \(instruction.code) is no load")
        }
      case Class.store, Class.storeX:
        guard instruction.code < 8 else { throw fail("code \(instruction.code) is no store") }
        guard instruction.k < words else { throw fail("word \(instruction.k) of 16") }
      case Class.arithmetic:
        let usesX = instruction.code & 0x08 != 0
        switch instruction.code & 0xF0 {
        case 0x00, 0x10, 0x20, 0x40, 0x50, 0xA0: break
        case 0x80: guard !usesX else { throw fail("a negation takes no operand") }
        case 0x30, 0x90: guard usesX || instruction.k != 0 else { throw fail("division by zero") }
        case 0x60, 0x70: guard usesX || instruction.k < 32 else { throw fail("a shift by \(instruction.k) bits") }
        default: throw fail("code \(instruction.code) is no arithmetic")
        }
        guard instruction.code & 0xFF00 == 0 else { throw fail("code \(instruction.code) is no arithmetic") }
      case Class.jump:
        guard instruction.code & 0xFF00 == 0 else { throw fail("code \(instruction.code) is no jump") }
        switch instruction.code & 0xF0 {
        case 0x00:
          guard instruction.code == 0x05 else { throw fail("code \(instruction.code) is no jump") }
          guard instruction.k < UInt32(left) else { throw fail("a jump beyond the end") }
        case 0x10, 0x20, 0x30, 0x40:
          guard Int(instruction.jumpTrue) < left, Int(instruction.jumpFalse) < left else {
            throw fail("a jump beyond the end")
          }
        default: throw fail("code \(instruction.code) is no jump")
        }
      case Class.result:
        guard [0x06, 0x16].contains(instruction.code) else { throw fail("code \(instruction.code) is no return") }
      default:
        guard [0x07, 0x87].contains(instruction.code) else { throw fail("code \(instruction.code) is unknown") }
      }
    }
    guard let last = program.last, last.code & 7 == Class.result else {
      throw FilterFault(instruction: program.count - 1, reason: "the last instruction is no return")
    }
  }

  // MARK: running

  /// How many bytes of the packet the program wants: 0 for none of it. `count` bytes lie at `packet`, of `length` that
  /// there are; a look beyond `count` refuses the packet.
  public func run(_ packet: Bytes, count bytes: Int, length: Int) -> UInt32 {
    guard count > 0, let program = unsafe program else { return .max }
    var a: UInt32 = 0
    var x: UInt32 = 0
    var memory = InlineArray<16, UInt32>(repeating: 0)
    let end = UInt64(truncatingIfNeeded: max(0, bytes))
    var counter = 0
    while counter < count {
      let instruction = unsafe program[counter]
      let k = instruction.k
      counter &+= 1
      switch instruction.code {
      case 0x20, 0x40:
        let at = instruction.code == 0x20 ? UInt64(k) : UInt64(k) &+ UInt64(x)
        guard at &+ 4 <= end else { return 0 }
        a = packet.u32(Int(at))
      case 0x28, 0x48:
        let at = instruction.code == 0x28 ? UInt64(k) : UInt64(k) &+ UInt64(x)
        guard at &+ 2 <= end else { return 0 }
        a = UInt32(packet.u16(Int(at)))
      case 0x30, 0x50:
        let at = instruction.code == 0x30 ? UInt64(k) : UInt64(k) &+ UInt64(x)
        guard at < end else { return 0 }
        a = UInt32(packet.u8(Int(at)))
      case 0x00: a = k
      case 0x80: a = UInt32(truncatingIfNeeded: length)
      case 0x60: a = memory[Int(k & 15)]
      case 0x01: x = k
      case 0x81: x = UInt32(truncatingIfNeeded: length)
      case 0xB1:
        guard UInt64(k) < end else { return 0 }
        x = UInt32(packet.u8(Int(k)) & 15) << 2
      case 0x61: x = memory[Int(k & 15)]
      case 0x02: memory[Int(k & 15)] = a
      case 0x03: memory[Int(k & 15)] = x
      case 0x05: counter &+= Int(k)
      case 0x15: counter &+= Int(a == k ? instruction.jumpTrue : instruction.jumpFalse)
      case 0x1D: counter &+= Int(a == x ? instruction.jumpTrue : instruction.jumpFalse)
      case 0x25: counter &+= Int(a > k ? instruction.jumpTrue : instruction.jumpFalse)
      case 0x2D: counter &+= Int(a > x ? instruction.jumpTrue : instruction.jumpFalse)
      case 0x35: counter &+= Int(a >= k ? instruction.jumpTrue : instruction.jumpFalse)
      case 0x3D: counter &+= Int(a >= x ? instruction.jumpTrue : instruction.jumpFalse)
      case 0x45: counter &+= Int(a & k != 0 ? instruction.jumpTrue : instruction.jumpFalse)
      case 0x4D: counter &+= Int(a & x != 0 ? instruction.jumpTrue : instruction.jumpFalse)
      case 0x06: return k
      case 0x16: return a
      case 0x07: x = a
      case 0x87: a = x
      default:
        let operand = instruction.code & 0x08 == 0 ? k : x
        switch instruction.code & 0xF0 {
        case 0x00: a = a &+ operand
        case 0x10: a = a &- operand
        case 0x20: a = a &* operand
        case 0x30, 0x90:
          guard operand != 0 else { return 0 }
          a = instruction.code & 0xF0 == 0x30 ? a / operand : a % operand
        case 0x40: a |= operand
        case 0x50: a &= operand
        case 0x60: a = operand < 32 ? a << operand : 0
        case 0x70: a = operand < 32 ? a >> operand : 0
        case 0x80: a = 0 &- a
        default: a ^= operand
        }
      }
    }
    return 0
  }
}
