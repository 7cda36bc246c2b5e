import WeftRing

/// What the port of an interface can do.
public struct PortCapabilities: Hashable, Sendable {
  /// Frames carry virtio-net headers.
  public var takesVirtio: Bool
  /// UDP super-frames too.
  public var takesUDPSegmentation: Bool

  public init(takesVirtio: Bool, takesUDPSegmentation: Bool) {
    self.takesVirtio = takesVirtio
    self.takesUDPSegmentation = takesUDPSegmentation
  }
}

/// Opens what interfaces stand for. Used by the thread that programs the tables.
public protocol PortProvider: AnyObject {
  /// Opens the device of an interface, or fits the open one to a changed configuration. Frames flow after `start`.
  /// Throws `.device` when the kernel will not; what was open is then as it was.
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities
  /// The interface has been published: frames may flow.
  func start(_ id: UInt32)
  /// Stops the flow of frames, then closes the device. When this returns no worker takes frames from it.
  func close(_ id: UInt32)
  func state(_ id: UInt32) -> InterfaceState
  /// The device behind an open interface is gone, or another one has its name now.
  func isStale(_ interface: InterfaceConfiguration) -> Bool
}
