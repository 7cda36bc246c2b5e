#define _GNU_SOURCE 1
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"
#include "traffic.h"
#include "xsk.h"

enum { SLOT = 2048, SLOTS = 1024, BURST = 32 };

static struct traffic_error fail(const char *what) { return (struct traffic_error){what, errno}; }
static const struct traffic_error fine = {0, 0};

static void put16(uint8_t *at, uint32_t value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}

static uint32_t sum(const uint8_t *at, uint32_t bytes, uint32_t start) {
  for (uint32_t i = 0; i + 1 < bytes; i += 2) start += (uint32_t)at[i] << 8 | at[i + 1];
  if (bytes & 1) start += (uint32_t)at[bytes - 1] << 8;
  return start;
}

static uint16_t finish(uint32_t value) {
  while (value >> 16) value = (value & 0xFFFF) + (value >> 16);
  return (uint16_t)~value;
}

/// The frame of one flow: valid checksums, a payload that counts.
static void build(uint8_t *frame, const struct traffic_frames *f, uint32_t flow) {
  uint32_t header = f->is_ipv6 ? 40 : 20, datagram = f->bytes - 14 - header;
  uint8_t *ip = frame + 14, *udp = ip + header;
  memset(frame, 0, f->bytes);
  memcpy(frame, f->destination_mac, 6);
  memcpy(frame + 6, f->source_mac, 6);
  put16(frame + 12, f->is_ipv6 ? ETH_P_IPV6 : ETH_P_IP);
  if (f->is_ipv6) {
    ip[0] = 0x60;
    put16(ip + 4, datagram);
    ip[6] = 17;
    ip[7] = 64;
    memcpy(ip + 8, f->source, 16);
    memcpy(ip + 24, f->destination, 16);
  } else {
    ip[0] = 0x45;
    put16(ip + 2, datagram + 20);
    // Not to be fragmented, as Linux sends datagrams.
    put16(ip + 6, 0x4000);
    ip[8] = 64;
    ip[9] = 17;
    memcpy(ip + 12, f->source, 4);
    memcpy(ip + 16, f->destination, 4);
    put16(ip + 10, finish(sum(ip, 20, 0)));
  }
  put16(udp, f->source_port + flow);
  put16(udp + 2, f->destination_port);
  put16(udp + 4, datagram);
  for (uint32_t i = 8; i < datagram; i++) udp[i] = (uint8_t)i;
  uint32_t pseudo = sum(ip + (f->is_ipv6 ? 8 : 12), f->is_ipv6 ? 32 : 8, 17 + datagram);
  uint16_t checksum = finish(sum(udp, datagram, pseudo));
  put16(udp + 6, checksum == 0 ? 0xFFFF : checksum);
}

/// How many packets are due at a time, by the rate.
static uint64_t due(uint64_t rate, uint64_t elapsed) {
  return rate == 0 ? UINT64_MAX : (uint64_t)((unsigned __int128)rate * elapsed / 1000000000u) + 1;
}

static void wait_until(uint64_t time) {
  // Short waits by looking at the clock: a sleep is longer than asked for by 50 us and more.
  while (measure_now() < time) __builtin_ia32_pause();
}

static struct traffic_error generate_ring(
    const struct traffic_frames *f, uint64_t rate, uint64_t nanoseconds, const volatile int *stop,
    struct traffic_sent *sent) {
  int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (s < 0) return fail("open a packet socket");
  int version = TPACKET_V2, one = 1;
  struct tpacket_req request = {1 << 16, SLOTS * SLOT >> 16, SLOT, SLOTS};
  uint8_t *ring = MAP_FAILED;
  struct traffic_error error = fine;
  struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(f->interface)};
  if (setsockopt(s, SOL_PACKET, PACKET_VERSION, &version, 4) != 0 ||
      setsockopt(s, SOL_PACKET, PACKET_QDISC_BYPASS, &one, 4) != 0 ||
      setsockopt(s, SOL_PACKET, PACKET_TX_RING, &request, sizeof request) != 0)
    error = fail("make a transmit ring");
  else if ((ring = mmap(NULL, SLOTS * SLOT, PROT_READ | PROT_WRITE, MAP_SHARED, s, 0)) == MAP_FAILED)
    error = fail("map the transmit ring");
  else if (bind(s, (struct sockaddr *)&address, sizeof address) != 0)
    error = fail("bind a packet socket to the interface");
  // Before a frame in its slot: the ring's header, less the address, which sending does not have.
  const uint32_t head = TPACKET2_HDRLEN - sizeof(struct sockaddr_ll);
  // A slot has its frame for good: nothing is written for a packet but the slot's state.
  for (uint32_t i = 0; error.what == NULL && i < SLOTS; i++) {
    build(ring + i * SLOT + head, f, i % f->flows);
    ((struct tpacket2_hdr *)(ring + i * SLOT))->tp_len = f->bytes;
  }
  uint64_t begin = measure_now(), now = begin, count = 0;
  uint32_t slot = 0;
  while (error.what == NULL && !*stop && now - begin < nanoseconds) {
    uint64_t allowed = due(rate, now - begin);
    if (count >= allowed) {
      wait_until(begin + (uint64_t)((unsigned __int128)(count + 1) * 1000000000u / rate));
      now = measure_now();
      continue;
    }
    uint32_t burst = 0;
    while (burst < BURST && count < allowed) {
      struct tpacket2_hdr *header = (struct tpacket2_hdr *)(ring + slot * SLOT);
      if (__atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE) break;
      __atomic_store_n(&header->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
      slot = slot + 1 == SLOTS ? 0 : slot + 1;
      burst++;
      count++;
    }
    if (burst == 0) {
      struct pollfd ready = {s, POLLOUT, 0};
      poll(&ready, 1, 1);
    } else if (send(s, NULL, 0, MSG_DONTWAIT) < 0 && errno != EAGAIN && errno != ENOBUFS) {
      error = fail("send from the ring");
    }
    now = measure_now();
  }
  sent->packets = count;
  sent->nanoseconds = now - begin;
  if (ring != MAP_FAILED) munmap(ring, SLOTS * SLOT);
  close(s);
  return error;
}

static struct traffic_error generate_xdp(
    const struct traffic_frames *f, uint64_t rate, uint64_t nanoseconds, const volatile int *stop,
    struct traffic_sent *sent) {
  static struct xsk x;
  struct traffic_error error = xsk_open(&x, f->interface, 0);
  // Each frame of the sending half is one flow's for good: the kernel copies, so one that is still on its way may be
  // sent again.
  for (uint32_t i = 0; error.what == NULL && i < XSK_RING; i++)
    build(x.memory + (uint64_t)(XSK_RING + i) * XSK_FRAME_BYTES, f, i % f->flows);
  uint64_t begin = measure_now(), now = begin, count = 0;
  uint32_t next = 0;
  while (error.what == NULL && !*stop && now - begin < nanoseconds) {
    uint64_t allowed = due(rate, now - begin);
    if (count >= allowed) {
      wait_until(begin + (uint64_t)((unsigned __int128)(count + 1) * 1000000000u / rate));
      now = measure_now();
      continue;
    }
    uint32_t done = __atomic_load_n(x.completion.producer, __ATOMIC_ACQUIRE);
    __atomic_store_n(x.completion.consumer, done, __ATOMIC_RELEASE);
    uint32_t burst = 0;
    while (burst < BURST && count < allowed && next - done < XSK_RING) {
      struct xdp_desc *d = (struct xdp_desc *)x.transmit.entries + (next & (XSK_RING - 1));
      d->addr = (uint64_t)(XSK_RING + (next & (XSK_RING - 1))) * XSK_FRAME_BYTES;
      d->len = f->bytes;
      d->options = 0;
      next++;
      burst++;
      count++;
    }
    __atomic_store_n(x.transmit.producer, next, __ATOMIC_RELEASE);
    xsk_kick(&x);
    now = measure_now();
  }
  // What the kernel has not taken was not sent.
  if (error.what == NULL) count -= next - __atomic_load_n(x.transmit.consumer, __ATOMIC_ACQUIRE);
  sent->packets = count;
  sent->nanoseconds = now - begin;
  xsk_close(&x);
  return error;
}

struct traffic_error traffic_generate(
    const struct traffic_frames *frames, enum traffic_kind kind, uint64_t rate, uint64_t nanoseconds,
    const volatile int *stop, struct traffic_sent *sent) {
  uint32_t least = frames->is_ipv6 ? 62 : 42;
  if (frames->bytes < least || frames->bytes > SLOT - 128 || frames->flows == 0 || frames->flows > SLOTS) {
    errno = EINVAL;
    return fail("take frames of this size or so many flows");
  }
  return kind == TRAFFIC_XDP ? generate_xdp(frames, rate, nanoseconds, stop, sent)
                             : generate_ring(frames, rate, nanoseconds, stop, sent);
}
