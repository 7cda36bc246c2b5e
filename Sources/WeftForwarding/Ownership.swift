import WeftTables
import WeftWire

// With several workers each flow has one that keeps it. The one that a hash of the flow's key chooses (`FlowOwner`) owns
// the key; packets that come in elsewhere are handed over to it, frames as they came, before anything is found out about
// their flow. Where the keys of a flow's two directions have different owners, as with translation, the worker that made
// the flow has it, and the other key's owner keeps a redirect. So each flow's state has one writer, and a packet is
// handed over once, or once more by a redirect.

extension PacketPath {
  /// There are other workers.
  @inline(__always) var isShared: Bool { sharing.isShared }

  /// Counts what came in; once, whoever processes it.
  @inline(__always) func received(_ interface: UInt32, packets: Int, bytes: Int) {
    if !sharing.isHandedOver { counters.received(interface, packets: packets, bytes: bytes) }
  }

  // MARK: the stage

  /// Hands over packets of other workers' flows. Fragments get their ports here: from the worker that knows them.
  mutating func own(_ now: UInt64) {
    let batch = batch
    var frame = 0
    var leaves = false
    for index in 0..<batch.count where batch[index].verdict == .forward && !batch[index].isOwn {
      // Packets are in the order of their frames.
      while frame < sharing.frames.count, !sharing.frames[frame].holds(batch[index].ip) { frame &+= 1 }
      guard frame < sharing.frames.count else {
        // One that lies elsewhere has no frame that could be handed over.
        batch[index].marks = .decided
        frame = 0
        continue
      }
      batch[index].frame = UInt8(truncatingIfNeeded: frame)
      batch[index].marks = sharing.mark(frame)
      chooseWorker(&batch[index], now)
      if batch[index].worker != Packet.noWorker { leaves = true }
    }
    if leaves { handOver() }
  }

  /// Which other worker a packet goes to, if it does.
  private mutating func chooseWorker(_ packet: inout Packet, _ now: UInt64) {
    if packet.isFragment {
      if packet.marks.contains(.ports) {
        setPorts(&packet, sharing.ports(Int(packet.frame)))
      } else {
        let other = sharing.owner.worker(fragmentKey(packet))
        guard other == sharing.owner.index else { return pass(&packet, to: other, []) }
        followFragment(&packet, now)
      }
    }
    guard !packet.marks.contains(.decided) else { return }
    var key = packet.key
    var hash = packet.hash
    if !packet.marks.contains(.itself), let error = quoted(packet) {
      key = error.answers
      hash = key.hash(seed: seed)
    }
    let other = sharing.owner.worker(key)
    guard other != sharing.owner.index, flows.find(key, hash: hash) == FlowTable.none else { return }
    passBack(&packet, to: other, key)
  }

  /// To the worker that owns its key. If that one sent it here, it is told that there is no such flow here.
  private mutating func passBack(_ packet: inout Packet, to owner: Int, _ key: FlowKey) {
    if packet.marks.contains(.redirected) { _ = sharing.tell(owner, .forget, key) }
    pass(&packet, to: owner, packet.marks.intersection(.itself))
  }

  /// Notes that a packet goes to another worker.
  private mutating func pass(_ packet: inout Packet, to other: Int, _ marks: HandOverMark) {
    // Owners agree about who has a flow after a few messages; a packet that goes round all the same ends here.
    guard packet.marks.hopCount < Int(HandOverMark.hops) else { return drop(&packet, .handoverLoop) }
    var marks = packet.marks.after(marks)
    // Whose ports have been looked for: known by who keeps them, or never.
    if packet.isFragment,
      sharing.owner.worker(fragmentKey(packet)) == sharing.owner.index
        || packet.marks.contains(.ports)
    {
      marks.insert(.ports)
    }
    packet.marks = marks
    packet.worker = UInt16(truncatingIfNeeded: other)
  }

  private func setPorts(_ packet: inout Packet, _ ports: UInt32) {
    packet.key = FlowKey(
      vrf: packet.vrf, source: packet.key.source, destination: packet.key.destination, proto: packet.proto,
      sourcePort: UInt16(truncatingIfNeeded: ports >> 16), destinationPort: UInt16(truncatingIfNeeded: ports))
    packet.hash = packet.key.hash(seed: seed)
  }

  // MARK: later stages

  /// A packet without a flow here: it goes to the worker that owns its key, or that has the flow of it. False where that
  /// is this worker.
  mutating func passOn(_ packet: inout Packet) -> Bool {
    guard !packet.marks.contains(.decided) else { return false }
    return passOn(&packet, packet.key)
  }

  private mutating func passOn(_ packet: inout Packet, _ key: FlowKey) -> Bool {
    let owner = sharing.owner.worker(key)
    if owner != sharing.owner.index {
      passBack(&packet, to: owner, key)
    } else if let other = sharing.redirect(key) {
      pass(&packet, to: other, packet.marks.intersection(.itself).union(.redirected))
    } else {
      return false
    }
    handOver(&packet)
    return true
  }

  /// The same for an ICMP error about a flow (`answers`: the key of packets that answer the quoted one) that is not here.
  /// If it is nowhere, the error goes to the worker that owns its own key.
  mutating func passOnError(_ packet: inout Packet, _ answers: FlowKey) -> Bool {
    if passOn(&packet, answers) { return true }
    let owner = sharing.owner.worker(packet.key)
    guard owner != sharing.owner.index else { return false }
    pass(&packet, to: owner, .itself)
    handOver(&packet)
    return true
  }

  /// Another worker is to make the flow.
  mutating func passOn(_ packet: inout Packet, toDecide other: Int) {
    pass(&packet, to: other, packet.marks.intersection(.itself).union(.decided))
    handOver(&packet)
  }

  /// On the short way: hands over a packet whose flow is not here. False where it is to take all stages.
  @inline(never)
  mutating func passOnFast(_ index: Int, _ interface: UInt32) -> Bool {
    let key = fast[index].key
    let marks = sharing.mark(index)
    guard marks.isDisjoint(with: [.decided, .redirected]), marks.hopCount < Int(HandOverMark.hops),
      flows.find(key, hash: fast[index].hash) == FlowTable.none
    else { return false }
    var other = sharing.owner.worker(key)
    var with: HandOverMark = []
    if other == sharing.owner.index {
      guard let redirect = sharing.redirect(key) else { return false }
      other = redirect
      with = .redirected
    }
    if !giveFrame(index, to: other, marks.after(with), ports: 0) {
      lose(.handoverFull, interface, packets: 1, sharing.frames[index])
    }
    return true
  }

  /// On the short way: a new flow is for this worker to make, and for nobody else.
  func isOwnFast(_ index: Int, _ key: FlowKey) -> Bool {
    sharing.mark(index).isDisjoint(with: [.decided, .redirected])
      && sharing.owner.worker(key) == sharing.owner.index && sharing.redirect(key) == nil
  }

  // MARK: handing over

  /// Hands over what `own` found to be others'.
  private mutating func handOver() {
    let batch = batch
    var index = 0
    while index < batch.count {
      guard batch[index].worker != Packet.noWorker else {
        index &+= 1
        continue
      }
      let count = uniformSegments(index)
      if count > 1 {
        let isGiven = giveFrame(
          Int(batch[index].frame), to: Int(batch[index].worker), batch[index].marks, ports: 0)
        for number in index..<index &+ count { finishHandOver(&batch[number], isGiven) }
        index &+= count
      } else {
        handOver(&batch[index])
        index &+= 1
      }
    }
  }

  /// Hands over one packet, and what was merged with it.
  private mutating func handOver(_ packet: inout Packet) {
    // Gone round too often.
    guard packet.verdict == .forward else { return }
    let batch = batch
    let (worker, marks) = (Int(packet.worker), packet.marks)
    let segments = packet.segments
    var next = packet.next
    packet.next = Packet.none
    if next != Packet.none { packet.segments = 1 }
    finishHandOver(&packet, give(packet, to: worker, marks))
    if packet.verdict == .dropped { packet.segments = segments }
    while next != Packet.none {
      let number = Int(next)
      if !give(batch[number], to: worker, marks) {
        drop(&batch[number], .handoverFull)
      }
      next = batch[number].next
    }
  }

  private mutating func finishHandOver(_ packet: inout Packet, _ isGiven: Bool) {
    if isGiven { packet.verdict = .handedOver } else { drop(&packet, .handoverFull) }
  }

  /// How many packets from here on are all segments of one super-frame and go to one worker; 1 for anything else.
  private func uniformSegments(_ first: Int) -> Int {
    let packet = batch[first]
    let frame = sharing.frames[Int(packet.frame)]
    guard packet.fromFabric, frame.isSuper, let outer = OuterLengths(frame) else { return 1 }
    let count = outer.segments
    guard first &+ count <= batch.count else { return 1 }
    for index in first..<first &+ count {
      guard batch[index].verdict == .forward, batch[index].worker == packet.worker, batch[index].frame == packet.frame,
        batch[index].marks.rawValue == packet.marks.rawValue, !batch[index].isFragment
      else { return 1 }
    }
    return count
  }

  private mutating func give(_ packet: Packet, to worker: Int, _ marks: HandOverMark) -> Bool {
    let ports = UInt32(truncatingIfNeeded: packet.key.transport >> 32)
    let frame = sharing.frames[Int(packet.frame)]
    guard packet.fromFabric, frame.isSuper else {
      return giveFrame(Int(packet.frame), to: worker, marks, ports: ports)
    }
    // One segment of many: a frame of its own, of which everything outside has been checked.
    guard let outer = OuterLengths(frame) else { return false }
    let segment = outer.segment(at: frame.bytes.distance(to: packet.ip))
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.dataValid
    guard
      let place = sharing.give(
        worker, marks, interface: sharing.interface(Int(packet.frame)), ports: ports, virtio: virtio,
        priority: frame.priority, bytes: outer.headers &+ segment.bytes)
    else { return false }
    place.copy(from: frame.bytes, count: outer.headers)
    place.advanced(outer.headers).copy(from: frame.bytes.advanced(segment.offset), count: segment.bytes)
    outer.setLengths(place, payload: segment.bytes)
    return true
  }

  /// A whole frame as it came.
  private mutating func giveFrame(_ index: Int, to worker: Int, _ marks: HandOverMark, ports: UInt32) -> Bool {
    let frame = sharing.frames[index]
    guard
      let place = sharing.give(
        worker, marks, interface: sharing.interface(index), ports: ports, virtio: frame.virtio,
        priority: frame.priority, bytes: frame.length)
    else { return false }
    place.copy(from: frame.bytes, count: frame.length)
    return true
  }
}

extension RxFrame {
  /// A UDP super-frame, which from the fabric is many packets.
  fileprivate var isSuper: Bool { virtio.gso & ~VirtioNetHeader.gsoECN == VirtioNetHeader.gsoUDP }

  @inline(__always) fileprivate func holds(_ place: Bytes) -> Bool {
    let offset = bytes.distance(to: place)
    return offset >= 0 && offset <= length
  }
}

/// How a super-frame from the fabric, whose outer headers have been found good, is divided.
private struct OuterLengths {
  /// Bytes up to what follows the UDP header.
  let headers: Int
  let ip: Int
  let isV4: Bool
  let payload: Int
  let stride: Int

  init?(_ frame: RxFrame) {
    var type = Ethernet.type
    while Ethernet.isTag(frame.bytes.u16(type)) {
      type &+= 4
      guard type &+ 2 &+ IPv6.bytes &+ UDP.bytes <= frame.length else { return nil }
    }
    ip = type &+ 2
    isV4 = frame.bytes.u16(type) == Ethernet.ipv4
    headers = ip &+ (isV4 ? IPv4.headerBytes(frame.bytes.advanced(ip)) : IPv6.bytes) &+ UDP.bytes
    guard headers <= frame.length else { return nil }
    payload = Int(frame.bytes.u16(headers &- UDP.bytes &+ 4)) &- UDP.bytes
    stride = Int(frame.virtio.gsoBytes)
    guard payload > 0, stride > 0, headers &+ payload <= frame.length else { return nil }
  }

  var segments: Int { (payload &+ stride &- 1) / stride }

  /// The segment in which an offset of the frame lies.
  func segment(at offset: Int) -> (offset: Int, bytes: Int) {
    let before = min(max(0, offset &- headers), payload &- 1) / stride &* stride
    return (headers &+ before, min(stride, payload &- before))
  }

  /// Writes the lengths of a frame with these headers and so many bytes behind them.
  func setLengths(_ frame: Bytes, payload: Int) {
    let header = frame.advanced(ip)
    let udp = frame.advanced(headers &- UDP.bytes)
    udp.set16(4, UInt16(truncatingIfNeeded: UDP.bytes &+ payload))
    if isV4 {
      header.set16(2, UInt16(truncatingIfNeeded: headers &- ip &+ payload))
      IPv4.writeChecksum(header, bytes: headers &- ip &- UDP.bytes)
    } else {
      header.set16(4, UInt16(truncatingIfNeeded: UDP.bytes &+ payload))
    }
  }
}
