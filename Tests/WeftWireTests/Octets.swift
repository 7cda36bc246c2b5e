import WeftWire

/// Memory with known octets, for code that reads and writes at a place in a packet. It is never freed: a `Bytes` does not
/// keep what it points at, and a test's last use of one may come after the last use of the object.
final class Octets {
  let bytes: Bytes
  let count: Int

  init(_ octets: [UInt8], room: Int = 0) {
    count = octets.count + room
    let memory = UnsafeMutableRawPointer.allocate(byteCount: max(count, 1), alignment: 8)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    memory.copyMemory(from: octets, byteCount: octets.count)
    bytes = Bytes(memory)
  }

  convenience init(room: Int) { self.init([], room: room) }
  convenience init(hex: String) { self.init(Octets.octets(hex)) }

  var array: [UInt8] { (0..<count).map { bytes.u8($0) } }
  var hex: String { Octets.hex(array) }

  static func octets(_ hex: String) -> [UInt8] {
    let digits = hex.filter { !$0.isWhitespace }.map { UInt8($0.hexDigitValue!) }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
  }
  static func hex(_ octets: [UInt8]) -> String {
    octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }
}

/// Random numbers that are the same in each run (SplitMix64, Steele, Lea and Flood 2014).
struct SeededRandom: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
