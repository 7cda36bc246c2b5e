import Foundation
import Testing
import WeftCNI

/// What is judged before anything is done: variables, standard input, versions.
struct InvocationTests {
  static let good = [
    "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/none", "CNI_IFNAME": "eth0",
  ]
  /// No agent there, and nothing is written anywhere.
  static let configuration =
    #"{"cniVersion":"1.0.0","name":"n","weft":{"vrouter-socket":"/nonexistent/agent","config-dir":"/nonexistent/x","log-file":""}}"#

  func run(_ environment: [String: String], _ stdin: String) throws -> Answer {
    try Answer(Plugin.run(environment: environment, stdin: Array(stdin.utf8)))
  }

  @Test(arguments: [
    "", " \n", "{}", #"{"cniVersion":"0.4.0"}"#, #"{"cniVersion":"9.9.9","name":"?"}"#, #"{"cniVersion":null}"#,
  ])
  func versionAnswersWhateverTheRestIs(stdin: String) throws {
    let dummies = ["CNI_COMMAND": "VERSION", "CNI_CONTAINERID": "", "CNI_NETNS": "dummy", "CNI_IFNAME": "a/b:c d"]
    for environment in [["CNI_COMMAND": "VERSION"], dummies] {
      let answer = try run(environment, stdin)
      #expect(answer.isSuccess)
      #expect(answer.json["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
      let asked = try? JSONDecoder().decode(JSON.self, from: Data(stdin.utf8))["cniVersion"]
      #expect(answer.json["cniVersion"] == (asked ?? "1.1.0"))
    }
  }

  @Test func versionOfGarbageIsRefused() throws {
    #expect(try run(["CNI_COMMAND": "VERSION"], "{").code == 6)
  }

  @Test(
    arguments: [
      ([:], ["CNI_COMMAND"]), (["CNI_COMMAND": ""], ["CNI_COMMAND"]), (["CNI_COMMAND": "add"], ["CNI_COMMAND", "add"]),
      (["CNI_COMMAND": "REMOVE"], ["REMOVE"]),
      (["CNI_COMMAND": "ADD"], ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
      (["CNI_COMMAND": "CHECK", "CNI_IFNAME": "eth0"], ["CNI_CONTAINERID", "CNI_NETNS"]),
      (["CNI_COMMAND": "DEL"], ["CNI_CONTAINERID", "CNI_IFNAME"]),
      (
        ["CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": "relative/path"],
        ["CNI_NETNS"]
      ),
    ] as [([String: String], [String])])
  func variablesAreNamed(environment: [String: String], names: [String]) throws {
    let answer = try run(environment, Self.configuration)
    #expect(answer.code == 4)
    for name in names { #expect(answer.message.contains(name)) }
    #expect(answer.outcome.stderr.contains(names[0]))
  }

  @Test func onlyMissingVariablesAreNamed() throws {
    let answer = try run(Self.good.merging(["CNI_IFNAME": ""]) { $1 }, Self.configuration)
    #expect(answer.message == "CNI_IFNAME is missing")
  }

  @Test(arguments: ["-c", ".c", "_c", "a/b", "a b", "../x", "ä", "a\nb", String(repeating: "a", count: 231)])
  func containerIDs(id: String) throws {
    for verb in ["ADD", "DEL", "CHECK"] {
      let answer = try run(Self.good.merging(["CNI_COMMAND": verb, "CNI_CONTAINERID": id]) { $1 }, Self.configuration)
      #expect(answer.code == 4)
      #expect(answer.message.contains("CNI_CONTAINERID"))
    }
  }

  @Test(arguments: ["a", "0", "A_b.c-d", String(repeating: "f", count: 64), String(repeating: "f", count: 230)])
  func goodContainerIDs(id: String) throws {
    // Judged good: the next thing that is wrong is the namespace.
    #expect(try run(Self.good.merging(["CNI_CONTAINERID": id]) { $1 }, Self.configuration).code == 8)
  }

  @Test(arguments: ["1234567890123456", "eth%d", "a/b", "a:b", "a b", "a\tb", ".", "..", "ääääääää"])
  func interfaceNames(name: String) throws {
    let answer = try run(Self.good.merging(["CNI_IFNAME": name]) { $1 }, Self.configuration)
    #expect(answer.code == 4)
    #expect(answer.message.contains("CNI_IFNAME"))
  }

  @Test(arguments: [
    ("", 6), ("  \n", 6), ("garbage", 6), ("{", 6), ("[]", 6), ("\"x\"", 6), ("null", 6), (#"{"cniVersion":1}"#, 6),
    (#"{"cniVersion":"1.0.0","name":"n"} trailing"#, 6), ("{\"cniVersion\":\"1.0.0\",\"name\":\"\u{0}\"}", 6),
    (#"{"cniVersion":"1.0.0","name":"n","prevResult":[]}"#, 6),
    (#"{"name":"n"}"#, 1), (#"{"cniVersion":"0.2.0","name":"n"}"#, 1), (#"{"cniVersion":"2.0.0","name":"n"}"#, 1),
    (#"{"cniVersion":"1.0.0"}"#, 7), (#"{"cniVersion":"1.0.0","name":""}"#, 7),
    (#"{"cniVersion":"1.0.0","name":"a b"}"#, 7),
    (#"{"cniVersion":"1.0.0","name":"-a"}"#, 7), (#"{"cniVersion":"1.0.0","name":7}"#, 7),
  ])
  func stdin(text: String, code: Int) throws {
    for verb in ["ADD", "DEL"] {
      let answer = try run(Self.good.merging(["CNI_COMMAND": verb]) { $1 }, text)
      #expect(answer.code == code, "\(answer.message)")
      #expect(!answer.message.isEmpty)
      #expect(answer.json["cniVersion"]?.text != nil)
      #expect(answer.outcome.stdout.hasSuffix("}\n"))
    }
  }

  @Test func deepNestingIsRefused() throws {
    let deep = String(repeating: "[", count: 100_000)
    #expect(try run(Self.good, #"{"cniVersion":"1.0.0","name":"n","x":"# + deep).code == 6)
  }

  @Test func errorsComeInTheVersionAskedFor() throws {
    for version in SpecVersion.allCases {
      let answer = try run(Self.good, #"{"cniVersion":"\#(version.rawValue)"}"#)
      #expect(answer.json["cniVersion"] == .string(version.rawValue))
    }
  }

  @Test(arguments: [
    ("CHECK", "0.3.1", 1), ("CHECK", "0.4.0", 7), ("STATUS", "1.0.0", 1), ("STATUS", "1.1.0", 50), ("GC", "1.0.0", 1),
    ("GC", "1.1.0", 7),
  ])
  func verbsAndVersions(verb: String, version: String, code: Int) throws {
    let stdin = Self.configuration.replacingOccurrences(of: "1.0.0", with: version)
    #expect(try run(Self.good.merging(["CNI_COMMAND": verb]) { $1 }, stdin).code == code)
  }

  @Test func statusAndGCNeedNoContainer() throws {
    let stdin = Self.configuration.replacingOccurrences(of: "1.0.0", with: "1.1.0")
    #expect(try run(["CNI_COMMAND": "STATUS"], stdin).code == 50)
    let list = stdin.dropLast() + #","cni.dev/valid-attachments":[]}"#
    #expect(try run(["CNI_COMMAND": "GC"], String(list)).code == 11)
  }

  @Test(arguments: [
    "", ";", "IgnoreUnknown=1;X=1", "X=1;IgnoreUnknown=true", "K8S_POD_UID=u;IgnoreUnknown=1;K8S_POD_NAME=p;Z=;Y=a=b",
    "K8S_POD_INFRA_CONTAINER_ID=i;K8S_POD_NAME=p;K8S_POD_NAMESPACE=n;K8S_POD_UID=u;IP=10.1.2.3;MAC=02:00:00:00:00:01",
  ])
  func goodArguments(text: String) throws {
    #expect(try run(Self.good.merging(["CNI_ARGS": text]) { $1 }, Self.configuration).code == 8)
  }

  @Test(arguments: [
    ("X=1", "X"), ("IgnoreUnknown=0;X=1;Y=2", "X, Y"), ("IgnoreUnknown=maybe", "maybe"), ("novalue", "novalue"),
    ("=1", "=1"), ("IP=10.1.2", "10.1.2"), ("MAC=02:00", "02:00"), ("MAC=01:00:00:00:00:00", "01:00"),
  ])
  func badArguments(text: String, named: String) throws {
    let answer = try run(Self.good.merging(["CNI_ARGS": text]) { $1 }, Self.configuration)
    #expect(answer.code == 4)
    #expect(answer.message.contains("CNI_ARGS"))
    #expect(answer.message.contains(named))
  }

  @Test func deleteDoesNotJudgeWhatItDoesNotNeed() throws {
    let stdin = Self.configuration.dropLast() + #","runtimeConfig":{"ips":["x"]},"prevResult":{"what":"ever"}}"#
    let answer = try run(
      ["CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_ARGS": "nonsense"], String(stdin))
    #expect(answer.isSuccess)
    #expect(answer.outcome.stdout.isEmpty)
  }

  @Test(arguments: [
    ("/nonexistent/ns", 8), ("/etc/passwd", 8), ("/proc/self/ns/mnt", 8), ("/proc/self/ns/net", 8), ("/tmp", 8),
  ])
  func namespaces(path: String, code: Int) throws {
    let answer = try run(Self.good.merging(["CNI_NETNS": path]) { $1 }, Self.configuration)
    #expect(answer.code == code)
    #expect(answer.message.contains("CNI_NETNS"))
  }
}
