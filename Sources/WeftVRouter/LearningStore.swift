import WeftRing
import WeftWire

/// A MAC address that was learned, beside its bridge entry. Times are CLOCK_MONOTONIC, ns; in a replay the packets'.
struct LearnedStation {
  var lastSeen: UInt64
  /// The local interface that it is behind; nil behind a tunnel.
  var interface: UInt32?
  /// In all, and since `windowStart`.
  var moves: UInt32 = 0
  var recentMoves: UInt32 = 0
  var windowStart: UInt64 = 0
  /// It stays where it is until nobody has heard of it elsewhere for some time.
  var dampedUntil: UInt64?
  /// That of its place in the queue.
  var ticket: UInt64
}

/// What the control thread knows about learned MAC addresses beside the bridge's entries.
struct LearningStore {
  /// VRFs that learn behind tunnels.
  var vrfs = 0
  /// Learned MAC addresses by what they are behind: interfaces, and tunnels of a VRF.
  var behindInterface: [UInt32: Set<TableProgrammer.BridgeKey>] = [:]
  var remote: [UInt32: Int] = [:]
  var byNexthop: [UInt32: Set<TableProgrammer.BridgeKey>] = [:]
  var byVRF: [UInt32: Set<TableProgrammer.BridgeKey>] = [:]
  /// VXLAN tunnels by where they end.
  var tunnels: [IPAddress: Set<UInt32>] = [:]
  var queue = DeadlineQueue()
  var tickets: UInt64 = 0
  /// The last time that anybody told.
  var now: UInt64 = 0
  /// For the agent.
  var events: [Event] = []
  var lostEvents: UInt64 = 0
  /// When the last refusal was told.
  var lastRefusal: UInt64?

  private static let maximumEvents = 4096

  mutating func tell(_ event: Event) {
    guard events.count < Self.maximumEvents else {
      lostEvents += 1
      return
    }
    events.append(event)
  }

  mutating func takeEvents() -> [Event] {
    guard !events.isEmpty || lostEvents > 0 else { return [] }
    defer {
      events = []
      lostEvents = 0
    }
    return lostEvents > 0 ? events + [.lost(count: lostEvents)] : events
  }
}

/// What is to be looked at when, the earliest first: a binary heap.
struct DeadlineQueue {
  struct Item {
    let time: UInt64
    let key: TableProgrammer.BridgeKey
    let ticket: UInt64
  }

  private var heap: [Item] = []

  var first: Item? { heap.first }

  mutating func insert(_ item: Item) {
    heap.append(item)
    var place = heap.count - 1
    while place > 0, heap[place].time < heap[(place - 1) / 2].time {
      heap.swapAt(place, (place - 1) / 2)
      place = (place - 1) / 2
    }
  }

  mutating func removeFirst() {
    guard let last = heap.popLast(), !heap.isEmpty else { return }
    heap[0] = last
    var place = 0
    while true {
      var least = place
      for child in [2 * place + 1, 2 * place + 2] where child < heap.count && heap[child].time < heap[least].time {
        least = child
      }
      guard least != place else { return }
      heap.swapAt(place, least)
      place = least
    }
  }
}
