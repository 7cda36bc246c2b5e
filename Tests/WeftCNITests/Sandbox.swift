import Foundation
import Glibc
import Synchronization
import Testing
import WeftCNI
import WeftNetlink
import WeftWire

/// Why tests with namespaces do not run.
let needsRoot: Comment = "needs root for network namespaces"
let isRoot = geteuid() == 0

/// A node of its own: a network namespace with an agent in it, a folder, and containers' namespaces.
final class Sandbox: Sendable {
  let name: String
  let folder: String
  let agent: AgentStandIn
  private let namespaces = Mutex<[String]>([])
  private static let counter = Mutex(0)

  static func run<T>(_ state: AgentStandIn.State = .init(), _ body: (Sandbox) throws -> T) throws -> T {
    let sandbox = try Sandbox(state)
    defer { sandbox.clean() }
    return try body(sandbox)
  }

  private init(_ state: AgentStandIn.State) throws {
    let number = Self.counter.withLock { count in
      count += 1
      return count
    }
    name = "weft-test-\(getpid())-\(number)"
    folder = "/tmp/\(name)"
    mkdir(folder, 0o755)
    try ip("netns", "add", name)
    try ip("-n", name, "link", "set", "lo", "up")
    agent = try NetworkNamespace(path: "/run/netns/\(name)").run { AgentStandIn(state: state) }
    namespaces.withLock { $0.append(name) }
  }

  private func clean() {
    agent.stop()
    for namespace in namespaces.withLock({ $0 }) { try? ip("netns", "delete", namespace) }
    try? FileManager.default.removeItem(atPath: folder)
  }

  /// A container's namespace, by its path.
  func container(_ suffix: String) throws -> String {
    let namespace = "\(name)-\(suffix)"
    try ip("netns", "add", namespace)
    namespaces.withLock { $0.append(namespace) }
    return "/run/netns/\(namespace)"
  }

  func remove(_ netns: String) throws {
    let namespace = String(netns.dropFirst("/run/netns/".count))
    namespaces.withLock { $0.removeAll { $0 == namespace } }
    try ip("netns", "delete", namespace)
  }

  func inHost<T: Sendable>(_ body: @Sendable () throws -> T) throws -> T {
    try NetworkNamespace(path: "/run/netns/\(name)").run(body)
  }

  func configuration(
    _ version: String = "1.1.0", settings: [String: JSON] = [:], _ more: [String: JSON] = [:]
  ) -> JSON {
    guard case .tcp(let address, let port) = agent.endpoint else { return .null }
    var section: [String: JSON] = [
      "vrouter-ip": .string("\(address)"), "vrouter-port": .integer(Int64(port)),
      "config-dir": .string("\(folder)/ports/vm"),
      "log-file": .string("\(folder)/log/cni.log"), "log-level": "7", "poll-timeout": 2,
    ]
    section.merge(settings) { $1 }
    let fixed: [String: JSON] = [
      "cniVersion": .string(version), "name": "weft-net", "type": "weft-cni", "contrail": .object(section),
    ]
    return .object(fixed.merging(more) { $1 })
  }

  /// Runs a verb in the node.
  func run(
    _ verb: String, _ id: String = "c1", netns: String = "", interface: String = "eth0", arguments: String = "",
    _ configuration: JSON? = nil
  ) throws -> Answer {
    let environment = [
      "CNI_COMMAND": verb, "CNI_CONTAINERID": id, "CNI_NETNS": netns, "CNI_IFNAME": interface, "CNI_ARGS": arguments,
    ]
    let stdin = try JSONEncoder().encode(configuration ?? self.configuration())
    return try Answer(inHost { Plugin.run(environment: environment, stdin: Array(stdin)) })
  }

  /// Names of links in the node other than lo.
  func links() throws -> [String] {
    try inHost { try Netlink().links().map(\.name).filter { $0 != "lo" } }
  }

  /// Names of the files in config-dir.
  func files() -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: "\(folder)/ports/vm")) ?? []).sorted()
  }
  var log: String { (try? String(contentsOfFile: "\(folder)/log/cni.log", encoding: .utf8)) ?? "" }

  /// Neither interfaces nor attachments nor files.
  func expectNothingLeft(_ sourceLocation: SourceLocation = #_sourceLocation) throws {
    #expect(try links() == [], sourceLocation: sourceLocation)
    #expect(agent.attachments.isEmpty, sourceLocation: sourceLocation)
    #expect(files() == [], sourceLocation: sourceLocation)
  }
}

/// What a run said.
struct Answer {
  let outcome: Plugin.Outcome
  /// Null when it said nothing.
  let json: JSON

  init(_ outcome: Plugin.Outcome) throws {
    self.outcome = outcome
    json = outcome.stdout.isEmpty ? .null : try JSONDecoder().decode(JSON.self, from: Data(outcome.stdout.utf8))
  }

  var isSuccess: Bool { outcome.exitCode == 0 }
  /// The error's code; nil when it succeeded.
  var code: Int? { isSuccess ? nil : json["code"]?.integer.flatMap { Int(exactly: $0) } }
  var message: String { json["msg"]?.text ?? "" }
  var details: String { json["details"]?.text ?? "" }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByArrayLiteral,
  ExpressibleByDictionaryLiteral, ExpressibleByBooleanLiteral
{
  public init(stringLiteral value: String) { self = .string(value) }
  public init(integerLiteral value: Int64) { self = .integer(value) }
  public init(booleanLiteral value: Bool) { self = .bool(value) }
  public init(arrayLiteral elements: JSON...) { self = .array(elements) }
  public init(dictionaryLiteral elements: (String, JSON)...) { self = .object(Dictionary(elements) { $1 }) }

  subscript(_ index: Int) -> JSON? {
    guard let elements, elements.indices.contains(index) else { return nil }
    return elements[index]
  }
}

struct CommandFailure: Error, CustomStringConvertible {
  let description: String
}

/// What `body` answers, and how long it took.
func timed<T>(_ body: () throws -> T) rethrows -> (T, Duration) {
  let clock = ContinuousClock()
  let start = clock.now
  return (try body(), clock.now - start)
}

func ip(_ arguments: String...) throws { try ip(arguments) }

/// Runs `ip`.
func ip(_ arguments: [String]) throws {
  let child = try Child("/usr/bin/env", ["ip"] + arguments, environment: ["PATH=/usr/sbin:/sbin:/usr/bin:/bin"])
  let status = child.wait()
  guard status == 0 else {
    throw CommandFailure(description: "ip \(arguments.joined(separator: " ")): status \(status)")
  }
}

/// A process in the calling thread's network namespace.
final class Child: Sendable {
  let pid: pid_t

  init(
    _ path: String, _ arguments: [String], environment: [String], stdin: String = "/dev/null", stdout: String? = nil
  ) throws {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, stdin, O_RDONLY, 0)
    if let stdout { posix_spawn_file_actions_addopen(&actions, 1, stdout, O_WRONLY | O_CREAT | O_TRUNC, 0o644) }
    if stdout != nil { posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0) }
    var argv = ([path] + arguments).map { strdup($0) } + [nil]
    var envp = environment.map { strdup($0) } + [nil]
    defer { for pointer in argv + envp { free(pointer) } }
    var pid = pid_t()
    let status = posix_spawn(&pid, path, &actions, nil, &argv, &envp)
    guard status == 0 else { throw CommandFailure(description: "cannot run \(path): errno \(status)") }
    self.pid = pid
  }

  /// The exit status, or minus the signal.
  func wait() -> Int32 {
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
    return status & 0x7F == 0 ? status >> 8 & 0xFF : -(status & 0x7F)
  }
}
