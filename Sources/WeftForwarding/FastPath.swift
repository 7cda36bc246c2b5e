import WeftTables
import WeftWire

// The short way. Most packets are whole IPv4 packets of TCP or UDP without options, of a flow that is known, whose path
// has not changed since its last packet: nothing is to be found out about them. They go from the frame to the port in
// three rounds over the batch, without becoming a `Packet`: what the headers say (FastRead.swift), which flow that probably
// is, and out (FastSend.swift). So do first packets of flows that nothing is to be done for but to ask policy and look up
// the route (FastBegin.swift, between the second round and the third). Whatever is not like that goes the way of all
// stages, and so do the frames behind it, so that no packet overtakes another. Both ways do the same to a packet that can
// go either (`usesFastPath` is there to compare them).
//
// Headers are written in front of the packet, over those that it came with and into the room before the frame, so that
// it leaves in one piece. Where a port leaves no room there, they are made apart.

/// A packet that may go the short way.
@safe struct FastPacket {
  var ip: Bytes
  /// The flow's key (`FlowKey`).
  var addresses: UInt64
  var transport: UInt64
  var hash: UInt64
  var bucket: FlowBucket
  /// Its flow's entry, probably.
  var flow: FlowPlace
  /// Bytes of IP packet.
  var ipBytes: Int
  /// It has more to it than most: one of those below.
  var special: Special

  @inline(__always) var key: FlowKey { FlowKey(addresses: addresses, transport: transport) }
  @inline(__always) var proto: UInt8 { UInt8(truncatingIfNeeded: transport >> 24) }

  struct Special: OptionSet {
    let rawValue: UInt8
    /// The transport checksum is to be finished: its field holds the pseudo-header's sum.
    static var needsChecksum: Special { Special(rawValue: 1) }
    /// TCP with SYN alone. Its candidate is nobody's flow, until it has one of its own.
    static var isOpening: Special { Special(rawValue: 2) }
  }

  @inline(__always) var needsChecksum: Bool { special.contains(.needsChecksum) }
  @inline(__always) var isOpening: Bool { special.contains(.isOpening) }
}

/// One of a batch, in its place.
@safe struct FastPlace {
  private let pointer: UnsafeMutablePointer<FastPacket>

  @inline(__always) init(_ pointer: UnsafeMutablePointer<FastPacket>) { unsafe self.pointer = unsafe pointer }

  var packet: FastPacket {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(pointer) }
    @inline(__always) nonmutating unsafeMutableAddress { unsafe pointer }
  }

  @inline(__always) static func != (a: FastPlace, b: FastPlace) -> Bool { unsafe a.pointer != b.pointer }

  /// The next one's.
  @inline(__always) mutating func advance() { self = unsafe FastPlace(pointer + 1) }
  @inline(__always) func distance(from start: FastPlace) -> Int { unsafe pointer - start.pointer }
}

@safe struct FastBatch {
  private let packets: UnsafeMutablePointer<FastPacket>
  /// Some of them need a checksum.
  var hasUnfinished = false

  /// One more than there are frames: `end`.
  init() { unsafe packets = .allocate(capacity: RxFrames.capacity + 1) }
  func deallocate() { unsafe packets.deallocate() }

  subscript(index: Int) -> FastPacket {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(packets + index) }
    @inline(__always) nonmutating unsafeMutableAddress { unsafe packets + index }
  }

  @inline(__always) func place(_ index: Int) -> FastPlace { unsafe FastPlace(packets + index) }

  /// Ends a batch of `count` packets: the one behind them has no flow, and needs no counting then.
  @inline(__always) func end(_ count: Int, _ places: FlowPlaces) {
    self[count].flow = places.nobody
    self[count].addresses = .max
  }
}

/// How a batch's packets are sent.
private enum FastWay {
  /// `PacketPath.sendInPlace`.
  case inPlace
  case unfinished
  case apart
}

extension PacketPath {
  /// Takes packets from the batch's front the short way; returns how many frames are done.
  mutating func forwardFast(
    _ frames: RxFrames, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>, _ now: UInt64
  ) -> Int {
    guard tx.hasRoom(frames: RxFrames.capacity, bytes: Self.frontBytes) else { return 0 }
    let isFromFabric = interface.entry.isFabric
    fast.hasUnfinished = false
    let read = isFromFabric ? openFast(frames, interface) : readFast(frames, interface)
    guard read > 0 else { return 0 }
    let generation = tables.generation
    let fast = fast
    let places = flows.places
    var place = fast.place(0)
    let end = fast.place(read)
    while place != end {
      place.packet.flow = places.candidate(place.packet.bucket, place.packet.hash)
      place.advance()
    }
    fast.end(read, places)
    // From the fabric there is room where the outer headers were.
    let hasRoom = isFromFabric || frames.headroom &+ Ethernet.bytes >= Self.frontBytes
    let way: FastWay = hasRoom ? fast.hasUnfinished ? .unfinished : .inPlace : .apart
    var done = 0
    while true {
      switch way {
      case .inPlace: done = sendInPlace(done, isFromFabric, generation, now)
      case .unfinished: done = sendUnfinished(done, isFromFabric, generation, now)
      case .apart: done = sendApart(done, isFromFabric, generation, now)
      }
      guard done < read else { break }
      // One that has no flow, or whose flow does not know everything about it.
      if !hasFlow(done) {
        var known = done
        while known < read, hasFlow(known) || beginFast(known, id, interface, generation, now) { known &+= 1 }
        if known > done { continue }
      }
      // Another worker's, perhaps.
      guard isShared, passOnFast(done, id) else { break }
      done &+= 1
    }
    guard done > 0 else { return 0 }
    received(id, packets: done, bytes: frames.bytes(done))
    return done
  }

  /// The candidate is the packet's flow.
  @inline(__always) private func hasFlow(_ index: Int) -> Bool {
    fast[index].flow.has(addresses: fast[index].addresses, transport: fast[index].transport)
  }
}
