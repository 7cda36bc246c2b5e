#define _GNU_SOURCE 1
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "traffic.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

// Only the headers are copied: enough for those of IPv6 and UDP with a tag.
enum { BLOCK = 1 << 17, BLOCKS = 64, KEPT = 96, RETIRE_MS = 5 };

struct traffic_receiver {
  int socket, sink;
  uint8_t *ring;
  uint32_t block;
};

static struct traffic_error fail(const char *what) { return (struct traffic_error){what, errno}; }
static const struct traffic_error fine = {0, 0};

static struct traffic_error open_sink(struct traffic_receiver *r, uint16_t port) {
  struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
  struct sock_fprog program = {1, nothing};
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT};
  r->sink = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (r->sink < 0) return fail("open a UDP socket");
  if (setsockopt(r->sink, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
    return fail("attach a filter to a UDP socket");
  if (bind(r->sink, (struct sockaddr *)&address, sizeof address) != 0) return fail("bind the UDP port");
  return fine;
}

struct traffic_error traffic_open(
    const char *interface, uint16_t port, int sink, struct traffic_receiver **receiver) {
  struct traffic_receiver *r = calloc(1, sizeof *r);
  *receiver = r;
  r->sink = -1;
  r->socket = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (r->socket < 0) return fail("open a packet socket");
  // UDP to the port, IPv4 or IPv6 without extension headers.
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IPV6, 6, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 9),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 17, 0, 7),
      BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14),
      BPF_STMT(BPF_LD | BPF_H | BPF_IND, 16),
      BPF_JUMP(BPF_JMP | BPF_JA, 3, 0, 0),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 17, 0, 2),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 56),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, KEPT),
  };
  struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
  int version = TPACKET_V3, one = 1;
  struct tpacket_req3 request = {
      .tp_block_size = BLOCK, .tp_block_nr = BLOCKS, .tp_frame_size = 2048, .tp_frame_nr = BLOCK / 2048 * BLOCKS,
      .tp_retire_blk_tov = RETIRE_MS};
  struct sockaddr_ll address = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(interface)};
  if (address.sll_ifindex == 0) return fail("find the interface");
  if (setsockopt(r->socket, SOL_PACKET, PACKET_VERSION, &version, 4) != 0 ||
      setsockopt(r->socket, SOL_PACKET, PACKET_VNET_HDR, &one, 4) != 0 ||
      setsockopt(r->socket, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, 4) != 0 ||
      setsockopt(r->socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0 ||
      setsockopt(r->socket, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) != 0)
    return fail("make a receive ring");
  r->ring = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->socket, 0);
  if (r->ring == MAP_FAILED) return fail("map the receive ring");
  if (bind(r->socket, (struct sockaddr *)&address, sizeof address) != 0)
    return fail("bind a packet socket to the interface");
  return sink ? open_sink(r, port) : fine;
}

static void count(const struct tpacket3_hdr *packet, struct traffic_counts *counts) {
  const uint8_t *frame = (const uint8_t *)packet + packet->tp_mac;
  struct virtio_net_hdr offload;
  memcpy(&offload, frame - sizeof offload, sizeof offload);
  uint64_t packets = 1, bytes = packet->tp_len;
  if (offload.gso_type != VIRTIO_NET_HDR_GSO_NONE && offload.gso_size != 0) {
    // A super-frame: the headers, then payloads of gso_size bytes and a last one. (hdr_len is only a hint.)
    uint32_t headers = (frame[12] == 0x86 ? 54u : 14u + (frame[14] & 15u) * 4u) + 8u;
    if (bytes > headers) {
      packets = (bytes - headers + offload.gso_size - 1) / offload.gso_size;
      bytes += (packets - 1) * headers;
    }
  }
  uint64_t time = (uint64_t)packet->tp_sec * 1000000000u + packet->tp_nsec;
  if (counts->packets == 0)
    counts->first = time;
  else if (time > counts->last && time - counts->last > counts->longest_gap)
    counts->longest_gap = time - counts->last;
  counts->last = time;
  counts->packets += packets;
  counts->bytes += bytes;
}

void traffic_count(struct traffic_receiver *r, int milliseconds, struct traffic_counts *counts) {
  int found = 0;
  for (;;) {
    struct tpacket_block_desc *block = (struct tpacket_block_desc *)(r->ring + (size_t)r->block * BLOCK);
    if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) break;
    const uint8_t *at = (const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
    for (uint32_t i = 0; i < block->hdr.bh1.num_pkts; i++) {
      count((const struct tpacket3_hdr *)at, counts);
      at += ((const struct tpacket3_hdr *)at)->tp_next_offset;
    }
    __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    r->block = (r->block + 1) % BLOCKS;
    found = 1;
  }
  struct tpacket_stats_v3 statistics;
  socklen_t size = sizeof statistics;
  if (getsockopt(r->socket, SOL_PACKET, PACKET_STATISTICS, &statistics, &size) == 0)
    counts->missed += statistics.tp_drops;
  if (!found) {
    struct pollfd ready = {r->socket, POLLIN, 0};
    poll(&ready, 1, milliseconds);
  }
}

void traffic_close(struct traffic_receiver *r) {
  if (r->ring != NULL && r->ring != MAP_FAILED) munmap(r->ring, (size_t)BLOCK * BLOCKS);
  if (r->socket >= 0) close(r->socket);
  if (r->sink >= 0) close(r->sink);
  free(r);
}
