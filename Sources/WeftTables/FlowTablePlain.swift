import CLinux
import WeftWire

extension FlowTable {
  /// Makes the entries of an IPv4 flow without translation that policy allows, given as its key's two words, and returns
  /// the forward one: what `insert` does for most flows, in half the time. `none`, and nothing has changed, where another
  /// flow would have to make way, where the answers' key is another flow's or the same: `insert` knows what to do then.
  ///
  /// `forward` has been looked for and is not there; `mark` is that of the forward entry, its packets go to `nexthop`.
  public mutating func insertPlain(
    addresses: UInt64, transport: UInt64, hash: UInt64, tcpState: TCPState, policyRule: UInt32,
    policyGeneration: UInt32, mark: UInt32, nexthop: UInt32, now: UInt64
  ) -> UInt32 {
    let ports = UInt32(truncatingIfNeeded: transport >> 32)
    let backAddresses = addresses << 32 | addresses >> 32
    let backTransport = UInt64(ports << 16 | ports >> 16) << 32 | transport & 0xFFFF_FFFF
    let backHash = FlowKey.hash(addresses: backAddresses, transport: backTransport, FlowSeeds(seed))
    guard hasSpace, hash != backHash, !has(backAddresses, backTransport, backHash) else { return Self.none }
    let (first, firstPlace) = unsafe freePlace(hash)
    guard firstPlace >= 0 else { return Self.none }
    let forward = takeEntry()
    unsafe fill(first, firstPlace, Self.tag(hash), forward)
    let (second, secondPlace) = unsafe freePlace(backHash)
    guard secondPlace >= 0 else {
      unsafe first.storeBytes(of: 0, toByteOffset: firstPlace * 2, as: UInt16.self)
      unsafe entries[Int(forward)].reverse = freeHead
      freeHead = forward
      return Self.none
    }
    let reverse = takeEntry()
    unsafe fill(second, secondPlace, Self.tag(backHash), reverse)
    count &+= 2
    let timeout = tcpState == .none ? FlowTimeout.first(proto: UInt8(truncatingIfNeeded: transport >> 24)) : .tcpOpening
    // Of the states that a flow begins with, one is changed by a segment with ACK alone: that of the other side.
    var flags: FlowFlags = [.inUse, .forward, .steady]
    write(
      forward, addresses, transport, flags, tcpState, timeout, policyRule, policyGeneration, mark, nexthop, reverse,
      now)
    flags = .inUse
    write(
      reverse, backAddresses, backTransport, flags, tcpState, timeout, policyRule, policyGeneration, 0, Self.none,
      forward, now)
    list(forward)
    wheel.arm(forward, deadline: Self.after(now, limits[timeout]), now: now)
    return forward
  }

  @inline(__always) private func has(_ addresses: UInt64, _ transport: UInt64, _ hash: UInt64) -> Bool {
    let tag = Self.tag(hash)
    return unsafe has(addresses, transport, tag, bucket(hash))
      || has(addresses, transport, tag, bucket(Self.other(hash)))
  }

  @inline(__always) private func has(
    _ addresses: UInt64, _ transport: UInt64, _ tag: UInt16, _ bucket: UnsafeMutableRawPointer
  ) -> Bool {
    var matches = unsafe weft_match_tags(bucket, tag)
    while matches != 0 {
      let place = matches.trailingZeroBitCount >> 1
      let index = unsafe bucket.load(fromByteOffset: 16 &+ place &* 4, as: UInt32.self)
      if unsafe FlowPlace(entries + Int(index)).has(addresses: addresses, transport: transport) { return true }
      matches &= ~(3 << UInt32(truncatingIfNeeded: place &* 2))
    }
    return false
  }

  @inline(__always) private func write(
    _ index: UInt32, _ addresses: UInt64, _ transport: UInt64, _ flags: FlowFlags, _ tcpState: TCPState,
    _ timeout: FlowTimeout, _ rule: UInt32, _ generation: UInt32, _ mark: UInt32, _ nexthop: UInt32,
    _ reverse: UInt32, _ now: UInt64
  ) {
    // `long` is not looked at.
    let entry = unsafe entries + Int(index)
    unsafe entry.pointee.addresses = addresses
    unsafe entry.pointee.transport = transport
    unsafe entry.pointee.policyGeneration = generation
    unsafe entry.pointee.mark = mark
    unsafe entry.pointee.flags = flags
    unsafe entry.pointee.tcp = tcpState.rawValue
    unsafe entry.pointee.timeout = timeout
    unsafe entry.pointee.ecmpMember = 0
    unsafe entry.pointee.wheelSlot = 0
    unsafe entry.pointee.reverse = reverse
    unsafe entry.pointee.nexthop = nexthop
    unsafe entry.pointee.packets = 0
    unsafe entry.pointee.bytes = 0
    unsafe entry.pointee.lastSeen = now
    unsafe entry.pointee.created = now
    unsafe entry.pointee.policyRule = rule
    unsafe entry.pointee.reference = Self.noReference
    unsafe entry.pointee.wheelNext = Self.none
    unsafe entry.pointee.wheelPrevious = Self.none
    unsafe entry.pointee.listNext = Self.none
    unsafe entry.pointee.listPrevious = Self.none
  }
}
