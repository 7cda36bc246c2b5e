/// libFuzzer's own mutation, which knows bytes.
@_silgen_name("LLVMFuzzerMutate")
private func mutateBytes(_ data: UnsafeMutablePointer<UInt8>, _ size: Int, _ maximum: Int) -> Int

/// Every second time the file is changed as JSON: a number or a string becomes another one, an object comes twice, goes,
/// or takes another's place.
@_cdecl("LLVMFuzzerCustomMutator")
public func mutateTables(
  _ data: UnsafeMutablePointer<UInt8>, _ size: Int, _ maximum: Int, _ seed: UInt32
) -> Int {
  var random = Random(state: UInt64(seed) &* 0x9E37_79B9_7F4A_7C15 | 1)
  guard random.next(2) == 0 else { return mutateBytes(data, size, maximum) }
  var bytes = Array(UnsafeBufferPointer(start: data, count: size))
  for _ in 0...random.next(3) { mutate(&bytes, &random) }
  guard bytes.count <= maximum else { return mutateBytes(data, size, maximum) }
  for (index, byte) in bytes.enumerated() { data[index] = byte }
  return bytes.count
}

private struct Random {
  var state: UInt64

  mutating func next(_ limit: Int) -> Int {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return Int(state >> 33) % limit
  }
}

private func mutate(_ bytes: inout [UInt8], _ random: inout Random) {
  let values = JSONValues(bytes)
  func one(_ ranges: [Range<Int>]) -> Range<Int>? { ranges.isEmpty ? nil : ranges[random.next(ranges.count)] }
  switch random.next(8) {
  case 0, 1, 2:
    if let place = one(values.numbers) { bytes.replaceSubrange(place, with: number(&random)) }
  case 3:
    if let place = one(values.numbers), let other = one(values.numbers) {
      bytes.replaceSubrange(place, with: Array(bytes[other]))
    }
  case 4:
    if let place = one(values.strings), let other = one(values.strings) {
      bytes.replaceSubrange(place, with: Array(bytes[other]))
    }
  case 5:
    if let object = one(values.objects) {
      bytes.insert(contentsOf: [UInt8(ascii: ",")] + bytes[object], at: object.upperBound)
    }
  case 6:
    if let place = one(values.objects), let other = one(values.objects) {
      bytes.replaceSubrange(place, with: Array(bytes[other]))
    }
  default:
    guard let object = one(values.objects) else { return }
    // With a comma, so that what is left is JSON.
    var range = object
    while range.upperBound < bytes.count, [0x20, 0x0A].contains(bytes[range.upperBound]) {
      range = range.lowerBound..<range.upperBound + 1
    }
    if range.upperBound < bytes.count, bytes[range.upperBound] == UInt8(ascii: ",") {
      range = range.lowerBound..<range.upperBound + 1
    }
    bytes.removeSubrange(range)
  }
}

/// Where counts and widths end, and anything.
private func number(_ random: inout Random) -> [UInt8] {
  let ends = [0, 8, 16, 32, 64, 128, 256, 512, 4096, 65536, 1 << 20, 1 << 24, 1 << 31, 1 << 32, 1_000_000_000_000]
  let value =
    switch random.next(3) {
    case 0: ends[random.next(ends.count)] + random.next(3) - 1
    case 1: random.next(512)
    default: random.next(1 << (1 + random.next(30)))
    }
  return Array(String(value).utf8)
}

/// Where a text's numbers, strings and objects are, as far as it is JSON.
private struct JSONValues {
  var numbers: [Range<Int>] = []
  var strings: [Range<Int>] = []
  var objects: [Range<Int>] = []

  init(_ bytes: [UInt8]) {
    var open: [Int] = []
    var index = 0
    while index < bytes.count {
      let start = index
      switch bytes[index] {
      case UInt8(ascii: "\""):
        index += 1
        while index < bytes.count, bytes[index] != UInt8(ascii: "\"") {
          index += bytes[index] == UInt8(ascii: "\\") ? 2 : 1
        }
        index += 1
        if index <= bytes.count { strings.append(start..<index) }
      case UInt8(ascii: "-"), 0x30...0x39:
        while index < bytes.count,
          [0x2B, 0x2D, 0x2E, 0x45, 0x65].contains(bytes[index]) || (0x30...0x39) ~= bytes[index]
        {
          index += 1
        }
        numbers.append(start..<index)
      case UInt8(ascii: "{"):
        open.append(index)
        index += 1
      case UInt8(ascii: "}"):
        index += 1
        if let begin = open.popLast() { objects.append(begin..<index) }
      default: index += 1
      }
    }
  }
}
