#define _GNU_SOURCE 1
#include "reference.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define INLINE static inline __attribute__((always_inline))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

enum { batch_size = 32, ethernet_bytes = 14, ip_bytes = 20, udp_bytes = 8, vxlan_bytes = 8, mpls_bytes = 4 };
enum { virtio_bytes = 10, outer_bytes = 42, none = 0xFFFFFFFF };
static const uint64_t router_mac = 0x00005E000100;

// MARK: bytes in network order

INLINE uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
INLINE uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
INLINE void set16(uint8_t *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
INLINE void set32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
INLINE uint64_t get_mac(const uint8_t *p) { return (uint64_t)get16(p) << 32 | get32(p + 2); }
INLINE void set_mac(uint8_t *p, uint64_t v) { set16(p, (uint16_t)(v >> 32)); set32(p + 2, (uint32_t)v); }

// MARK: checksums (RFC 1071, RFC 1624)

INLINE uint64_t sum_words(const uint8_t *p, int n, uint64_t sum) {
  for (; n >= 4; n -= 4, p += 4) { uint32_t w; memcpy(&w, p, 4); sum += w; }
  return sum;
}
INLINE uint16_t fold(uint64_t s) {
  s = (s & 0xFFFFFFFF) + (s >> 32);
  s = (s & 0xFFFF) + (s >> 16);
  s = (s & 0xFFFF) + (s >> 16);
  s = (s & 0xFFFF) + (s >> 16);
  return (uint16_t)s;
}
INLINE uint64_t addend(uint16_t v) { return __builtin_bswap16(v); }
INLINE uint16_t finish(uint64_t s) { return __builtin_bswap16((uint16_t)~fold(s)); }
INLINE uint16_t updated(uint16_t checksum, uint16_t old, uint16_t new) {
  uint32_t s = (uint32_t)(uint16_t)~checksum + (uint16_t)~old + new;
  s = (s & 0xFFFF) + (s >> 16);
  s = (s & 0xFFFF) + (s >> 16);
  return (uint16_t)~s;
}

/// An IPv4 header's checksum is right. Nearly all headers have 20 bytes: their sum, with carries added, is a multiple of
/// 65,535 and not 0 (FastRead.swift has the reasons).
INLINE int header_holds(const uint8_t *ip, int bytes) {
  if (UNLIKELY(bytes > ip_bytes)) return fold(sum_words(ip, bytes, 0)) == 0xFFFF;
  uint64_t a, b;
  uint32_t c;
  memcpy(&a, ip, 8);
  memcpy(&b, ip + 8, 8);
  memcpy(&c, ip + 16, 4);
  unsigned long long carry, sum = __builtin_addcll(a, b, 0, &carry);
  sum = __builtin_addcll(sum, c, carry, &carry);
  sum += carry;
  return sum * 0xFFFEFFFEFFFEFFFFull <= 0x0001000100010001ull;
}
static __attribute__((noinline)) int udp_holds(const uint8_t *ip, const uint8_t *udp, int length) {
  uint64_t sum = sum_words(ip + 12, 8, addend((uint16_t)length) + addend(17));
  sum = sum_words(udp, length & ~3, sum);
  for (int at = length & ~3; at < length; at++) sum += (uint64_t)udp[at] << (8 * (at & 1));
  return fold(sum) == 0xFFFF;
}

// MARK: tables, laid out as Weft's

struct interface {
  int is_fabric;
  uint16_t mtu;
  uint32_t vrf;
  uint64_t mac;
  uint32_t address;
};

struct path { uint32_t nexthop, label; };

/// A flow's key as Weft keeps it for IPv4: source and destination, then ports, protocol and VRF, from the top.
struct key { uint64_t addresses, transport; };

/// What a packet reads and writes is in the first line.
struct flow {
  struct key key;
  /// The routes' generation in which `path` was found.
  uint32_t generation;
  /// The number of the path that its packets take; 0 where it is to be looked up.
  uint32_t path;
  uint32_t flags, more, reverse, nexthop;
  uint64_t packets, bytes, last_seen;
  /// What a translated flow's packets get: addresses, ports, and the change to checksums over the addresses (the lower
  /// 16 bits) and over both.
  uint64_t new_addresses, new_ports, sums, long_key, created, rest[3];
};
_Static_assert(sizeof(struct flow) == 128, "two cache lines");

enum { flow_translated = 16 };

struct bucket {
  uint16_t tags[8];
  uint32_t entries[8];
  uint8_t padding[16];
};
_Static_assert(sizeof(struct bucket) == 64, "a cache line");

struct counters { uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes, drops, padding[3]; };

/// A packet between the stages.
struct packet {
  uint8_t *ethernet, *ip;
  const struct reference_nexthop *nexthop;
  struct key key;
  uint64_t hash;
  const struct flow *flow;
  struct path path;
  uint32_t vrf, path_number, candidate;
  uint16_t available, ip_length;
  uint8_t link, has_path, traffic_class, outer_ecn;
};
enum { link_router, link_other, link_group };

/// Packets of UDP to an address and port go to another one.
struct translation { uint32_t address, target; uint16_t port, target_port; };

/// A frame that leaves: a cache line, as TxFrames'. Numbers are places in the array; behind the frames there is one more
/// for each interface, whose next one is the interface's first.
struct tx_frame {
  struct iovec pieces[2];
  uint32_t first_piece;
  uint16_t piece_count, packets;
  uint32_t length, next;
  uint8_t padding[16];
};
_Static_assert(sizeof(struct tx_frame) == 64, "a cache line");
enum { frame_capacity = batch_size * 2 };

struct reference {
  struct interface *interfaces;
  struct reference_nexthop **nexthops;
  struct path *paths;
  uint32_t *roots, *vnis, *labels;
  uint64_t *nodes;
  struct bucket *buckets;
  struct flow *flows;
  struct counters *counters;
  struct translation *translations;
  uint32_t translation_count;
  uint64_t bucket_mask, seed, drops;
  uint32_t generation;
  uint32_t interface_count, vrf_count, nexthop_count, path_count, node_count;
  uint32_t paths_used, nodes_used, flows_used, flow_capacity;
  struct tx_frame *frames;
  uint32_t *tails, *touched;
  uint32_t touched_count, frame_count;
  struct packet packets[batch_size];
};

INLINE uint8_t link_of(const uint8_t *ethernet) {
  uint64_t destination = get_mac(ethernet);
  return LIKELY(destination == router_mac) ? link_router : destination >> 40 & 1 ? link_group : link_other;
}

// MARK: flows

INLINE uint64_t multiply_fold(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)a * b;
  return (uint64_t)(product >> 64) ^ (uint64_t)product;
}
/// FlowKey.hash: the same bits, since outer source ports come from them.
INLINE uint64_t hash_key(const struct key *k, uint64_t seed) {
  uint64_t first = seed ^ 0xA0761D6478BD642F, second = (seed << 32 | seed >> 32) ^ 0xE7037ED1A0B428DB;
  unsigned __int128 product = (unsigned __int128)(k->addresses ^ first) * (k->transport ^ second);
  return multiply_fold((uint64_t)product ^ first, (uint64_t)(product >> 64) ^ second) | 1ull << 48;
}
/// Never 0, which stands for a free place.
INLINE uint16_t tag_of(uint64_t hash) { return (uint16_t)(hash >> 48); }
INLINE uint64_t other(uint64_t hash) { return hash ^ ((uint64_t)tag_of(hash) * 0x5BD1E995 + 0x9E37); }
INLINE struct bucket *bucket_of(struct reference *r, uint64_t hash) { return &r->buckets[hash & r->bucket_mask]; }

INLINE uint32_t match_tags(const struct bucket *b, uint16_t tag) {
#if defined(__SSE2__)
  typedef uint16_t u16x8 __attribute__((vector_size(16)));
  typedef char i8x16 __attribute__((vector_size(16)));
  u16x8 t, m = {tag, tag, tag, tag, tag, tag, tag, tag};
  memcpy(&t, b->tags, 16);
  return (uint32_t)__builtin_ia32_pmovmskb128((i8x16)(t == m));
#else
  uint32_t m = 0;
  for (int i = 0; i < 8; i++) m |= (b->tags[i] == tag ? 3u : 0u) << (2 * i);
  return m;
#endif
}
INLINE int same_key(const struct key *a, const struct key *b) {
  return a->addresses == b->addresses && a->transport == b->transport;
}
INLINE uint32_t find_in(struct reference *r, const struct key *k, uint16_t tag, const struct bucket *b) {
  uint32_t matches = match_tags(b, tag);
  while (matches) {
    int place = __builtin_ctz(matches) >> 1;
    uint32_t index = b->entries[place];
    if (LIKELY(same_key(&r->flows[index].key, k))) return index;
    matches &= ~(3u << (2 * place));
  }
  return none;
}
INLINE uint32_t find(struct reference *r, const struct key *k, uint64_t hash) {
  uint16_t tag = tag_of(hash);
  uint32_t index = find_in(r, k, tag, bucket_of(r, hash));
  return LIKELY(index != none) ? index : find_in(r, k, tag, bucket_of(r, other(hash)));
}

static uint32_t place_flow(struct reference *r, const struct key *k, uint64_t hash, uint32_t flags, uint64_t now) {
  for (int attempt = 0; attempt < 2; attempt++) {
    struct bucket *b = bucket_of(r, attempt ? other(hash) : hash);
    uint32_t room = match_tags(b, 0);
    if (!room) continue;
    int place = __builtin_ctz(room) >> 1;
    uint32_t index = r->flows_used++;
    r->flows[index] = (struct flow){
        .key = *k, .reverse = none, .flags = flags | 1, .nexthop = none, .created = now, .last_seen = now};
    b->entries[place] = index;
    b->tags[place] = tag_of(hash);
    return index;
  }
  return none;
}

INLINE struct key reversed(const struct key *k) {
  return (struct key){k->addresses << 32 | k->addresses >> 32,
                      k->transport << 16 >> 48 << 48 | k->transport >> 48 << 32 | (k->transport & 0xFFFFFFFF)};
}

/// Host order sums, as 16 bits (RFC 1624).
static void set_translation(struct flow *f, const struct key *target) {
  uint64_t addresses = (uint32_t)~(f->key.addresses >> 32) + (uint64_t)(uint32_t)~f->key.addresses
      + (target->addresses >> 32) + (uint32_t)target->addresses;
  uint64_t old = f->key.transport, new = target->transport;
  uint64_t ports = (uint16_t)~(old >> 48) + (uint64_t)(uint16_t)~(old >> 32) + (new >> 48) + (uint16_t)(new >> 32);
  f->new_addresses = target->addresses;
  f->new_ports = new >> 32;
  f->sums = fold(addresses) | (uint64_t)fold(addresses + ports) << 16;
  f->flags |= flow_translated;
}

static __attribute__((noinline)) uint32_t insert(
    struct reference *r, const struct key *k, uint64_t hash, const struct key *target, uint64_t now) {
  if (r->flows_used + 2 > r->flow_capacity) return none;
  struct key back = reversed(target);
  uint64_t back_hash = hash_key(&back, r->seed);
  if (find(r, &back, back_hash) != none) return none;
  uint32_t forward = place_flow(r, k, hash, 2, now);
  if (forward == none) return none;
  uint32_t reverse = place_flow(r, &back, back_hash, 0, now);
  if (reverse == none) return forward;
  r->flows[forward].reverse = reverse;
  r->flows[reverse].reverse = forward;
  if (!same_key(k, target)) {
    struct key answered = reversed(k);
    set_translation(&r->flows[forward], target);
    set_translation(&r->flows[reverse], &answered);
  }
  return forward;
}

// MARK: stages
//
// Three loops over the batch: what is in the frame, with the flow's bucket on its way into the cache; the flow's entry on
// its way; the flow, where it goes, and the frame that leaves. `is_fabric` is known when this is compiled.

/// The outer headers: payload's offset and length, port, ECN; 0 when they are not right.
INLINE int read_outer(
    const struct reference_frame *f, const struct interface *i, int *payload, int *length, uint16_t *port, uint8_t *ecn) {
  if (UNLIKELY(f->length < ethernet_bytes + ip_bytes)) return 0;
  const uint8_t *e = f->bytes, *ip = e + ethernet_bytes;
  if (UNLIKELY(get16(e + 12) != 0x0800)) return 0;
  int available = (int)f->length - ethernet_bytes, header = (ip[0] & 15) * 4, total = get16(ip + 2);
  if (UNLIKELY(ip[0] >> 4 != 4 || header < ip_bytes || total < header || total > available)) return 0;
  if (UNLIKELY(!header_holds(ip, header))) return 0;
  if (UNLIKELY(ip[9] != 17 || (get16(ip + 6) & 0x3FFF) || total - header < udp_bytes)) return 0;
  if (UNLIKELY(get_mac(e) != i->mac || get32(ip + 16) != i->address)) return 0;
  const uint8_t *udp = ip + header;
  int udp_length = get16(udp + 4);
  *port = get16(udp + 2);
  if (UNLIKELY(*port != 4789 && *port != 6635)) return 0;
  if (UNLIKELY(udp_length < udp_bytes || udp_length > total - header || f->gso)) return 0;
  *ecn = ip[1] & 3;
  *payload = ethernet_bytes + header + udp_bytes;
  *length = udp_length - udp_bytes;
  if (LIKELY((f->flags & 3) || get16(udp + 6) == 0)) return 1;
  return udp_holds(ip, udp, udp_length);
}

/// Finds the inner packet of a frame from the fabric and the VRF or interface that it is for; 0 to drop it.
INLINE int open_tunnel(struct reference *r, const struct reference_frame *f, const struct interface *i, struct packet *p) {
  int payload, length;
  uint16_t port;
  uint32_t number;
  if (UNLIKELY(!read_outer(f, i, &payload, &length, &port, &p->outer_ecn))) return 0;
  uint8_t *t = f->bytes + payload;
  if (port == 4789) {
    if (UNLIKELY(length < vxlan_bytes + ethernet_bytes || !(t[0] & 8))) return 0;
    number = r->vnis[get32(t + 4) >> 8];
    p->ethernet = t + vxlan_bytes;
    p->ip = p->ethernet + ethernet_bytes;
    p->available = (uint16_t)(length - vxlan_bytes - ethernet_bytes);
    if (UNLIKELY(get16(p->ethernet + 12) != 0x0800)) return 0;
    p->link = link_of(p->ethernet);
  } else {
    if (UNLIKELY(length <= mpls_bytes || !(get32(t) & 0x100))) return 0;
    number = r->labels[get32(t) >> 12];
    p->ethernet = p->ip = t + mpls_bytes;
    p->available = (uint16_t)(length - mpls_bytes);
    p->link = link_router;
  }
  const struct reference_nexthop *nexthop =
      LIKELY(number && number <= r->nexthop_count) ? __atomic_load_n(&r->nexthops[number - 1], __ATOMIC_ACQUIRE) : NULL;
  if (UNLIKELY(!nexthop)) return 0;
  if (nexthop->kind == reference_vrf) {
    p->vrf = nexthop->vrf;
    return 1;
  }
  if (nexthop->kind != reference_encap) return 0;
  p->vrf = r->interfaces[nexthop->interface].vrf;
  p->nexthop = nexthop;
  p->path = (struct path){number - 1, 0};
  p->has_path = 1;
  p->link = link_router;
  return 1;
}

INLINE int is_host(uint32_t a) { return a >> 28 < 14 && a >> 24 != 127 && a >> 24 != 0; }

/// RFC 6040 section 4.2; 0 when the packet has to go.
static __attribute__((noinline)) int merge_ecn(struct packet *p) {
  uint8_t inner = p->traffic_class & 3, outer = p->outer_ecn, merged = inner;
  if (outer == 3) {
    if (inner == 0) return 0;
    merged = 3;
  } else if (outer == 1 && inner == 2) {
    merged = 1;
  }
  if (merged == inner) return 1;
  uint16_t old = get16(p->ip), new = (uint16_t)((old & ~3) | merged);
  p->traffic_class = (uint8_t)new;
  set16(p->ip, new);
  set16(p->ip + 10, updated(get16(p->ip + 10), old, new));
  return 1;
}

/// Inner headers, the flow's key and hash; 0 to drop the packet.
INLINE int parse(struct reference *r, struct packet *p, const int is_fabric) {
  uint8_t *ip = p->ip;
  if (UNLIKELY(p->available < ip_bytes)) return 0;
  int header = (ip[0] & 15) * 4, length = get16(ip + 2);
  if (UNLIKELY(ip[0] >> 4 != 4 || header < ip_bytes || length < header || length > p->available)) return 0;
  if (UNLIKELY(!header_holds(ip, header))) return 0;
  uint32_t source = get32(ip + 12), destination = get32(ip + 16);
  if (UNLIKELY(!is_host(source) || !is_host(destination) || p->link == link_group)) return 0;
  uint8_t proto = ip[9];
  uint16_t source_port = 0, destination_port = 0;
  p->ip_length = (uint16_t)length;
  p->traffic_class = ip[1];
  if (is_fabric && UNLIKELY(p->outer_ecn && !merge_ecn(p))) return 0;
  if (LIKELY(!(get16(ip + 6) & 0x3FFF))) {
    const uint8_t *t = ip + header;
    int rest = length - header;
    if (proto == 17) {
      int claimed = rest >= udp_bytes ? get16(t + 4) : 0;
      if (UNLIKELY(claimed < udp_bytes || claimed > rest)) return 0;
      source_port = get16(t);
      destination_port = get16(t + 2);
    } else if (proto == 6) {
      int offset = rest >= 20 ? (t[12] >> 4) * 4 : 0;
      if (UNLIKELY(offset < 20 || offset > rest)) return 0;
      source_port = get16(t);
      destination_port = get16(t + 2);
    }
  }
  p->key = (struct key){
      (uint64_t)source << 32 | destination,
      (uint64_t)source_port << 48 | (uint64_t)destination_port << 32 | (uint64_t)proto << 24 | p->vrf};
  p->hash = hash_key(&p->key, r->seed);
  return 1;
}

INLINE uint32_t longest_prefix(const struct reference *r, uint32_t root, uint32_t address) {
  uint32_t node = root, best = 0;
  for (int step = 0; step < 4; step++) {
    uint64_t entry = __atomic_load_n(&r->nodes[(uint64_t)node * 256 + (address >> 24)], __ATOMIC_ACQUIRE);
    uint32_t path = (uint32_t)entry;
    if (path) best = path;
    node = (uint32_t)(entry >> 32);
    if (!node) break;
    address <<= 8;
  }
  return best;
}

/// The nexthop by the destination; 0 to drop the packet.
INLINE int route(struct reference *r, struct packet *p, uint32_t destination, const int is_fabric) {
  if (!is_fabric || !p->has_path) {
    uint32_t root = LIKELY(p->vrf < r->vrf_count) ? __atomic_load_n(&r->roots[p->vrf], __ATOMIC_ACQUIRE) : 0;
    uint32_t number = LIKELY(root && p->link == link_router) ? longest_prefix(r, root, destination) : 0;
    if (UNLIKELY(number == 0)) return 0;
    p->path = r->paths[number];
    p->path_number = number;
    p->nexthop = LIKELY(p->path.nexthop < r->nexthop_count)
        ? __atomic_load_n(&r->nexthops[p->path.nexthop], __ATOMIC_ACQUIRE) : NULL;
  }
  const struct reference_nexthop *nexthop = p->nexthop;
  if (UNLIKELY(!nexthop)) return 0;
  return LIKELY(is_fabric ? nexthop->kind == reference_encap : nexthop->kind != reference_vrf);
}

/// The entry that is probably the flow's comes into the cache while the next packets are looked at.
INLINE void prefetch_flow(struct reference *r, struct packet *p) {
  const struct bucket *b = bucket_of(r, p->hash);
  uint32_t matches = match_tags(b, tag_of(p->hash));
  p->candidate = none;
  if (LIKELY(matches)) {
    p->candidate = b->entries[__builtin_ctz(matches) >> 1];
    __builtin_prefetch(&r->flows[p->candidate], 1, 3);
  }
}

/// What a new flow's packets are translated to: `key`, where there is nothing to translate.
static __attribute__((noinline)) struct key translate(const struct reference *r, const struct key *key) {
  for (uint32_t x = 0; x < r->translation_count; x++) {
    const struct translation *t = &r->translations[x];
    if (t->address != (uint32_t)key->addresses || t->port != (uint16_t)(key->transport >> 32)) continue;
    return (struct key){(key->addresses & ~0xFFFFFFFFull) | t->target,
                        (key->transport & 0xFFFF0000FFFFFFFFull) | (uint64_t)t->target_port << 32};
  }
  return *key;
}

/// The flow, made where there is none, and with it the way: the one that its last packet took, as long as no route has
/// changed since. 0 to drop the packet.
INLINE int track(struct reference *r, struct packet *p, uint64_t now, const int is_fabric) {
  uint32_t index = p->candidate;
  if (UNLIKELY(index == none || !same_key(&r->flows[index].key, &p->key))) index = find(r, &p->key, p->hash);
  uint32_t generation = __atomic_load_n(&r->generation, __ATOMIC_ACQUIRE);
  if (LIKELY(index != none && r->flows[index].path && r->flows[index].generation == generation)) {
    p->path = r->paths[r->flows[index].path];
    p->nexthop = LIKELY(p->path.nexthop < r->nexthop_count)
        ? __atomic_load_n(&r->nexthops[p->path.nexthop], __ATOMIC_ACQUIRE) : NULL;
    if (UNLIKELY(!p->nexthop)) return 0;
    if (UNLIKELY(is_fabric ? p->nexthop->kind != reference_encap : p->nexthop->kind == reference_vrf)) return 0;
  } else {
    p->path_number = 0;
    struct key target = r->translation_count ? translate(r, &p->key) : p->key;
    if (UNLIKELY(!route(r, p, (uint32_t)target.addresses, is_fabric))) return 0;
    if (index == none) index = insert(r, &p->key, p->hash, &target, now);
    p->flow = NULL;
    if (index == none) return 1;
    r->flows[index].path = p->path_number;
    r->flows[index].generation = generation;
  }
  struct flow *flow = &r->flows[index];
  p->flow = flow;
  flow->packets++;
  flow->bytes += p->ip_length;
  flow->last_seen = now;
  flow->nexthop = p->path.nexthop;
  return 1;
}

/// One piece: virtio-net header, headers and packet.
INLINE void emit(struct reference *r, uint8_t *start, size_t bytes, uint32_t interface) {
  uint32_t index = r->frame_count++;
  struct tx_frame *frame = &r->frames[index];
  frame->pieces[0] = (struct iovec){start, bytes};
  frame->piece_count = 1;
  frame->packets = 1;
  frame->length = (uint32_t)(bytes - virtio_bytes);
  frame->next = none;
  uint32_t last = r->tails[interface];
  r->frames[last].next = index;
  r->tails[interface] = index;
  if (UNLIKELY(last >= frame_capacity)) r->touched[r->touched_count++] = interface;
}

INLINE uint16_t changed(uint16_t checksum, uint32_t change) {
  uint32_t s = (uint16_t)~checksum + change;
  return (uint16_t)~((s + (s << 16 | s >> 16)) >> 16);
}

/// Other addresses and ports for a packet of TCP or UDP, checksums updated (RFC 1624).
INLINE void rewrite(const struct flow *f, uint8_t *ip) {
  set16(ip + 10, changed(get16(ip + 10), (uint16_t)f->sums));
  uint64_t addresses = __builtin_bswap64(f->new_addresses);
  memcpy(ip + 12, &addresses, 8);
  uint8_t *t = ip + ip_bytes, *place = t + (ip[9] == 6 ? 16 : 6);
  uint16_t old = get16(place);
  if (ip[9] == 6) {
    set16(place, changed(old, (uint32_t)(f->sums >> 16)));
  } else if (old) {
    uint16_t new = changed(old, (uint32_t)(f->sums >> 16));
    set16(place, new ? new : 0xFFFF);
  }
  set32(t, (uint32_t)f->new_ports);
}

/// The frame that leaves; 0 to drop the packet.
INLINE int transmit(struct reference *r, const struct packet *p, const int is_fabric) {
  const struct reference_nexthop *nexthop = p->nexthop;
  uint8_t *ip = p->ip;
  if (UNLIKELY(p->ip_length > nexthop->mtu)) return 0;
  if (p->link != link_other) {
    if (ip[8] <= 1) return 0;
    if (p->flow && p->flow->flags & flow_translated) rewrite(p->flow, ip);
    ip[8]--;
    uint16_t checksum;
    memcpy(&checksum, ip + 10, 2);
    uint32_t sum = (uint32_t)checksum + __builtin_bswap16(0x0100);
    checksum = (uint16_t)(sum + (sum >= 0xFFFF));
    memcpy(ip + 10, &checksum, 2);
  }
  // Headers go in front of the packet, over its own and into the room before the frame.
  if (is_fabric || nexthop->kind == reference_encap) {
    if (UNLIKELY(p->link == link_other)) {
      memmove(ip - ethernet_bytes, p->ethernet, ethernet_bytes);
      memset(ip - ethernet_bytes - virtio_bytes, 0, virtio_bytes);
    } else {
      memcpy(ip - 32, nexthop->front + 32, 32);
    }
    emit(r, ip - ethernet_bytes - virtio_bytes, (size_t)(virtio_bytes + ethernet_bytes + p->ip_length), nexthop->interface);
    return 1;
  }
  int shim_bytes = mpls_bytes;
  uint8_t ethernet[ethernet_bytes];
  if (UNLIKELY(p->link == link_other)) memcpy(ethernet, p->ethernet, ethernet_bytes);
  if (nexthop->kind == reference_vxlan) {
    memset(ip - 80, 0, 16);
    memcpy(ip - 64, nexthop->front, 64);
    set32(ip - ethernet_bytes - 4, p->path.label << 8);
    shim_bytes = vxlan_bytes + ethernet_bytes;
    if (UNLIKELY(p->link == link_other)) memcpy(ip - ethernet_bytes, ethernet, ethernet_bytes);
  } else {
    memcpy(ip - 64, nexthop->front, 64);
    set32(ip - mpls_bytes, p->path.label << 12 | 0x100 | 64);
  }
  uint8_t *udp = ip - shim_bytes - udp_bytes, *outer = udp - ip_bytes;
  uint16_t length = (uint16_t)(udp_bytes + shim_bytes + p->ip_length), total = (uint16_t)(ip_bytes + length);
  outer[1] = p->traffic_class;
  set16(outer + 2, total);
  // The checksum is a complement: what is added to the sum is taken from it.
  uint32_t added = (uint32_t)total + p->traffic_class, checksum = nexthop->outer_checksum - added;
  set16(outer + 10, (uint16_t)(checksum - (nexthop->outer_checksum < added)));
  set16(udp, (uint16_t)(0xC000 | p->hash >> 32));
  set16(udp + 4, length);
  int head = virtio_bytes + outer_bytes + shim_bytes;
  emit(r, ip - head, (size_t)(head + p->ip_length), nexthop->interface);
  return 1;
}

INLINE void process(
    struct reference *r, const struct reference_frame *f, int n, uint32_t in, uint64_t now, const int is_fabric) {
  const struct interface *i = &r->interfaces[in];
  uint64_t bytes = 0, drops = 0;
  int kept = 0;
  for (int x = 0; x < n; x++) {
    struct packet *p = &r->packets[kept];
    bytes += (uint64_t)f[x].length;
    p->has_path = 0;
    if (is_fabric) {
      if (UNLIKELY(!open_tunnel(r, &f[x], i, p))) { drops++; continue; }
    } else {
      uint8_t *e = f[x].bytes;
      if (UNLIKELY(f[x].length < ethernet_bytes || (f[x].flags & 1) || f[x].gso || get16(e + 12) != 0x0800)) {
        drops++;
        continue;
      }
      p->ethernet = e;
      p->ip = e + ethernet_bytes;
      p->available = (uint16_t)(f[x].length - ethernet_bytes);
      p->vrf = i->vrf;
      p->link = link_of(e);
    }
    if (UNLIKELY(!parse(r, p, is_fabric))) { drops++; continue; }
    __builtin_prefetch(bucket_of(r, p->hash), 0, 3);
    kept++;
  }
  for (int x = 0; x < kept; x++) prefetch_flow(r, &r->packets[x]);
  for (int x = 0; x < kept; x++) {
    struct packet *p = &r->packets[x];
    if (UNLIKELY(!track(r, p, now, is_fabric) || !transmit(r, p, is_fabric))) drops++;
  }
  struct counters *c = &r->counters[in];
  c->rx_packets += (uint64_t)n;
  c->rx_bytes += bytes;
  c->drops += drops;
  r->drops += drops;
}

void reference_process(void *reference, const struct reference_frame *frames, int count, uint32_t in, uint64_t now) {
  struct reference *r = reference;
  if (in >= r->interface_count || count > batch_size) return;
  if (r->interfaces[in].is_fabric) {
    process(r, frames, count, in, now, 1);
  } else {
    process(r, frames, count, in, now, 0);
  }
}

/// An interface has no frames.
INLINE void clear(struct reference *r, uint32_t interface) {
  r->tails[interface] = frame_capacity + interface;
  r->frames[frame_capacity + interface].next = none;
}

void reference_reset(void *reference) {
  struct reference *r = reference;
  for (uint32_t x = 0; x < r->touched_count; x++) clear(r, r->touched[x]);
  r->touched_count = r->frame_count = 0;
}

// MARK: programming

static void *pages(size_t bytes) {
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return NULL;
  madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

enum { vni_count = 1 << 24, label_count = 1 << 20 };
static size_t bucket_bytes(const struct reference *r) { return (r->bucket_mask + 1) * sizeof(struct bucket); }

void *reference_create(
    uint32_t flow_entries, uint64_t seed, uint32_t interfaces, uint32_t vrfs, uint32_t nexthops, uint32_t paths,
    uint32_t nodes) {
  struct reference *r = aligned_alloc(64, (sizeof *r + 63) & ~(size_t)63);
  if (!r) return NULL;
  memset(r, 0, sizeof *r);
  r->seed = seed;
  r->flow_capacity = flow_entries;
  uint64_t buckets = 4;
  while (buckets * 4 < flow_entries) buckets *= 2;
  r->bucket_mask = buckets - 1;
  r->interface_count = interfaces;
  r->vrf_count = vrfs;
  r->nexthop_count = nexthops;
  r->path_count = paths;
  r->node_count = nodes;
  r->interfaces = calloc(interfaces, sizeof *r->interfaces);
  r->counters = calloc(interfaces, sizeof *r->counters);
  r->nexthops = calloc(nexthops, sizeof *r->nexthops);
  r->paths = calloc(paths + 1, sizeof *r->paths);
  r->roots = calloc(vrfs, sizeof *r->roots);
  r->frames = aligned_alloc(64, (frame_capacity + interfaces) * sizeof *r->frames);
  r->tails = malloc(interfaces * sizeof *r->tails);
  r->touched = malloc(interfaces * sizeof *r->touched);
  r->vnis = pages((size_t)vni_count * 4);
  r->labels = pages((size_t)label_count * 4);
  r->nodes = pages((size_t)(nodes + 1) * 2048);
  r->buckets = pages(bucket_bytes(r));
  r->flows = pages((size_t)flow_entries * sizeof(struct flow));
  if (!r->interfaces || !r->counters || !r->nexthops || !r->paths || !r->roots || !r->frames || !r->tails
      || !r->touched || !r->vnis || !r->labels || !r->nodes || !r->buckets || !r->flows) {
    reference_destroy(r);
    return NULL;
  }
  for (uint32_t x = 0; x < interfaces; x++) clear(r, x);
  return r;
}

void reference_destroy(void *reference) {
  struct reference *r = reference;
  for (uint32_t x = 0; r->nexthops && x < r->nexthop_count; x++) free(r->nexthops[x]);
  if (r->vnis) munmap(r->vnis, (size_t)vni_count * 4);
  if (r->labels) munmap(r->labels, (size_t)label_count * 4);
  if (r->nodes) munmap(r->nodes, (size_t)(r->node_count + 1) * 2048);
  if (r->buckets) munmap(r->buckets, bucket_bytes(r));
  if (r->flows) munmap(r->flows, (size_t)r->flow_capacity * sizeof(struct flow));
  free(r->interfaces);
  free(r->translations);
  free(r->counters);
  free(r->nexthops);
  free(r->paths);
  free(r->roots);
  free(r->frames);
  free(r->tails);
  free(r->touched);
  free(r);
}

void reference_set_interface(
    void *reference, uint32_t id, int is_fabric, uint16_t mtu, uint32_t vrf, uint64_t mac, uint32_t address) {
  struct reference *r = reference;
  if (id < r->interface_count) r->interfaces[id] = (struct interface){is_fabric, mtu, vrf, mac, address};
}

static void write_ethernet(uint8_t *at, uint64_t destination) {
  set_mac(at, destination);
  set_mac(at + 6, router_mac);
  set16(at + 12, 0x0800);
}

void reference_set_nexthop(void *reference, uint32_t id, const struct reference_nexthop *nexthop) {
  struct reference *r = reference;
  if (id >= r->nexthop_count) return;
  if (!r->nexthops[id]) r->nexthops[id] = malloc(sizeof *nexthop);
  if (!r->nexthops[id]) return;
  *r->nexthops[id] = *nexthop;
  // The 64 bytes before each routed packet, as far as they are the same.
  uint8_t *end = r->nexthops[id]->front + 64;
  memset(end - 64, 0, 64);
  if (nexthop->kind == reference_vxlan) {
    memcpy(end - 64, nexthop->outer, outer_bytes);
    set32(end - ethernet_bytes - vxlan_bytes, 0x08000000);
    write_ethernet(end - ethernet_bytes, nexthop->destination_mac);
  } else if (nexthop->kind == reference_mpls) {
    memcpy(end - mpls_bytes - outer_bytes, nexthop->outer, outer_bytes);
  } else if (nexthop->kind == reference_encap) {
    write_ethernet(end - ethernet_bytes, nexthop->destination_mac);
  }
}

void reference_fill_tunnel(
    struct reference_nexthop *nexthop, uint64_t source_mac, uint64_t destination_mac, uint32_t source,
    uint32_t destination) {
  uint8_t *at = nexthop->outer, *ip = at + ethernet_bytes;
  memset(at, 0, sizeof nexthop->outer);
  set_mac(at, destination_mac);
  set_mac(at + 6, source_mac);
  set16(at + 12, 0x0800);
  ip[0] = 0x45;
  set16(ip + 6, 0x4000);
  ip[8] = 64;
  ip[9] = 17;
  set32(ip + 12, source);
  set32(ip + 16, destination);
  set16(ip + ip_bytes + 2, nexthop->kind == reference_vxlan ? 4789 : 6635);
  nexthop->outer_checksum = finish(sum_words(ip, ip_bytes, 0));
}

void reference_set_route(
    void *reference, uint32_t vrf, uint32_t address, int length, uint32_t nexthop, uint32_t label) {
  struct reference *r = reference;
  if (vrf >= r->vrf_count || r->nodes_used + 5 > r->node_count || length < 1 || length > 32) return;
  uint32_t path = 1;
  while (path <= r->paths_used && (r->paths[path].nexthop != nexthop || r->paths[path].label != label)) path++;
  if (path > r->path_count) return;
  if (path > r->paths_used) r->paths[r->paths_used = path] = (struct path){nexthop, label};
  if (!r->roots[vrf]) r->roots[vrf] = ++r->nodes_used;
  uint32_t node = r->roots[vrf];
  int level = 0;
  for (; level < (length - 1) / 8; level++) {
    uint64_t *entry = &r->nodes[(uint64_t)node * 256 + (address >> (24 - 8 * level) & 255)];
    if (!(*entry >> 32)) *entry |= (uint64_t)++r->nodes_used << 32;
    node = (uint32_t)(*entry >> 32);
  }
  // Shorter prefixes first: a longer one then overwrites.
  uint32_t first = address >> (24 - 8 * level) & 255, within = (uint32_t)(length - 8 * level);
  for (uint32_t slot = first; slot < first + (1u << (8 - within)); slot++) {
    uint64_t *entry = &r->nodes[(uint64_t)node * 256 + slot];
    *entry = (*entry & 0xFFFFFFFF00000000ull) | path;
  }
}

void reference_set_translation(
    void *reference, uint32_t address, uint16_t port, uint32_t target, uint16_t target_port) {
  struct reference *r = reference;
  struct translation *all = realloc(r->translations, (r->translation_count + 1) * sizeof *all);
  if (!all) return;
  r->translations = all;
  all[r->translation_count++] = (struct translation){address, target, port, target_port};
}

void reference_set_vni(void *reference, uint32_t vni, uint32_t nexthop) {
  if (vni < vni_count) ((struct reference *)reference)->vnis[vni] = nexthop + 1;
}
void reference_set_label(void *reference, uint32_t label, uint32_t nexthop) {
  if (label < label_count) ((struct reference *)reference)->labels[label] = nexthop + 1;
}

// MARK: looking at what came out

int reference_sent(const void *reference, uint32_t interface) {
  const struct reference *r = reference;
  int count = 0;
  for (uint32_t x = r->frames[frame_capacity + interface].next; x != none; x = r->frames[x].next) count++;
  return count;
}

int reference_copy(const void *reference, uint32_t interface, int index, uint8_t *destination, int room) {
  const struct reference *r = reference;
  uint32_t x = r->frames[frame_capacity + interface].next;
  while (index-- > 0 && x != none) x = r->frames[x].next;
  if (x == none || (int)r->frames[x].length > room) return -1;
  memcpy(destination, (uint8_t *)r->frames[x].pieces[0].iov_base + virtio_bytes, r->frames[x].length);
  return (int)r->frames[x].length;
}

uint64_t reference_drops(const void *reference) { return ((const struct reference *)reference)->drops; }
uint32_t reference_flows(const void *reference) { return ((const struct reference *)reference)->flows_used; }
