import Foundation
import Testing
import WeftRing
import WeftWire

/// The real program on a kernel: VLANs on a port, and a bridge that knows nothing beforehand.
@Suite(
  "Forwarder's bridges and VLANs", .enabled(if: Sandbox.isRoot, "needs root for network namespaces"), .serialized)
struct BridgingForwarderTests {
  private static func mac(_ last: UInt64) -> MACAddress { MACAddress(bits: 0x0200_0000_0A00 | last) }

  /// Addresses of a namespace's eth0: its MAC address and the last of its IP addresses are `last`.
  private func set(_ sandbox: Sandbox, _ namespace: String, _ last: UInt64, mtu: Int = 1500) throws {
    try sandbox.must(
      "-n", namespace, "link", "set", "eth0", "address", Self.mac(last).description, "mtu", String(mtu), "up")
    try sandbox.must("-n", namespace, "address", "add", "10.0.0.\(last)/24", "dev", "eth0")
    try sandbox.must("-n", namespace, "address", "add", "fd00::\(last)/64", "dev", "eth0", "nodad")
  }

  /// A namespace whose eth0 is the other end of a veth of the host.
  private func trunk(_ sandbox: Sandbox, _ device: String) throws -> String {
    let namespace = try sandbox.add(device)
    try sandbox.must(
      "-n", sandbox.host, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    try sandbox.must("-n", sandbox.host, "link", "set", device, "up")
    try sandbox.must("-n", namespace, "link", "set", "eth0", "up")
    return namespace
  }

  /// What an interface of a VLAN does in a kernel that has them: frames of the TAP interface eth0 in the first namespace
  /// get tags and go out by eth0 of the second one, and the other way round, super-frames whole.
  private static let tagger = #"""
    import ctypes, fcntl, os, select, socket, struct, sys
    station, trunk = sys.argv[1:3]
    tags = [bytes.fromhex(tag) for tag in sys.argv[3:]]
    def enter(namespace):
        descriptor = os.open("/var/run/netns/" + namespace, os.O_RDONLY)
        if ctypes.CDLL(None).setns(descriptor, 0x40000000): raise OSError("setns")
    enter(station)
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", b"eth0", 0x5002))
    fcntl.ioctl(tap, 0x400454d0, 7)
    enter(trunk)
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    for option in 8, 15, 23: port.setsockopt(263, option, 1)
    port.bind(("eth0", 3))
    print("ready", flush=True)
    def moved(header, count):
        flags, gso, length, size, start, offset = struct.unpack("<BBHHHH", header)
        return struct.pack("<BBHHHH", flags, gso, length + count if gso else 0, size, start + count if flags & 1 else 0, offset)
    while True:
        for ready in select.select([tap, port], [], [])[0]:
            if ready is tap:
                data = os.read(tap, 70000)
                port.send(moved(data[:10], 4 * len(tags)) + data[10:22] + b"".join(tags) + data[22:])
                continue
            data, ancillary, _, _ = port.recvmsg(70000, 100)
            status, _, _, _, _, tag, kind = struct.unpack("IIIHHHH", ancillary[0][2])
            if not status & 0x10 or struct.pack(">HH", kind if status & 0x40 else 0x8100, tag & 0xFFF) != tags[0]: continue
            rest = b"".join(tags[1:])
            if data[22:22 + len(rest)] != rest: continue
            # One tag is another interface's where there are two.
            if len(tags) == 1 and data[22:24] in (b"\x81\0", b"\x88\xa8"): continue
            try: os.write(tap, moved(data[:10], -len(rest)) + data[10:22] + data[22 + len(rest):])
            except OSError as error:
                if error.errno != 5: raise
    """#

  /// Stations in a VLAN and in one of two tags behind a trunk, each in a namespace of its own: 3 and 4.
  private func stations(_ sandbox: Sandbox, _ trunk: String) throws -> (single: String, double: String) {
    let single = try sandbox.add("single")
    let double = try sandbox.add("double")
    for (namespace, tags) in [(single, ["81000064"]), (double, ["88a800c8", "81000007"])] {
      try sandbox.help("/usr/bin/python3", ["-c", Self.tagger, namespace, trunk] + tags)
    }
    try set(sandbox, single, 3)
    // A kernel's port takes a tag of 0x8100 beyond its MTU, and nothing else: two tags must fit into it.
    try set(sandbox, double, 4, mtu: 1492)
    return (single, double)
  }

  private func apply(_ client: RingClient, _ commands: [Command]) throws {
    for (command, result) in zip(commands, try client.apply(commands)) {
      if case .failure(let refusal) = result { Issue.record("\(command): \(refusal)") }
    }
  }

  private func ping(_ from: String, _ address: String, count: Int = 5) throws -> Bool {
    let result = try run("ip", "netns", "exec", from, "ping", "-c", "\(count)", "-i", "0.02", "-W", "2", address)
    let isGood = result.output.contains("\(count) received") && !result.output.contains("DUP")
    if !isGood { Issue.record("\(address): \(result.output)") }
    return isGood
  }

  private static func vlan(_ id: UInt32, _ last: UInt64, _ vlan: VLANConfiguration, mtu: UInt16 = 1500) -> Command {
    .setInterface(
      InterfaceConfiguration(
        id: id, role: .virtual, port: .vlan, device: "trunk.\(vlan.outer)", mac: mac(last), vrf: 0, mtu: mtu, vlan: vlan
      ))
  }
  private static let single = VLANConfiguration(parent: 0, outer: 100)
  private static let double = VLANConfiguration(parent: 0, proto: 0x88A8, outer: 200, inner: 7)

  @Test("VLANs on a port, of pods and of the fabric, with one worker and with all cores", arguments: [false, true])
  func vlans(_ isFabric: Bool) throws {
    let sandbox = try Sandbox()
    let cores = ProcessInfo.processInfo.activeProcessorCount
    let client = try sandbox.start("--cores", isFabric && cores > 1 ? "0-\(cores - 1)" : "0")
    let trunk = try trunk(sandbox, "trunk")
    let (single, double) = try stations(sandbox, trunk)
    let tap = try sandbox.add("tap")
    let parent = InterfaceConfiguration(
      id: 0, role: isFabric ? .fabric : .virtual, port: .packet, device: "trunk", mac: Self.mac(0xF0), vrf: 0,
      addresses: isFabric ? [IPAddress("192.0.2.1")!] : [])
    var commands: [Command] = [
      .begin(generation: 1), .setVRF(VRFConfiguration(id: 0, name: "blue")), .setInterface(parent),
      Self.vlan(1, 3, Self.single), Self.vlan(2, 4, Self.double, mtu: 1492),
      .setInterface(
        InterfaceConfiguration(id: 3, role: .virtual, port: .tap, device: "tap0", mac: Self.mac(2), vrf: 0)),
      .setNexthop(NexthopConfiguration(id: 9, action: .receive)),
    ]
    for (interface, last) in [(1, 3), (2, 4), (3, 2)] as [(UInt32, UInt64)] {
      commands.append(
        .setNexthop(
          NexthopConfiguration(id: interface, action: .encap(interface: interface, destinationMAC: Self.mac(last)))))
      for prefix in ["10.0.0.\(last)/32", "fd00::\(last)/128"] {
        commands.append(.setRoute(RouteConfiguration(vrf: 0, prefix: IPPrefix(prefix)!, nexthop: interface)))
      }
    }
    for prefix in ["10.0.0.1/32", "fd00::1/128"] {
      commands.append(.setRoute(RouteConfiguration(vrf: 0, prefix: IPPrefix(prefix)!, nexthop: 9)))
    }
    try apply(client, commands + [.barrier])
    try sandbox.must("-n", sandbox.host, "link", "set", "tap0", "netns", tap, "name", "eth0")
    try set(sandbox, tap, 2)
    for from in [single, double, tap] {
      for last in 1...4 where last != (from == single ? 3 : from == double ? 4 : 2) {
        #expect(try ping(from, "10.0.0.\(last)"))
        #expect(try ping(from, "fd00::\(last)"))
      }
    }
    // Super-frames and unfinished checksums, with tags.
    for (from, to, address) in [
      (single, tap, "10.0.0.2"), (tap, single, "fd00::3"), (double, tap, "fd00::2"), (tap, double, "10.0.0.4"),
      (single, double, "10.0.0.4"),
    ] {
      try transfer(from: from, to: to, address: address)
    }
    // Counted at the interface whose packets they are.
    #expect(client.statistics.interface(1).rxBytes > 10 << 20 && client.statistics.interface(2).txBytes > 10 << 20)
    #expect(client.statistics.interface(0).txPackets == 0)
    // Another VLAN's frames are not the forwarder's.
    try apply(
      client,
      [
        .removeRoute(vrf: 0, prefix: IPPrefix("10.0.0.3/32")!),
        .removeRoute(vrf: 0, prefix: IPPrefix("fd00::3/128")!), .removeNexthop(id: 1),
        .removeInterface(id: 1), .barrier,
      ])
    let lost = try run("ip", "netns", "exec", single, "ping", "-c", "2", "-i", "0.05", "-W", "1", "10.0.0.1")
    #expect(lost.output.contains("0 received"))
    #expect(try ping(double, "10.0.0.1"))
    #expect(sandbox.stop() == 0)
  }

  @Test("a bridge floods what it does not know, and learns")
  func learning() throws {
    let sandbox = try Sandbox()
    let client = try sandbox.start("--cores", "0")
    let trunk = try trunk(sandbox, "trunk")
    let (single, double) = try stations(sandbox, trunk)
    let pod = try self.trunk(sandbox, "pod")
    try set(sandbox, pod, 2)
    func learns(_ interface: InterfaceConfiguration) -> Command {
      var interface = interface
      interface.flags = [.bridging, .learning]
      return .setInterface(interface)
    }
    let vlans = [Self.vlan(1, 3, Self.single), Self.vlan(2, 4, Self.double, mtu: 1492)].compactMap {
      if case .setInterface(let interface) = $0 { learns(interface) } else { nil }
    }
    func interface(_ id: UInt32, _ device: String) -> InterfaceConfiguration {
      InterfaceConfiguration(id: id, role: .virtual, port: .packet, device: device, mac: Self.mac(0xF0), vrf: 0)
    }
    let encaps = (1...3 as ClosedRange<UInt32>).map {
      Command.setNexthop(NexthopConfiguration(id: $0, action: .encap(interface: $0, destinationMAC: Self.mac(0xF0))))
    }
    try apply(
      client,
      [
        .begin(generation: 1), .setVRF(VRFConfiguration(id: 0, name: "blue", flags: .floodUnknown)),
        .setInterface(interface(0, "trunk")), learns(interface(3, "pod")),
      ] + vlans + encaps + [
        .setNexthop(
          NexthopConfiguration(
            id: 9, action: .multicast((1...3 as ClosedRange<UInt32>).map { MulticastMember(nexthop: $0) }))),
        .setBridge(BridgeConfiguration(vrf: 0, mac: .broadcast, nexthop: 9)), .barrier,
      ])
    for (from, last) in [(single, 2), (single, 4), (double, 2), (pod, 3), (pod, 4)] {
      #expect(try ping(from, "10.0.0.\(last)"))
      #expect(try ping(from, "fd00::\(last)"))
    }
    try transfer(from: single, to: pod, address: "10.0.0.2")
    try transfer(from: pod, to: double, address: "fd00::4")
    var learned: [MACAddress: UInt32] = [:]
    for case .bridge(let entry, let state) in try client.dump(.bridge) where state.isLearned {
      learned[entry.mac] = entry.nexthop
    }
    #expect(learned == [Self.mac(2): 3, Self.mac(3): 1, Self.mac(4): 2])
    var told: Set<MACAddress> = []
    for _ in 0..<100 where told.count < 3 {
      for case .station(.learned, let entry) in try client.nextEvents(timeoutMilliseconds: 100) {
        told.insert(entry.mac)
      }
    }
    #expect(told == Set(learned.keys))
    #expect(sandbox.stop() == 0)
  }
}
