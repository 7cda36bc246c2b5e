import WeftAPI
import WeftRing

// Ports that are VLANs of another port: containers in a virtual machine, whose frames leave it with a tag each.

/// The port that a VLAN's frames are on.
public struct ParentPort: Hashable, Sendable {
  /// The attachment.
  public var id: String
  /// In the forwarder.
  public var interface: UInt32
  /// Bytes of IP packet that it takes.
  public var mtu: Int

  public init(id: String, interface: UInt32, mtu: Int) {
    self.id = id
    self.interface = interface
    self.mtu = mtu
  }
}

extension Agent {
  /// The port of a VLAN, which has to be in the forwarder; nil for an attachment that is no VLAN.
  func parent(of record: AttachmentRecord, fabricMTU: Int) throws(APIError) -> ParentPort? {
    guard let vlan = record.vlan, let device = record.parent else { return nil }
    let parents = try store.attachmentsNow(where: "host_interface = ? AND vlan IS NULL", [device])
    guard let parent = parents.first, installed[parent.id] != nil,
      let interface = try store.numbers(Store.identifiers(of: parent.id))[Store.identifiers(of: parent.id)[0]],
      let network = configuration.network(parent.network)
    else {
      throw APIError(
        .hostInterfaceMissing,
        "VLAN \(vlan) of \(device): that port is not in the forwarder"
          + (parents.isEmpty
            ? "; POST /port with system-name \(device) makes it" : ": \(parents[0].reason ?? "disabled")"))
    }
    return ParentPort(
      id: parent.id, interface: interface, mtu: configuration.mtu(of: network, fabricMTU: fabricMTU))
  }

  /// After a port was put into the forwarder: its VLANs, which could not be without it.
  func installVLANs(of record: AttachmentRecord) throws {
    // Only machines' ports have any.
    guard record.origin == .port, record.vlan == nil else { return }
    for child in try store.attachmentsNow(where: "parent = ? AND \(Self.wanted)", [record.hostInterface])
    where installed[child.id] == nil { try settle(child) }
  }

  /// Before a port leaves the forwarder: its VLANs, which it would not leave without.
  func uninstallVLANs(of id: String) throws(APIError) {
    for child in installed.children(of: id) {
      try uninstall(child)
      try store.setState([child], .waiting, reason: "the port that it is a VLAN of has left the forwarder")
    }
  }
}

extension Store {
  /// What a VLAN of a port is called: there is no such interface.
  static func name(ofVLAN vlan: Int, parent: String, id: String) -> String {
    let name = "\(parent).\(vlan)"
    return name.utf8.count <= 15 ? name : "v\(vlan).\(id.filter { $0 != "-" }.prefix(8))"
  }
}
