import Foundation
import Testing
import WeftRing

/// Runs a program to its end.
@discardableResult
func run(_ words: String...) throws -> (status: Int32, output: String) {
  let process = Process()
  process.executableURL = URL(filePath: "/usr/bin/env")
  process.arguments = words
  let pipe = Pipe()
  process.standardOutput = pipe
  process.standardError = pipe
  try process.run()
  let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
  process.waitUntilExit()
  return (process.terminationStatus, output)
}

/// A Python program in a namespace that says "ready" when it listens.
final class Listener {
  private let process = Process()
  private let pipe = Pipe()
  private var heard = Data()

  /// Waits until it is ready.
  init(_ script: String, in namespace: String) throws {
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = ["ip", "netns", "exec", namespace, "/usr/bin/python3", "-c", script]
    process.standardOutput = pipe
    try process.run()
    while !String(decoding: heard, as: UTF8.self).contains("ready") {
      let more = pipe.fileHandleForReading.availableData
      if more.isEmpty { break }
      heard += more
    }
  }

  /// Its last line, when it has ended.
  func lastLine() -> String? {
    heard += pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return String(decoding: heard, as: UTF8.self).split(separator: "\n").last.map(String.init)
  }
}

/// Ten megabytes through TCP arrive as they were sent.
func transfer(from: String, to: String, address: String) throws {
  let receiver = """
    import socket, hashlib, sys
    s = socket.create_server(("\(address)", 5300), family=socket.AF_INET6 if ":" in "\(address)" else socket.AF_INET)
    s.settimeout(20); print("ready", flush=True)
    c, _ = s.accept(); c.settimeout(20); h = hashlib.sha256()
    while (d := c.recv(1 << 16)): h.update(d)
    print(h.hexdigest())
    """
  let sender = """
    import socket, hashlib, os
    d = os.urandom(10 << 20); s = socket.create_connection(("\(address)", 5300), timeout=20); s.sendall(d); s.close()
    print(hashlib.sha256(d).hexdigest())
    """
  let listener = try Listener(receiver, in: to)
  let sent = try run("ip", "netns", "exec", from, "/usr/bin/python3", "-c", sender)
  #expect(sent.status == 0, "\(sent.output)")
  #expect(listener.lastLine() == sent.output.trimmingCharacters(in: .whitespacesAndNewlines))
}

struct SandboxFailure: Error, CustomStringConvertible {
  let description: String
}

/// A forwarder in a network namespace of its own, and namespaces for pods; all gone with it.
final class Sandbox {
  static var isRoot: Bool { geteuid() == 0 }

  let host: String
  private let name = "weft-test-\(getpid())-\(UInt32.random(in: 0...99999))"
  private let folder: URL
  private var process: Process?
  private var helpers: [Process] = []
  private var namespaces: [String] = []

  var socket: String { folder.appending(path: "forwarder.sock").path }

  init() throws {
    host = "\(name)-host"
    folder = FileManager.default.temporaryDirectory.appending(path: name)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    try add("host")
  }

  deinit {
    stop(SIGKILL)
    for helper in helpers {
      kill(helper.processIdentifier, SIGKILL)
      helper.waitUntilExit()
    }
    for namespace in namespaces { _ = try? run("ip", "netns", "delete", namespace) }
    try? FileManager.default.removeItem(at: folder)
  }

  /// Makes a namespace and returns its name.
  @discardableResult
  func add(_ suffix: String) throws -> String {
    let namespace = "\(name)-\(suffix)"
    try must("netns", "add", namespace)
    namespaces.append(namespace)
    try must("-n", namespace, "link", "set", "lo", "up")
    return namespace
  }

  /// Starts a program that runs as long as the sandbox, and waits until it prints something.
  func help(_ program: String, _ arguments: [String]) throws {
    let process = Process()
    process.executableURL = URL(filePath: program)
    process.arguments = arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    helpers.append(process)
    guard !pipe.fileHandleForReading.availableData.isEmpty else {
      throw SandboxFailure(description: "\(program) ended at once")
    }
  }

  /// `ip WORDS`; throws when it fails.
  func must(_ words: String...) throws { try must(words) }

  func must(_ words: [String]) throws {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = ["ip"] + words
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else {
      throw SandboxFailure(description: "ip \(words.joined(separator: " ")) failed")
    }
  }

  /// One of the programs, as it has been built.
  static func program(_ name: String) -> String {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    let folder = ProcessInfo.processInfo.environment["WEFT_BIN"] ?? root.appending(path: ".build/release").path
    return "\(folder)/\(name)"
  }

  /// Starts the forwarder and connects as its agent.
  func start(_ arguments: String...) throws -> RingClient {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments =
      ["ip", "netns", "exec", host, Self.program("weft-vrouter"), "run", "--socket", socket, "--log-level", "warning"]
      + arguments
    try process.run()
    self.process = process
    for _ in 0..<1000 where process.isRunning {
      if let client = try? RingClient.connect(path: socket, role: .agent) { return client }
      usleep(10_000)
    }
    throw SandboxFailure(description: "the forwarder does not answer at \(socket)")
  }

  /// Ends the forwarder; its exit status.
  @discardableResult
  func stop(_ signal: Int32 = SIGTERM) -> Int32? {
    guard let process else { return nil }
    self.process = nil
    kill(process.processIdentifier, signal)
    process.waitUntilExit()
    return process.terminationStatus
  }
}
