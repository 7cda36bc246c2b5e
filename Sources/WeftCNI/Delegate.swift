import CLinux
import Glibc
import WeftAPI
import WeftWire

/// The IPAM plugin that the configuration names (CNI spec 1.1, section 4): it gives out addresses in the agent's place.
/// It gets the environment and the configuration that this plugin got.
struct Delegate {
  /// `ipam.type`.
  let type: String
  private let path: String
  private let environment: [String: String]
  private let stdin: [UInt8]

  /// Seconds that it may take: a lease may have to be waited for. Runtimes wait no longer.
  private static let patience = 60

  /// In the environment of what it runs, so that it does not run itself without end.
  private static let mark = "WEFT_CNI_DELEGATE"

  /// Nil: the configuration names none.
  init?(_ configuration: Configuration, environment: [String: String], stdin: [UInt8]) throws(CNIError) {
    guard let type = configuration.delegate else { return nil }
    guard environment[Self.mark] == nil else {
      throw CNIError(
        .configuration, "ipam.type \"\(type)\" is this plugin itself",
        details: "it is to be an IPAM plugin such as host-local")
    }
    let folders = (environment["CNI_PATH"] ?? "").split(separator: ":").map(String.init)
    guard !folders.isEmpty else {
      throw CNIError(
        .environment, "CNI_PATH is missing", details: "ipam.type \"\(type)\" is a plugin in one of its folders")
    }
    let paths = folders.map { "\($0)/\(type)" }
    guard let path = paths.first(where: { (candidate: String) in access(candidate, X_OK) == 0 }) else {
      throw CNIError(
        .configuration, "ipam.type \"\(type)\": no such plugin in CNI_PATH",
        details: "looked in \(folders.joined(separator: ", "))")
    }
    self.type = type
    self.path = path
    self.environment = environment
    self.stdin = stdin
  }

  /// What ADD of an IPAM plugin answers (CNI spec 1.1, section 5).
  struct Assignment {
    var addresses: [IPAddress] = []
    /// Without a gateway: through the network's.
    var routes: [(destination: IPPrefix, gateway: IPAddress?)] = []
    /// As it came.
    var dns: JSON?
  }

  func add() throws(CNIError) -> Assignment {
    guard let result = try run(.add) else { throw wrong("gave no result") }
    var assignment = Assignment(dns: result["dns"])
    for ip in result["ips"]?.elements ?? [] {
      guard let address = ip["address"]?.text.flatMap({ InterfaceAddress($0) })?.address else {
        throw wrong("gave the address \(ip["address"]?.text ?? "(none)")")
      }
      assignment.addresses.append(address)
    }
    guard !assignment.addresses.isEmpty else { throw wrong("gave no address") }
    for route in result["routes"]?.elements ?? [] {
      let gateway = route["gw"]?.text.flatMap { IPAddress($0) }
      guard let destination = route["dst"]?.text.flatMap({ IPPrefix($0) }), gateway != nil || route["gw"] == nil else {
        throw wrong("gave the route \(route["dst"]?.text ?? "(none)") via \(route["gw"]?.text ?? "(none)")")
      }
      assignment.routes.append((destination, gateway))
    }
    return assignment
  }

  private func wrong(_ what: String) -> CNIError {
    CNIError(.io, "ipam plugin \(type) \(what)", details: "its result is one of CNI 0.3.0 to 1.1.0 with ips")
  }

  /// Runs a verb. Its result, nil where it said nothing; its error, with its code where that is the spec's.
  @discardableResult
  func run(_ verb: Verb) throws(CNIError) -> JSON? {
    let (output, status) = try execute(verb)
    let json = try? Coding.decode(JSON.self, from: output).get()
    guard status != 0 else {
      guard let json, json.members != nil else {
        if output.contains(where: { $0 > 0x20 }) { throw wrong("answered what is no JSON object") }
        return nil
      }
      return json
    }
    let code = json?["code"]?.integer.flatMap { Int(exactly: $0) } ?? 0
    let known = CNIError.Code(rawValue: code)
    throw CNIError(
      known.map { $0.rawValue < 100 ? $0 : .internal } ?? .internal,
      "ipam plugin \(type): " + (json?["msg"]?.text ?? "exit status \(status >> 8 & 0xFF) without a reason"),
      details: [json?["details"]?.text ?? "", "\(verb.rawValue), its code \(code), \(path)"].filter { !$0.isEmpty }
        .joined(separator: "; "))
  }

  /// What it wrote, and its status as waitpid(2) tells it.
  private func execute(_ verb: Verb) throws(CNIError) -> (output: [UInt8], status: Int32) {
    // A file in memory takes the whole of it, however long it is before it reads.
    let input = memfd_create("cni", UInt32(MFD_CLOEXEC))
    guard input >= 0 else { throw failure("make its standard input") }
    defer { close(input) }
    guard Files.writeAll(input, stdin), lseek(input, 0, SEEK_SET) == 0 else {
      throw failure("write its standard input")
    }
    var pipes: [Int32] = [-1, -1]
    guard pipe2(&pipes, O_CLOEXEC) == 0 else { throw failure("make a pipe for") }
    defer { close(pipes[0]) }
    let pid: pid_t
    do throws(CNIError) { pid = try spawn(verb, input: input, output: pipes[1]) } catch {
      close(pipes[1])
      throw error
    }
    close(pipes[1])
    let deadline = weft_monotonic_ns() + UInt64(Self.patience) * 1_000_000_000
    let output = read(pipes[0], deadline)
    var status: Int32 = 0
    // It says nothing, or too much, and would not end by itself.
    if output == nil { kill(pid, SIGKILL) }
    while true {
      let ended = waitpid(pid, &status, output == nil ? 0 : WNOHANG)
      if ended == pid { break }
      if ended < 0, errno != EINTR { throw failure("wait for") }
      if weft_monotonic_ns() >= deadline { kill(pid, SIGKILL) } else { usleep(500) }
    }
    guard let output else {
      throw CNIError(
        .tryAgainLater, "ipam plugin \(type) did not answer \(verb.rawValue) within \(Self.patience) s",
        details: "\(path) was killed")
    }
    return (output, status)
  }

  private func spawn(_ verb: Verb, input: Int32, output: Int32) throws(CNIError) -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO)
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO)
    // This program ignores it; the other has not said that it wants to.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var defaults = sigset_t()
    sigemptyset(&defaults)
    sigaddset(&defaults, SIGPIPE)
    posix_spawnattr_setsigdefault(&attributes, &defaults)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF))
    var argv: [UnsafeMutablePointer<CChar>?] = [strdup(path), nil]
    var envp = variables(verb).map { strdup($0) } + [nil]
    defer { for pointer in argv + envp { free(pointer) } }
    var pid = pid_t()
    let code = posix_spawn(&pid, path, &actions, &attributes, &argv, &envp)
    guard code == 0 else { throw failure("run", code) }
    return pid
  }

  /// Ours, with the verb that it is to serve.
  private func variables(_ verb: Verb) -> [String] {
    var all: [String: String] = [:]
    let file = open("/proc/self/environ", O_RDONLY | O_CLOEXEC)
    if file >= 0 {
      for entry in (Files.readAll(file, limit: 8 << 20) ?? []).split(separator: 0) {
        let text = String(decoding: entry, as: UTF8.self)
        guard let equals = text.firstIndex(of: "=") else { continue }
        all[String(text[..<equals])] = String(text[text.index(after: equals)...])
      }
      close(file)
    }
    all[Self.mark] = "1"
    all.merge(environment) { $1 }
    all["CNI_COMMAND"] = verb.rawValue
    return all.map { "\($0)=\($1)" }
  }

  /// Until its end; nil when the time is up or it is more than any result.
  private func read(_ descriptor: Int32, _ deadline: UInt64) -> [UInt8]? {
    var bytes: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 16384)
    while bytes.count <= 8 << 20 {
      let now = weft_monotonic_ns()
      guard now < deadline else { return nil }
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      guard poll(&entry, 1, Int32(clamping: (deadline - now) / 1_000_000 + 1)) > 0 else { continue }
      let count = Glibc.read(descriptor, &part, part.count)
      if count == 0 { return bytes }
      if count > 0 { bytes += part.prefix(count) } else if errno != EINTR { return nil }
    }
    return nil
  }

  private func failure(_ doing: String, _ code: Int32 = errno) -> CNIError {
    CNIError(.io, "cannot \(doing) ipam plugin \(type): \(Files.errorText(code))", details: path)
  }
}

extension Run {
  /// Nil: the agent gives out addresses.
  func delegate() throws(CNIError) -> Delegate? {
    try Delegate(configuration, environment: environment, stdin: stdin)
  }

  /// Has the delegate give back what it gave out for a run that failed; what it says to that is for the log.
  func takeBack(_ delegate: Delegate) {
    do throws(CNIError) { try delegate.run(.delete) } catch { log.log(.warning, error.description) }
  }
}

extension Delegate.Assignment {
  /// The attachment with what the delegate says in place of what the network says.
  func applied(to attachment: Attachment) -> Attachment {
    guard !routes.isEmpty else { return attachment }
    var attachment = attachment
    attachment.routes = routes.compactMap { route in
      let isV4 = route.destination.address.isV4
      let gateway = route.gateway ?? attachment.addresses.first { $0.gateway.isV4 == isV4 }?.gateway
      return gateway.map { AttachmentRoute(destination: route.destination, gateway: $0) }
    }
    return attachment
  }
}
