// swift-tools-version: 6.2
// The map of the house: each target with one line on what it is. Imports go downward only.
import PackageDescription

/// The lowest CPU the data plane is built for. `WEFT_MARCH` overrides it ("x86-64-v2", "native", "" for the compiler's
/// own default, which is also what other architectures get).
let march: String = {
  if let chosen = Context.environment["WEFT_MARCH"] { return chosen }
  #if arch(x86_64)
    return "x86-64-v3"
  #else
    return ""
  #endif
}()
let machine: [String] = march.isEmpty ? [] : ["-march=\(march)"]

/// Warnings are errors where `WEFT_STRICT` is set (tools/test sets it).
let strict: [SwiftSetting] =
  Context.environment["WEFT_STRICT"] == nil ? [] : [.treatAllWarnings(as: .error)]

/// Ordinary targets.
let safe: [SwiftSetting] = strict + [.swiftLanguageMode(.v6)]
/// Targets that import the C shims: clang's importer needs the CPU for the shims' intrinsics.
let machineFlags: [SwiftSetting] = machine.isEmpty ? [] : [.unsafeFlags(machine.flatMap { ["-Xcc", $0] })]
/// Targets that hold unsafe pointers behind safe types: each use is marked.
let low: [SwiftSetting] = safe + machineFlags + [.strictMemorySafety()]
/// The packet path and the tables it looks up: one owner each, so the run-time's exclusivity checks say nothing.
let hot: [SwiftSetting] = low + [.unsafeFlags(["-enforce-exclusivity=unchecked"])]
/// Targets that only call into the above.
let high: [SwiftSetting] = safe + machineFlags
/// The workers' loop around the packet path.
let loop: [SwiftSetting] = high + [.unsafeFlags(["-enforce-exclusivity=unchecked"])]

let package = Package(
  name: "weft",
  platforms: [.macOS(.v15)],
  products: [
    .executable(name: "weft-vrouter", targets: ["weft-vrouter"]),
    .executable(name: "weft-agent", targets: ["weft-agent"]),
    .executable(name: "weft-cni", targets: ["weft-cni"]),
    .executable(name: "weft", targets: ["weft"]),
    // For Benchmarks/, a package of its own.
    .library(
      name: "WeftDataPlane",
      targets: ["WeftVRouter", "WeftForwarding", "WeftTables", "WeftRing", "WeftWire", "WeftSystem", "CLinux"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
    .package(url: "https://github.com/apple/swift-nio-extras", from: "1.34.1"),
    .package(url: "https://github.com/apple/swift-crypto", from: "4.0.0"),
    .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
    .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0", traits: []),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.0"),
    .package(url: "https://github.com/swift-server/async-http-client", from: "1.30.0"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
  ],
  targets: [
    // C: headers of the kernel and of libraries, static inline atomics, CRC, checksum and prefetch; no logic.
    .target(name: "CLinux", cSettings: [.unsafeFlags(["-O3"] + machine)]),
    // C: the process that closes a dead forwarder's descriptors, many at once.
    .target(name: "CCloser", cSettings: [.unsafeFlags(["-O2"])]),
    // C: what happens where memory of a virtual machine is touched that has gone.
    .target(name: "CGuestMemory", cSettings: [.unsafeFlags(["-O2"])]),
    .systemLibrary(name: "CPcap", pkgConfig: "libpcap", providers: [.apt(["libpcap-dev"])]),
    .systemLibrary(name: "CNuma", pkgConfig: "numa", providers: [.apt(["libnuma-dev"])]),

    // Descriptors and memory mappings that close themselves, errno as an error.
    .target(name: "WeftSystem", dependencies: ["CLinux"], swiftSettings: low),
    // Header formats, one file a protocol; checksum arithmetic; frames. No state, no I/O.
    .target(name: "WeftWire", dependencies: ["CLinux"], swiftSettings: low),
    // What forwarding looks up: flows, routes, bridge, nexthops, labels, VNIs; epochs.
    .target(name: "WeftTables", dependencies: ["WeftWire", "WeftSystem", "CLinux"], swiftSettings: hot),
    // The packet path, one file a stage; read PacketPath.swift from top to bottom.
    .target(
      name: "WeftForwarding", dependencies: ["WeftTables", "WeftWire", "WeftSystem", "CLinux"], swiftSettings: hot),
    // Where packets come from and go to: AF_PACKET, AF_XDP, TAP, vhost-user, pcap files.
    .target(
      name: "WeftPorts", dependencies: ["WeftWire", "WeftSystem", "CLinux", "CPcap", "CGuestMemory"],
      swiftSettings: hot),
    // The shared-memory ring: layout, messages, both ends.
    .target(name: "WeftRing", dependencies: ["WeftWire", "WeftSystem", "CLinux"], swiftSettings: hot),
    // rtnetlink: links, addresses, routes, neighbours; network namespaces.
    .target(name: "WeftNetlink", dependencies: ["WeftWire", "WeftSystem", "CLinux"], swiftSettings: low),
    // What the agent's HTTP API and the CNI plugin say to each other.
    .target(name: "WeftAPI", dependencies: ["WeftWire"], swiftSettings: safe + machineFlags),
    // docs/openapi.yaml, built in.
    .target(name: "WeftOpenAPI", resources: [.embedInCode("openapi.yaml")], swiftSettings: safe),
    // Workers, control thread, statistics, replay: puts the above together.
    .target(
      name: "WeftVRouter",
      dependencies: [
        "WeftForwarding", "WeftTables", "WeftPorts", "WeftRing", "WeftNetlink", "WeftWire", "WeftSystem", "CLinux",
        "CNuma", "WeftLogging",
        .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: loop),
    // Log lines as text or JSON, levels that change while a program runs.
    .target(
      name: "WeftLogging", dependencies: [.product(name: "Logging", package: "swift-log")], swiftSettings: safe),
    // HTTP API, ports' life cycle, standalone address management, programming of the forwarder.
    .target(
      name: "WeftAgent",
      dependencies: [
        "WeftRing", "WeftNetlink", "WeftAPI", "WeftOpenAPI", "WeftWire", "WeftLogging",
        .product(name: "AsyncHTTPClient", package: "async-http-client"),
        .product(name: "Crypto", package: "swift-crypto"),
        .product(name: "GRDB", package: "GRDB.swift"),
        .product(name: "Hummingbird", package: "hummingbird"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "CoreMetrics", package: "swift-metrics"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
        .product(name: "NIOHTTPTypes", package: "swift-nio-extras"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
        .product(name: "UnixSignals", package: "swift-service-lifecycle"),
        .product(name: "Yams", package: "Yams"),
      ],
      swiftSettings: high),
    // The CNI plugin.
    .target(name: "WeftCNI", dependencies: ["WeftNetlink", "WeftAPI", "WeftWire", "CLinux"], swiftSettings: high),

    // Thin mains: arguments in, one call.
    .executableTarget(
      name: "weft-vrouter",
      dependencies: [
        "WeftVRouter", "WeftForwarding", "WeftRing", "WeftWire", "WeftLogging", "CCloser",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: high),
    .executableTarget(
      name: "weft-agent",
      dependencies: [
        "WeftAgent", "WeftLogging",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: high),
    // Small, since it is started for each pod event: without symbols, which nobody reads there.
    .executableTarget(
      name: "weft-cni", dependencies: ["WeftCNI"], swiftSettings: high,
      linkerSettings: [.unsafeFlags(["-Xlinker", "-s"], .when(configuration: .release))]),
    .executableTarget(
      name: "weft",
      dependencies: [
        "WeftVRouter", "WeftPorts", "WeftRing", "WeftWire", "WeftSystem", "WeftNetlink", "WeftAPI", "WeftCNI",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: high),

    .testTarget(name: "WeftWireTests", dependencies: ["WeftWire"], swiftSettings: high),
    .testTarget(name: "WeftTablesTests", dependencies: ["WeftTables", "WeftWire"], swiftSettings: high),
    .testTarget(
      name: "WeftNetlinkTests", dependencies: ["WeftNetlink", "WeftWire", "CLinux"], swiftSettings: high),
    .testTarget(
      name: "WeftPortsTests", dependencies: ["WeftPorts", "WeftWire", "WeftSystem", "CLinux"], swiftSettings: high),
    .testTarget(name: "WeftRingTests", dependencies: ["WeftRing", "WeftWire", "CLinux"], swiftSettings: high),
    .testTarget(
      name: "WeftVRouterTests",
      dependencies: [
        "WeftVRouter", "WeftForwarding", "WeftPorts", "WeftRing", "WeftTables", "WeftWire", "WeftSystem", "CLinux",
      ],
      swiftSettings: high
    ),
    .testTarget(
      name: "WeftAgentTests",
      dependencies: [
        "WeftAgent", "WeftAPI", "WeftLogging", "WeftNetlink", "WeftRing", "WeftWire",
        .product(name: "GRDB", package: "GRDB.swift"),
        .product(name: "CoreMetrics", package: "swift-metrics"),
      ],
      swiftSettings: high),
    .testTarget(
      name: "WeftCNITests", dependencies: ["WeftCNI", "WeftAPI", "WeftNetlink", "WeftWire"], swiftSettings: high),
  ]
)
