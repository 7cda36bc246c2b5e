import WeftRing
import WeftVRouter

/// Hostile TABLES.json against the parser and the programmer that applies it, for libFuzzer (tools/fuzz builds and runs
/// it, with AddressSanitizer).
///
/// An input is a file. What the parser takes is applied until something is refused, packets go through the tables that
/// came of it, and then everything is swept: nothing may be left.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let file: TablesFile
  do throws(TablesFileError) {
    file = try TablesFile(json: Array(UnsafeBufferPointer(start: data, count: size)))
  } catch {
    // People are to be told, whatever the file holds.
    precondition(!error.description.isEmpty && !error.reason.isEmpty)
    return 0
  }
  precondition(file.commands.count == file.sources.count)
  for command in file.commands {
    do throws(Refusal) { try node.programmer.apply(command) } catch {
      precondition(!error.reason.isEmpty)
      break
    }
  }
  node.programmer.commit()
  node.sendSome()
  node.endFlows()
  node.sweep()
  return 0
}

nonisolated(unsafe) private let node = FuzzNode()
