import CLinux
import Glibc
import WeftSystem

/// What a kernel interface's driver says of itself, and may be told (SIOCETHTOOL).
public enum Ethtool {
  /// The driver's name; empty where it says none.
  public static func driver(_ device: String) -> String {
    var information = ethtool_drvinfo()
    information.cmd = UInt32(ETHTOOL_GDRVINFO)
    guard call(device, &information) else { return "" }
    return unsafe withUnsafeBytes(of: &information.driver) { bytes in
      unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
  }

  /// Queues that packets come in by.
  public static func receiveQueues(_ device: String) -> Int {
    var channels = ethtool_channels()
    channels.cmd = UInt32(ETHTOOL_GCHANNELS)
    guard call(device, &channels) else { return 1 }
    return max(1, Int(channels.combined_count) + Int(channels.rx_count))
  }

  /// Queues that packets go out by.
  public static func transmitQueues(_ device: String) -> Int {
    var channels = ethtool_channels()
    channels.cmd = UInt32(ETHTOOL_GCHANNELS)
    guard call(device, &channels) else { return 1 }
    return max(1, Int(channels.combined_count) + Int(channels.tx_count))
  }

  /// The interface leaves VLAN tags in the frames that it receives; false where it does not let itself be told.
  public static func keepTags(_ device: String) -> Bool {
    var value = ethtool_value()
    value.cmd = UInt32(ETHTOOL_GFLAGS)
    guard call(device, &value) else { return false }
    // ETH_FLAG_RXVLAN
    guard value.data & 1 << 8 != 0 else { return true }
    value.cmd = UInt32(ETHTOOL_SFLAGS)
    value.data &= ~(1 << 8)
    return call(device, &value)
  }

  /// The driver puts packets of a connection together before anybody sees them (LRO), in a way that cannot be undone.
  public static func mergesForGood(_ device: String) -> Bool {
    var value = ethtool_value()
    value.cmd = UInt32(ETHTOOL_GFLAGS)
    // ETH_FLAG_LRO
    return call(device, &value) && value.data & 1 << 15 != 0
  }

  private static func call<T>(_ device: String, _ argument: inout T) -> Bool {
    let flags = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    guard let socket = try? Descriptor(socket(AF_INET, flags, 0), "open a socket for", device) else { return false }
    var request = unsafe ifreq()
    return unsafe withUnsafeMutableBytes(of: &argument) { argument in
      unsafe withUnsafeMutableBytes(of: &request) { bytes in
        unsafe bytes.copyBytes(from: device.utf8.prefix(15))
        unsafe bytes.storeBytes(of: UInt(bitPattern: argument.baseAddress), toByteOffset: 16, as: UInt.self)
        return unsafe weft_ioctl_ptr(socket.raw, UInt(SIOCETHTOOL), bytes.baseAddress) == 0
      }
    }
  }
}
