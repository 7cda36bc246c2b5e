import Glibc
import WeftTables
import WeftVRouter
import WeftWire

@testable import WeftRing

/// Hostile messages of the ring, as a client writes them into slots, against the server's decoding and the programmer
/// that applies them, for libFuzzer (tools/fuzz builds and runs it, with AddressSanitizer).
///
/// An input is a sequence of slots: kind (2 bytes, little-endian), the payload's length as the slot says it (2 bytes, all
/// bits set for 2^32 - 1), how many bytes of it are there (2 bytes), those bytes. What is answered is written into a slot
/// and read back. Then packets go through the tables that came of it, and everything is swept: nothing may be left.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  fuzzer.run(UnsafeBufferPointer(start: data, count: size))
  return 0
}

/// With WEFT_FUZZ_SEEDS=FOLDER, writes an input for each TABLES.json named on the command line into the folder, and ends.
@_cdecl("LLVMFuzzerInitialize")
public func initialize(
  _ count: UnsafeMutablePointer<CInt>,
  _ values: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>
) -> CInt {
  guard let folder = getenv("WEFT_FUZZ_SEEDS") else { return 0 }
  for index in 1..<Int(count.pointee) {
    guard let name = values.pointee[index] else { continue }
    let path = String(cString: name)
    guard let json = read(path), let file = try? TablesFile(json: json) else {
      fatalError("\(path) is no TABLES.json")
    }
    let base = path.split(separator: "/").last.map(String.init) ?? path
    write(seed(file.commands), "\(String(cString: folder))/\(base)")
  }
  exit(0)
}

nonisolated(unsafe) private var fuzzer = RingFuzzer()

private struct RingFuzzer {
  private var node = FuzzNode()
  private let memory: UnsafeMutableRawPointer

  init() {
    memory = .allocate(byteCount: RingLayout.totalBytes, alignment: 4096)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: RingLayout.totalBytes)
  }

  mutating func run(_ input: UnsafeBufferPointer<UInt8>) {
    memset(memory, 0, RingLayout.commands)
    var commands = RingLayout.commandRing(memory)
    var written: UInt64 = 0
    var position = 0
    while position + 6 <= input.count, written < UInt64(RingLayout.commandSlots) {
      func word(_ at: Int) -> UInt16 { UInt16(input[position + at]) | UInt16(input[position + at + 1]) << 8 }
      let claimed = word(2)
      let given = min(Int(word(4)), input.count - position - 6, RingLayout.slotBytes - MessageLayout.headerBytes)
      let slot = memory + RingLayout.commands + Int(written) * RingLayout.slotBytes
      memset(slot, 0, RingLayout.slotBytes)
      slot.storeBytes(of: word(0), as: UInt16.self)
      slot.storeBytes(of: claimed == .max ? UInt32.max : UInt32(claimed), toByteOffset: 4, as: UInt32.self)
      slot.storeBytes(of: written, toByteOffset: 8, as: UInt64.self)
      if given > 0 {
        (slot + MessageLayout.headerBytes).copyMemory(
          from: input.baseAddress! + position + 6, byteCount: given)
      }
      position += 6 + given
      written += 1
      (memory + 192).storeBytes(of: written, as: UInt64.self)
    }
    for sequence in 0..<written {
      guard let message = try? commands.read() else { fatalError("a message is not read") }
      precondition(message.sequence == sequence)
      serve(Command.read(message), sequence)
    }
    node.programmer.commit()
    node.sendSome()
    node.endFlows()
    if node.programmer.generation == .max { node = FuzzNode() } else { node.sweep() }
  }

  private func serve(_ command: Result<Command, Refusal>, _ sequence: UInt64) {
    switch command {
    case .failure(let refusal): answer(.refused(sequence: sequence, refusal))
    case .success(.barrier): node.programmer.commit()
    case .success(.dump(let table, let cursor, let limit)):
      let next = node.programmer.dump(table, cursor: cursor, limit: min(Int(limit), 64)) {
        answer(.entry(sequence: sequence, $0))
      }
      answer(.done(sequence: sequence, cursor: next))
    case .success(let command):
      do throws(Refusal) {
        try node.programmer.apply(command)
        answer(.done(sequence: sequence, cursor: 0))
      } catch { answer(.refused(sequence: sequence, error)) }
    }
  }

  /// What the client reads is what the forwarder said, but that long reasons are cut.
  private func answer(_ completion: Completion) {
    var slot = [UInt8](repeating: 0, count: RingLayout.slotBytes - MessageLayout.headerBytes)
    let count = slot.withUnsafeMutableBytes { bytes in
      var writer = SlotWriter(bytes.baseAddress!, limit: bytes.count)
      completion.write(to: &writer)
      return writer.count
    }
    let message = RawMessage(
      kind: completion.kindValue, sequence: completion.sequence, payload: Array(slot.prefix(count)))
    guard let read = try? Completion.read(message) else { fatalError("not understood: \(completion)") }
    if case .refused(_, let said) = completion, case .refused(_, let heard) = read {
      precondition(said.code == heard.code && said.reason.hasPrefix(heard.reason) && !heard.reason.isEmpty)
    } else {
      precondition(read == completion, "\(completion) is read as \(read)")
    }
  }
}

// MARK: seeds

private func seed(_ commands: [Command]) -> [UInt8] {
  var result: [UInt8] = []
  let all =
    [Command.begin(generation: 1)] + commands + [.barrier]
    + TableName.allCases.map {
      .dump(table: $0, cursor: 0, limit: 100)
    }
  for command in all {
    var slot = [UInt8](repeating: 0, count: RingLayout.slotBytes - MessageLayout.headerBytes)
    let count = slot.withUnsafeMutableBytes { bytes in
      var writer = SlotWriter(bytes.baseAddress!, limit: bytes.count)
      command.write(to: &writer)
      return writer.count
    }
    for word in [command.kindValue, UInt16(count), UInt16(count)] {
      result += [UInt8(truncatingIfNeeded: word), UInt8(truncatingIfNeeded: word >> 8)]
    }
    result += slot.prefix(count)
  }
  return result
}

private func read(_ path: String) -> [UInt8]? {
  guard let file = fopen(path, "r") else { return nil }
  defer { fclose(file) }
  var bytes = [UInt8](repeating: 0, count: 1 << 20)
  let count = fread(&bytes, 1, bytes.count, file)
  return Array(bytes.prefix(count))
}

private func write(_ bytes: [UInt8], _ path: String) {
  guard let file = fopen(path, "w") else { return perror(path) }
  fwrite(bytes, 1, bytes.count, file)
  fclose(file)
}
