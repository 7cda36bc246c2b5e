import WeftTables

/// Interfaces that a capture looks at.
struct CapturedInterfaces {
  /// nil for all, those that come later too.
  let ids: Set<UInt32>?

  func contains(_ id: UInt32) -> Bool { ids?.contains(id) ?? true }
}

extension TableProgrammer {
  /// What an interface's entry says of captures: its packets take all stages.
  func setCaptures(_ entry: inout InterfaceEntry, _ interface: UInt32) {
    guard captured.values.contains(where: { $0.contains(interface) }) else { return }
    entry.isCaptured = true
    entry.isPlain = false
  }

  /// A capture begins to look at interfaces, or ends (nil).
  func setCaptured(_ id: UInt32, _ new: CapturedInterfaces?) {
    guard let changed = new ?? captured[id] else { return }
    captured[id] = new
    if let ids = changed.ids {
      for id in ids { republish(id) }
      return
    }
    var ids: [UInt32] = []
    _ = interfaces.read(from: 0, limit: .max) { ids.append($0.key) }
    for id in ids { republish(id) }
  }
}
