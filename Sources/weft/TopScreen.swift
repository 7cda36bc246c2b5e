import CLinux
import Glibc
import Synchronization

/// A signal has said that it is to end.
private let isStopped = Atomic<Bool>(false)

/// `weft top` in a terminal: on the other screen, keys without Return.
final class TopScreen {
  private let look: TopCommand.Look
  private var subject: TopCommand.Subject
  private var order: TopOrder
  private var interval: Double
  private let rows: Int?
  private var isHalted = false
  private var saved = termios()

  init(look: TopCommand.Look, subject: TopCommand.Subject, order: TopOrder, interval: Double, rows: Int?) {
    self.look = look
    self.subject = subject
    self.order = order
    self.interval = interval
    self.rows = rows
  }

  func run() throws(Failure) {
    guard tcgetattr(STDIN_FILENO, &saved) == 0 else { throw Failure("cannot set up the terminal") }
    var raw = saved
    // Keys at once and unseen; Ctrl-C comes as one.
    raw.c_lflag &= ~tcflag_t(ICANON | ECHO | ISIG)
    tcsetattr(STDIN_FILENO, TCSANOW, &raw)
    for number in [SIGTERM, SIGHUP, SIGINT] {
      _ = signal(number) { _ in isStopped.store(true, ordering: .relaxed) }
    }
    defer { tcsetattr(STDIN_FILENO, TCSANOW, &saved) }
    try Output.write("\u{1B}[?1049h\u{1B}[?25l")
    do throws(Failure) { try loop() } catch {
      try? Output.write("\u{1B}[?25h\u{1B}[?1049l")
      throw error
    }
    try Output.write("\u{1B}[?25h\u{1B}[?1049l")
  }

  private func loop() throws(Failure) {
    _ = try look.take(subject, order, 1)
    var due = weft_monotonic_ns() + 200_000_000
    while !isStopped.load(ordering: .relaxed) {
      let now = weft_monotonic_ns()
      if now >= due {
        if !isHalted { try show() }
        due = now + UInt64(interval * 1e9)
      }
      var entry = pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0)
      let wait = due > now ? (due - now) / 1_000_000 + 1 : 1
      guard unsafe poll(&entry, 1, Int32(clamping: wait)) > 0 else { continue }
      var key: UInt8 = 0
      guard unsafe read(STDIN_FILENO, &key, 1) == 1 else { return }
      guard obey(key) else { return }
    }
  }

  /// False: it is to end.
  private func obey(_ key: UInt8) -> Bool {
    switch Character(Unicode.Scalar(key)) {
    case "q", "\u{3}", "\u{1B}": return false
    case "b": order = .bytes
    case "p": order = .packets
    case "f": subject = .flows
    case "i": subject = .ports
    case "a": subject = .both
    case " ": isHalted.toggle()
    case "+": interval = min(60, interval * 2)
    case "-": interval = max(0.1, interval / 2)
    default: break
    }
    return true
  }

  private func show() throws(Failure) {
    var size = winsize()
    _ = unsafe ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size)
    let lines = max(8, Int(size.ws_row))
    let columns = size.ws_col == 0 ? 132 : Int(size.ws_col)
    // A title, headings, an empty line between and the last one.
    let room = subject == .both ? (lines - 5) / 2 : lines - 3
    let taken = try look.take(subject, order, min(rows ?? room, room))
    let title = "weft top, by \(order.rawValue), every \(rounded(interval)) s    q b p f i a space + -"
    var text = "\u{1B}[H"
    for line in ("\(title)\n" + taken.text).split(separator: "\n", omittingEmptySubsequences: false).prefix(lines) {
      text += line.prefix(columns) + "\u{1B}[K\r\n"
    }
    // Without the last line's end, which would scroll.
    try Output.write(text.dropLast(2) + "\u{1B}[J")
  }

  private func rounded(_ value: Double) -> String { "\(Int(value * 10) / 10).\(Int(value * 10) % 10)" }
}
