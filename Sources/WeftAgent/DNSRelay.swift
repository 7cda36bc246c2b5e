import NIOCore
import NIOPosix
import WeftWire

/// Passes questions on to resolvers, each by a socket of its own: with its port and id drawn at random, an answer is hard
/// to guess for whoever does not see the question (RFC 5452). Lives on one event loop and is used on it only.
final class DNSRelay: @unchecked Sendable {
  struct Limits: Sendable {
    /// Questions at once: of all clients, and of one.
    var pending = 512
    var pendingOfClient = 64
    /// For each server.
    var patience = TimeAmount.seconds(2)
    var port = 53
  }

  private let loop: any EventLoop
  private let servers: DNSServers
  private let limits: Limits
  private var pending = 0
  private var pendingOf: [IPAddress: Int] = [:]

  init(on loop: any EventLoop, _ servers: DNSServers, limits: Limits = Limits()) {
    self.loop = loop
    self.servers = servers
    self.limits = limits
  }

  /// Asks one server after the other until one answers. Nil: there are too many questions already; it is to be dropped,
  /// and the client asks again. The id of the answer is the question's.
  func ask(
    _ query: DNSMessage, from client: IPAddress, overTCP: Bool, answer: @escaping @Sendable ([UInt8]?) -> Void
  ) {
    loop.preconditionInEventLoop()
    guard pending < limits.pending, pendingOf[client, default: 0] < limits.pendingOfClient else { return answer(nil) }
    let servers = servers.current
    guard !servers.isEmpty else { return answer(query.failure(.serverFailure)) }
    pending += 1
    pendingOf[client, default: 0] += 1
    attempt(query, servers[...], overTCP) { bytes in
      self.pending -= 1
      self.pendingOf[client, default: 1] -= 1
      if self.pendingOf[client] == 0 { self.pendingOf[client] = nil }
      answer(bytes)
    }
  }

  private func attempt(
    _ query: DNSMessage, _ servers: ArraySlice<IPAddress>, _ overTCP: Bool,
    answer: @escaping @Sendable ([UInt8]) -> Void
  ) {
    guard let server = servers.first else { return answer(query.failure(.serverFailure)) }
    var asked = query
    asked.id = .random(in: 0 ... .max)
    let promise = loop.makePromise(of: [UInt8].self)
    let channel = overTCP ? connect(asked, server, promise) : send(asked, server, promise)
    let timeout = loop.scheduleTask(in: limits.patience) {
      promise.fail(ChannelError.connectTimeout(self.limits.patience))
    }
    promise.futureResult.assumeIsolated().whenComplete { result in
      timeout.cancel()
      channel.whenSuccess { $0.close(promise: nil) }
      switch result {
      case .success(let bytes):
        guard var message = DNSMessage(bytes) else { return }
        message.id = query.id
        answer(message.bytes)
      case .failure: self.attempt(query, servers.dropFirst(), overTCP, answer: answer)
      }
    }
  }

  private func address(_ server: IPAddress) -> Result<SocketAddress, any Error> {
    Result { try SocketAddress(ipAddress: server.description, port: limits.port) }
  }

  private func send(
    _ query: DNSMessage, _ server: IPAddress, _ promise: EventLoopPromise<[UInt8]>
  ) -> EventLoopFuture<any Channel> {
    let channel = loop.makeCompletedFuture(address(server)).flatMap { address in
      DatagramBootstrap(group: self.loop)
        // The largest answer that there is; one that is cut is none.
        .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65535))
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(DNSDatagramAnswer(query, promise))
          }
        }
        .connect(to: address)
    }
    channel.whenSuccess { channel in
      guard let to = channel.remoteAddress else { return promise.fail(ChannelError.ioOnClosedChannel) }
      channel.writeAndFlush(AddressedEnvelope(remoteAddress: to, data: ByteBuffer(bytes: query.bytes)))
        .cascadeFailure(to: promise)
    }
    channel.cascadeFailure(to: promise)
    return channel
  }

  private func connect(
    _ query: DNSMessage, _ server: IPAddress, _ promise: EventLoopPromise<[UInt8]>
  ) -> EventLoopFuture<any Channel> {
    let channel = loop.makeCompletedFuture(address(server)).flatMap { address in
      ClientBootstrap(group: self.loop)
        .connectTimeout(self.limits.patience)
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(DNSStreamAnswer(query, promise))
          }
        }
        .connect(to: address)
    }
    channel.whenSuccess { $0.writeAndFlush(DNSFrames.frame(query.bytes)).cascadeFailure(to: promise) }
    channel.cascadeFailure(to: promise)
    return channel
  }
}

/// Messages in a stream: each after its length in two bytes (RFC 1035 section 4.2.2).
struct DNSFrames {
  private var buffer = ByteBuffer()

  mutating func append(_ bytes: inout ByteBuffer) { buffer.writeBuffer(&bytes) }

  mutating func next() -> [UInt8]? {
    guard let length = buffer.getInteger(at: buffer.readerIndex, as: UInt16.self),
      buffer.readableBytes >= 2 + Int(length)
    else { return nil }
    buffer.moveReaderIndex(forwardBy: 2)
    let bytes = buffer.readBytes(length: Int(length))
    buffer.discardReadBytes()
    return bytes
  }

  static func frame(_ bytes: [UInt8]) -> ByteBuffer {
    var buffer = ByteBuffer()
    buffer.reserveCapacity(bytes.count + 2)
    buffer.writeInteger(UInt16(truncatingIfNeeded: bytes.count))
    buffer.writeBytes(bytes)
    return buffer
  }
}

/// Waits on a socket to a resolver for the answer to one question; whatever is not the answer is passed over.
private final class DNSAnswer {
  private let query: DNSMessage
  private let promise: EventLoopPromise<[UInt8]>

  init(_ query: DNSMessage, _ promise: EventLoopPromise<[UInt8]>) {
    self.query = query
    self.promise = promise
  }

  func take(_ bytes: [UInt8]) {
    guard let message = DNSMessage(bytes), message.id == query.id, message.answers(query) else { return }
    promise.succeed(bytes)
  }

  func fail(_ error: any Error) { promise.fail(error) }
}

private final class DNSDatagramAnswer: ChannelInboundHandler {
  typealias InboundIn = AddressedEnvelope<ByteBuffer>

  private let answer: DNSAnswer

  init(_ query: DNSMessage, _ promise: EventLoopPromise<[UInt8]>) { answer = DNSAnswer(query, promise) }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    answer.take(Array(unwrapInboundIn(data).data.readableBytesView))
  }

  /// Nobody listens there, above all.
  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    answer.fail(error)
    context.close(promise: nil)
  }

  func channelInactive(context: ChannelHandlerContext) { answer.fail(ChannelError.eof) }
}

private final class DNSStreamAnswer: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let answer: DNSAnswer
  private var frames = DNSFrames()

  init(_ query: DNSMessage, _ promise: EventLoopPromise<[UInt8]>) { answer = DNSAnswer(query, promise) }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var bytes = unwrapInboundIn(data)
    frames.append(&bytes)
    while let message = frames.next() { answer.take(message) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    answer.fail(error)
    context.close(promise: nil)
  }

  func channelInactive(context: ChannelHandlerContext) { answer.fail(ChannelError.eof) }
}
