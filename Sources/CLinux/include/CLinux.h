// Kernel and libc headers that Swift's Glibc module leaves out, macros that Swift cannot import as constants, and
// static inline atomics, CRC and prefetch. No logic lives here.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
// With _GNU_SOURCE fd_set's member has another name than in Swift's own Glibc module, and a file that sees both (as any
// does that imports Foundation too) is refused. So fd_set comes first, without.
#include <features.h>
#ifdef __USE_XOPEN
#undef __USE_XOPEN
#include <sys/select.h>
#define __USE_XOPEN 1
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/if_xdp.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/net_namespace.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define WEFT_INLINE static inline __attribute__((always_inline))

// MARK: constants newer than Debian 12's headers (6.1), and macros Swift does not import

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#endif
#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif
#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif
#ifndef BPF_TCX_INGRESS
#define BPF_TCX_INGRESS 46
#endif

static const unsigned long weft_TUNSETIFF = TUNSETIFF;
static const unsigned long weft_TUNGETIFF = TUNGETIFF;
static const unsigned long weft_TUNSETSTEERINGEBPF = TUNSETSTEERINGEBPF;
static const unsigned long weft_TUNSETOFFLOAD = TUNSETOFFLOAD;
static const unsigned long weft_TUNSETVNETHDRSZ = TUNSETVNETHDRSZ;
static const unsigned long weft_TUNSETPERSIST = TUNSETPERSIST;
static const unsigned int weft_TUN_F_USO4 = 0x20;  // kernel 6.2
static const unsigned int weft_TUN_F_USO6 = 0x40;  // kernel 6.2
static const int weft_PACKET_IGNORE_OUTGOING = PACKET_IGNORE_OUTGOING;
static const int weft_NETNS_MAGIC = 0x6e736673;  // NSFS_MAGIC

// MARK: atomics on shared memory (the layout belongs to whoever casts)

WEFT_INLINE uint64_t weft_load_acquire_u64(const void *_Nonnull p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE); }
WEFT_INLINE uint64_t weft_load_relaxed_u64(const void *_Nonnull p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED); }
WEFT_INLINE uint32_t weft_load_acquire_u32(const void *_Nonnull p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE); }
WEFT_INLINE uint32_t weft_load_relaxed_u32(const void *_Nonnull p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED); }
WEFT_INLINE uint16_t weft_load_acquire_u16(const void *_Nonnull p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }
WEFT_INLINE uint16_t weft_load_relaxed_u16(const void *_Nonnull p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED); }
WEFT_INLINE void weft_store_release_u16(void *_Nonnull p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE); }
WEFT_INLINE void weft_store_relaxed_u16(void *_Nonnull p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED); }
WEFT_INLINE void weft_store_release_u64(void *_Nonnull p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
WEFT_INLINE void weft_store_relaxed_u64(void *_Nonnull p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); }
WEFT_INLINE void weft_store_release_u32(void *_Nonnull p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
WEFT_INLINE void weft_store_relaxed_u32(void *_Nonnull p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED); }
WEFT_INLINE void *_Nullable weft_load_acquire_ptr(const void *_Nonnull p) { return __atomic_load_n((void *const *)p, __ATOMIC_ACQUIRE); }
WEFT_INLINE void weft_store_release_ptr(void *_Nonnull p, void *_Nullable v) { __atomic_store_n((void **)p, v, __ATOMIC_RELEASE); }
/// Sequentially consistent exchange: a full fence, for "announce that I sleep, then look once more".
WEFT_INLINE uint32_t weft_exchange_u32(void *_Nonnull p, uint32_t v) { return __atomic_exchange_n((uint32_t *)p, v, __ATOMIC_SEQ_CST); }
/// Takes a place that several want: true where it held `expected` and now holds `v`.
WEFT_INLINE bool weft_replace_u64(void *_Nonnull p, uint64_t expected, uint64_t v) {
  return __atomic_compare_exchange_n((uint64_t *)p, &expected, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
/// Adds for several writers; answers what was there.
WEFT_INLINE uint64_t weft_fetch_add_u64(void *_Nonnull p, uint64_t n) { return __atomic_fetch_add((uint64_t *)p, n, __ATOMIC_ACQ_REL); }
/// Sets bits for several writers.
WEFT_INLINE void weft_set_bits_u64(void *_Nonnull p, uint64_t bits) { __atomic_fetch_or((uint64_t *)p, bits, __ATOMIC_SEQ_CST); }
/// Takes what is there and leaves 0: a full fence.
WEFT_INLINE uint64_t weft_take_u64(void *_Nonnull p) { return __atomic_exchange_n((uint64_t *)p, 0, __ATOMIC_SEQ_CST); }
WEFT_INLINE void weft_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
WEFT_INLINE void weft_acquire_fence(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
/// A counter with one writer: readers see whole values, the writer pays a plain add.
WEFT_INLINE void weft_count(void *_Nonnull p, uint64_t n) {
  __atomic_store_n((uint64_t *)p, __atomic_load_n((uint64_t *)p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

// MARK: intrinsics

WEFT_INLINE void weft_prefetch(const void *_Nonnull p) { __builtin_prefetch(p, 0, 3); }
WEFT_INLINE void weft_prefetch_write(const void *_Nonnull p) { __builtin_prefetch(p, 1, 3); }
WEFT_INLINE void weft_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

/// CRC-32C of eight bytes: one instruction where the CPU has it, else a multiply-mix that spreads as well.
WEFT_INLINE uint32_t weft_hash_u64(uint32_t seed, uint64_t v) {
#if defined(__SSE4_2__)
  return (uint32_t)__builtin_ia32_crc32di(seed, v);
#else
  uint64_t x = (v ^ ((uint64_t)seed << 32 | seed)) * 0x9E3779B97F4A7C15ull;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9ull;
  return (uint32_t)(x ^ x >> 32);
#endif
}

/// CRC-32C (RFC 9260 appendix A) of `n` bytes, in the byte order in which SCTP stores it.
WEFT_INLINE uint32_t weft_crc32c(const void *_Nonnull data, size_t n) {
  const uint8_t *p = (const uint8_t *)data;
  uint32_t c = ~0u;
#if defined(__SSE4_2__)
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t v;
    __builtin_memcpy(&v, p, 8);
    c = (uint32_t)__builtin_ia32_crc32di(c, v);
  }
#endif
  for (; n > 0; n--, p++) {
    c ^= *p;
    for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (0x82F63B78u & (0u - (c & 1)));
  }
  return ~c;
}

typedef uint32_t weft_u32x8 __attribute__((vector_size(32)));
typedef uint64_t weft_u64x8 __attribute__((vector_size(64)));
typedef uint16_t weft_u16x8 __attribute__((vector_size(16)));
typedef char weft_i8x16 __attribute__((vector_size(16)));

/// One's complement sum (RFC 1071) of `n` bytes as they stand in memory, added to `sum`; not folded to 16 bits.
/// The sum is in the machine's byte order over the bytes as stored, which RFC 1071 section 2(B) allows.
WEFT_INLINE uint64_t weft_sum(const void *_Nonnull data, size_t n, uint64_t sum) {
  const uint8_t *p = (const uint8_t *)data;
  if (n >= 128) {
    // Two lanes sets of 64-bit sums; each holds at most 2^32 * (65536 / 64): no overflow for any packet.
    weft_u64x8 a = {0}, b = {0};
    while (n >= 64) {
      weft_u32x8 x, y;
      __builtin_memcpy(&x, p, 32);
      __builtin_memcpy(&y, p + 32, 32);
      a += __builtin_convertvector(x, weft_u64x8);
      b += __builtin_convertvector(y, weft_u64x8);
      p += 64;
      n -= 64;
    }
    a += b;
    sum += a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];
  }
  while (n >= 4) {
    uint32_t w;
    memcpy(&w, p, 4);
    sum += w;
    p += 4;
    n -= 4;
  }
  if (n & 2) {
    uint16_t w;
    memcpy(&w, p, 2);
    sum += w;
    p += 2;
  }
  if (n & 1) {
    uint16_t w = 0;
    memcpy(&w, p, 1);
    sum += w;
  }
  return sum;
}

/// Not 0 where any of 256 bits is set.
typedef uint64_t weft_u64x4 __attribute__((ext_vector_type(4)));
WEFT_INLINE int weft_any(weft_u64x4 v) {
#if defined(__AVX__)
  return !__builtin_ia32_ptestz256((__attribute__((vector_size(32))) long long)v, (__attribute__((vector_size(32))) long long)v);
#else
  return (v[0] | v[1] | v[2] | v[3]) != 0;
#endif
}

/// Which of eight 16-bit tags equal `tag`: bit 2i and 2i+1 set where tag i matches.
WEFT_INLINE uint32_t weft_match_tags(const void *_Nonnull tags, uint16_t tag) {
#if defined(__SSE2__)
  weft_u16x8 t, m = {tag, tag, tag, tag, tag, tag, tag, tag};
  __builtin_memcpy(&t, tags, 16);
  return (uint32_t)__builtin_ia32_pmovmskb128((weft_i8x16)(t == m));
#else
  const uint16_t *t = (const uint16_t *)tags;
  uint32_t m = 0;
  for (int i = 0; i < 8; i++) m |= (t[i] == tag ? 3u : 0u) << (2 * i);
  return m;
#endif
}

WEFT_INLINE uint64_t weft_monotonic_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

// Which Swift's Glibc module does not show (glibc 2.30).
WEFT_INLINE int weft_sem_wait_until(sem_t *_Nonnull semaphore, uint64_t monotonic_ns) {
  struct timespec end = {(time_t)(monotonic_ns / 1000000000ull), (long)(monotonic_ns % 1000000000ull)};
  return sem_clockwait(semaphore, CLOCK_MONOTONIC, &end);
}

// MARK: macros and variadic calls

WEFT_INLINE long weft_bpf(int command, void *_Nonnull attributes, unsigned int size) { return syscall(SYS_bpf, command, attributes, size); }
WEFT_INLINE int weft_ioctl_ptr(int fd, unsigned long request, void *_Nullable argument) { return ioctl(fd, request, argument); }
WEFT_INLINE int weft_pin_thread(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  return pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}
/// The calling thread is to have its turn within so many nanoseconds of another's time (kernel 6.12; earlier ones take it
/// and do as ever).
WEFT_INLINE int weft_set_slice(uint64_t nanoseconds) {
  struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; }
      attributes = {48, 0, 0, 0, 0, nanoseconds, 0, 0};
  return (int)syscall(SYS_sched_setattr, 0, &attributes, 0);
}
WEFT_INLINE int weft_core_allowed(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof set, &set) != 0) return 0;
  return CPU_ISSET(core, &set) ? 1 : 0;
}
WEFT_INLINE void weft_name_thread(const char *_Nonnull name) { pthread_setname_np(pthread_self(), name); }
WEFT_INLINE int weft_gettid(void) { return (int)syscall(SYS_gettid); }

/// Sends one byte and up to 8 descriptors over a Unix socket (SCM_RIGHTS). 0, or -1 with errno.
WEFT_INLINE int weft_send_fds(int socket, const void *_Nonnull data, size_t size, const int *_Nonnull fds, int count) {
  char control[CMSG_SPACE(sizeof(int) * 8)];
  memset(control, 0, sizeof control);
  struct iovec io = {.iov_base = (void *)data, .iov_len = size};
  struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
  if (count > 0) {
    m.msg_control = control;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)count);
  }
  return sendmsg(socket, &m, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/// Receives data and up to 8 descriptors (close-on-exec). Bytes received, 0 at end, or -1 with errno.
WEFT_INLINE long weft_receive_fds(int socket, void *_Nonnull data, size_t size, int *_Nonnull fds, int *_Nonnull count) {
  char control[CMSG_SPACE(sizeof(int) * 8)];
  struct iovec io = {.iov_base = data, .iov_len = size};
  struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  *count = 0;
  long n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
  if (n < 0) return n;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int k = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    if (k > 8) k = 8;
    memcpy(fds, CMSG_DATA(c), sizeof(int) * (size_t)k);
    *count = k;
  }
  return n;
}

/// Loads an eBPF program for XDP; `takesFragments`: it may be given packets in several buffers. The verifier's words, or
/// as many of them as there is room for, go into `log`. Its descriptor, or -1 with errno.
WEFT_INLINE int weft_load_xdp(
    const struct bpf_insn *_Nonnull code, int count, bool takesFragments, char *_Nullable log, unsigned int logBytes) {
  static const char license[] = "Apache-2.0";
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_XDP;
  attributes.expected_attach_type = BPF_XDP;
  attributes.insn_cnt = (uint32_t)count;
  attributes.insns = (uint64_t)(uintptr_t)code;
  attributes.license = (uint64_t)(uintptr_t)license;
  attributes.prog_flags = takesFragments ? BPF_F_XDP_HAS_FRAGS : 0;
  memcpy(attributes.prog_name, "weft", 5);
  if (log) {
    attributes.log_buf = (uint64_t)(uintptr_t)log;
    attributes.log_size = logBytes;
    attributes.log_level = 1;
  }
  return (int)weft_bpf(BPF_PROG_LOAD, &attributes, sizeof attributes);
}

/// Attaches an XDP program to an interface for as long as the descriptor that this returns is open (kernel 5.9). `flags`:
/// XDP_FLAGS_DRV_MODE or XDP_FLAGS_SKB_MODE. -1 with errno.
WEFT_INLINE int weft_attach_xdp(int program, unsigned int interface, unsigned int flags) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.link_create.prog_fd = (uint32_t)program;
  attributes.link_create.target_ifindex = interface;
  attributes.link_create.attach_type = BPF_XDP;
  attributes.link_create.flags = flags;
  return (int)weft_bpf(BPF_LINK_CREATE, &attributes, sizeof attributes);
}

/// Puts another program in the place of a link's, without a packet between them. 0, or -1 with errno.
WEFT_INLINE int weft_replace_program(int link, int program) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.link_update.link_fd = (uint32_t)link;
  attributes.link_update.new_prog_fd = (uint32_t)program;
  return (int)weft_bpf(BPF_LINK_UPDATE, &attributes, sizeof attributes);
}

/// A map of AF_XDP sockets by number of queue. Its descriptor, or -1 with errno.
WEFT_INLINE int weft_make_xskmap(unsigned int entries) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.map_type = BPF_MAP_TYPE_XSKMAP;
  attributes.key_size = 4;
  attributes.value_size = 4;
  attributes.max_entries = entries;
  memcpy(attributes.map_name, "weft_queues", 12);
  return (int)weft_bpf(BPF_MAP_CREATE, &attributes, sizeof attributes);
}

/// Puts a descriptor into a map. 0, or -1 with errno.
WEFT_INLINE int weft_map_set(int map, uint32_t key, int value) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.map_fd = (uint32_t)map;
  attributes.key = (uint64_t)(uintptr_t)&key;
  attributes.value = (uint64_t)(uintptr_t)&value;
  return (int)weft_bpf(BPF_MAP_UPDATE_ELEM, &attributes, sizeof attributes);
}

/// Runs a program once on a frame (BPF_PROG_TEST_RUN); what it returned, or -1 with errno.
WEFT_INLINE int weft_run_program(int program, const void *_Nonnull frame, unsigned int bytes) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.test.prog_fd = (uint32_t)program;
  attributes.test.data_in = (uint64_t)(uintptr_t)frame;
  attributes.test.data_size_in = bytes;
  attributes.test.repeat = 1;
  if (weft_bpf(BPF_PROG_TEST_RUN, &attributes, sizeof attributes) != 0) return -1;
  return (int)attributes.test.retval;
}

/// A classic BPF program (linux/filter.h) for a socket. 0, or -1 with errno.
WEFT_INLINE int weft_attach_filter(int socket, const struct sock_filter *_Nonnull code, int count) {
  struct sock_fprog program = {.len = (unsigned short)count, .filter = (struct sock_filter *)code};
  return setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

/// Loads an eBPF program for sockets; `log` as with weft_load_xdp. Its descriptor, or -1 with errno.
WEFT_INLINE int weft_load_socket_program(
    const struct bpf_insn *_Nonnull code, int count, char *_Nullable log, unsigned int logBytes) {
  static const char license[] = "Apache-2.0";
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  attributes.insn_cnt = (uint32_t)count;
  attributes.insns = (uint64_t)(uintptr_t)code;
  attributes.license = (uint64_t)(uintptr_t)license;
  memcpy(attributes.prog_name, "weft", 5);
  if (log) {
    attributes.log_buf = (uint64_t)(uintptr_t)log;
    attributes.log_size = logBytes;
    attributes.log_level = 1;
  }
  return (int)weft_bpf(BPF_PROG_LOAD, &attributes, sizeof attributes);
}

/// Loads an eBPF program for traffic control. Its descriptor, or -1 with errno.
WEFT_INLINE int weft_load_classifier(const struct bpf_insn *_Nonnull code, int count) {
  static const char license[] = "Apache-2.0";
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_SCHED_CLS;
  attributes.insn_cnt = (uint32_t)count;
  attributes.insns = (uint64_t)(uintptr_t)code;
  attributes.license = (uint64_t)(uintptr_t)license;
  return (int)weft_bpf(BPF_PROG_LOAD, &attributes, sizeof attributes);
}

/// Attaches such a program to what comes in by an interface (TCX, kernel 6.6) for as long as the descriptor that this
/// returns is open; -1 with errno.
WEFT_INLINE int weft_attach_ingress(int program, unsigned int interface) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.link_create.prog_fd = (uint32_t)program;
  attributes.link_create.target_ifindex = interface;
  attributes.link_create.attach_type = BPF_TCX_INGRESS;
  return (int)weft_bpf(BPF_LINK_CREATE, &attributes, sizeof attributes);
}

WEFT_INLINE int weft_mkdir(const char *_Nonnull path, unsigned int mode) { return mkdir(path, mode); }

/// Reads an eventfd that somebody else made, and never waits for it, whatever its flags are by now (RWF_NOWAIT, kernel 5.8).
WEFT_INLINE void weft_drain_foreign_event(int fd) {
  uint64_t value;
  struct iovec io = {.iov_base = &value, .iov_len = sizeof value};
  (void)!preadv2(fd, &io, 1, -1, RWF_NOWAIT);
}
WEFT_INLINE int weft_set_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}
/// A Unix stream socket, close-on-exec and non-blocking, bound to a path or connected to it. -1 with errno.
WEFT_INLINE int weft_unix_stream(const char *_Nonnull path, bool binds) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  int status = binds ? bind(fd, (struct sockaddr *)&address, sizeof address)
                     : connect(fd, (struct sockaddr *)&address, sizeof address);
  if (status == 0) return fd;
  int code = errno;
  close(fd);
  errno = code;
  return -1;
}

// MARK: memfd

/// Nobody can shrink the memory any more: it was sealed so before, or could be now.
WEFT_INLINE bool weft_cannot_shrink(int fd) {
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && ((seals & F_SEAL_SHRINK) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
}

/// Fixes a memfd's size for good: nobody can shrink it under who has it mapped. 0, or -1 with errno.
WEFT_INLINE int weft_seal(int fd) { return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); }

/// Accepts a connection, close-on-exec and non-blocking; -1 with errno.
WEFT_INLINE int weft_accept(int listener) { return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

/// 1 where an interface is up and has a carrier (IFF_RUNNING). Unlike rtnetlink it waits for nobody who changes interfaces.
static inline int weft_link_running(const char *_Nonnull name) {
  struct ifreq request = {0};
  int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return 0;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  int known = ioctl(descriptor, SIOCGIFFLAGS, &request) == 0;
  close(descriptor);
  return known && (request.ifr_flags & IFF_RUNNING) != 0;
}
