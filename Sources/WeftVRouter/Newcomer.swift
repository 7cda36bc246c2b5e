import WeftSystem

/// A client that has not said yet what it wants.
final class Newcomer {
  let raw: Int32
  private var descriptor: Descriptor?

  init(_ descriptor: consuming Descriptor) {
    raw = descriptor.raw
    self.descriptor = consume descriptor
  }

  func take() -> Descriptor? { descriptor.take() }
}
