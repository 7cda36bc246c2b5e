import CLinux
import Glibc
import WeftSystem
import WeftWire

/// Tells what changes in a network namespace: the one of the thread that opens it. One thread at a time may wait.
public final class NetlinkMonitor: Sendable {
  /// What to be told of; addresses and routes of IPv4 and IPv6.
  public enum Group: CaseIterable, Hashable, Sendable {
    case links, neighbors, addresses, routes

    /// RTNLGRP_*.
    fileprivate var numbers: [rtnetlink_groups] {
      switch self {
      case .links: [RTNLGRP_LINK]
      case .neighbors: [RTNLGRP_NEIGH]
      case .addresses: [RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR]
      case .routes: [RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE]
      }
    }
  }

  public enum Change: Hashable, Sendable {
    case link(Link)
    case linkRemoved(Link)
    case address(LinkAddress)
    case addressRemoved(LinkAddress)
    case route(KernelRoute)
    case routeRemoved(KernelRoute)
    case neighbor(Neighbor)
    case neighborRemoved(Neighbor)
    /// Changes came faster than they were read and the kernel dropped some: list everything anew.
    case lost
  }

  private let socket: Descriptor
  private let wakeup: Descriptor

  public init(_ groups: Set<Group> = Set(Group.allCases)) throws(NetlinkError) {
    socket = try Netlink.open()
    do { wakeup = try .event() } catch { throw NetlinkError(error.operation, error.object, code: error.code) }
    // Without a port number of its own the socket is passed over: the kernel's is zero too.
    var address = sockaddr_nl()
    address.nl_family = sa_family_t(AF_NETLINK)
    let bound = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(socket.raw, $0, socklen_t(MemoryLayout<sockaddr_nl>.size))
      }
    }
    guard bound == 0 else { throw NetlinkError("bind", "a netlink socket") }
    for group in groups.flatMap(\.numbers) {
      var number = Int32(bitPattern: group.rawValue)
      guard unsafe setsockopt(socket.raw, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &number, 4) == 0 else {
        throw NetlinkError("join", "netlink group \(number)")
      }
    }
    // Bursts (a thousand pods at once) should not overflow it; without the privilege the usual size has to do.
    var bytes: Int32 = 4 << 20
    _ = unsafe setsockopt(socket.raw, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, 4)
  }

  /// Readable when there are changes: for poll and epoll.
  public var descriptor: Int32 { socket.raw }

  /// What has changed, in order. Waits for the first change up to the time (-1: for ever); none then, or after `wake`.
  public func nextChanges(timeoutMilliseconds: Int) throws(NetlinkError) -> [Change] {
    var waiting = [
      pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0),
      pollfd(fd: wakeup.raw, events: Int16(POLLIN), revents: 0),
    ]
    let ready = unsafe poll(&waiting, 2, Int32(clamping: timeoutMilliseconds))
    if ready < 0 && errno != EINTR { throw NetlinkError("wait for", "changes of the network") }
    guard ready > 0 else { return [] }
    if waiting[1].revents != 0 { wakeup.drain() }
    guard waiting[0].revents != 0 else { return [] }
    var changes: [Change] = []
    while changes.count < 4096 {
      do {
        let messages = try Netlink.receive(socket.raw, "read", "changes of the network", flags: Int32(MSG_DONTWAIT))
        changes += messages.compactMap(Change.init)
      } catch {
        if error.code == EAGAIN { break }
        guard error.code == ENOBUFS else { throw error }
        changes.append(.lost)
      }
    }
    return changes
  }

  /// Makes a waiting `nextChanges`, or else the next one, return at once. From any thread.
  public func wake() { wakeup.signal() }
}

extension NetlinkMonitor.Change {
  fileprivate init?(_ message: Message) {
    let change: Self? =
      switch Int(message.type) {
      case RTM_NEWLINK: Link(message).map(Self.link)
      case RTM_DELLINK: Link(message).map(Self.linkRemoved)
      case RTM_NEWADDR: LinkAddress(message).map(Self.address)
      case RTM_DELADDR: LinkAddress(message).map(Self.addressRemoved)
      case RTM_NEWROUTE: KernelRoute(message).map(Self.route)
      case RTM_DELROUTE: KernelRoute(message).map(Self.routeRemoved)
      case RTM_NEWNEIGH: Neighbor(message).map(Self.neighbor)
      case RTM_DELNEIGH: Neighbor(message).map(Self.neighborRemoved)
      default: nil
      }
    guard let change else { return nil }
    self = change
  }
}
