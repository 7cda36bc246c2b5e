// swift-tools-version: 6.2
// Measures the data plane against a C reference. A package of its own: nothing of it is built with the programs.
import PackageDescription

/// As in the root's Package.swift: both sides of a comparison are built for one CPU.
let march: String = {
  if let chosen = Context.environment["WEFT_MARCH"] { return chosen }
  #if arch(x86_64)
    return "x86-64-v3"
  #else
    return ""
  #endif
}()
let machine: [String] = march.isEmpty ? [] : ["-march=\(march)"]

let package = Package(
  name: "weft-benchmarks",
  platforms: [.macOS(.v15)],
  dependencies: [
    .package(name: "weft", path: ".."),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
  ],
  targets: [
    // The same work on the same data in plain C: what the packet path is compared with.
    // And bare copy loops between two interfaces, for comparison at the wire.
    .target(name: "CReference", dependencies: ["CMeasure"], cSettings: [.unsafeFlags(["-O3"] + machine)]),
    // Counts memory allocations, marks callgrind's profiles, reads the clock; makes and counts packets on rings.
    .target(name: "CMeasure", cSettings: [.unsafeFlags(["-O2"] + machine)]),
    // The measurements; tools/bench runs it and prints what it says.
    .executableTarget(
      name: "weft-bench",
      dependencies: [
        "CReference", "CMeasure",
        .product(name: "WeftDataPlane", package: "weft"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: [.swiftLanguageMode(.v6)]
        + (machine.isEmpty ? [] : [.unsafeFlags(machine.flatMap { ["-Xcc", $0] })])
        + [.unsafeFlags(["-enforce-exclusivity=unchecked"])]),
    // Traffic at the wire: generator, counting receiver, round trips, bare loops. tools/bench wire runs it.
    .executableTarget(
      name: "weft-traffic",
      dependencies: [
        "CReference", "CMeasure", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: [.swiftLanguageMode(.v6)]),
  ]
)
