import Foundation
import Testing
import WeftAPI
import WeftCNI
import WeftWire

struct ConfigurationTests {
  func read(_ section: String, _ name: String = "contrail") throws -> Settings {
    try Configuration(Array(#"{"cniVersion":"0.3.1","name":"n","\#(name)":\#(section)}"#.utf8)).settings
  }

  /// The configuration that the field has, as it stands.
  @Test func fieldConfiguration() throws {
    let text = """
      { "cniVersion": "0.3.1", "name": "contrail-k8s-cni", "type": "contrail-k8s-cni",
        "contrail": { "cluster-name": "c", "meta-plugin": "", "vrouter-ip": "127.0.0.1", "vrouter-port": 9091,
          "config-dir": "/var/lib/contrail/ports/vm", "poll-timeout": 5, "poll-retries": 15,
          "log-file": "/var/log/contrail/cni/opencontrail.log", "log-level": "4" } }
      """
    let configuration = try Configuration(Array(text.utf8))
    var expected = Settings()
    expected.clusterName = "c"
    #expect(configuration.settings == expected)
    #expect(configuration.settings.agent == .tcp(IPAddress("127.0.0.1")!, 9091))
    #expect(configuration.settings.stateDirectory == "/var/lib/contrail/ports/vm")
    #expect(configuration.settings.pollTimeout == 5)
    #expect(configuration.settings.pollRetries == 15)
    #expect(configuration.settings.logLevel == .warning)
    #expect(configuration.version == .v031)
    // The defaults are the field's.
    #expect(try read("{}") == Settings())
    #expect(try read("null") == Settings())
  }

  @Test func otherForms() throws {
    let settings = try read(
      #"""
      {"vrouter-ip":"::1","vrouter-port":"9092","poll-timeout":"7","poll-retries":"0","log-level":7,"log-file":"",
       "mtu":"1400","network":"red","mode":"k8s","vif-type":"veth","parent-interface":"eth0","unknown":{"a":[1.5,true]},
       "cluster-name":null}
      """#, "weft")
    #expect(settings.agent.description == "[::1]:9092")
    #expect(settings.pollTimeout == 7)
    #expect(settings.pollRetries == 0)
    #expect(settings.logLevel == .debug)
    #expect(settings.logFile == "")
    #expect(settings.mtu == 1400)
    #expect(settings.network == "red")
    #expect(try read(#"{"vrouter-socket":"/run/weft/agent.sock"}"#).agent == .unix("/run/weft/agent.sock"))
    #expect(try read(#"{"log-level":"info"}"#).logLevel == .info)
    #expect(try read(#"{"mtu":0}"#).mtu == nil)
  }

  @Test(arguments: [
    ("[]", "contrail"), ("7", "contrail"), (#"{"cluster-name":7}"#, "contrail.cluster-name"),
    (#"{"vrouter-ip":"localhost"}"#, "contrail.vrouter-ip"), (#"{"vrouter-ip":1}"#, "contrail.vrouter-ip"),
    (#"{"vrouter-port":0}"#, "contrail.vrouter-port"), (#"{"vrouter-port":65536}"#, "contrail.vrouter-port"),
    (#"{"vrouter-port":"x"}"#, "contrail.vrouter-port"), (#"{"vrouter-port":90.5}"#, "contrail.vrouter-port"),
    (#"{"vrouter-port":[9091]}"#, "contrail.vrouter-port"), (#"{"config-dir":"relative"}"#, "contrail.config-dir"),
    (#"{"config-dir":{}}"#, "contrail.config-dir"), (#"{"poll-timeout":0}"#, "contrail.poll-timeout"),
    (#"{"poll-timeout":-1}"#, "contrail.poll-timeout"), (#"{"poll-timeout":true}"#, "contrail.poll-timeout"),
    (#"{"poll-retries":"many"}"#, "contrail.poll-retries"), (#"{"log-file":"x.log"}"#, "contrail.log-file"),
    (#"{"log-level":"8"}"#, "contrail.log-level"), (#"{"log-level":"loud"}"#, "contrail.log-level"),
    (#"{"mtu":67}"#, "contrail.mtu"), (#"{"mtu":70000}"#, "contrail.mtu"), (#"{"network":5}"#, "contrail.network"),
    (#"{"meta-plugin":5}"#, "contrail.meta-plugin"), (#"{"parent-interface":5}"#, "contrail.parent-interface"),
    (#"{"vrouter-socket":"x"}"#, "contrail.vrouter-socket"),
  ])
  func wrongValuesAreNamed(section: String, named: String) throws {
    let error = #expect(throws: CNIError.self) { try read(section) }
    #expect(error?.code == .configuration)
    #expect(error?.message.contains(named) == true, "\(String(describing: error))")
  }

  @Test(arguments: [(#"{"vif-type":"ipvlan"}"#, "ipvlan"), (#"{"mode":"swarm"}"#, "swarm")])
  func unsupportedValuesAreNamed(section: String, named: String) throws {
    let error = #expect(throws: CNIError.self) { try read(section) }
    #expect(error?.code == .unsupportedField)
    #expect(error?.message.contains(named) == true)
  }

  @Test func oneSectionOnly() throws {
    let error = #expect(throws: CNIError.self) {
      try Configuration(Array(#"{"cniVersion":"0.3.1","name":"n","contrail":{},"weft":{}}"#.utf8))
    }
    #expect(error?.code == .configuration)
  }

  @Test func largeAndForeign() throws {
    let filler = String(repeating: "ü漢🙂", count: 8000)
    let text = #"{"cniVersion":"1.1.0","name":"n","ipMasq":true,"capabilities":{"ips":true},"x":"\#(filler)","y":1e99}"#
    #expect(text.utf8.count > 65536)
    #expect(try Configuration(Array(text.utf8)).name == "n")
  }

  // MARK: what a container asks for

  static let one = IPAddress("10.1.0.5")!
  static let six = IPAddress("fd00::5")!

  @Test(
    arguments: [
      ("", "", [], nil),
      (#""runtimeConfig":{"ips":["10.1.0.5/16","fd00::5"]}"#, "", [one, six], nil),
      (#""runtimeConfig":{"IPs":["10.1.0.5"],"Mac":"02:00:00:00:00:01"}"#, "", [one], "02:00:00:00:00:01"),
      (#""runtimeConfig":{"ips":null,"PortMappings":null,"dns":{"Servers":null}}"#, "IP=10.1.0.5", [one], nil),
      (#""runtimeConfig":null,"args":null"#, "IP=10.1.0.5,fd00::5/64", [one, six], nil),
      (#""runtimeConfig":{"ips":[]},"args":{"cni":{"ips":["fd00::5"]}}"#, "IP=10.1.0.5", [six], nil),
      (#""runtimeConfig":{"ips":["10.1.0.5"]},"args":{"cni":{"ips":["fd00::5"]}}"#, "IP=10.9.9.9", [one], nil),
      (#""args":{"cni":{"ips":null},"labels":[1]}"#, "MAC=02:00:00:00:00:02", [], "02:00:00:00:00:02"),
      (#""args":{"cni":{"mac":"02:00:00:00:00:03"}}"#, "MAC=02:00:00:00:00:02", [], "02:00:00:00:00:03"),
      (#""runtimeConfig":{"mac":"02:00:00:00:00:04"},"args":{"cni":{"mac":"x"}}"#, "", [], "02:00:00:00:00:04"),
      (
        #""runtimeConfig":{"portMappings":[{"HostPort":80,"ContainerPort":80,"Protocol":"tcp"}],"bandwidth":{"IngressRate":1}}"#,
        "", [], nil
      ),
    ] as [(String, String, [IPAddress], String?)])
  func wishes(members: String, arguments: String, addresses: [IPAddress], mac: String?) throws {
    let text = #"{"cniVersion":"1.0.0","name":"n"\#(members.isEmpty ? "" : ",")\#(members)}"#
    let wishes = try Configuration(Array(text.utf8)).wishes(Arguments(arguments))
    #expect(wishes.addresses == addresses)
    #expect(wishes.mac?.description == mac)
  }

  @Test(arguments: [
    #""runtimeConfig":[]"#, #""runtimeConfig":{"ips":"10.1.0.5"}"#, #""runtimeConfig":{"ips":[5]}"#,
    #""runtimeConfig":{"ips":["10.1.0"]}"#, #""runtimeConfig":{"mac":5}"#,
    #""runtimeConfig":{"mac":"ff:ff:ff:ff:ff:ff"}"#,
    #""args":{"cni":7}"#, #""args":{"cni":{"ips":["10.1.0.5/99"]}}"#,
  ])
  func wrongWishes(members: String) throws {
    let configuration = try Configuration(Array(#"{"cniVersion":"1.0.0","name":"n",\#(members)}"#.utf8))
    let error = #expect(throws: CNIError.self) { try configuration.wishes(Arguments("")) }
    #expect(error?.code == .configuration)
  }

  // MARK: GC's list

  @Test func validAttachments() throws {
    func keys(_ members: String) throws -> Set<InterfaceKey> {
      try Configuration(Array(#"{"cniVersion":"1.1.0","name":"n"\#(members)}"#.utf8)).validAttachments()
    }
    let expected: Set = [InterfaceKey(containerID: "c1", interface: "eth0")]
    #expect(try keys(#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#) == expected)
    #expect(try keys(#","cni.dev/attachments":[{"containerID":"c1","ifname":"eth0"}]"#) == expected)
    #expect(try keys(#","cni.dev/valid-attachments":[]"#) == [])
    for wrong in [
      "", #","cni.dev/valid-attachments":null"#, #","cni.dev/valid-attachments":{}"#,
      #","cni.dev/valid-attachments":[{"containerID":"c1"}]"#, #","cni.dev/attachments":["c1"]"#,
    ] {
      let error = #expect(throws: CNIError.self) { try keys(wrong) }
      #expect(error?.code == .configuration)
    }
  }
}
