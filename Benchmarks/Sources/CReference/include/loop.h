// Bare copy loops between two interfaces: what a forwarder that looks at nothing reaches on a kind of port.
#pragma once
#include <stdint.h>

/// How a loop receives and sends.
enum loop_kind {
  /// AF_PACKET with virtio-net headers, recvmmsg and sendmmsg of 32: super-frames pass whole.
  LOOP_MESSAGES = 0,
  /// AF_PACKET, a TPACKET_V2 receive ring for frames of an MTU and sendmmsg of 32.
  LOOP_RING = 1,
  /// AF_XDP in copy mode, both ways.
  LOOP_XDP = 2,
  /// Received as LOOP_RING, sent by AF_XDP.
  LOOP_MIXED = 3,
};

struct loop_error {
  const char *_Nullable what;
  int code;
};

/// Copies every frame that one interface receives to the other, both ways, sleeping when there is none, until `*stop` is
/// set. Calls `ready` once when it forwards.
struct loop_error loop_run(
    const char *_Nonnull first, const char *_Nonnull second, enum loop_kind kind, const volatile int *_Nonnull stop,
    void (*_Nonnull ready)(void));
