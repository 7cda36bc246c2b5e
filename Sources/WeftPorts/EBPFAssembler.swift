import CLinux

/// The few eBPF instructions that are needed (the kernel's instruction-set.rst), with labels for jumps. Registers: 0 what
/// a call or the program returns, 1 to 5 arguments, 6 to 9 kept over calls.
struct EBPFAssembler {
  private struct Step {
    var opcode: UInt8
    var destination: UInt8 = 0
    var source: UInt8 = 0
    var offset: Int16 = 0
    var immediate: Int32 = 0
    var target: String?
  }

  private var code: [Step] = []
  private var labels: [String: Int] = [:]

  private mutating func step(
    _ opcode: UInt8, _ destination: UInt8 = 0, _ source: UInt8 = 0, _ immediate: Int32 = 0, _ target: String? = nil
  ) {
    code.append(
      Step(opcode: opcode, destination: destination, source: source, immediate: immediate, target: target))
  }

  mutating func label(_ name: String) { labels[name] = code.count }

  // MARK: arithmetic

  mutating func move(to destination: UInt8, from source: UInt8) { step(0xBF, destination, source) }
  mutating func set(_ register: UInt8, _ value: Int32) { step(0xB7, register, 0, value) }
  mutating func add(_ register: UInt8, _ value: Int32) { step(0x07, register, 0, value) }
  mutating func add(_ register: UInt8, register other: UInt8) { step(0x0F, register, other) }
  mutating func and(_ register: UInt8, _ value: Int32) { step(0x57, register, 0, value) }
  mutating func shiftLeft(_ register: UInt8, _ value: Int32) { step(0x67, register, 0, value) }
  mutating func shiftRight(_ register: UInt8, _ value: Int32) { step(0x77, register, 0, value) }
  mutating func or(_ register: UInt8, register other: UInt8) { step(0x4F, register, other) }
  mutating func xor(_ register: UInt8, register other: UInt8) { step(0xAF, register, other) }
  /// The lower 64 bits of the product.
  mutating func multiply(_ register: UInt8, register other: UInt8) { step(0x2F, register, other) }
  mutating func multiply(_ register: UInt8, _ value: Int32) { step(0x27, register, 0, value) }
  /// The lower half, the upper one zero.
  mutating func moveWord(to destination: UInt8, from source: UInt8) { step(0xBC, destination, source) }
  /// 64 bits: two instructions.
  mutating func setLong(_ register: UInt8, _ value: UInt64) {
    step(0x18, register, 0, Int32(truncatingIfNeeded: value))
    step(0, 0, 0, Int32(truncatingIfNeeded: value >> 32))
  }
  /// What was loaded in network order, 16 or 32 bits, in the machine's.
  mutating func fromNetwork(_ register: UInt8, bits: Int32) { step(0xDC, register, 0, bits) }

  // MARK: packets, for traffic control and sockets: register 6 holds the context

  /// Packet bytes in host order into register 0.
  mutating func load16(_ offset: Int32) { step(0x28, 0, 0, offset) }
  mutating func load8(_ offset: Int32) { step(0x30, 0, 0, offset) }
  mutating func load32(_ offset: Int32) { step(0x20, 0, 0, offset) }
  mutating func load16(indexedBy register: UInt8, _ offset: Int32) { step(0x48, 0, register, offset) }
  mutating func load8(indexedBy register: UInt8, _ offset: Int32) { step(0x50, 0, register, offset) }
  mutating func load32(indexedBy register: UInt8, _ offset: Int32) { step(0x40, 0, register, offset) }
  /// A 32-bit field of the context (`struct __sk_buff`, `struct xdp_md`) into register 0.
  mutating func loadContext(_ offset: Int16) { load32(0, from: 6, offset) }

  // MARK: memory: the context's, and for XDP a packet's that has been found long enough

  mutating func load32(_ register: UInt8, from base: UInt8, _ offset: Int16) { load(0x61, register, base, offset) }
  mutating func load16(_ register: UInt8, from base: UInt8, _ offset: Int16) { load(0x69, register, base, offset) }
  mutating func load8(_ register: UInt8, from base: UInt8, _ offset: Int16) { load(0x71, register, base, offset) }

  private mutating func load(_ opcode: UInt8, _ register: UInt8, _ base: UInt8, _ offset: Int16) {
    code.append(Step(opcode: opcode, destination: register, source: base, offset: offset))
  }

  // MARK: the stack: 64-bit words at `offset`, a negative one, from its end

  mutating func push(_ offset: Int16, from register: UInt8) {
    code.append(Step(opcode: 0x7B, destination: 10, source: register, offset: offset, immediate: 0))
  }
  mutating func pop(_ register: UInt8, _ offset: Int16) { load(0x79, register, 10, offset) }

  // MARK: jumps

  /// Of register 0.
  mutating func jumpIfEqual(_ value: UInt32, to target: String) { step(0x15, 0, 0, Int32(value), target) }
  mutating func jumpUnlessEqual(_ value: UInt32, to target: String) { step(0x55, 0, 0, Int32(value), target) }
  mutating func jumpIfSet(_ value: UInt32, to target: String) { step(0x45, 0, 0, Int32(value), target) }
  /// Of register 0's lower half (kernel 5.1), for values with all 32 bits.
  mutating func jumpIfWord(_ value: UInt32, to target: String) { step(0x16, 0, 0, Int32(bitPattern: value), target) }
  mutating func jumpUnlessWord(_ value: UInt32, to target: String) {
    step(0x56, 0, 0, Int32(bitPattern: value), target)
  }
  mutating func jumpIfAbove(_ register: UInt8, _ other: UInt8, to target: String) {
    step(0x2D, register, other, 0, target)
  }
  mutating func jump(to target: String) { step(0x05, 0, 0, 0, target) }

  // MARK: calls

  /// A map, by its descriptor: two instructions (BPF_PSEUDO_MAP_FD).
  mutating func loadMap(_ register: UInt8, descriptor: Int32) {
    step(0x18, register, 1, descriptor)
    step(0)
  }
  mutating func call(_ function: Int32) { step(0x85, 0, 0, function) }
  /// Returns register 0.
  mutating func end() { step(0x95) }
  mutating func end(_ value: Int32) {
    set(0, value)
    end()
  }

  func assembled() -> [bpf_insn] {
    code.enumerated().map { index, step in
      var instruction = bpf_insn()
      instruction.code = step.opcode
      instruction.dst_reg = step.destination
      instruction.src_reg = step.source
      instruction.imm = step.immediate
      instruction.off = step.offset
      if let target = step.target, let place = labels[target] { instruction.off = Int16(place - index - 1) }
      return instruction
    }
  }
}
