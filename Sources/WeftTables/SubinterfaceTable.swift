import WeftSystem
import WeftWire

/// Interfaces by the port and the tags of their frames (IEEE 802.1Q). A table of keys of 48 bits is what the bridge has
/// too: the parent 16 bits, the outer tag's protocol 2, its VLAN 12, the inner tag's VLAN 12, from the top.
public final class SubinterfaceTable: @unchecked Sendable {
  private let table: BridgeTable

  init(interfaces: Int, epochs: Epochs) throws(SystemError) {
    table = try BridgeTable(capacity: interfaces, epochs: epochs)
  }

  public var reader: SubinterfaceReader { SubinterfaceReader(table: table.reader) }

  /// `inner` is 0 for one tag. False when the table is full.
  public func set(parent: UInt32, proto: UInt16, outer: UInt16, inner: UInt16, interface: UInt32) -> Bool {
    let key = SubinterfaceReader.key(parent, proto, outer, inner)
    return table.set(vrf: 0, mac: MACAddress(bits: key), path: interface + 1)
  }

  public func remove(parent: UInt32, proto: UInt16, outer: UInt16, inner: UInt16) {
    table.remove(vrf: 0, mac: MACAddress(bits: SubinterfaceReader.key(parent, proto, outer, inner)))
  }
}

@safe public struct SubinterfaceReader: @unchecked Sendable {
  let table: BridgeTableReader

  /// The interface whose frames of `parent` have these tags, plus one; 0 for none. `inner` is 0 for one tag.
  public func lookup(parent: UInt32, proto: UInt16, outer: UInt16, inner: UInt16) -> UInt32 {
    table.lookup(vrf: 0, mac: Self.key(parent, proto, outer, inner))
  }

  static func key(_ parent: UInt32, _ proto: UInt16, _ outer: UInt16, _ inner: UInt16) -> UInt64 {
    let kind: UInt64 = proto == Ethernet.vlan ? 1 : proto == Ethernet.serviceVLAN ? 2 : 3
    return UInt64(parent & 0xFFFF) << 32 | kind << 24 | UInt64(outer & 0xFFF) << 12 | UInt64(inner & 0xFFF)
  }
}
