import WeftWire

/// Hostile frames of machines that ask for addresses and routers, against the codecs with which the agent reads them, for
/// libFuzzer (tools/fuzz). What is read is written again and must be read as the same.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let octets = Array(UnsafeBufferPointer(start: data, count: size))
  guard let first = octets.first else { return 0 }
  let body = Array(octets.dropFirst())
  switch first & 3 {
  case 0: if let frame = try? HostFrame(reading: body) { read(frame) }
  case 1: readV4(body)
  case 2: readV6(body)
  default: _ = try? RouterSolicitation(reading: body, source: IPAddress(high: 0, low: 0), hopLimit: 255)
  }
  return 0
}

private func read(_ frame: HostFrame) {
  let again = try? HostFrame(reading: frame.octets)
  precondition(again == withoutChecksum(frame, as: again), "a frame is read as another")
  switch frame.payload {
  case .udp(_, _, let octets):
    readV4(octets)
    readV6(octets)
  case .icmpv6(let message):
    _ = try? RouterSolicitation(reading: message, source: frame.source, hopLimit: frame.hops)
  }
}

/// A message's checksum is as it came, and the same sum has two forms.
private func withoutChecksum(_ frame: HostFrame, as other: HostFrame?) -> HostFrame {
  guard let other, case .icmpv6 = frame.payload else { return frame }
  var frame = frame
  frame.payload = other.payload
  return frame
}

private func readV4(_ octets: [UInt8]) {
  guard var message = try? DHCPv4Message(reading: octets) else { return }
  for maximum in [0, 548, 1472, 65000] {
    let (written, omitted) = message.encoded(maximum: maximum)
    precondition(written.count <= max(maximum, 548), "\(written.count) bytes, \(maximum) at most")
    guard let again = try? DHCPv4Message(reading: written) else { fatalError("what was written is not read") }
    precondition(again.kind == message.kind && again.hardware == message.hardware)
    let kept = message.options.filter { !omitted.contains($0.code) }
    precondition(Set(again.options) == Set(kept), "options are read as others")
  }
  message.bootFile = String(repeating: "f", count: 200)
  message.bootServer = String(repeating: "s", count: 200)
  precondition(message.encoded(maximum: 548).octets.count <= 548)
}

private func readV6(_ octets: [UInt8]) {
  guard let message = try? DHCPv6Message(reading: octets) else { return }
  precondition((try? DHCPv6Message(reading: message.octets)) == message)
  for option in message.options where option.code == DHCPv6Option.association {
    guard let association = try? DHCPv6Association(reading: option.value) else { continue }
    precondition((try? DHCPv6Association(reading: association.octets)) == association)
  }
}
