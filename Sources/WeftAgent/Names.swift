import WeftNetlink

/// What is accepted as a name from outside. Such a name never becomes a path or a shell word.
enum Names {
  /// `^[A-Za-z0-9][A-Za-z0-9_.-]*$`, at most 255 bytes: CNI's rule for container ids and network names, and wide enough
  /// for pod names.
  static func isValid(_ name: String) -> Bool {
    let bytes = name.utf8
    guard (1...255).contains(bytes.count), let first = bytes.first, isAlphanumeric(first) else { return false }
    return bytes.allSatisfy {
      isAlphanumeric($0) || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-")
    }
  }

  /// A name that the kernel takes for an interface.
  static func isInterface(_ name: String) -> Bool { LinkName.isValid(name) }

  private static func isAlphanumeric(_ byte: UInt8) -> Bool {
    (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
  }
}
