#define _GNU_SOURCE 1
#include "loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "xsk.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

enum { BATCH = 32, FRAME = 66 << 10, SLOT = 2048, SLOTS = 1024 };

static struct loop_error fail(const char *what) { return (struct loop_error){what, errno}; }
static const struct loop_error fine = {0, 0};

static void sleep_until_readable(int first, int second) {
  struct pollfd ready[2] = {{first, POLLIN, 0}, {second, POLLIN, 0}};
  poll(ready, 2, 100);
}

// MARK: AF_PACKET

struct packets {
  int socket;
  uint8_t *ring;
  uint32_t slot;
  uint8_t *memory;
};

static struct loop_error open_packets(struct packets *p, const char *interface, int has_ring) {
  int one = 1, version = TPACKET_V2, bytes = 8 << 20;
  struct tpacket_req request = {1 << 16, SLOTS * SLOT >> 16, SLOT, SLOTS};
  struct sockaddr_ll address = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(interface)};
  if (address.sll_ifindex == 0) return fail("find the interface");
  p->socket = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (p->socket < 0) return fail("open a packet socket");
  if (setsockopt(p->socket, SOL_PACKET, PACKET_VNET_HDR, &one, 4) != 0 ||
      setsockopt(p->socket, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, 4) != 0 ||
      setsockopt(p->socket, SOL_PACKET, PACKET_QDISC_BYPASS, &one, 4) != 0)
    return fail("set up a packet socket");
  setsockopt(p->socket, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, 4);
  setsockopt(p->socket, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, 4);
  if (has_ring) {
    if (setsockopt(p->socket, SOL_PACKET, PACKET_VERSION, &version, 4) != 0 ||
        setsockopt(p->socket, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) != 0)
      return fail("make a receive ring");
    p->ring = mmap(NULL, SLOTS * SLOT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, p->socket, 0);
    if (p->ring == MAP_FAILED) return fail("map the receive ring");
  } else {
    p->memory = mmap(NULL, BATCH * FRAME, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p->memory == MAP_FAILED) return fail("take memory for frames");
  }
  if (bind(p->socket, (struct sockaddr *)&address, sizeof address) != 0)
    return fail("bind a packet socket to the interface");
  return fine;
}

/// Sends all; what the kernel has no room for is lost, as at a switch.
static void send_all(int socket, struct mmsghdr *messages, unsigned count) {
  for (unsigned sent = 0; sent < count;) {
    int some = sendmmsg(socket, messages + sent, count - sent, MSG_DONTWAIT);
    sent += some > 0 ? (unsigned)some : 1;
  }
}

static unsigned copy_messages(struct packets *from, struct packets *to) {
  struct mmsghdr messages[BATCH];
  struct iovec pieces[BATCH];
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < BATCH; i++) {
    pieces[i] = (struct iovec){from->memory + (size_t)i * FRAME, FRAME};
    messages[i].msg_hdr.msg_iov = pieces + i;
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  int count = recvmmsg(from->socket, messages, BATCH, MSG_DONTWAIT, NULL);
  if (count <= 0) return 0;
  for (int i = 0; i < count; i++) pieces[i].iov_len = messages[i].msg_len;
  send_all(to->socket, messages, (unsigned)count);
  return (unsigned)count;
}

static unsigned copy_ring(struct packets *from, struct packets *to) {
  struct mmsghdr messages[BATCH];
  struct iovec pieces[BATCH];
  struct tpacket2_hdr *slots[BATCH];
  unsigned count = 0, frames = 0;
  memset(messages, 0, sizeof messages);
  while (count < BATCH) {
    struct tpacket2_hdr *slot = (struct tpacket2_hdr *)(from->ring + from->slot * SLOT);
    if (!(__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) break;
    slots[count++] = slot;
    from->slot = from->slot + 1 == SLOTS ? 0 : from->slot + 1;
    if (slot->tp_snaplen != slot->tp_len) continue;
    pieces[frames] = (struct iovec){
        (uint8_t *)slot + slot->tp_mac - sizeof(struct virtio_net_hdr), slot->tp_len + sizeof(struct virtio_net_hdr)};
    messages[frames].msg_hdr.msg_iov = pieces + frames;
    messages[frames].msg_hdr.msg_iovlen = 1;
    frames++;
  }
  if (count == 0) return 0;
  send_all(to->socket, messages, frames);
  for (unsigned i = 0; i < count; i++) __atomic_store_n(&slots[i]->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
  return count;
}

static struct loop_error run_packets(
    const char *first, const char *second, int has_ring, const volatile int *stop, void (*ready)(void)) {
  struct packets one = {.socket = -1}, two = {.socket = -1};
  struct loop_error error = open_packets(&one, first, has_ring);
  if (error.what == NULL) error = open_packets(&two, second, has_ring);
  if (error.what == NULL) ready();
  while (error.what == NULL && !*stop) {
    unsigned count = has_ring ? copy_ring(&one, &two) + copy_ring(&two, &one)
                              : copy_messages(&one, &two) + copy_messages(&two, &one);
    if (count == 0) sleep_until_readable(one.socket, two.socket);
  }
  if (one.socket >= 0) close(one.socket);
  if (two.socket >= 0) close(two.socket);
  return error;
}

// MARK: AF_XDP

static unsigned copy_xdp(struct xsk *from, struct xsk *to) {
  xsk_reclaim(to);
  uint32_t have = __atomic_load_n(from->receive.producer, __ATOMIC_ACQUIRE) - *from->receive.consumer;
  if (have > BATCH) have = BATCH;
  if (have > to->spares) have = to->spares;
  if (have == 0) return 0;
  uint32_t in = *from->receive.consumer, fill = *from->fill.producer, out = *to->transmit.producer;
  for (uint32_t i = 0; i < have; i++) {
    const struct xdp_desc *source = (struct xdp_desc *)from->receive.entries + ((in + i) & (XSK_RING - 1));
    struct xdp_desc *target = (struct xdp_desc *)to->transmit.entries + ((out + i) & (XSK_RING - 1));
    target->addr = to->spare[--to->spares];
    target->len = source->len;
    target->options = 0;
    memcpy(to->memory + target->addr, from->memory + source->addr, source->len);
    // The frame's begin, where the kernel wants it back.
    ((uint64_t *)from->fill.entries)[(fill + i) & (XSK_RING - 1)] = source->addr & ~(uint64_t)(XSK_FRAME_BYTES - 1);
  }
  __atomic_store_n(from->receive.consumer, in + have, __ATOMIC_RELEASE);
  __atomic_store_n(from->fill.producer, fill + have, __ATOMIC_RELEASE);
  __atomic_store_n(to->transmit.producer, out + have, __ATOMIC_RELEASE);
  xsk_kick(to);
  return have;
}

static struct loop_error run_xdp(
    const char *first, const char *second, const volatile int *stop, void (*ready)(void)) {
  static struct xsk one, two;
  two.socket = two.program = two.map = two.link = -1;
  struct traffic_error error = xsk_open(&one, first, 1);
  if (error.what == NULL) error = xsk_open(&two, second, 1);
  if (error.what == NULL) ready();
  while (error.what == NULL && !*stop) {
    if (copy_xdp(&one, &two) + copy_xdp(&two, &one) == 0) {
      // What the kernel had no time to send yet.
      if (*one.transmit.consumer != *one.transmit.producer) xsk_kick(&one);
      if (*two.transmit.consumer != *two.transmit.producer) xsk_kick(&two);
      sleep_until_readable(one.socket, two.socket);
    }
  }
  xsk_close(&one);
  xsk_close(&two);
  return (struct loop_error){error.what, error.code};
}

// MARK: AF_PACKET in, AF_XDP out

static unsigned copy_mixed(struct packets *from, struct xsk *to) {
  xsk_reclaim(to);
  uint32_t count = 0, out = *to->transmit.producer;
  while (count < BATCH && to->spares > 0) {
    struct tpacket2_hdr *slot = (struct tpacket2_hdr *)(from->ring + from->slot * SLOT);
    if (!(__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) break;
    from->slot = from->slot + 1 == SLOTS ? 0 : from->slot + 1;
    if (slot->tp_snaplen == slot->tp_len) {
      struct xdp_desc *target = (struct xdp_desc *)to->transmit.entries + ((out + count++) & (XSK_RING - 1));
      *target = (struct xdp_desc){to->spare[--to->spares], slot->tp_len, 0};
      memcpy(to->memory + target->addr, (uint8_t *)slot + slot->tp_mac, slot->tp_len);
    }
    __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
  }
  if (count == 0) return 0;
  __atomic_store_n(to->transmit.producer, out + count, __ATOMIC_RELEASE);
  xsk_kick(to);
  return count;
}

static struct loop_error run_mixed(
    const char *first, const char *second, const volatile int *stop, void (*ready)(void)) {
  static struct xsk to_first, to_second;
  struct packets one = {.socket = -1}, two = {.socket = -1};
  to_second.socket = to_second.program = to_second.map = to_second.link = -1;
  struct loop_error error = open_packets(&one, first, 1);
  if (error.what == NULL) error = open_packets(&two, second, 1);
  struct traffic_error opened = xsk_open(&to_first, first, 0);
  if (opened.what == NULL) opened = xsk_open(&to_second, second, 0);
  if (error.what == NULL) error = (struct loop_error){opened.what, opened.code};
  if (error.what == NULL) ready();
  while (error.what == NULL && !*stop) {
    if (copy_mixed(&one, &to_second) + copy_mixed(&two, &to_first) == 0) {
      if (*to_first.transmit.consumer != *to_first.transmit.producer) xsk_kick(&to_first);
      if (*to_second.transmit.consumer != *to_second.transmit.producer) xsk_kick(&to_second);
      sleep_until_readable(one.socket, two.socket);
    }
  }
  xsk_close(&to_first);
  xsk_close(&to_second);
  if (one.socket >= 0) close(one.socket);
  if (two.socket >= 0) close(two.socket);
  return error;
}

struct loop_error loop_run(
    const char *first, const char *second, enum loop_kind kind, const volatile int *stop, void (*ready)(void)) {
  if (kind == LOOP_MIXED) return run_mixed(first, second, stop, ready);
  return kind == LOOP_XDP ? run_xdp(first, second, stop, ready)
                          : run_packets(first, second, kind == LOOP_RING, stop, ready);
}
