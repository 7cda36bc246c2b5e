import CPcap
import Glibc

/// A filter expression that libpcap does not understand.
public struct FilterSyntaxError: Error, Sendable, CustomStringConvertible {
  public let expression: String
  public let reason: String
  public var description: String { "\"\(expression)\": \(reason)" }
}

/// Compiles filter expressions as tcpdump has them (pcap-filter(7)) for Ethernet frames.
public enum FilterCompiler {
  /// An instruction of classic BPF.
  public struct Instruction: Hashable, Sendable {
    public let code: UInt16
    public let jumpTrue: UInt8
    public let jumpFalse: UInt8
    public let k: UInt32

    public init(code: UInt16, jumpTrue: UInt8, jumpFalse: UInt8, k: UInt32) {
      self.code = code
      self.jumpTrue = jumpTrue
      self.jumpFalse = jumpFalse
      self.k = k
    }
  }

  public static func compile(_ expression: String, snap: Int = 262_144) throws(FilterSyntaxError) -> [Instruction] {
    guard let handle = unsafe pcap_open_dead(DLT_EN10MB, Int32(snap)) else {
      throw FilterSyntaxError(expression: expression, reason: "libpcap gives no handle")
    }
    defer { unsafe pcap_close(handle) }
    var program = unsafe bpf_program()
    // 0xFFFFFFFF: no netmask is known (PCAP_NETMASK_UNKNOWN).
    guard unsafe pcap_compile(handle, &program, expression, 1, 0xFFFF_FFFF) == 0 else {
      throw FilterSyntaxError(expression: expression, reason: unsafe String(cString: pcap_geterr(handle)))
    }
    defer { unsafe pcap_freecode(&program) }
    return unsafe (0..<Int(program.bf_len)).map { index in
      let instruction = unsafe program.bf_insns[index]
      return Instruction(
        code: instruction.code, jumpTrue: instruction.jt, jumpFalse: instruction.jf, k: instruction.k)
    }
  }

  /// What libpcap's own interpreter makes of a frame, of `length` bytes on a wire; to compare with.
  public static func matches(_ program: [Instruction], _ frame: [UInt8], length: Int) -> Bool {
    var instructions = program.map {
      pcap_bpf_insn(code: $0.code, jt: $0.jumpTrue, jf: $0.jumpFalse, k: $0.k)
    }
    return unsafe instructions.withUnsafeMutableBufferPointer { buffer in
      var program = unsafe bpf_program(bf_len: UInt32(buffer.count), bf_insns: buffer.baseAddress)
      var header = pcap_pkthdr()
      header.caplen = UInt32(frame.count)
      header.len = UInt32(length)
      return unsafe frame.withUnsafeBufferPointer { unsafe pcap_offline_filter(&program, &header, $0.baseAddress) != 0 }
    }
  }
}
