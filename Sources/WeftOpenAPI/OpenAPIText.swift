/// docs/openapi.yaml, which describes the agent's HTTP API, as it was when this was built. A module of its own: a long
/// table of bytes compiles slowly.
public enum OpenAPIText {
  /// UTF-8.
  public static var yaml: String { String(decoding: PackageResources.openapi_yaml, as: UTF8.self) }
}
