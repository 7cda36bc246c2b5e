import WeftRing
import WeftVRouter
import WeftWire

/// Hostile packets against the packet path, for libFuzzer (tools/fuzz builds and runs it, with AddressSanitizer).
///
/// An input is an interface's number (in its upper two bits the worker: 0 and 1 are one that is alone, 2 and 3 either of
/// two that hand over to each other) and frames that came in by it, each with a length (2 bytes, little-endian), a
/// virtio-net header (10 bytes) and that many bytes, or as many as are left. A length of 65535 ends the batch: another
/// interface's number follows, and its frames. Each frame lies in memory of exactly its
/// size, and so do the frames that leave, so that a byte too many is caught. What earlier inputs left behind (flows,
/// fragments, ports, tokens) stays, until all flows of a thousand inputs end.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  guard size > 0 else { return 0 }
  fuzzer.run(UnsafeBufferPointer(start: data, count: size))
  return 0
}

nonisolated(unsafe) private var fuzzer = PacketFuzzer()

private struct PacketFuzzer {
  private let node = FuzzNode()
  private var runs = 0

  init() {
    do {
      for command in try TablesFile(json: Array(FuzzTables.json.utf8)).commands { try node.programmer.apply(command) }
      for command in FuzzTables.rules { try node.programmer.apply(command) }
    } catch { fatalError("\(error)") }
    node.programmer.commit()
  }

  mutating func run(_ input: UnsafeBufferPointer<UInt8>) {
    var position = 0
    var batches = 0
    while position < input.count, batches < 16 {
      process(input, &position)
      batches += 1
    }
    runs += 1
    if runs % 64 == 0 { judgeAnew() }
    if runs % 1000 == 0 { node.endFlows() }
  }

  /// A member of an address set comes or goes: every flow is judged again.
  private func judgeAnew() {
    let member = AddressSetMember(set: 0, prefix: IPPrefix(host: IPAddress(v4: 0x0A01_0103)), isExcluded: true)
    do throws(Refusal) {
      if runs % 128 == 0 {
        try node.programmer.apply(.setAddressSetMember(member))
      } else {
        try node.programmer.apply(.removeAddressSetMember(set: 0, prefix: member.prefix))
      }
    } catch  where error.code == .notFound {
      // Not there yet.
    } catch { fatalError("\(error)") }
    node.programmer.commit()
  }

  /// A batch, up to the one behind it.
  private func process(_ input: UnsafeBufferPointer<UInt8>, _ position: inout Int) {
    let interface = UInt32(input[position] & 63) % FuzzTables.interfaces
    let worker = max(0, Int(input[position] >> 6) - 1)
    position += 1
    var frames = RxFrames()
    var memories: [UnsafeMutableRawPointer] = []
    defer {
      for memory in memories { memory.deallocate() }
      frames.deallocate()
    }
    while position + 2 <= input.count, !frames.isFull {
      let asked = Int(input[position]) | Int(input[position + 1]) << 8
      if asked == 65535 {
        position += 2
        break
      }
      guard position + 12 <= input.count else {
        position = input.count
        break
      }
      let header = UnsafeMutableRawPointer(mutating: input.baseAddress! + position + 2)
      let virtio = VirtioNetHeader(reading: Bytes(header))
      position += 12
      let count = min(asked, input.count - position)
      // Room before the frame for a tunnel's headers, or none.
      let headroom = asked & 1 == 0 ? 66 : 0
      let memory = UnsafeMutableRawPointer.allocate(byteCount: headroom + count, alignment: 1)
      (memory + headroom).copyMemory(from: input.baseAddress! + position, byteCount: count)
      memories.append(memory)
      frames.append(RxFrame(bytes: Bytes(memory + headroom), length: count, virtio: virtio, headroom: headroom))
      position += count
    }
    node.process(frames, interface: interface, worker: worker)
  }
}
