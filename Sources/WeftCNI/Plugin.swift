import CLinux
import WeftNetlink

/// The CNI plugin (CNI spec 1.1): one run serves one verb.
public enum Plugin {
  /// What a run leaves for its caller.
  public struct Outcome: Hashable, Sendable {
    /// The result, or the error as JSON; empty for verbs that succeed without one.
    public var stdout: String
    /// For people.
    public var stderr: String
    public var exitCode: Int32
  }

  /// Runs in the calling thread's network namespace, which is the host's. `stdin` is read for each verb, but VERSION
  /// takes none as well.
  public static func run(environment: [String: String], stdin: [UInt8]) -> Outcome {
    do throws(CNIError) {
      let invocation = try Invocation(environment: environment)
      if invocation.verb == .version {
        let isEmpty = !stdin.contains { $0 > 0x20 }
        return success(SpecVersion.report(echoing: isEmpty ? nil : try Configuration.version(in: stdin)))
      }
      return run(invocation, try Configuration(stdin), environment, stdin)
    } catch {
      return failure(error, version: SpecVersion(rawValue: (try? Configuration.version(in: stdin)) ?? ""))
    }
  }

  private static func run(
    _ invocation: Invocation, _ configuration: Configuration, _ environment: [String: String], _ stdin: [UInt8]
  ) -> Outcome {
    let subject = invocation.verb.rawValue + (invocation.key.containerID.isEmpty ? "" : " \(invocation.key)")
    let log = Log(path: configuration.settings.logFile, level: configuration.settings.logLevel, subject: subject)
    let run = Run(
      invocation: invocation, configuration: configuration, log: log, environment: environment, stdin: stdin)
    var outcome: Outcome
    do throws(CNIError) {
      guard configuration.version >= invocation.verb.since else {
        throw CNIError(
          .version, "\(invocation.verb.rawValue) is not in CNI \(configuration.version.rawValue)",
          details: "it came with \(invocation.verb.since.rawValue)")
      }
      outcome = success(try run.result())
      log.log(.info, "done\(outcome.stdout.isEmpty ? "" : ": \(outcome.stdout)")")
    } catch {
      outcome = failure(error, version: configuration.version)
      outcome.stderr = ""
      log.log(.error, error.description)
    }
    outcome.stderr += log.complaints.map { "weft-cni: \($0)\n" }.joined()
    return outcome
  }

  private static func success(_ json: JSON?) -> Outcome {
    let text = json.map { String(decoding: Coding.encode($0), as: UTF8.self) + "\n" } ?? ""
    return Outcome(stdout: text, stderr: "", exitCode: 0)
  }

  private static func failure(_ error: CNIError, version: SpecVersion?) -> Outcome {
    let json = error.json(version: version ?? .newest)
    return Outcome(
      stdout: String(decoding: Coding.encode(json), as: UTF8.self) + "\n", stderr: "weft-cni: \(error)\n", exitCode: 1)
  }
}

/// One run for a verb other than VERSION; the verbs are in files of their own.
final class Run {
  let key: InterfaceKey
  let netns: String
  let arguments: String
  let verb: Verb
  let configuration: Configuration
  let settings: Settings
  let records: Records
  let agent: AgentClient
  let log: Log
  /// Both as they came, for a delegate.
  let environment: [String: String]
  let stdin: [UInt8]

  init(
    invocation: Invocation, configuration: Configuration, log: Log, environment: [String: String], stdin: [UInt8]
  ) {
    verb = invocation.verb
    key = invocation.key
    netns = invocation.netns
    arguments = invocation.arguments
    self.configuration = configuration
    settings = configuration.settings
    records = Records(directory: configuration.settings.stateDirectory)
    agent = AgentClient(configuration.settings)
    self.log = log
    self.environment = environment
    self.stdin = stdin
  }

  func result() throws(CNIError) -> JSON? {
    if let parent = settings.nestedParent { return try nested(parent) }
    switch verb {
    case .add: return try add()
    case .delete: try delete()
    case .check: try check()
    case .status: try status()
    case .gc: try collectGarbage()
    case .version: break
    }
    return nil
  }

  /// Asks the agent, and has a failure put in the plugin's words.
  func ask<T>(_ doing: String, _ body: () throws(AgentFailure) -> T) throws(CNIError) -> T {
    do throws(AgentFailure) {
      return try body()
    } catch {
      throw agent.error(error, doing)
    }
  }

  func kernel<T>(_ body: () throws(NetlinkError) -> T) throws(CNIError) -> T {
    do throws(NetlinkError) {
      return try body()
    } catch {
      throw CNIError(.io, "cannot \(error)")
    }
  }

  /// Tells the agent of DELs that it could not be told of when they came, for as long as poll-timeout. What fails, and
  /// what is left then, waits for another run.
  func handOver() {
    guard !records.buried().isEmpty else { return }
    let end = weft_monotonic_ns() + UInt64(settings.pollTimeout) * 1_000_000_000
    let isDone: Void? = records.exclusively(milliseconds: settings.pollTimeout * 1000) {
      // Another run may have done it meanwhile.
      for buried in records.buried() where weft_monotonic_ns() < end {
        do throws(CNIError) {
          try release(buried)
          records.remove(buried)
          log.log(.notice, "\(buried), deleted earlier, is released at the agent")
        } catch {
          log.log(.warning, "\(buried), deleted earlier, cannot be released yet: \(error)")
        }
      }
    }
    if isDone == nil { log.log(.warning, "another run of the plugin holds \(settings.stateDirectory)") }
  }

  /// Has the agent forget an attachment. What it would refuse each time is given up, and logged.
  func release(_ key: InterfaceKey) throws(CNIError) {
    do throws(AgentFailure) {
      try agent.delete(key)
    } catch {
      guard error.isFinal else { throw agent.error(error, "delete the attachment of \(key)") }
      log.log(.warning, agent.error(error, "delete the attachment of \(key)").description)
    }
  }
}
