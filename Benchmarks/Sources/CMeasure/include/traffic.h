// Frames on packet rings for measurements at the wire: a generator, a counting receiver, and round trips over UDP.
#pragma once
#include <stdint.h>

/// What a traffic program could not do: the call, and errno. `what` is null when all went well.
struct traffic_error {
  const char *_Nullable what;
  int code;
};

/// What a generator sends: UDP in Ethernet frames, one for each flow, in turn. Flows differ in their source port.
struct traffic_frames {
  const char *_Nonnull interface;
  /// Bytes of a frame without its check sequence: Ethernet header to the payload's end.
  uint32_t bytes;
  /// 1 to 1024.
  uint32_t flows;
  uint8_t source_mac[6], destination_mac[6];
  /// Network order: 4 bytes of an IPv4 address, or 16 of an IPv6 one.
  uint8_t source[16], destination[16];
  int is_ipv6;
  /// Of the first flow; the others follow.
  uint16_t source_port;
  uint16_t destination_port;
};

/// How a generator gives its frames to the kernel.
enum traffic_kind {
  /// AF_PACKET with a TPACKET_V2 transmit ring, past the queueing discipline.
  TRAFFIC_PACKET_RING = 0,
  /// AF_XDP, copy mode, transmit only: no program is attached to the interface.
  TRAFFIC_XDP = 1,
};

struct traffic_sent {
  uint64_t packets;
  uint64_t nanoseconds;
};

/// Sends for `nanoseconds`; `rate` in packets a second, 0 for as many as there can be. Ends early when `*stop` is set.
struct traffic_error traffic_generate(
    const struct traffic_frames *_Nonnull frames, enum traffic_kind kind, uint64_t rate, uint64_t nanoseconds,
    const volatile int *_Nonnull stop, struct traffic_sent *_Nonnull sent);

/// What a receiver has counted. A super-frame counts as the packets that it stands for.
struct traffic_counts {
  uint64_t packets;
  /// Of frames, without check sequence; those of a super-frame's packets.
  uint64_t bytes;
  /// Packets that found no room in the receiver's ring: counted by the kernel, as frames, not in `packets`.
  uint64_t missed;
  /// CLOCK_MONOTONIC, ns: of the first and the last packet, to a millisecond.
  uint64_t first, last;
  /// The longest time between two packets, ns.
  uint64_t longest_gap;
};

struct traffic_receiver;
/// A receiver of UDP datagrams to `port` (4789 or 6635 counts what tunnels carry) on an interface. The rest it leaves
/// alone. With `sink`, a socket takes the port as well, and its filter drops all: the kernel then answers nothing.
struct traffic_error traffic_open(
    const char *_Nonnull interface, uint16_t port, int sink, struct traffic_receiver *_Nullable *_Nonnull receiver);
/// Counts what waits, sleeping up to `milliseconds` for it.
void traffic_count(struct traffic_receiver *_Nonnull receiver, int milliseconds, struct traffic_counts *_Nonnull counts);
void traffic_close(struct traffic_receiver *_Nonnull receiver);

/// Sends each datagram to `port` back, until `*stop` is set.
struct traffic_error traffic_respond(uint16_t port, const volatile int *_Nonnull stop);
/// Sends `count` datagrams of `bytes` to an address, one each `interval` ns at the soonest, and waits for each to come
/// back, 200 ms at most. Writes the times in ns into `times`, 0 for those that did not come back.
struct traffic_error traffic_request(
    const char *_Nonnull address, uint16_t port, uint32_t bytes, uint32_t count, uint64_t interval,
    uint64_t *_Nonnull times);
