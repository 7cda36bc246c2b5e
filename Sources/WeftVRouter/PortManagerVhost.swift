import CLinux
import Glibc
import Logging
import WeftPorts
import WeftRing
import WeftSystem

// Ports of kind vhost-user: a socket by which a virtual machine's front end says where its queues are, and those queues,
// dealt out to the workers. The control thread speaks with front ends; before anything changes that workers use, they let
// go of it.

/// What has changed about such a port.
struct VhostNews {
  var id: UInt32
  var capabilities: PortCapabilities?
  var isUp: Bool?
}

/// What is open of such a port. The control thread's.
final class VhostPort: @unchecked Sendable {
  let settings: VhostConfiguration
  /// By which workers are dealt queues, those with fewest first.
  private let order: [Int]
  private var listener: Descriptor?
  /// The socket's file as it was made.
  private var file: (device: UInt64, inode: UInt64)?
  var device: VhostDevice?
  private(set) var attachment: VhostAttachment?
  private(set) var queues: [(worker: Int, queue: Queue<VhostReceiver>)] = []
  /// Why it could not connect, as it was said.
  var complaint: String?

  init(_ settings: VhostConfiguration, order: [Int]) {
    self.settings = settings
    self.order = order
  }

  var listening: Int32? { listener?.raw }
  /// Its socket is not looked at for a while.
  var isDeaf = false

  /// Makes the socket. A file that nobody listens at any more is removed.
  func listen() throws(SystemError) {
    let path = settings.socket
    var raw = weft_unix_stream(path, true)
    if raw < 0, errno == EADDRINUSE {
      var status = stat()
      guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else {
        throw SystemError("listen at", path, code: EADDRINUSE, advice: "a file that is no socket is there: remove it")
      }
      let other = weft_unix_stream(path, false)
      guard other < 0, errno == ECONNREFUSED else {
        if other >= 0 { _ = close(other) }
        throw SystemError(
          "listen at", path, code: EADDRINUSE, advice: "another process listens there: end it, or use another path")
      }
      _ = unlink(path)
      raw = weft_unix_stream(path, true)
    }
    // /run is empty after a boot.
    if raw < 0, errno == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex,
      mkdir(String(path[..<slash]), 0o755) == 0
    {
      raw = weft_unix_stream(path, true)
    }
    if raw < 0, errno == ENOENT { throw SystemError("listen at", path, advice: "make its folder") }
    let socket = try Descriptor(raw, "listen at", path)
    guard chmod(path, 0o660) == 0, Glibc.listen(socket.raw, 1) == 0 else {
      throw SystemError("listen at", path)
    }
    var status = stat()
    if stat(path, &status) == 0 { file = (UInt64(status.st_dev), UInt64(status.st_ino)) }
    listener = consume socket
  }

  func sender(worker: Int) -> VhostSender {
    guard let position = order.firstIndex(of: worker) else { return VhostSender() }
    return attachment?.sender(worker: position) ?? VhostSender()
  }

  /// Takes the queues that are ready.
  func attach() {
    attachment = device?.attach(workers: order.count)
    guard let attachment else { return }
    queues = (0..<attachment.receiverCount).map {
      (worker: order[$0 % order.count], queue: Queue(attachment.receiver($0)))
    }
  }

  /// The workers have let go.
  func detach() {
    queues = []
    device?.detached()
    attachment = nil
  }

  /// Workers have not let go yet: what they use is somebody else's now, who waits for them.
  func abandon() -> VhostLeftovers? {
    let left = device.map { VhostLeftovers(device: $0, attachment: attachment) }
    queues = []
    attachment = nil
    device = nil
    return left
  }

  /// Nobody listens any more, and the file is gone where it is still ours.
  func endListening() {
    listener = nil
    var status = stat()
    guard let file, stat(settings.socket, &status) == 0, UInt64(status.st_dev) == file.device,
      UInt64(status.st_ino) == file.inode
    else { return }
    _ = unlink(settings.socket)
  }

  var isUp: Bool { attachment?.isComplete ?? false }
}

/// Memory and descriptors of a front end that workers have not let go of yet.
final class VhostLeftovers: @unchecked Sendable {
  let device: VhostDevice
  private let attachment: VhostAttachment?

  init(device: VhostDevice, attachment: VhostAttachment?) {
    self.device = device
    self.attachment = attachment
  }
}

extension PortManager {
  /// Messages of one front end in one go.
  private static let messageShare = 64
  private static let listenerMark: UInt64 = 1 << 32

  func makeVhost(_ configuration: InterfaceConfiguration) throws(SystemError) -> Port {
    let vhost = VhostPort(configuration.vhost, order: Array(leastLoaded(workers.count)))
    if !configuration.vhost.frontEndListens { try vhost.listen() }
    var port = Port(
      configuration: configuration, kernelIndex: 0,
      capabilities: PortCapabilities(takesVirtio: false, takesUDPSegmentation: false), isUp: false)
    port.vhost = vhost
    if let listening = vhost.listening { watch(listening, UInt64(configuration.id) | Self.listenerMark) }
    logger.info(
      "interface \(configuration.id) is \(configuration.device)",
      metadata: [
        "role": "\(configuration.role.name)", "port": "vhost-user", "socket": "\(configuration.vhost.socket)",
        "front-end": configuration.vhost.frontEndListens ? "listens" : "connects",
      ])
    return port
  }

  private func watch(_ descriptor: Int32, _ token: UInt64) {
    var event = epoll_event()
    event.events = UInt32(EPOLLIN.rawValue)
    event.data.u64 = token
    _ = epoll_ctl(vhostPoller.raw, EPOLL_CTL_ADD, descriptor, &event)
  }

  /// Whether a port that is open does for a changed configuration. The MTU is what its front end was told.
  func fitsVhost(_ new: InterfaceConfiguration, _ old: Port) -> Bool { new.vhost == old.configuration.vhost }

  /// Front ends have something to say.
  func serveVhost() -> [VhostNews] {
    var events = [epoll_event](repeating: epoll_event(), count: 64)
    let ready = epoll_wait(vhostPoller.raw, &events, Int32(events.count), 0)
    var news: [VhostNews] = []
    for event in events.prefix(max(0, Int(ready))) {
      let id = UInt32(truncatingIfNeeded: event.data.u64)
      guard let vhost = ports[id]?.vhost else { continue }
      if event.data.u64 & Self.listenerMark != 0 {
        accept(id, vhost)
      } else {
        serve(id, vhost, &news)
      }
    }
    return news
  }

  private func accept(_ id: UInt32, _ vhost: VhostPort) {
    guard let listening = vhost.listening else { return }
    let raw = weft_accept(listening)
    guard raw >= 0 else {
      // No descriptor is left: the poller would tell of it without end. Looked for again in a second.
      if errno == EMFILE || errno == ENFILE {
        unwatch(listening)
        vhost.isDeaf = true
      }
      return
    }
    let socket = Descriptor(owning: raw)
    guard vhost.device == nil else {
      logger.warning("interface \(id) has a front end already; another one that connected was sent away")
      return
    }
    begin(id, vhost, socket)
  }

  private func begin(_ id: UInt32, _ vhost: VhostPort, _ socket: consuming Descriptor) {
    let device = VhostDevice(socket, interface: id, mtu: ports[id]?.configuration.mtu ?? 1500)
    vhost.device = device
    vhost.complaint = nil
    watch(device.descriptor, UInt64(id))
    logger.info("interface \(id) has a front end", metadata: ["socket": "\(vhost.settings.socket)"])
  }

  private func serve(_ id: UInt32, _ vhost: VhostPort, _ news: inout [VhostNews]) {
    guard let device = vhost.device else { return }
    let isKept: Bool
    do throws(VhostFault) {
      isKept = try device.serve(
        limit: Self.messageShare,
        pause: { [self] () throws(VhostFault) in
          guard pause(id) == nil else { throw Self.lateness }
          vhost.detach()
        },
        settle: { [self] () throws(VhostFault) in
          guard settle([]) == nil else { throw Self.lateness }
        })
      if !isKept { logger.info("the front end of interface \(id) has gone") }
    } catch {
      logger.error("the front end of interface \(id) was sent away: \(error)")
      return disconnect(id, vhost, &news)
    }
    guard isKept else { return disconnect(id, vhost, &news) }
    if vhost.attachment == nil { vhost.attach() }
    let features = device.features
    let capabilities = PortCapabilities(
      takesVirtio: features.takesSuperFrames, takesUDPSegmentation: features.takesUDPSegmentation)
    if let attachment = vhost.attachment, ports[id]?.isStarted == false {
      // What is made from now on is what the guest takes.
      if ports[id]?.capabilities != capabilities {
        setCapabilities(id, capabilities)
        news.append(VhostNews(id: id, capabilities: capabilities))
      }
      start(id)
      if attachment.isComplete {
        logger.info(
          "interface \(id) has \(attachment.pairs) pairs of queues",
          metadata: ["features": "0x\(String(features.rawValue, radix: 16))"])
      }
    }
    tellLink(id, vhost, &news)
  }

  private static let lateness = VhostFault("a worker has not let go of its queues for 5 s")

  /// The front end goes, at once or when the workers have let go.
  func release(_ vhost: VhostPort, _ late: Acknowledgement?) {
    guard let late else {
      vhost.detach()
      // Closing takes its descriptor out of the poller.
      vhost.device = nil
      return
    }
    guard let left = vhost.abandon() else { return }
    unwatch(left.device.descriptor)
    background.run {
      late.wait()
      withExtendedLifetime(left) {}
    }
  }

  /// Before the process ends: the next forwarder listens where this one did.
  func endListening() {
    for port in ports.values { port.vhost?.endListening() }
  }

  private func unwatch(_ descriptor: Int32) { _ = epoll_ctl(vhostPoller.raw, EPOLL_CTL_DEL, descriptor, nil) }

  private func tellLink(_ id: UInt32, _ vhost: VhostPort, _ news: inout [VhostNews]) {
    guard let port = ports[id], port.isUp != vhost.isUp else { return }
    setUp(id, vhost.isUp)
    news.append(VhostNews(id: id, isUp: vhost.isUp))
  }

  private func disconnect(_ id: UInt32, _ vhost: VhostPort, _ news: inout [VhostNews]) {
    // Whoever was late before is waited for once more, so that nobody goes on with what goes.
    setStarted(id)
    release(vhost, pause(id))
    start(id)
    tellLink(id, vhost, &news)
  }

  /// Once a second: front ends that listen are connected to; queues that were stopped are told of.
  func followVhost() -> [VhostNews] {
    var news: [VhostNews] = []
    for (id, port) in ports {
      guard let vhost = port.vhost else { continue }
      if vhost.isDeaf, let listening = vhost.listening {
        vhost.isDeaf = false
        watch(listening, UInt64(id) | Self.listenerMark)
      }
      if vhost.device == nil, vhost.settings.frontEndListens { connect(id, vhost) }
      guard let device = vhost.device else { continue }
      for (queue, fault) in device.takeFaults() {
        logger.error(
          "queue \(queue) of interface \(id) is stopped until its guest resets it: \(fault.explanation)",
          metadata: ["device": "\(port.configuration.device)"])
      }
      if device.isTruncated {
        logger.error("the front end of interface \(id) has truncated its guest's memory, and was sent away")
        disconnect(id, vhost, &news)
      }
    }
    return news
  }

  private func connect(_ id: UInt32, _ vhost: VhostPort) {
    let raw = weft_unix_stream(vhost.settings.socket, false)
    guard raw < 0 else { return begin(id, vhost, Descriptor(owning: raw)) }
    let reason = SystemError.text(errno)
    // Once a reason, not once a second.
    guard vhost.complaint != reason else { return }
    vhost.complaint = reason
    logger.info(
      "interface \(id) waits for its front end at \(vhost.settings.socket)", metadata: ["reason": "\(reason)"])
  }
}
