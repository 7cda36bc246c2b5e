import WeftAPI

/// The states of an attachment, and which may follow which: docs/life-cycle.md has the picture.
extension AttachmentState {
  /// What may come next; a state may also be entered again.
  var next: Set<AttachmentState> {
    switch self {
    case .reserved: [.programming, .waiting, .disabled, .deleting]
    // Back to reserved: what asked for it is told that it failed, and will ask again.
    case .programming: [.active, .waiting, .failed, .reserved, .disabled, .deleting]
    case .active, .waiting, .failed: [.active, .programming, .waiting, .failed, .disabled, .deleting]
    case .disabled: [.programming, .waiting, .deleting]
    // It ends with the record.
    case .deleting: []
    }
  }

  func allows(_ state: AttachmentState) -> Bool { state == self || next.contains(state) }

  /// The state that a refusal leaves an attachment in that is to forward.
  static func after(_ error: APIError?) -> AttachmentState {
    switch error?.code {
    case nil: .active
    case .hostInterfaceMissing?, .forwarderUnavailable?: .waiting
    default: .failed
    }
  }
}
