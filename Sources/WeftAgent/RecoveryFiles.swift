import FoundationEssentials
import WeftAPI

/// What others on the node remember of interfaces, in files.
enum RecoveryFiles {
  /// Those of the CNI plugin's config-dir, "CONTAINERID:IFNAME.json"; with the time of each file, the oldest first.
  static func plugin(_ folder: String) -> [PluginRecord] {
    read(PluginRecord.self, folder) { $0.hasSuffix(".json") }
      .filter { $0.name == "\($0.value.containerID):\($0.value.interface).json" }.map(\.value)
      .filter { Names.isInterface($0.interface) && Names.isValid($0.containerID) }
  }

  /// Those of Tungsten Fabric's port-control script, each the body of a `POST /port`, named by the port's UUID.
  static func ports(_ folder: String) -> [Port] {
    read(Port.self, folder) { Derived.uuid($0) != nil }.map(\.value)
  }

  private static let maximumBytes: UInt64 = 1 << 16

  private static func read<T: Decodable>(
    _ type: T.Type, _ folder: String, where isOne: (String) -> Bool
  ) -> [(name: String, value: T)] {
    let manager = FileManager.default
    let names = (try? manager.contentsOfDirectory(atPath: folder)) ?? []
    var found: [(time: Date, name: String, value: T)] = []
    for name in names where isOne(name) {
      let path = "\(folder)/\(name)"
      // Links lead out of the folder, where nothing of ours is.
      guard let attributes = try? manager.attributesOfItem(atPath: path),
        attributes[.type] as? FileAttributeType == .typeRegular,
        attributes[.size] as? UInt64 ?? .max <= maximumBytes,
        let data = manager.contents(atPath: path), let value = try? JSONDecoder().decode(type, from: data)
      else { continue }
      found.append((attributes[.modificationDate] as? Date ?? .distantPast, name, value))
    }
    return found.sorted { ($0.time, $0.name) < ($1.time, $1.name) }.map { ($0.name, $0.value) }
  }
}
