// The packet path of Weft once more, in plain C: what a careful C programmer would write for the same work on the same
// data. The tables have the same layout and size, the checks, checksums, counters and bytes written are the same; the
// benchmark compares the frames that leave byte by byte before it measures anything.
//
// IPv4 only, inside and outside, since that is what is measured; TCP super-frames are not met either.
#pragma once
#include <stddef.h>
#include <stdint.h>

/// A received frame, with the virtio-net header that came with it. As RxFrame; 66 bytes before it may be written to.
struct reference_frame {
  uint8_t *_Nonnull bytes;
  int64_t length;
  uint8_t flags, gso;
  uint16_t header_bytes, gso_bytes, checksum_start, checksum_offset;
};

enum reference_kind { reference_encap, reference_vxlan, reference_mpls, reference_vrf };

struct reference_nexthop {
  enum reference_kind kind;
  uint32_t interface, vrf;
  uint16_t mtu;
  /// encap: the Ethernet destination; VXLAN: the inner one. 48 bits.
  uint64_t destination_mac;
  /// Tunnels: outer headers, 42 bytes.
  uint8_t outer[64];
  /// The 64 bytes before a packet, written by `reference_set_nexthop`; tunnels: the outer header's checksum with length
  /// and TOS zero.
  uint8_t front[64];
  uint32_t outer_checksum;
};

/// Makes a packet path with room for `flow_entries`, `nodes` of the prefix tree (2 KiB each), and so many of the others.
/// NULL when there is no memory.
void *_Nullable reference_create(
    uint32_t flow_entries, uint64_t seed, uint32_t interfaces, uint32_t vrfs, uint32_t nexthops, uint32_t paths,
    uint32_t nodes);
void reference_destroy(void *_Nonnull reference);

/// `address` of a fabric interface in host order, 0 for a pod's.
void reference_set_interface(
    void *_Nonnull reference, uint32_t id, int is_fabric, uint16_t mtu, uint32_t vrf, uint64_t mac, uint32_t address);
void reference_set_nexthop(void *_Nonnull reference, uint32_t id, const struct reference_nexthop *_Nonnull nexthop);
/// A tunnel's nexthop with its outer headers. Addresses in host order.
void reference_fill_tunnel(
    struct reference_nexthop *_Nonnull nexthop, uint64_t source_mac, uint64_t destination_mac, uint32_t source,
    uint32_t destination);
void reference_set_route(
    void *_Nonnull reference, uint32_t vrf, uint32_t address, int length, uint32_t nexthop, uint32_t label);
/// Packets of any VRF to an address (host order) and port go to another one.
void reference_set_translation(
    void *_Nonnull reference, uint32_t address, uint16_t port, uint32_t target, uint16_t target_port);
void reference_set_vni(void *_Nonnull reference, uint32_t vni, uint32_t nexthop);
void reference_set_label(void *_Nonnull reference, uint32_t label, uint32_t nexthop);

/// A batch of at most 32 frames through all stages.
void reference_process(
    void *_Nonnull reference, const struct reference_frame *_Nonnull frames, int count, uint32_t interface, uint64_t now);
/// Forgets what is to be sent.
void reference_reset(void *_Nonnull reference);

/// Frames to be sent by an interface.
int reference_sent(const void *_Nonnull reference, uint32_t interface);
/// Copies frame `index` (without its virtio-net header), at most `room` bytes; its length.
int reference_copy(
    const void *_Nonnull reference, uint32_t interface, int index, uint8_t *_Nonnull destination, int room);
uint64_t reference_drops(const void *_Nonnull reference);
uint32_t reference_flows(const void *_Nonnull reference);
