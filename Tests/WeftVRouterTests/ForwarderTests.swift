import Foundation
import Testing
import WeftRing
import WeftWire

/// The real program between real interfaces: a TAP interface that it holds open, and a veth.
@Suite(
  "Forwarder", .enabled(if: Sandbox.isRoot, "needs root for network namespaces"), .serialized)
struct ForwarderTests {
  static let tapMAC = MACAddress(bits: 0x0200_0000_00A1)
  private static let vethMAC = MACAddress(bits: 0x0200_0000_00B1)

  private static let commands: [Command] = [
    .begin(generation: 1),
    .setVRF(VRFConfiguration(id: 0, name: "blue")),
    .setInterface(
      InterfaceConfiguration(id: 0, role: .virtual, port: .tap, device: "tap0", mac: tapMAC, vrf: 0)),
    .setInterface(
      InterfaceConfiguration(id: 1, role: .virtual, port: .packet, device: "veth0", mac: vethMAC, vrf: 0)),
    .setNexthop(NexthopConfiguration(id: 0, action: .encap(interface: 0, destinationMAC: tapMAC))),
    .setNexthop(NexthopConfiguration(id: 1, action: .encap(interface: 1, destinationMAC: vethMAC))),
    .setNexthop(NexthopConfiguration(id: 2, action: .receive)),
    .setRoute(RouteConfiguration(vrf: 0, prefix: IPPrefix("10.0.0.1/32")!, nexthop: 2)),
    .setRoute(RouteConfiguration(vrf: 0, prefix: IPPrefix("10.0.0.2/32")!, nexthop: 0)),
    .setRoute(RouteConfiguration(vrf: 0, prefix: IPPrefix("10.0.0.3/32")!, nexthop: 1)),
    .setRoute(RouteConfiguration(vrf: 0, prefix: IPPrefix("fd00::2/128")!, nexthop: 0)),
    .setRoute(RouteConfiguration(vrf: 0, prefix: IPPrefix("fd00::3/128")!, nexthop: 1)),
    .barrier,
  ]

  /// Two pods: one whose interface is the TAP, one on the veth.
  static func pods(_ sandbox: Sandbox, _ client: RingClient) throws -> (tap: String, veth: String) {
    let tap = try sandbox.add("tap")
    let veth = try sandbox.add("veth")
    try sandbox.must("-n", sandbox.host, "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", veth)
    try sandbox.must("-n", sandbox.host, "link", "set", "veth0", "up")
    for (command, result) in zip(Self.commands, try client.apply(Self.commands)) {
      if case .failure(let refusal) = result { Issue.record("\(command): \(refusal)") }
    }
    try sandbox.must("-n", sandbox.host, "link", "set", "tap0", "netns", tap, "name", "eth0")
    for (namespace, mac, last) in [(tap, Self.tapMAC, "2"), (veth, Self.vethMAC, "3")] {
      try sandbox.must("-n", namespace, "link", "set", "eth0", "address", mac.description)
      try sandbox.must("-n", namespace, "link", "set", "eth0", "up")
      try sandbox.must("-n", namespace, "address", "add", "10.0.0.\(last)/24", "dev", "eth0")
      try sandbox.must("-n", namespace, "address", "add", "fd00::\(last)/64", "dev", "eth0", "nodad")
    }
    return (tap, veth)
  }

  @Test("a TAP and a veth reach each other, with one worker and with all cores", arguments: [false, true])
  func tapAndVeth(_ manyWorkers: Bool) throws {
    let sandbox = try Sandbox()
    let cores = ProcessInfo.processInfo.activeProcessorCount
    let client = try sandbox.start("--cores", manyWorkers && cores > 1 ? "0-\(cores - 1)" : "0")
    let (tap, veth) = try Self.pods(sandbox, client)
    for (from, address) in [
      (tap, "10.0.0.1"), (tap, "10.0.0.3"), (veth, "10.0.0.2"), (tap, "fd00::3"), (veth, "fd00::2"),
    ] {
      let result = try run("ip", "netns", "exec", from, "ping", "-c", "5", "-i", "0.02", "-W", "2", address)
      #expect(result.output.contains("5 received") && !result.output.contains("DUP"), "\(result.output)")
    }
    for (from, to, address) in [
      (tap, veth, "10.0.0.3"), (veth, tap, "10.0.0.2"), (tap, veth, "fd00::3"), (veth, tap, "fd00::2"),
    ] {
      try transfer(from: from, to: to, address: address)
    }
    let counters = client.statistics.interface(0)
    #expect(counters.rxBytes > 20 << 20 && counters.txBytes > 20 << 20)
    let flows = try client.dump(.flows)
    #expect(
      flows.contains {
        if case .flow(let flow) = $0 { flow.proto == IPProtocol.tcp && flow.bytes > 10 << 20 } else { false }
      })
    client.close()
    #expect(sandbox.stop() == 0)
    #expect(!FileManager.default.fileExists(atPath: sandbox.socket))
  }

  /// The client knows a service's address only, the backend the pool's: what either sends has another hash than what
  /// comes back, and comes to another worker than that which has the flow.
  @Test("connections through a service, with one worker and with two", arguments: [1, 2], ["10.96.0.1", "fd96::1"])
  func translatedConnections(_ workers: Int, _ address: String) throws {
    let sandbox = try Sandbox()
    let cores = min(workers, ProcessInfo.processInfo.activeProcessorCount)
    let client = try sandbox.start("--cores", cores == 1 ? "0" : "0,1")
    let (tap, veth) = try Self.pods(sandbox, client)
    let isV4 = !address.contains(":")
    let key = ServiceKey(vrf: 0, address: IPAddress(address)!, proto: IPProtocol.tcp, port: 80)
    let pool = IPAddress(isV4 ? "203.0.113.1" : "2001:db8:113::1")!
    let results = try client.apply([
      .setRoute(RouteConfiguration(vrf: 0, prefix: IPPrefix("fd00::1/128")!, nexthop: 2)),
      .setNATPool(NATPoolConfiguration(id: 0, vrf: 0, first: pool, last: pool)),
      .setService(ServiceConfiguration(key: key, flags: .sourceNAT, pool: 0)),
      .setBackend(
        BackendConfiguration(service: key, address: IPAddress(isV4 ? "10.0.0.3" : "fd00::3")!, port: 5300, vrf: 0)),
      .barrier,
    ])
    for result in results { if case .failure(let refusal) = result { Issue.record("\(refusal)") } }
    for namespace in [tap, veth] {
      try sandbox.must("-n", namespace, "route", "add", "default", "via", "10.0.0.1")
      try sandbox.must("-n", namespace, "route", "add", "default", "via", "fd00::1")
    }
    let server = """
      import socket, threading
      s = socket.create_server(("\(isV4 ? "10.0.0.3" : "fd00::3")", 5300), family=socket.AF_INET\(isV4 ? "" : "6"), backlog=64)
      s.settimeout(30); print("ready", flush=True)
      def echo(c, who):
          c.settimeout(30)
          while (d := c.recv(1 << 16)): c.sendall(d)
          c.close()
      threads = []; who = set()
      for _ in range(120):
          c, peer = s.accept(); who.add(peer[0])
          threads.append(threading.Thread(target=echo, args=(c, peer))); threads[-1].start()
      for t in threads: t.join()
      print(*who)
      """
    let clients = """
      import os, socket, concurrent.futures
      def one(_):
          d = os.urandom(50000); got = b""
          with socket.create_connection(("\(address)", 80), timeout=30) as s:
              s.sendall(d); s.shutdown(socket.SHUT_WR)
              while (more := s.recv(1 << 16)): got += more
          return got == d
      with concurrent.futures.ThreadPoolExecutor(16) as pool: print(sum(pool.map(one, range(120))))
      """
    let listener = try Listener(server, in: veth)
    let sent = try run("ip", "netns", "exec", tap, "/usr/bin/python3", "-c", clients)
    #expect(sent.output.trimmingCharacters(in: .whitespacesAndNewlines) == "120", "\(sent.output)")
    #expect(listener.lastLine() == "\(pool)")
    var flowWorkers: Set<UInt32> = []
    for case .flow(let flow) in try client.dump(.flows) where flow.destination == key.address {
      flowWorkers.insert(flow.worker)
    }
    #expect(flowWorkers.count == cores)
    let all = client.statistics.workers()
    if cores == 2 {
      #expect(all.reduce(0) { $0 + $1.handedOver } > 100 && all.reduce(0) { $0 + $1.redirects } > 10)
    } else {
      #expect(all.allSatisfy { $0.handedOver == 0 && $0.redirects == 0 })
    }
    #expect(all.allSatisfy { $0.redirectsRefused == 0 })
    client.close()
    #expect(sandbox.stop() == 0)
  }

  @Test("what the kernel will not open is refused with the reason, and changes nothing")
  func devices() throws {
    let sandbox = try Sandbox()
    let client = try sandbox.start("--cores", "0")
    let results = try client.apply([
      .setVRF(VRFConfiguration(id: 0, name: "blue")),
      .setInterface(
        InterfaceConfiguration(id: 0, role: .virtual, port: .packet, device: "nothere", mac: Self.tapMAC, vrf: 0)),
      .setInterface(
        InterfaceConfiguration(id: 0, role: .virtual, port: .pcap, device: "file", mac: Self.tapMAC, vrf: 0)),
      .setInterface(InterfaceConfiguration(id: 0, role: .virtual, port: .tap, device: "lo", mac: Self.tapMAC, vrf: 0)),
    ])
    for result in results.dropFirst() {
      guard case .failure(let refusal) = result else {
        Issue.record("accepted")
        continue
      }
      #expect(refusal.code == .device && !refusal.reason.isEmpty)
    }
    #expect(try client.dump(.interfaces).isEmpty)
  }

  @Test("a TAP interface that cannot be opened is refused with what to do")
  func tapErrors() throws {
    let sandbox = try Sandbox()
    let cores = ProcessInfo.processInfo.activeProcessorCount
    let client = try sandbox.start("--cores", cores > 1 ? "0-1" : "0")
    let pod = try sandbox.add("pod")
    try sandbox.must("-n", pod, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    for words in [["single0"], ["many0", "multi_queue"], ["plain0"]] {
      try sandbox.must(["-n", pod, "tuntap", "add", "mode", "tap", "vnet_hdr"] + words)
    }
    try sandbox.must("-n", pod, "tuntap", "add", "mode", "tun", "tun0")
    let path = "/run/netns/\(pod)"
    _ = try client.apply([.setVRF(VRFConfiguration(id: 0, name: "blue"))])
    func port(_ id: UInt32, _ settings: TapConfiguration) throws -> String? {
      var interface = InterfaceConfiguration(
        id: id, role: .virtual, port: .tap, device: "port\(id)", mac: Self.tapMAC, vrf: 0)
      interface.tap = settings
      switch try client.apply([.setInterface(interface)])[0] {
      case .success: return nil
      case .failure(let refusal):
        #expect(refusal.code == .device)
        return refusal.reason
      }
    }
    var rows: [(TapConfiguration, String)] = [
      (TapConfiguration(namespace: "/run/netns/none", name: "a"), "/run/netns/none: No such file"),
      (TapConfiguration(namespace: "/etc/passwd", name: "a"), "no network namespace"),
      (TapConfiguration(namespace: path, name: "none0"), "who made the namespace makes it"),
      (TapConfiguration(namespace: path, name: "veth0"), "is a veth interface and no TAP"),
      (TapConfiguration(namespace: path, name: "lo"), "no TAP"),
      (TapConfiguration(namespace: path, name: "tun0"), "no TAP"),
    ]
    if cores > 1 {
      rows.append((TapConfiguration(queues: 2, namespace: path, name: "single0"), "set queues to 1"))
    }
    for (settings, text) in rows {
      let reason = try port(0, settings)
      #expect(reason?.contains(text) == true, "\(settings): \(reason ?? "accepted")")
    }
    #expect(try client.dump(.interfaces).isEmpty)
    // Others that have them open: there it is busy, and is free again when they let go.
    for (id, name) in [(1, "single0"), (2, "many0")] as [(UInt32, String)] {
      #expect(try port(id, TapConfiguration(namespace: path, name: name)) == nil)
      let reason = try port(9, TapConfiguration(namespace: path, name: name))
      #expect(reason?.contains("busy") == true && reason?.contains("end") == true, "\(name): \(reason ?? "accepted")")
      _ = try client.apply([.removeInterface(id: id)])
      #expect(try port(9, TapConfiguration(queues: 1, namespace: path, name: name)) == nil)
      _ = try client.apply([.removeInterface(id: 9)])
    }
    // More queues than before, and another interface for the same port.
    #expect(try port(3, TapConfiguration(queues: 1, namespace: path, name: "many0")) == nil)
    #expect(try port(3, TapConfiguration(queues: 0, namespace: path, name: "many0")) == nil)
    #expect(try port(3, TapConfiguration(queues: 1, namespace: path, name: "plain0")) == nil)
    #expect(try port(4, TapConfiguration(queues: 0, namespace: path, name: "many0")) == nil)
    // What it does not make it does not remove.
    #expect(sandbox.stop() == 0)
    #expect(try run("ip", "-n", pod, "link", "show", "plain0").status == 0)
  }

  @Test("an interface's device goes away and comes back")
  func deviceComesBack() throws {
    let sandbox = try Sandbox()
    let client = try sandbox.start("--cores", "0")
    _ = try Self.pods(sandbox, client)
    func state() throws -> InterfaceState? {
      for case .interface(let configuration, let state) in try client.dump(.interfaces) where configuration.id == 1 {
        return state
      }
      return nil
    }
    /// Waits for what the kernel tells the forwarder on its own time.
    func becomes(up: Bool) throws -> Bool {
      for _ in 0..<500 {
        if try state()?.isUp == up { return true }
        usleep(10_000)
      }
      return false
    }
    #expect(try becomes(up: true))
    try sandbox.must("-n", sandbox.host, "link", "delete", "veth0")
    #expect(try becomes(up: false))
    let again = try sandbox.add("again")
    try sandbox.must("-n", sandbox.host, "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", again)
    try sandbox.must("-n", sandbox.host, "link", "set", "veth0", "up")
    try sandbox.must("-n", again, "link", "set", "eth0", "address", Self.vethMAC.description, "up")
    try sandbox.must("-n", again, "address", "add", "10.0.0.3/24", "dev", "eth0")
    // The same command again opens the new device of that name.
    for result in try client.apply(Self.commands) {
      if case .failure(let refusal) = result { Issue.record("\(refusal)") }
    }
    let result = try run("ip", "netns", "exec", again, "ping", "-c", "3", "-i", "0.05", "-W", "2", "10.0.0.1")
    #expect(result.output.contains("3 received"), "\(result.output)")
  }
}
