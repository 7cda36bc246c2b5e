import NIOCore
import NIOPosix
import WeftWire

/// Answers a network's members' questions by asking resolvers.
struct DNSProxy: Sendable {
  /// Of clients over TCP.
  static let maximumConnections = 256
  static let maximumConnectionsOfClient = 16
  static let idle = TimeAmount.seconds(10)
  /// Questions that one connection may have open.
  static let maximumQuestionsOfConnection = 32

  let relay: DNSRelay
  let members: ServiceMembers

  /// Serves datagrams that come in by a bound socket.
  func serve(datagrams socket: Int32, on loop: any EventLoop) -> EventLoopFuture<any Channel> {
    DatagramBootstrap(group: loop)
      .channelOption(.socketOption(.so_rcvbuf), value: 1 << 20)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(DNSDatagrams(proxy: self))
        }
      }
      .withBoundSocket(socket)
  }

  /// Serves connections to a listening socket.
  func serve(connections socket: Int32, on loop: any EventLoop) -> EventLoopFuture<any Channel> {
    let count = ServiceConnections(limit: Self.maximumConnections, ofClient: Self.maximumConnectionsOfClient)
    return ServerBootstrap(group: loop)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let pipeline = channel.pipeline.syncOperations
          try pipeline.addHandler(ServiceAdmission(members, count))
          try pipeline.addHandler(IdleStateHandler(allTimeout: Self.idle))
          try pipeline.addHandler(BackPressureHandler())
          try pipeline.addHandler(DNSConnection(proxy: self))
        }
      }
      .withBoundSocket(socket)
  }
}

private final class DNSDatagrams: ChannelInboundHandler {
  typealias InboundIn = AddressedEnvelope<ByteBuffer>
  typealias OutboundOut = AddressedEnvelope<ByteBuffer>

  private let proxy: DNSProxy

  init(proxy: DNSProxy) { self.proxy = proxy }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let envelope = unwrapInboundIn(data)
    guard let client = IPAddress(envelope.remoteAddress), envelope.remoteAddress.port ?? 0 != 0,
      proxy.members.contains(client), let message = DNSMessage(Array(envelope.data.readableBytesView))
    else { return }
    let channel = context.channel
    let remote = envelope.remoteAddress
    @Sendable func answer(_ bytes: [UInt8]?) {
      guard let bytes else { return }
      channel.writeAndFlush(AddressedEnvelope(remoteAddress: remote, data: ByteBuffer(bytes: bytes)), promise: nil)
    }
    switch message.verdict {
    case .drop: return
    case .answer(let bytes): answer(bytes)
    case .forward: proxy.relay.ask(message, from: client, overTCP: false, answer: answer)
    }
  }

  /// A client that is gone, as a rule; the socket goes on.
  func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}

private final class DNSConnection: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let proxy: DNSProxy
  private var frames = DNSFrames()
  private var open = 0

  init(proxy: DNSProxy) { self.proxy = proxy }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var bytes = unwrapInboundIn(data)
    frames.append(&bytes)
    while let next = frames.next() {
      guard let message = DNSMessage(next), let client = context.remoteAddress.flatMap({ IPAddress($0) }),
        open < DNSProxy.maximumQuestionsOfConnection
      else { return context.close(promise: nil) }
      switch message.verdict {
      case .drop: return context.close(promise: nil)
      case .answer(let bytes):
        open += 1
        write(DNSFrames.frame(bytes), context.channel, context.eventLoop)
      case .forward: ask(message, client, context)
      }
    }
  }

  private func ask(_ message: DNSMessage, _ client: IPAddress, _ context: ChannelHandlerContext) {
    open += 1
    let bound = NIOLoopBound((self, context.channel), eventLoop: context.eventLoop)
    proxy.relay.ask(message, from: client, overTCP: true) { bytes in
      let (handler, channel) = bound.value
      handler.write(DNSFrames.frame(bytes ?? message.failure(.serverFailure)), channel, channel.eventLoop)
    }
  }

  /// A question is over when its answer is on its way: who asks and does not read asks no more.
  private func write(_ frame: ByteBuffer, _ channel: any Channel, _ loop: any EventLoop) {
    let bound = NIOLoopBound(self, eventLoop: loop)
    channel.writeAndFlush(frame).whenComplete { _ in bound.value.open -= 1 }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}

extension IPAddress {
  init?(_ address: SocketAddress) {
    guard let text = address.ipAddress else { return nil }
    self.init(text)
  }
}
