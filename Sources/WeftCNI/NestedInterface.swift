import WeftAPI
import WeftNetlink
import WeftWire

/// A pod as the agent is asked for it: "CLUSTER__NAMESPACE__NAME".
struct NestedPod {
  let name: String

  init(_ settings: Settings, _ arguments: Arguments) throws(CNIError) {
    guard let pod = arguments.podName else {
      throw CNIError(
        .environment, "CNI_ARGS has no K8S_POD_NAME",
        details: "in nested mode (vif-type macvlan) the agent is asked for the pod by its name")
    }
    name = "\(settings.clusterName)__\(arguments.podNamespace ?? "default")__\(pod)"
  }
}

/// What the agent tells of a pod's interface whose frames have a VLAN.
struct NestedInterface {
  let vlan: UInt16
  private let told: VMInterface

  /// The one for an interface of the container: what its annotation names, or the one of its number. nil: it has none, or
  /// one without a VLAN.
  static func choose(_ all: [VMInterface], _ interface: String) -> NestedInterface? {
    let tagged = all.compactMap { told in
      (1...4094).contains(told.vlanID) ? NestedInterface(vlan: UInt16(told.vlanID), told: told) : nil
    }
    if let named = tagged.first(where: { $0.told.annotations.contains("{interface:\(interface)}") }) { return named }
    let digits = String(interface.reversed().prefix { $0.isNumber }.reversed())
    if let number = Int(digits), tagged.indices.contains(number) { return tagged[number] }
    return tagged.count == 1 ? tagged[0] : nil
  }

  /// "PARENT.VLAN", as people name them, where that is not too long.
  func interfaceName(_ parent: String) -> String {
    let name = "\(parent).\(vlan)"
    return name.utf8.count <= 15 ? name : "weftvlan\(vlan)"
  }

  var address6: InterfaceAddress? {
    guard let text = told.ip6Address, let address = IPAddress(text) else { return nil }
    return InterfaceAddress(address, prefixLength: told.ip6PLen ?? 128)
  }

  /// As what the plugin sets up.
  func attachment(_ key: InterfaceKey, netns: String, mtu: Int) throws(CNIError) -> Attachment {
    func wrong(_ what: String) -> CNIError {
      CNIError(
        .io, "the agent tells \(what) for \(key)", details: "interface \(told.id); is it weft-agent that listens there?"
      )
    }
    guard let mac = MACAddress(told.macAddress), !mac.isGroup, !mac.isZero else {
      throw wrong("no usable MAC address: \"\(told.macAddress)\"")
    }
    var addresses: [AttachmentAddress] = []
    var routes: [AttachmentRoute] = []
    func add(_ full: InterfaceAddress, _ gateway: IPAddress?) {
      addresses.append(AttachmentAddress(address: full, gateway: gateway ?? full.address))
      let zero = full.address.isV4 ? IPAddress(v4: 0) : IPAddress(high: 0, low: 0)
      if let gateway, let everything = IPPrefix(zero, length: 0) {
        routes.append(AttachmentRoute(destination: everything, gateway: gateway))
      }
    }
    if !told.ipAddress.isEmpty {
      guard let address = IPAddress(told.ipAddress), address.isV4,
        let full = InterfaceAddress(address, prefixLength: told.plen)
      else { throw wrong("no usable address: \"\(told.ipAddress)/\(told.plen)\"") }
      add(full, IPAddress(told.gateway))
    }
    if let address6 { add(address6, told.ip6Gateway.flatMap { IPAddress($0) }) }
    guard !addresses.isEmpty else { throw wrong("no address") }
    return Attachment(
      id: told.id, containerID: key.containerID, interface: key.interface, netns: netns, network: told.vnName,
      hostInterface: "", mac: mac, mtu: mtu, addresses: addresses, routes: routes,
      dns: IPAddress(told.dnsServer).map { [$0] } ?? [], state: .active)
  }
}

extension AgentClient {
  /// The interfaces that a pod is to have.
  func interfaces(ofPod name: String) throws(AgentFailure) -> [VMInterface] {
    try decode([VMInterface].self, try send("GET", "/vm-cfg/\(Self.escaped(name))"))
  }
}
