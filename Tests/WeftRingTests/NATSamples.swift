import WeftRing
import WeftWire

extension Samples {
  static let natPools = addresses.map { address in
    NATPoolConfiguration(
      id: .max, name: String(repeating: "p", count: 63), vrf: 1, first: address, last: addresses[5], firstPort: 0,
      lastPort: .max, blockPorts: .max)
  }
  static let sourceNAT = prefixes.flatMap { prefix in
    [
      SourceNATConfiguration(id: 0, priority: .max, vrf: 1, source: prefix, pool: nil),
      SourceNATConfiguration(
        id: .max, priority: 0, vrf: .max, source: prefix, destination: prefixes[3], egress: .max, pool: 0),
    ]
  }
  static let staticNAT = addresses.map {
    StaticNATConfiguration(insideVRF: .max, inside: $0, outsideVRF: 0, outside: addresses[4])
  }
  static let serviceKeys = addresses.map { ServiceKey(vrf: .max, address: $0, proto: 255, port: .max) }
  static let destinationNAT = serviceKeys.map {
    DestinationNATConfiguration(key: $0, target: addresses[2], targetVRF: 7, targetPort: 8080)
  }
  static let services = serviceKeys.flatMap { key in
    [
      ServiceConfiguration(key: key),
      ServiceConfiguration(
        key: key, name: "default/web:http", flags: [.localOnly, .sourceNAT], pool: .max, affinitySeconds: .max,
        hairpin: addresses[5]),
    ]
  }
  static let backends = serviceKeys.map {
    BackendConfiguration(
      service: $0, address: addresses[5], port: .max, vrf: 3, weight: .max, flags: [.draining, .local])
  }

  static let natCommands: [Command] =
    natPools.map(Command.setNATPool) + sourceNAT.map(Command.setSourceNAT) + staticNAT.map(Command.setStaticNAT)
    + destinationNAT.map(Command.setDestinationNAT) + services.map(Command.setService)
    + backends.map(Command.setBackend) + numbers.flatMap { [.removeNATPool(id: $0), .removeSourceNAT(id: $0)] }
    + addresses.map { .removeStaticNAT(insideVRF: .max, inside: $0) }
    + serviceKeys.flatMap { key in
      [
        .removeDestinationNAT(key), .removeService(key),
        .removeBackend(service: key, vrf: .max, address: addresses[5], port: 1),
      ]
    }

  static let natEntries: [TableEntry] =
    natPools.map { .natPool($0, NATPoolState(taken: [0, 1, 2, .max], blocks: .max)) }
    + sourceNAT.map(TableEntry.sourceNAT) + staticNAT.map(TableEntry.staticNAT)
    + destinationNAT.map(TableEntry.destinationNAT) + services.map(TableEntry.service)
    + backends.map(TableEntry.backend)
}
