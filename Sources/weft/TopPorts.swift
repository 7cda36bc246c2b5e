import CLinux
import WeftRing

/// What ports move, from counters in shared memory.
final class PortSampler {
  struct Row {
    var port: InterfaceConfiguration
    var rx: Rate
    var tx: Rate
    var drops: Double

    func value(_ order: TopOrder) -> Double { rx.value(order) + tx.value(order) + drops / 1e6 }
  }

  private let forwarder: Forwarder
  private var before: [UInt32: StatisticsReader.Interface] = [:]
  private var time: UInt64 = 0

  init(_ forwarder: Forwarder) { self.forwarder = forwarder }

  /// Rates since the last call; none the first time.
  func refresh(rows most: Int, order: TopOrder, vrf: UInt32?) throws(Failure) -> [Row] {
    let ports = try forwarder.interfaces().map(\.configuration)
    let now = weft_monotonic_ns()
    let seconds = Double(now - time) / 1e9
    var greatest = Greatest<Row>(most) { $0.value(order) }
    var counters: [UInt32: StatisticsReader.Interface] = [:]
    for port in ports {
      let current = forwarder.ring.statistics.interface(port.id)
      counters[port.id] = current
      guard let old = before[port.id], vrf == nil || port.role.isLocal && port.vrf == vrf else { continue }
      func perSecond(_ value: (StatisticsReader.Interface) -> UInt64) -> Double {
        // A number may be another port's since then.
        value(current) < value(old) ? 0 : Double(value(current) - value(old)) / seconds
      }
      greatest.offer(
        Row(
          port: port, rx: Rate(packets: perSecond(\.rxPackets), bytes: perSecond(\.rxBytes)),
          tx: Rate(packets: perSecond(\.txPackets), bytes: perSecond(\.txBytes)), drops: perSecond(\.drops)))
    }
    before = counters
    time = now
    return greatest.sorted
  }
}
