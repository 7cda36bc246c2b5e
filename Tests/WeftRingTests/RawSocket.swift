import CLinux
import Glibc
import WeftRing

/// Sockets without WeftRing's help, for those who do not keep to its rules.
enum RawSocket {
  private static func address(_ path: String) -> sockaddr_un {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
    return address
  }

  private static func call(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    var address = address(path)
    return withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
    }
  }

  static func listen(_ path: String) -> Int32 {
    let raw = socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0)
    precondition(call(path) { bind(raw, $0, $1) } == 0 && Glibc.listen(raw, 8) == 0)
    return raw
  }

  static func connect(_ path: String) -> Int32 {
    let raw = socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0)
    precondition(call(path) { Glibc.connect(raw, $0, $1) } == 0, "nobody at \(path)")
    return raw
  }

  /// Little-endian words.
  static func words(_ values: [UInt32]) -> [UInt8] {
    values.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(8 * $0)) } }
  }

  /// "WEFT", version, role (1 agent, 2 observer), pid.
  static func hello(role: UInt32 = 1, magic: UInt32 = 0x5446_4557, version: UInt32 = RingLayout.version) -> [UInt8] {
    words([magic, version, role, UInt32(getpid())])
  }
}

/// A client that has done the handshake by hand and writes into its ring what it likes, at the offsets that RingLayout.swift
/// documents. Forwarder's end and client's end in one thread.
final class HostileClient {
  let server: RingServer
  let channel: ServerChannel
  let base: UnsafeMutableRawPointer
  private let folder = TemporaryFolder()
  private let socket: Int32
  private(set) var descriptors: [Int32]

  static let commandHead = 192
  static let completionTail = 384
  static let eventTail = 512
  static let slots = 4096

  init(role: UInt32 = 1) throws {
    let statistics = try StatisticsRegion(layout: StatisticsLayout(workers: 1, interfaces: 1, reasons: 0), reasons: [])
    server = try RingServer(path: folder.socket, statistics: statistics)
    socket = RawSocket.connect(folder.socket)
    let hello = RawSocket.hello(role: role)
    precondition(send(socket, hello, hello.count, 0) == hello.count)
    guard let client = server.accept(), let channel = server.admit(client, agentPresent: false) else {
      fatalError("not admitted")
    }
    self.channel = channel
    var answer = [UInt8](repeating: 0, count: 64)
    var found = [Int32](repeating: -1, count: 8)
    var count: Int32 = 0
    precondition(weft_receive_fds(socket, &answer, 64, &found, &count) == 16)
    descriptors = Array(found.prefix(Int(count)))
    base = mmap(nil, RingLayout.totalBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptors[0], 0)
  }

  deinit {
    munmap(base, RingLayout.totalBytes)
    for descriptor in descriptors { close(descriptor) }
    close(socket)
  }

  func set(_ offset: Int, _ value: UInt64) { weft_store_release_u64(base + offset, value) }
  func get(_ offset: Int) -> UInt64 { weft_load_acquire_u64(base + offset) }

  /// Writes a command's slot: the header, with any length, then `payload`.
  func write(_ position: UInt64, kind: UInt16, length: UInt32, sequence: UInt64, payload: [UInt8]) {
    let slot = base + Self.slots + Int(position % UInt64(RingLayout.commandSlots)) * RingLayout.slotBytes
    slot.storeBytes(of: kind, toByteOffset: 0, as: UInt16.self)
    slot.storeBytes(of: 0xFFFF, toByteOffset: 2, as: UInt16.self)
    slot.storeBytes(of: length, toByteOffset: 4, as: UInt32.self)
    slot.storeBytes(of: sequence, toByteOffset: 8, as: UInt64.self)
    (slot + 16).copyMemory(from: payload, byteCount: min(payload.count, RingLayout.slotBytes - 16))
  }
}

/// Stands between one client and a forwarder: passes the handshake on and keeps the ring's memory.
final class Interceptor: @unchecked Sendable {
  private let folder = TemporaryFolder()
  private let listener: Int32
  private let forwarder: Int32
  private var thread: Background<Void>?
  private var descriptors: [Int32] = []
  private var client: Int32 = -1

  /// Where the client is to connect.
  var path: String { folder.socket }

  init(_ forwarderPath: String) {
    listener = RawSocket.listen(folder.socket)
    forwarder = RawSocket.connect(forwarderPath)
    thread = Background { [self] in passOn() }
  }

  private func passOn() {
    var bytes = [UInt8](repeating: 0, count: 64)
    client = accept(listener, nil, nil)
    var count = recv(client, &bytes, 64, 0)
    precondition(send(forwarder, bytes, count, 0) == count)
    descriptors = [Int32](repeating: -1, count: 8)
    var total: Int32 = 0
    count = weft_receive_fds(forwarder, &bytes, 64, &descriptors, &total)
    descriptors.removeLast(8 - Int(total))
    precondition(weft_send_fds(client, bytes, count, descriptors, total) == 0)
  }

  /// The ring's memory; the caller unmaps it. Once the client has connected.
  func memory() -> UnsafeMutableRawPointer {
    thread?.value()
    thread = nil
    return mmap(nil, RingLayout.totalBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptors[0], 0)
  }

  deinit { for descriptor in descriptors + [client, listener, forwarder] { close(descriptor) } }
}
