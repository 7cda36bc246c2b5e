import WeftRing

// Flow export in TABLES.json: one setting.

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
}
