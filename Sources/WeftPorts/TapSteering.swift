import CLinux
import WeftWire

/// An eBPF program by which the kernel chooses the queue of a TAP interface (TUNSETSTEERINGEBPF, kernel 4.16): that of
/// the worker whom the packet's flow belongs to, so that nobody has to hand it over, and all of a flow's packets come by
/// one queue, in order. It reckons as `FlowOwner` does.
public enum TapSteering {
  /// Where the program keeps what it has read: places below the frame pointer.
  private enum Slot {
    static let sourcePort: Int16 = -8
    static let destinationPort: Int16 = -16
    static let source: (high: Int16, low: Int16) = (-24, -32)
    static let destination: (high: Int16, low: Int16) = (-40, -48)
  }

  /// For an interface with a queue for each worker, in their order. `seed` is that of their `FlowOwner`. What has no
  /// ports in the usual place (fragments, options, other protocols, tags) comes by the first queue.
  public static func program(workers: Int, seed: UInt64) -> [bpf_insn] {
    var code = EBPFAssembler()
    code.move(to: 6, from: 1)
    code.load16(12)
    code.jumpIfEqual(UInt32(Ethernet.ipv4), to: "v4")
    code.jumpUnlessEqual(UInt32(Ethernet.ipv6), to: "other")
    readPorts(&code, proto: 20, ports: 54, "v6")
    for (slot, offset) in [
      (Slot.source.high, 22), (Slot.source.low, 30), (Slot.destination.high, 38), (Slot.destination.low, 46),
    ] as [(Int16, Int32)] {
      code.load32(offset)
      code.shiftLeft(0, 32)
      code.move(to: 8, from: 0)
      code.load32(offset + 4)
      code.add(8, register: 0)
      code.push(slot, from: 8)
    }
    code.jump(to: "hash")

    code.label("v4")
    code.load8(14)
    code.jumpUnlessEqual(0x45, to: "other")
    code.load16(20)
    code.and(0, 0x3FFF)
    code.jumpUnlessEqual(0, to: "other")
    readPorts(&code, proto: 23, ports: 34, "v4 with ports")
    for (slot, offset) in [(Slot.source, 26), (Slot.destination, 30)] as [((high: Int16, low: Int16), Int32)] {
      code.set(0, 0)
      code.push(slot.high, from: 0)
      // As an IPv4-mapped address, RFC 4291 section 2.5.5.2.
      code.load32(offset)
      code.setLong(1, 0xFFFF_0000_0000)
      code.add(0, register: 1)
      code.push(slot.low, from: 0)
    }

    code.label("hash")
    hashEnd(&code, Slot.source, Slot.sourcePort, seed)
    code.move(to: 8, from: 0)
    hashEnd(&code, Slot.destination, Slot.destinationPort, seed)
    code.add(8, register: 0)
    code.move(to: 1, from: 8)
    code.move(to: 2, from: 7)
    code.setLong(3, seed ^ 0x8EBC_6AF0_9C88_C6E3)
    code.xor(2, register: 3)
    fold(&code)
    code.shiftRight(0, 32)
    code.multiply(0, Int32(workers))
    code.shiftRight(0, 32)
    code.end()
    code.label("other")
    code.end(0)
    return code.assembled()
  }

  /// The protocol into register 7, the ports into their slots; what is neither TCP nor UDP is done with.
  private static func readPorts(_ code: inout EBPFAssembler, proto: Int32, ports: Int32, _ name: String) {
    code.load8(proto)
    code.move(to: 7, from: 0)
    code.jumpIfEqual(UInt32(IPProtocol.tcp), to: name + " ports")
    code.jumpUnlessEqual(UInt32(IPProtocol.udp), to: "other")
    code.label(name + " ports")
    code.load16(ports)
    code.push(Slot.sourcePort, from: 0)
    code.load16(ports + 2)
    code.push(Slot.destinationPort, from: 0)
  }

  /// `FlowOwner.end` into register 0.
  private static func hashEnd(
    _ code: inout EBPFAssembler, _ address: (high: Int16, low: Int16), _ port: Int16, _ seed: UInt64
  ) {
    code.pop(1, port)
    code.setLong(3, 0xA076_1D64_78BD_642F)
    code.multiply(1, register: 3)
    code.pop(3, address.high)
    code.xor(1, register: 3)
    code.setLong(3, seed)
    code.xor(1, register: 3)
    code.pop(2, address.low)
    code.setLong(3, 0xE703_7ED1_A0B4_28DB ^ seed << 32)
    code.xor(2, register: 3)
    fold(&code)
  }

  /// `FlowKey.fold` of registers 1 and 2 into register 0: the two halves of their product, one over the other. The
  /// product is made of those of 32 bits.
  private static func fold(_ code: inout EBPFAssembler) {
    code.move(to: 0, from: 1)
    code.multiply(0, register: 2)
    code.move(to: 3, from: 1)
    code.shiftRight(3, 32)
    keepLow(&code, 1)
    code.move(to: 4, from: 2)
    code.shiftRight(4, 32)
    keepLow(&code, 2)
    code.move(to: 5, from: 1)
    code.multiply(5, register: 2)
    code.shiftRight(5, 32)
    code.multiply(1, register: 4)
    code.multiply(2, register: 3)
    code.multiply(3, register: 4)
    for middle: UInt8 in [1, 2] {
      code.move(to: 4, from: middle)
      keepLow(&code, 4)
      code.add(5, register: 4)
      code.shiftRight(middle, 32)
      code.add(3, register: middle)
    }
    code.shiftRight(5, 32)
    code.add(3, register: 5)
    code.xor(0, register: 3)
  }

  private static func keepLow(_ code: inout EBPFAssembler, _ register: UInt8) {
    code.shiftLeft(register, 32)
    code.shiftRight(register, 32)
  }
}
