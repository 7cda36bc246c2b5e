/// What of an attachment is in the forwarder.
struct Installed {
  var state: ForwarderState
  /// Another one is another interface, whatever its name.
  var place: InterfacePlace
  /// The attachment whose port its frames are on; nil: it has a port of its own.
  var parent: String?
  /// Nil: without DHCP.
  var service: ServiceBinding?
}

/// What of attachments is in the forwarder, by their ids.
struct InstalledPorts {
  private var ports: [String: Installed] = [:]
  private var children: [String: Set<String>] = [:]

  var count: Int { ports.count }

  /// Those whose frames are on an attachment's port.
  func children(of id: String) -> Set<String> { children[id] ?? [] }

  subscript(id: String) -> Installed? {
    get { ports[id] }
    set {
      if let parent = ports[id]?.parent {
        children[parent]?.remove(id)
        if children[parent]?.isEmpty == true { children[parent] = nil }
      }
      ports[id] = newValue
      if let parent = newValue?.parent { children[parent, default: []].insert(id) }
    }
  }

  mutating func removeValue(forKey id: String) -> Installed? {
    let there = ports[id]
    self[id] = nil
    return there
  }
}
