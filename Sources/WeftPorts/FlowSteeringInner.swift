import CLinux
import WeftWire

/// The part of `FlowSteering` that reads a flow's key as `Parse.swift` does, and hashes it as `FlowOwner` does. A load from
/// behind the packet's end returns 0 from the program.
struct InnerFlow {
  let workers: Int
  let seed: UInt64

  // On the stack: the key, as `FlowOwner` takes it.
  private static let sourceHigh: Int16 = -8
  private static let sourceLow: Int16 = -16
  private static let destinationHigh: Int16 = -24
  private static let destinationLow: Int16 = -32
  /// A source port, or the identification of a fragmented packet.
  private static let sourcePort: Int16 = -40
  private static let destinationPort: Int16 = -48
  /// What goes into the last step of the hash beside the protocol.
  private static let last: Int16 = -56
  private static let scratch: Int16 = -64

  /// From "v4": register 7 is where the IP header begins.
  func readIPv4(_ code: inout EBPFAssembler) {
    for isQuoted in [false, true] {
      let name = isQuoted ? "quoted v4" : "v4"
      code.label(name)
      if isQuoted { checkVersion(&code, 4, IPProtocol.icmp) }
      for (offset, high, low) in [
        (12, Self.sourceHigh, Self.sourceLow), (16, Self.destinationHigh, Self.destinationLow),
      ] as [(Int32, Int16, Int16)] {
        code.load32(indexedBy: 7, offset)
        // IPv4-mapped, as `IPAddress` keeps it.
        code.setLong(1, 0xFFFF_0000_0000)
        code.or(0, register: 1)
        code.push(low, from: 0)
        code.set(0, 0)
        code.push(high, from: 0)
      }
      code.load8(indexedBy: 7, 9)
      code.move(to: 8, from: 0)
      code.load8(indexedBy: 7, 0)
      code.and(0, 0x0F)
      code.shiftLeft(0, 2)
      code.move(to: 9, from: 7)
      code.add(9, register: 0)
      code.load16(indexedBy: 7, 6)
      if isQuoted {
        code.jumpIfSet(UInt32(IPv4.offsetMask), to: "no ports")
      } else {
        code.jumpIfSet(UInt32(IPv4.moreFragments | IPv4.offsetMask), to: "v4 fragment")
      }
      readPorts(&code, name, isV4: true, isQuoted)
    }
    code.label("v4 fragment")
    code.load16(indexedBy: 7, 4)
    code.jump(to: "fragment")
  }

  /// From "v6".
  func readIPv6(_ code: inout EBPFAssembler) {
    for isQuoted in [false, true] {
      let name = isQuoted ? "quoted v6" : "v6"
      code.label(name)
      if isQuoted { checkVersion(&code, 6, IPProtocol.icmpv6) }
      for (offset, place) in [
        (8, Self.sourceHigh), (16, Self.sourceLow), (24, Self.destinationHigh), (32, Self.destinationLow),
      ] as [(Int32, Int16)] {
        code.load32(indexedBy: 7, offset)
        code.shiftLeft(0, 32)
        code.push(place, from: 0)
        code.load32(indexedBy: 7, offset + 4)
        code.pop(1, place)
        code.or(0, register: 1)
        code.push(place, from: 0)
      }
      code.load8(indexedBy: 7, 6)
      code.move(to: 8, from: 0)
      code.move(to: 9, from: 7)
      code.add(9, Int32(IPv6.bytes))
      for number in 0...IPv6.maximumExtensions { skipExtension(&code, name, number) }
      code.jump(to: "none")
      code.label("\(name) fragment")
      if isQuoted {
        code.load16(indexedBy: 9, 2)
        code.and(0, 0xFFF8)
        code.push(Self.scratch, from: 0)
        code.load8(indexedBy: 9, 0)
        code.move(to: 8, from: 0)
        code.add(9, 8)
        code.pop(0, Self.scratch)
        code.jumpUnlessEqual(0, to: "no ports")
      } else {
        code.load8(indexedBy: 9, 0)
        code.move(to: 8, from: 0)
        code.load32(indexedBy: 9, 4)
        code.jump(to: "fragment")
      }
      code.label("\(name) transport")
      readPorts(&code, name, isV4: false, isQuoted)
    }
  }

  /// One extension header (RFC 8200 section 4), of which register 8 holds the type and register 9 the place.
  private func skipExtension(_ code: inout EBPFAssembler, _ name: String, _ number: Int) {
    code.move(to: 0, from: 8)
    for type in [IPv6.hopByHop, IPv6.routing, IPv6.destinationOptions] {
      code.jumpIfEqual(UInt32(type), to: "\(name) units of 8, \(number)")
    }
    code.jumpIfEqual(UInt32(IPv6.authentication), to: "\(name) units of 4, \(number)")
    code.jumpIfEqual(UInt32(IPv6.fragment), to: "\(name) fragment")
    code.jump(to: "\(name) transport")
    code.label("\(name) units of 4, \(number)")
    code.load8(indexedBy: 9, 1)
    code.add(0, 2)
    code.shiftLeft(0, 2)
    code.jump(to: "\(name) next, \(number)")
    code.label("\(name) units of 8, \(number)")
    code.load8(indexedBy: 9, 1)
    code.add(0, 1)
    code.shiftLeft(0, 3)
    code.label("\(name) next, \(number)")
    code.push(Self.scratch, from: 0)
    code.load8(indexedBy: 9, 0)
    code.move(to: 8, from: 0)
    code.pop(0, Self.scratch)
    code.add(9, register: 0)
  }

  /// An ICMP error that quotes something else is a packet for itself.
  private func checkVersion(_ code: inout EBPFAssembler, _ version: UInt32, _ proto: UInt8) {
    code.set(8, Int32(proto))
    code.load8(indexedBy: 7, 0)
    code.shiftRight(0, 4)
    code.jumpUnlessEqual(version, to: "no ports")
  }

  /// Goes on at "flow" with the ports on the stack, or at "no ports".
  private func readPorts(_ code: inout EBPFAssembler, _ name: String, isV4: Bool, _ isQuoted: Bool) {
    code.move(to: 0, from: 8)
    for proto in [IPProtocol.tcp, IPProtocol.udp, IPProtocol.sctp] { code.jumpIfEqual(UInt32(proto), to: "ports") }
    code.jumpUnlessEqual(UInt32(isV4 ? IPProtocol.icmp : IPProtocol.icmpv6), to: "no ports")
    code.load8(indexedBy: 9, 0)
    let types = (0...255).map { UInt8($0) }
    for type in types where ICMP.isEcho(type, isV4: isV4) { code.jumpIfEqual(UInt32(type), to: "echo") }
    if !isQuoted {
      // The flow that an error quotes: which of its ends is which does not count.
      for type in types where ICMP.isError(type, isV4: isV4) { code.jumpIfEqual(UInt32(type), to: "\(name) error") }
    }
    code.jump(to: "no ports")
    guard !isQuoted else { return }
    code.label("\(name) error")
    code.move(to: 7, from: 9)
    code.add(7, Int32(ICMP.minimumBytes))
    code.jump(to: isV4 ? "quoted v4" : "quoted v6")
  }

  /// What "fragment", "ports", "echo" and "no ports" have in common: the worker's number is returned.
  func chooseWorker(_ code: inout EBPFAssembler) {
    code.label("fragment")
    code.push(Self.sourcePort, from: 0)
    code.set(0, 0)
    code.push(Self.destinationPort, from: 0)
    code.setLong(1, seed ^ 0x5899_65CC_7537_4CC3)
    code.jump(to: "hash")
    code.label("ports")
    code.load16(indexedBy: 9, 0)
    code.push(Self.sourcePort, from: 0)
    code.load16(indexedBy: 9, 2)
    code.jump(to: "flow")
    code.label("echo")
    code.load16(indexedBy: 9, 4)
    code.push(Self.sourcePort, from: 0)
    code.jump(to: "flow")
    code.label("no ports")
    code.set(0, 0)
    code.push(Self.sourcePort, from: 0)
    code.label("flow")
    code.push(Self.destinationPort, from: 0)
    code.setLong(1, seed ^ 0x8EBC_6AF0_9C88_C6E3)
    code.label("hash")
    code.push(Self.last, from: 1)
    hashEnd(&code, Self.sourceHigh, Self.sourceLow, Self.sourcePort)
    code.move(to: 9, from: 0)
    hashEnd(&code, Self.destinationHigh, Self.destinationLow, Self.destinationPort)
    code.move(to: 1, from: 0)
    code.add(1, register: 9)
    code.pop(2, Self.last)
    code.xor(2, register: 8)
    fold(&code)
    code.shiftRight(0, 32)
    code.multiply(0, Int32(workers))
    code.shiftRight(0, 32)
    code.end()
  }

  /// `FlowOwner.end`, into register 0.
  private func hashEnd(_ code: inout EBPFAssembler, _ high: Int16, _ low: Int16, _ port: Int16) {
    code.pop(1, port)
    code.setLong(2, 0xA076_1D64_78BD_642F)
    code.multiply(1, register: 2)
    code.pop(2, high)
    code.xor(1, register: 2)
    code.setLong(2, seed)
    code.xor(1, register: 2)
    code.pop(2, low)
    code.setLong(3, 0xE703_7ED1_A0B4_28DB ^ seed << 32)
    code.xor(2, register: 3)
    fold(&code)
  }

  /// `FlowKey.fold` of registers 1 and 2 into register 0: the two halves of their product, one over the other, from the
  /// products of their halves. Registers 1 to 5 are lost.
  private func fold(_ code: inout EBPFAssembler) {
    code.move(to: 0, from: 1)
    code.multiply(0, register: 2)
    code.move(to: 3, from: 1)
    code.shiftRight(3, 32)
    code.move(to: 4, from: 2)
    code.shiftRight(4, 32)
    code.moveWord(to: 1, from: 1)
    code.moveWord(to: 2, from: 2)
    // low x low, of which the upper half counts; the two mixed products; high x high.
    code.move(to: 5, from: 1)
    code.multiply(5, register: 2)
    code.shiftRight(5, 32)
    code.multiply(1, register: 4)
    code.multiply(2, register: 3)
    code.multiply(3, register: 4)
    code.moveWord(to: 4, from: 1)
    code.add(5, register: 4)
    code.moveWord(to: 4, from: 2)
    code.add(5, register: 4)
    code.shiftRight(5, 32)
    code.add(3, register: 5)
    code.shiftRight(1, 32)
    code.add(3, register: 1)
    code.shiftRight(2, 32)
    code.add(3, register: 2)
    code.xor(0, register: 3)
  }
}
