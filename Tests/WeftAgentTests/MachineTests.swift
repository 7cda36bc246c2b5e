import Testing
import WeftAPI
import WeftAgent
import WeftRing

private func port(_ socket: String?, mode: Int? = nil, type: Int? = 0) -> Port {
  Port(
    id: "1", instanceID: "2", macAddress: "02:00:00:00:00:01", type: type, systemName: "tap7", vhostuserMode: mode,
    vhostuserSocket: socket)
}

private var vhostMachines: MachineSettings {
  var settings = MachineSettings()
  settings.isVhost = true
  return settings
}

@Test func portsAreVhostUserWhereTheySayOrTheFileDoes() throws {
  #expect(try port(nil, mode: 0).vhost(MachineSettings()) == nil)
  #expect(try port("/s", mode: 1).vhost(MachineSettings()) == VhostConfiguration(socket: "/s", frontEndListens: true))
  #expect(try port(nil).vhost(vhostMachines) == VhostConfiguration(socket: "/run/vrouter/uvh_vif_tap7"))
  #expect(try port("/s").vhost(vhostMachines) == VhostConfiguration(socket: "/s"))
  // A namespace's veth.
  #expect(try port(nil, type: 1).vhost(vhostMachines) == nil)
}

@Test func portsWithWrongSocketsAreRefused() {
  for (socket, mode, text) in [
    ("s", 0, "absolute path"), ("/" + String(repeating: "s", count: 107), 0, "at most 107 bytes"),
    ("/s", 2, "neither 0 (QEMU connects) nor 1"), ("/s", -1, "neither 0"),
  ] {
    let error = #expect(throws: APIError.self) { try port(socket, mode: mode).vhost(MachineSettings()) }
    #expect(error?.reason.contains(text) == true, "\(socket), \(mode)")
  }
}
