import WeftRing
import WeftWire

// An interface's "fat-flows" in TABLES.json.

extension TablesFileBuilder {
  func readFatFlows(_ object: TablesFileObject, _ interface: inout InterfaceConfiguration) throws(TablesFileError) {
    guard let list = object.optional("fat-flows") else { return }
    guard interface.role == .virtual else {
      throw list.fail("only virtual interfaces have fat flows; the fabric's packets are tunnels")
    }
    let entries = try list.array()
    guard entries.count <= FatFlow.maximum else {
      throw list.fail("an interface has at most \(FatFlow.maximum) of them")
    }
    for node in entries {
      let entry = try node.object(keys: ["protocol", "port", "local", "remote"])
      var flow = FatFlow(proto: UInt8(try entry.required("protocol").integer(0...255)))
      if let port = entry.optional("port") { flow.port = UInt16(try port.integer(0...65535)) }
      if let end = entry.optional("local") { flow.local = try readEnd(end) }
      if let end = entry.optional("remote") { flow.remote = try readEnd(end) }
      if let reason = TableProgrammer.fault(of: flow) { throw node.fail(reason) }
      guard !interface.fatFlows.contains(flow) else { throw node.fail("the entry stands here twice; remove one") }
      interface.fatFlows.append(flow)
    }
  }

  private func readEnd(_ node: TablesFileNode) throws(TablesFileError) -> FatFlow.End {
    if case .text(let text) = node.value.content {
      guard text == "ignore" else {
        throw node.fail("\"\(text)\" is neither \"ignore\" nor an object with \"prefix\" and \"length\"")
      }
      return .ignored
    }
    let end = try node.object(keys: ["prefix", "length"])
    return .aggregated(
      try end.required("prefix").prefix(), length: UInt8(try end.required("length").integer(0...127)))
  }
}
