/// Whether a port forwards, as the compute driver writes it: true or false, 1 or 0.
public struct LinkState: Hashable, Sendable, Codable {
  public var isUp: Bool

  public init(isUp: Bool) { self.isUp = isUp }

  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let value = try? container.decode(Bool.self) {
      isUp = value
    } else if let value = try? container.decode(Int.self), value == 0 || value == 1 {
      isUp = value == 1
    } else {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: "must be true, false, 1 or 0")
    }
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    // As Tungsten Fabric counts it.
    try container.encode(isUp ? 1 : 0)
  }
}
