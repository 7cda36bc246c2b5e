// Which mirrors get copies of flows: beside the table, since few flows have one.

extension FlowTable {
  /// The mirror that gets copies of a flow with the flag `mirrored`, of either entry.
  public func mirror(of index: UInt32) -> UInt32 { UInt32(unsafe mirrorNumbers[Int(index)]) }

  /// Notes a flow's mirror for both of its entries; memory of its own is touched for that where there is one.
  public func setMirror(_ index: UInt32, _ mirror: UInt16) {
    guard isInUse(index) else { return }
    if mirror == 0, unsafe !entries[Int(index)].flags.contains(.mirrored) { return }
    unsafe mirrorNumbers[Int(index)] = mirror
    let reverse = unsafe entries[Int(index)].reverse
    if reverse != Self.none { unsafe mirrorNumbers[Int(reverse)] = mirror }
  }
}
