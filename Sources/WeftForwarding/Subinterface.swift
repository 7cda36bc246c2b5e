import WeftTables
import WeftWire

// VLANs (IEEE 802.1Q): frames with a tag, or two, on the port of an interface are those of another interface, which has
// no port of its own. Their tags come off here, before anything else looks at them, and are put on at the end.

extension PacketPath {
  enum Untagged {
    /// The interface's that the frame came in by: it has no tag, or one with nothing but a priority.
    case parents
    case subinterface(UInt32)
    case dropped(DropReason)
  }

  /// Takes the tags off frame `index` of the batch. Another worker gets it without them, as the interface's that it is.
  @inline(never) mutating func untag(_ frame: inout RxFrame, _ index: Int, on parent: UInt32) -> Untagged {
    let result = untag(&frame, on: parent)
    guard isShared else { return result }
    switch result {
    case .parents: sharing.replace(index, frame, interface: parent)
    case .subinterface(let number): sharing.replace(index, frame, interface: number)
    case .dropped: break
    }
    return result
  }

  /// Takes a frame's tags off: the MAC addresses move to where the packet's type is. The interface of both tags is
  /// sought, then that of the outer one alone.
  private func untag(_ frame: inout RxFrame, on parent: UInt32) -> Untagged {
    for _ in 0..<2 {
      let type = frame.bytes.u16(Ethernet.type)
      guard Ethernet.isTag(type) else { return .parents }
      guard frame.length >= Ethernet.bytes + Ethernet.tagBytes else { return .dropped(.shortFrame) }
      let outer = frame.bytes.u16(Ethernet.bytes) & Ethernet.vlanMask
      // The outermost tag's counts.
      if frame.priority == RxFrame.untagged {
        frame.priority = Ethernet.priority(frame.bytes, tagAt: Ethernet.type)
      }
      if outer == 0 {
        Self.removeTags(&frame, Ethernet.tagBytes)
        continue
      }
      if Ethernet.isTag(frame.bytes.u16(Ethernet.type + Ethernet.tagBytes)),
        frame.length >= Ethernet.bytes + 2 * Ethernet.tagBytes
      {
        let inner = frame.bytes.u16(Ethernet.bytes + Ethernet.tagBytes) & Ethernet.vlanMask
        // Without a VLAN the inner tag is a priority, and the frame one of the outer VLAN.
        let both = tables.subinterfaces.lookup(parent: parent, proto: type, outer: outer, inner: inner)
        if both != 0 {
          Self.removeTags(&frame, 2 * Ethernet.tagBytes)
          return .subinterface(both - 1)
        }
      }
      let one = tables.subinterfaces.lookup(parent: parent, proto: type, outer: outer, inner: 0)
      guard one != 0 else { return .dropped(.vlanUnknown) }
      Self.removeTags(&frame, Ethernet.tagBytes)
      return .subinterface(one - 1)
    }
    return .parents
  }

  private static func removeTags(_ frame: inout RxFrame, _ count: Int) {
    let high = frame.bytes.u64(0)
    let low = frame.bytes.u32(8)
    frame.bytes = frame.bytes.advanced(count)
    frame.bytes.set64(0, high)
    frame.bytes.set32(8, low)
    frame.length -= count
    if frame.virtio.flags & VirtioNetHeader.needsChecksum != 0 {
      // One that starts within the tags fits no packet, and is found out as such.
      frame.virtio.checksumStart &-= min(frame.virtio.checksumStart, UInt16(truncatingIfNeeded: count))
    }
  }

  /// Puts the tags on what leaves by interfaces without a port of their own. Who looks at the port's interface sees it
  /// with them.
  mutating func tag() {
    let first = tx.count
    tagNewFrames()
    guard watchParents() else { return }
    // Copies may leave in a VLAN themselves.
    if tx.count > first { tagNewFrames() }
  }

  /// Shows the frames of VLANs to those who look at their port's interface; false where there is nobody.
  private mutating func watchParents() -> Bool {
    var isWatched = false
    for index in 0..<tx.touchedCount {
      let id = tx.touched(index)
      guard let interface = tables.interface(id), interface.entry.tagBytes > 0,
        let parent = tables.interface(interface.entry.parent), parent.entry.isWatched
      else { continue }
      isWatched = true
      watchFrames(of: id, on: interface.entry.parent, parent)
    }
    return isWatched
  }

  private mutating func tagNewFrames() {
    for index in 0..<tx.touchedCount {
      let id = tx.touched(index)
      guard let interface = tables.interface(id), interface.entry.tagBytes > 0 else { continue }
      tx.insertTags(interface.entry.tags, count: interface.entry.tagBytes, interface: id)
    }
    tx.sealTags()
  }
}
