import CLinux
import WeftWire

/// A message that does not hold what its kind needs: what was being read.
struct SlotFault: Error {
  let what: StaticString
}

/// Writes fields one after the other into a slot, little-endian as the machine's own: both ends share the machine.
@safe struct SlotWriter {
  private let base: UnsafeMutableRawPointer
  private let limit: Int
  private(set) var count = 0

  init(_ base: UnsafeMutableRawPointer, limit: Int) {
    unsafe self.base = unsafe base
    self.limit = limit
  }

  mutating func put<T: FixedWidthInteger>(_ value: T) {
    precondition(count + MemoryLayout<T>.size <= limit, "a message is larger than its slot")
    unsafe base.storeBytes(of: value, toByteOffset: count, as: T.self)
    count += MemoryLayout<T>.size
  }

  mutating func put(_ mac: MACAddress) { put(mac.bits) }

  mutating func put(_ address: IPAddress) {
    put(address.high)
    put(address.low)
  }

  mutating func put(_ prefix: IPPrefix) {
    put(prefix.address)
    put(UInt8(prefix.length))
  }

  /// A length octet and at most `maximum` octets of UTF-8; what is longer is cut between characters.
  mutating func put(_ text: String, maximum: Int) {
    var kept = Substring(text)
    while kept.utf8.count > min(maximum, 255) { kept = kept.dropLast() }
    put(UInt8(kept.utf8.count))
    for byte in kept.utf8 { put(byte) }
  }

  mutating func put(bytes: some Sequence<UInt8>) {
    for byte in bytes { put(byte) }
  }
}

/// Reads what `SlotWriter` wrote, from a private copy of a slot: every field is checked, nothing is trusted.
@safe struct SlotReader {
  private let bytes: UnsafeRawBufferPointer
  private var position = 0

  init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = unsafe bytes }

  var remaining: Int { unsafe bytes.count - position }

  mutating func get<T: FixedWidthInteger>(_ what: StaticString, as type: T.Type = T.self) throws(SlotFault) -> T {
    guard remaining >= MemoryLayout<T>.size else { throw SlotFault(what: what) }
    let value = unsafe bytes.loadUnaligned(fromByteOffset: position, as: T.self)
    position += MemoryLayout<T>.size
    return value
  }

  mutating func mac(_ what: StaticString) throws(SlotFault) -> MACAddress {
    let bits = try get(what, as: UInt64.self)
    guard bits >> 48 == 0 else { throw SlotFault(what: what) }
    return MACAddress(bits: bits)
  }

  mutating func address(_ what: StaticString) throws(SlotFault) -> IPAddress {
    IPAddress(high: try get(what), low: try get(what))
  }

  mutating func prefix(_ what: StaticString) throws(SlotFault) -> IPPrefix {
    let address = try address(what)
    let length = try get(what, as: UInt8.self)
    guard let prefix = IPPrefix(address, length: Int(length)), prefix.address == address else {
      throw SlotFault(what: what)
    }
    return prefix
  }

  mutating func text(_ what: StaticString, maximum: Int) throws(SlotFault) -> String {
    let count = Int(try get(what, as: UInt8.self))
    guard count <= maximum, let text = String(validating: try octets(what, count: count), as: UTF8.self) else {
      throw SlotFault(what: what)
    }
    return text
  }

  mutating func octets(_ what: StaticString, count: Int) throws(SlotFault) -> [UInt8] {
    guard count <= remaining else { throw SlotFault(what: what) }
    let slice = unsafe Array(bytes[position..<position + count])
    position += count
    return slice
  }

  mutating func option<T: RawRepresentable>(_ what: StaticString, as type: T.Type = T.self) throws(SlotFault) -> T
  where T.RawValue: FixedWidthInteger {
    guard let value = T(rawValue: try get(what)) else { throw SlotFault(what: what) }
    return value
  }

  mutating func flag(_ what: StaticString) throws(SlotFault) -> Bool {
    let value = try get(what, as: UInt8.self)
    guard value <= 1 else { throw SlotFault(what: what) }
    return value == 1
  }

  /// Nothing may be left over: a longer message is of a kind that we do not know.
  func finish() throws(SlotFault) {
    guard remaining == 0 else { throw SlotFault(what: "trailing bytes") }
  }
}
