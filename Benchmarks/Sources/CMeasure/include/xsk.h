// An AF_XDP socket in copy mode with memory of its own, without libxdp: what the generator and the bare loop need.
#pragma once
#include <stdint.h>

#include "traffic.h"

#define XSK_FRAME_BYTES 2048u
/// Frames of a ring, and half the frames of the memory.
#define XSK_RING 2048u

struct xsk_ring {
  volatile uint32_t *_Nullable producer, *_Nullable consumer, *_Nullable flags;
  void *_Nullable entries;
};

struct xsk {
  int socket, program, map, link;
  uint8_t *_Nullable memory;
  struct xsk_ring fill, completion, receive, transmit;
  /// Frames for sending that the kernel does not have: a stack.
  uint64_t spare[XSK_RING];
  uint32_t spares;
};

/// Opens a socket on queue 0. With `receives`, an XDP program of the driver's mode (the generic mode where the driver
/// has none) gives it every frame of the queue.
struct traffic_error xsk_open(struct xsk *_Nonnull xsk, const char *_Nonnull interface, int receives);
/// Takes back frames that the kernel has sent.
void xsk_reclaim(struct xsk *_Nonnull xsk);
/// Tells the kernel to send what is in the transmit ring.
void xsk_kick(struct xsk *_Nonnull xsk);
void xsk_close(struct xsk *_Nonnull xsk);
