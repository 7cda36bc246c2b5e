import NIOCore
import NIOHTTP1
import NIOPosix
import WeftWire

struct MetadataRequest: Sendable {
  var head: HTTPRequestHead
  var body: ByteBuffer
  var client: IPAddress
}

struct MetadataAnswer: Sendable {
  var status: HTTPResponseStatus
  var headers = HTTPHeaders()
  var body = ByteBuffer()

  init(_ status: HTTPResponseStatus, _ text: String, type: String = "text/plain; charset=utf-8") {
    self.status = status
    headers.add(name: "Content-Type", value: type)
    body = ByteBuffer(string: text)
  }

  init(_ status: HTTPResponseStatus, _ headers: HTTPHeaders, _ body: ByteBuffer) {
    self.status = status
    self.headers = headers
    self.body = body
  }
}

/// A connection of a member's: one request after the other, each answered before the next is looked at.
final class MetadataConnection: ChannelInboundHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias OutboundOut = HTTPServerResponsePart

  static let maximumBody = 64 * 1024
  static let idle = TimeAmount.seconds(30)

  private let responder: MetadataResponder
  private var head: HTTPRequestHead?
  private var body = ByteBuffer()
  private var isTooLarge = false

  init(_ responder: MetadataResponder) { self.responder = responder }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head(let head):
      self.head = head
      body.clear()
      isTooLarge = false
    case .body(var bytes):
      guard !isTooLarge else { return }
      if body.readableBytes + bytes.readableBytes > Self.maximumBody {
        isTooLarge = true
        body.clear()
      } else {
        body.writeBuffer(&bytes)
      }
    case .end:
      guard let head, let client = context.remoteAddress.flatMap({ IPAddress($0) }) else { return }
      self.head = nil
      if isTooLarge {
        return answer(
          context.channel, MetadataAnswer(.payloadTooLarge, "the body is larger than \(Self.maximumBody) bytes\n"),
          to: head, keepsAlive: false)
      }
      let request = MetadataRequest(head: head, body: body, client: client)
      let channel = context.channel
      let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
      let promise = context.eventLoop.makePromise(of: MetadataAnswer.self)
      let responder = self.responder
      promise.completeWithTask { await responder.answer(request) }
      promise.futureResult.whenSuccess { answer in
        bound.value.answer(channel, answer, to: head, keepsAlive: head.isKeepAlive)
      }
    }
  }

  private func answer(_ channel: any Channel, _ answer: MetadataAnswer, to request: HTTPRequestHead, keepsAlive: Bool) {
    var headers = answer.headers
    headers.replaceOrAdd(name: "Content-Length", value: String(answer.body.readableBytes))
    headers.replaceOrAdd(name: "Connection", value: keepsAlive ? "keep-alive" : "close")
    let head = HTTPResponseHead(version: .http1_1, status: answer.status, headers: headers)
    channel.write(HTTPServerResponsePart.head(head), promise: nil)
    if request.method != .HEAD { channel.write(HTTPServerResponsePart.body(.byteBuffer(answer.body)), promise: nil) }
    let end = channel.writeAndFlush(HTTPServerResponsePart.end(nil))
    if !keepsAlive { end.whenComplete { _ in channel.close(promise: nil) } }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if event is IdleStateHandler.IdleStateEvent { return context.close(promise: nil) }
    context.fireUserInboundEventTriggered(event)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}

extension MetadataResponder {
  static let maximumConnections = 256
  static let maximumConnectionsOfClient = 16

  /// Serves connections to a listening socket.
  func serve(connections socket: Int32, on loop: any EventLoop) -> EventLoopFuture<any Channel> {
    let count = ServiceConnections(limit: Self.maximumConnections, ofClient: Self.maximumConnectionsOfClient)
    return ServerBootstrap(group: loop)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let pipeline = channel.pipeline.syncOperations
          try pipeline.addHandler(ServiceAdmission(self.members, count))
          try pipeline.addHandler(IdleStateHandler(allTimeout: MetadataConnection.idle))
          try pipeline.addHandler(BackPressureHandler())
          try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: true, withErrorHandling: true)
          try pipeline.addHandler(MetadataConnection(self))
        }
      }
      .withBoundSocket(socket)
  }
}
