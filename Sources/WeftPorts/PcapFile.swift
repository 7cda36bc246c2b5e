import CPcap
import Glibc
import WeftSystem
import WeftWire

/// A capture file that cannot be read or written: what, where, why.
public struct PcapError: Error, Sendable, CustomStringConvertible {
  public let path: String
  public let reason: String
  public var description: String { "\(path): \(reason)" }
}

/// A packet of a capture file.
public struct PcapPacket: Sendable {
  /// Nanoseconds since 1970.
  public let time: UInt64
  public let frame: [UInt8]
}

/// Reads Ethernet frames from pcap and pcapng files (libpcap).
@safe public final class PcapReader {
  public let path: String
  private let handle: OpaquePointer
  private var count = 0

  public init(path: String) throws(PcapError) {
    self.path = path
    var text = [CChar](repeating: 0, count: Int(PCAP_ERRBUF_SIZE))
    let opened = unsafe pcap_open_offline_with_tstamp_precision(
      path, UInt32(PCAP_TSTAMP_PRECISION_NANO), &text)
    guard let opened = unsafe opened else {
      let reason = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      throw PcapError(path: path, reason: Self.withoutPath(reason, path))
    }
    unsafe handle = unsafe opened
    let kind = unsafe pcap_datalink(handle)
    guard kind == DLT_EN10MB else {
      let name = unsafe pcap_datalink_val_to_name(kind).map { unsafe String(cString: $0) } ?? String(kind)
      throw PcapError(path: path, reason: "its link type is \(name), not Ethernet (EN10MB)")
    }
  }

  deinit { unsafe pcap_close(handle) }

  /// The next packet, nil at the end. Throws where the file is cut or damaged, and where a packet was not captured whole.
  public func next() throws(PcapError) -> PcapPacket? {
    var header: UnsafeMutablePointer<pcap_pkthdr>?
    var data: UnsafePointer<UInt8>?
    switch unsafe pcap_next_ex(handle, &header, &data) {
    case 1:
      count += 1
      guard let header = unsafe header?.pointee, let data = unsafe data else {
        throw PcapError(path: path, reason: "packet \(count) cannot be read")
      }
      guard header.caplen == header.len else {
        throw PcapError(
          path: path,
          reason:
            "packet \(count) was captured only in part (\(header.caplen) of \(header.len) bytes); capture with -s 0")
      }
      let frame = unsafe Array(UnsafeBufferPointer(start: data, count: Int(header.caplen)))
      // With nanosecond precision tv_usec holds nanoseconds.
      let time = UInt64(max(0, header.ts.tv_sec)) * 1_000_000_000 + UInt64(max(0, header.ts.tv_usec))
      return PcapPacket(time: time, frame: frame)
    case -2: return nil
    default:
      let reason = unsafe String(cString: pcap_geterr(handle))
      throw PcapError(path: path, reason: "after packet \(count): \(Self.withoutPath(reason, path))")
    }
  }

  private static func withoutPath(_ reason: String, _ path: String) -> String {
    reason.hasPrefix("\(path): ") ? String(reason.dropFirst(path.count + 2)) : reason
  }
}

/// Writes Ethernet frames to a pcap file with nanosecond times.
@safe public final class PcapWriter {
  public let path: String
  private let handle: OpaquePointer
  private let file: OpaquePointer

  public init(path: String) throws(PcapError) {
    self.path = path
    guard
      let handle = unsafe pcap_open_dead_with_tstamp_precision(DLT_EN10MB, 262_144, UInt32(PCAP_TSTAMP_PRECISION_NANO))
    else { throw PcapError(path: path, reason: "libpcap gives no handle") }
    guard let file = unsafe pcap_dump_open(handle, path) else {
      let reason = unsafe String(cString: pcap_geterr(handle))
      unsafe pcap_close(handle)
      throw PcapError(
        path: path, reason: reason.hasPrefix("\(path): ") ? String(reason.dropFirst(path.count + 2)) : reason)
    }
    unsafe self.handle = unsafe handle
    unsafe self.file = unsafe file
  }

  deinit {
    unsafe pcap_dump_close(file)
    unsafe pcap_close(handle)
  }

  /// `time` in nanoseconds since 1970.
  public func write(_ frame: [UInt8], time: UInt64) {
    var header = pcap_pkthdr()
    header.ts.tv_sec = Int(time / 1_000_000_000)
    header.ts.tv_usec = Int(time % 1_000_000_000)
    header.caplen = UInt32(frame.count)
    header.len = UInt32(frame.count)
    unsafe frame.withUnsafeBufferPointer { bytes in
      unsafe pcap_dump(UnsafeMutableRawPointer(file).assumingMemoryBound(to: UInt8.self), &header, bytes.baseAddress)
    }
  }

  /// Makes sure that everything is in the file.
  public func finish() throws(PcapError) {
    guard unsafe pcap_dump_flush(file) == 0 else {
      throw PcapError(path: path, reason: SystemError.text(errno))
    }
  }
}
