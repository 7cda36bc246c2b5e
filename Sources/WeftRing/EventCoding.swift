import WeftWire

extension Event {
  var kindValue: UInt16 {
    switch self {
    case .interfaceState: 1
    case .trap: 2
    case .lost: 3
    case .station: 4
    case .resolve: 5
    case .flow: 6
    }
  }

  func write(to writer: inout SlotWriter) {
    switch self {
    case .interfaceState(let id, let isUp):
      writer.put(id)
      writer.put(UInt8(isUp ? 1 : 0))
    case .trap(let interface, let vrf, let frame):
      writer.put(interface)
      writer.put(vrf)
      let kept = frame.prefix(RingLayout.eventSlotBytes - MessageLayout.headerBytes - 10)
      writer.put(UInt16(kept.count))
      writer.put(bytes: kept)
    case .lost(let count): writer.put(count)
    case .station(let change, let entry):
      writer.put(change.rawValue)
      writer.put(entry)
    case .resolve(let interface, let vrf, let address):
      writer.put(interface)
      writer.put(vrf)
      writer.put(address)
    case .flow(let report): writer.put(report)
    }
  }

  static func read(_ message: RawMessage) throws(SlotFault) -> Event {
    try message.read { r throws(SlotFault) in
      switch message.kind {
      case 1: return .interfaceState(id: try r.get("interface id"), isUp: try r.flag("up"))
      case 2:
        let interface: UInt32 = try r.get("interface")
        let vrf: UInt32 = try r.get("vrf")
        let count = Int(try r.get("frame length", as: UInt16.self))
        return .trap(interface: interface, vrf: vrf, frame: try r.octets("frame", count: count))
      case 3: return .lost(count: try r.get("count"))
      case 4:
        let change: StationChange = try r.option("change")
        return .station(change, try r.bridge())
      case 5:
        return .resolve(
          interface: try r.get("interface"), vrf: try r.get("vrf"), address: try r.address("address"))
      case 6: return .flow(try r.flowReport())
      default: throw SlotFault(what: "event kind")
      }
    }
  }
}
