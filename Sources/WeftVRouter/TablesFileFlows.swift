import WeftRing

// What holds for all flows in TABLES.json: flow export and flow settings.

extension TablesFileBuilder {
  mutating func readFlowExport(_ node: TablesFileNode) throws(TablesFileError) {
    let object = try node.object(keys: ["flows", "sample", "rate", "update-seconds"])
    var export = FlowExportConfiguration()
    if let flows = object.optional("flows") {
      let name = try flows.text()
      guard let selection = FlowExportConfiguration.Selection.allCases.first(where: { $0.name == name }) else {
        throw flows.fail("\"\(name)\" is neither \"logged\" nor \"all\"")
      }
      export.selection = selection
    }
    if let sample = object.optional("sample") {
      guard export.selection == .all else {
        throw sample.fail("it goes with \"flows\": \"all\"; logged ones are never left out")
      }
      export.sample = try sample.integer(1...FlowExportConfiguration.maximumSample)
    }
    if let rate = object.optional("rate") { export.rate = try rate.integer(0...FlowExportConfiguration.maximumRate) }
    if let update = object.optional("update-seconds") {
      export.updateSeconds = try update.integer(0...FlowExportConfiguration.maximumUpdateSeconds)
    }
    add(.setFlowExport(export), node)
  }

  mutating func readFlowSettings(_ node: TablesFileNode) throws(TablesFileError) {
    let object = try node.object(keys: ["tcp", "timeouts"])
    var settings = FlowSettingsConfiguration()
    if let tcp = object.optional("tcp") {
      let name = try tcp.text()
      guard let strictness = FlowSettingsConfiguration.TCPStrictness.allCases.first(where: { $0.name == name }) else {
        throw tcp.fail("\"\(name)\" is none of \"liberal\", \"opened\" and \"strict\"")
      }
      settings.tcp = strictness
    }
    if let node = object.optional("timeouts") {
      let kinds = FlowSettingsConfiguration.Timeout.allCases
      let timeouts = try node.object(keys: kinds.map(\.name))
      for kind in kinds {
        if let value = timeouts.optional(kind.name) {
          settings[kind] = try value.integer(1...FlowSettingsConfiguration.maximumTimeout)
        }
      }
    }
    add(.setFlowSettings(settings), node)
  }
}
