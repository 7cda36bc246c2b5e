import NIOCore
import Synchronization
import WeftWire

/// How many connections clients of a service have.
final class ServiceConnections: Sendable {
  private let limit: Int
  private let ofClient: Int
  private let counts = Mutex<(all: Int, of: [IPAddress: Int])>((0, [:]))

  init(limit: Int, ofClient: Int) {
    self.limit = limit
    self.ofClient = ofClient
  }

  func enter(_ client: IPAddress) -> Bool {
    counts.withLock { counts in
      guard counts.all < limit, counts.of[client, default: 0] < ofClient else { return false }
      counts.all += 1
      counts.of[client, default: 0] += 1
      return true
    }
  }

  func leave(_ client: IPAddress) {
    counts.withLock { counts in
      counts.all -= 1
      counts.of[client, default: 1] -= 1
      if counts.of[client] == 0 { counts.of[client] = nil }
    }
  }
}

/// Closes connections of whoever is no member of the network on this node, and of those that have too many.
final class ServiceAdmission: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let members: ServiceMembers
  private let connections: ServiceConnections
  private var client: IPAddress?

  init(_ members: ServiceMembers, _ connections: ServiceConnections) {
    self.members = members
    self.connections = connections
  }

  func channelActive(context: ChannelHandlerContext) {
    guard let address = context.remoteAddress.flatMap({ IPAddress($0) }), members.contains(address),
      connections.enter(address)
    else { return context.close(promise: nil) }
    client = address
    context.fireChannelActive()
  }

  func channelInactive(context: ChannelHandlerContext) {
    if let client { connections.leave(client) }
    client = nil
    context.fireChannelInactive()
  }
}
