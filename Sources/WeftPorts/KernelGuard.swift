import CLinux
import Glibc
import WeftSystem
import WeftWire

/// Keeps the host's kernel from acting on packets that are the forwarder's: AF_PACKET shows frames, it does not take
/// them. In force for as long as this lives.
public struct KernelGuard: ~Copyable, Sendable {
  /// How it is done.
  public enum Method: Sendable {
    /// A BPF program at the interface's ingress (kernel 6.6 and later).
    case ingressProgram
    /// Sockets bound to the tunnels' ports that take nothing: no answer, but the kernel still looks at each packet.
    case boundSockets
    /// The kernel drops frames to other MAC addresses than the interface's own by itself.
    case nothing
  }

  public let method: Method
  private let link: Descriptor?
  private let sockets: [SharedDescriptor]

  /// For a fabric interface: the host does not see tunnel packets, untagged and with tags of `vlans`.
  public static func fabric(
    device: String, kernelIndex: UInt32, vlans: [UInt16] = []
  ) throws(SystemError) -> KernelGuard {
    if let link = attach(TunnelFilter.dropTunnels(vlans: vlans), kernelIndex) {
      return KernelGuard(method: .ingressProgram, link: link, sockets: [])
    }
    var sockets: [SharedDescriptor] = []
    for port in [VXLAN.port, MPLS.port] {
      sockets.append(try bind(AF_INET, port))
      // A kernel without IPv6 gets none of its packets either.
      if let six = try? bind(AF_INET6, port) { sockets.append(six) }
    }
    sockets.append(try takeGRE(AF_INET))
    if let six = try? takeGRE(AF_INET6) { sockets.append(six) }
    return KernelGuard(method: .boundSockets, link: nil, sockets: sockets)
  }

  /// For a pod's interface: the host sees nothing of it.
  public static func virtual(kernelIndex: UInt32) -> KernelGuard {
    guard let link = attach(TunnelFilter.dropAll, kernelIndex) else {
      return KernelGuard(method: .nothing, link: nil, sockets: [])
    }
    return KernelGuard(method: .ingressProgram, link: link, sockets: [])
  }

  private init(method: Method, link: consuming Descriptor?, sockets: [SharedDescriptor]) {
    self.method = method
    self.link = link
    self.sockets = sockets
  }

  private static func attach(_ code: [bpf_insn], _ kernelIndex: UInt32) -> Descriptor? {
    let program = unsafe weft_load_classifier(code, Int32(code.count))
    guard program >= 0 else { return nil }
    let owned = Descriptor(owning: program)
    let link = weft_attach_ingress(owned.raw, kernelIndex)
    return link < 0 ? nil : Descriptor(owning: link)
  }

  /// A raw socket for GRE that lets nothing in: as long as there is one, the kernel does not say that it knows no GRE.
  private static func takeGRE(_ family: Int32) throws(SystemError) -> SharedDescriptor {
    let flags = Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let descriptor = try Descriptor(socket(family, flags, Int32(IPProtocol.gre)), "open a socket for", "GRE")
    let nothing = [sock_filter(code: 0x06, jt: 0, jf: 0, k: 0)]
    guard unsafe weft_attach_filter(descriptor.raw, nothing, 1) == 0 else {
      throw SystemError("attach a filter to the socket for", "GRE")
    }
    return SharedDescriptor(descriptor)
  }

  /// A socket that has the port and lets nothing in.
  private static func bind(_ family: Int32, _ port: UInt16) throws(SystemError) -> SharedDescriptor {
    let flags = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let descriptor = try Descriptor(socket(family, flags, 0), "open a socket for", "UDP port \(port)")
    var one: Int32 = 1
    _ = unsafe setsockopt(descriptor.raw, SOL_SOCKET, SO_REUSEADDR, &one, 4)
    if family == AF_INET6 { _ = unsafe setsockopt(descriptor.raw, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &one, 4) }
    let nothing = [sock_filter(code: 0x06, jt: 0, jf: 0, k: 0)]
    guard unsafe weft_attach_filter(descriptor.raw, nothing, 1) == 0 else {
      throw SystemError("attach a filter to the socket for", "UDP port \(port)")
    }
    var bound: Int32 = -1
    if family == AF_INET {
      var address = sockaddr_in()
      address.sin_family = sa_family_t(AF_INET)
      address.sin_port = port.bigEndian
      unsafe bound = withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe Glibc.bind(descriptor.raw, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
      }
    } else {
      var address = sockaddr_in6()
      address.sin6_family = sa_family_t(AF_INET6)
      address.sin6_port = port.bigEndian
      unsafe bound = withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe Glibc.bind(descriptor.raw, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
        }
      }
    }
    guard bound == 0 else {
      throw SystemError("take UDP port", "\(port) (does the kernel, or another program, end tunnels on this node?)")
    }
    return SharedDescriptor(descriptor)
  }
}

/// A descriptor in a collection.
private final class SharedDescriptor: Sendable {
  private let descriptor: Descriptor
  init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
}
