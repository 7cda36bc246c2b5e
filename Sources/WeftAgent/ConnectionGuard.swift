import Foundation
import HTTPTypes
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import WeftAPI

/// Ends connections whose clients take too long over a request's body or over an answer, or send too large a header. (Who
/// takes too long over a header is idle.)
final class ConnectionGuard: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPRequestPart
  typealias InboundOut = HTTPRequestPart
  typealias OutboundIn = HTTPResponsePart
  typealias OutboundOut = HTTPResponsePart

  private let limit: TimeAmount
  private var reading: Scheduled<Void>?
  private var isAnswering = false

  init(seconds: Int) { limit = .seconds(Int64(seconds)) }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head:
      let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
      reading = context.eventLoop.scheduleTask(in: limit) {
        let (handler, context) = bound.value
        handler.end(
          context, APIError(.timeout, "the body did not come within \(handler.limit.nanoseconds / 1_000_000_000) s"))
      }
    case .body: break
    case .end: stop()
    }
    context.fireChannelRead(data)
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    if case .head = unwrapOutboundIn(data) { isAnswering = true }
    guard case .end = unwrapOutboundIn(data) else { return context.write(data, promise: promise) }
    isAnswering = false
    // Fulfilled when the kernel has taken it, which it does only as fast as the client does.
    let written = promise ?? context.eventLoop.makePromise()
    let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
    let giveUp = context.eventLoop.scheduleTask(in: limit) { bound.value.close(promise: nil) }
    written.futureResult.whenComplete { _ in giveUp.cancel() }
    context.write(data, promise: written)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard case HTTPParserError.headerOverflow? = error as? HTTPParserError else {
      return context.fireErrorCaught(error)
    }
    end(
      context,
      APIError(.headerTooLarge, "the request's header is larger than \(APISettings.maximumHeaderBytes) bytes"))
  }

  func handlerRemoved(context: ChannelHandlerContext) { stop() }

  func channelInactive(context: ChannelHandlerContext) {
    stop()
    context.fireChannelInactive()
  }

  private func stop() {
    reading?.cancel()
    reading = nil
  }

  /// Answers, unless an answer is on its way, and closes.
  private func end(_ context: ChannelHandlerContext, _ error: APIError) {
    stop()
    guard !isAnswering else { return context.close(promise: nil) }
    let body = (try? JSONEncoder().encode(error)) ?? Data()
    let fields: HTTPFields = [
      .contentType: "application/json", .contentLength: String(body.count), .connection: "close",
    ]
    context.write(wrapOutboundOut(.head(.init(status: error.code.status, headerFields: fields))), promise: nil)
    context.write(wrapOutboundOut(.body(ByteBuffer(bytes: body))), promise: nil)
    let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
    let written = context.eventLoop.makePromise(of: Void.self)
    written.futureResult.whenComplete { _ in bound.value.close(promise: nil) }
    context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: written)
  }
}
