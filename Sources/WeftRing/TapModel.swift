/// Where the interface of a port of kind tap is, and how many queues the forwarder has of it. Others have the default.
public struct TapConfiguration: Hashable, Sendable {
  /// The kernel's limit (drivers/net/tun.c MAX_TAP_QUEUES).
  public static let maximumQueues: UInt16 = 256
  public static let maximumNamespaceBytes = 95

  /// How many workers receive from it, each by a queue of its own; never more than there are. 0: all.
  public var queues: UInt16
  /// The path of the network namespace that it is in, such as "/run/netns/NAME", where somebody else makes and removes
  /// it (a pod's); empty: the forwarder's own, in which it makes the interface where there is none.
  public var namespace: String
  /// Its name there, where that is not the port's device.
  public var name: String

  public init(queues: UInt16 = 1, namespace: String = "", name: String = "") {
    self.queues = queues
    self.namespace = namespace
    self.name = name
  }

  /// What cannot be.
  public var fault: String? {
    if queues > Self.maximumQueues { return "a TAP interface has at most \(Self.maximumQueues) queues" }
    if namespace.isEmpty {
      return name.isEmpty ? nil : "a name of its own is for an interface in another network namespace; give its path"
    }
    if !namespace.hasPrefix("/") || namespace.utf8.contains(0) || namespace.utf8.count > Self.maximumNamespaceBytes {
      return "a network namespace is an absolute path of at most \(Self.maximumNamespaceBytes) bytes"
    }
    return nil
  }
}

extension SlotWriter {
  mutating func put(_ tap: TapConfiguration) {
    put(tap.queues)
    put(tap.namespace, maximum: TapConfiguration.maximumNamespaceBytes)
    put(tap.name, maximum: 15)
  }
}

extension SlotReader {
  mutating func tap() throws(SlotFault) -> TapConfiguration {
    TapConfiguration(
      queues: try get("tap queues"),
      namespace: try text("tap namespace", maximum: TapConfiguration.maximumNamespaceBytes),
      name: try text("tap name", maximum: 15))
  }
}
