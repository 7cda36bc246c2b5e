#define _GNU_SOURCE 1
#include "xsk.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct traffic_error fail(const char *what) { return (struct traffic_error){what, errno}; }
static const struct traffic_error fine = {0, 0};

static int bpf(int command, union bpf_attr *attributes) {
  return (int)syscall(__NR_bpf, command, attributes, sizeof *attributes);
}

// return bpf_redirect_map(&map, ctx->rx_queue_index, XDP_PASS);
static struct traffic_error attach(struct xsk *xsk, unsigned interface) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.map_type = BPF_MAP_TYPE_XSKMAP;
  attributes.key_size = attributes.value_size = 4;
  attributes.max_entries = 1;
  xsk->map = bpf(BPF_MAP_CREATE, &attributes);
  if (xsk->map < 0) return fail("create an XSKMAP");
  struct bpf_insn program[] = {
      {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = 16},
      {.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = xsk->map},
      {0},
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_PASS},
      {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
      {.code = BPF_JMP | BPF_EXIT},
  };
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_XDP;
  attributes.insns = (uint64_t)(uintptr_t)program;
  attributes.insn_cnt = sizeof program / sizeof program[0];
  attributes.license = (uint64_t)(uintptr_t) "Dual MIT/GPL";
  xsk->program = bpf(BPF_PROG_LOAD, &attributes);
  if (xsk->program < 0) return fail("load an XDP program");
  uint32_t key = 0, value = (uint32_t)xsk->socket;
  memset(&attributes, 0, sizeof attributes);
  attributes.map_fd = (uint32_t)xsk->map;
  attributes.key = (uint64_t)(uintptr_t)&key;
  attributes.value = (uint64_t)(uintptr_t)&value;
  if (bpf(BPF_MAP_UPDATE_ELEM, &attributes) != 0) return fail("put the socket into the XSKMAP");
  for (int mode = 0; mode < 2; mode++) {
    memset(&attributes, 0, sizeof attributes);
    attributes.link_create.prog_fd = (uint32_t)xsk->program;
    attributes.link_create.target_ifindex = interface;
    attributes.link_create.attach_type = BPF_XDP;
    attributes.link_create.flags = mode == 0 ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
    xsk->link = bpf(BPF_LINK_CREATE, &attributes);
    if (xsk->link >= 0) return fine;
  }
  return fail("attach an XDP program");
}

static int map_ring(int socket, struct xsk_ring *ring, const struct xdp_ring_offset *at, uint64_t page, size_t entry) {
  uint8_t *base = mmap(
      NULL, at->desc + XSK_RING * entry, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, socket, (off_t)page);
  if (base == MAP_FAILED) return -1;
  ring->producer = (volatile uint32_t *)(base + at->producer);
  ring->consumer = (volatile uint32_t *)(base + at->consumer);
  ring->flags = (volatile uint32_t *)(base + at->flags);
  ring->entries = base + at->desc;
  return 0;
}

struct traffic_error xsk_open(struct xsk *xsk, const char *interface, int receives) {
  memset(xsk, 0, sizeof *xsk);
  xsk->program = xsk->map = xsk->link = -1;
  struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  xsk->socket = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (xsk->socket < 0) return fail("open an AF_XDP socket");
  unsigned index = if_nametoindex(interface);
  if (index == 0) return fail("find the interface");
  size_t bytes = (size_t)XSK_FRAME_BYTES * XSK_RING * 2;
  xsk->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (xsk->memory == MAP_FAILED) return fail("take memory for frames");
  struct xdp_umem_reg area = {.addr = (uint64_t)(uintptr_t)xsk->memory, .len = bytes, .chunk_size = XSK_FRAME_BYTES};
  if (setsockopt(xsk->socket, SOL_XDP, XDP_UMEM_REG, &area, sizeof area) != 0) return fail("register frame memory");
  uint32_t size = XSK_RING;
  static const int options[] = {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING};
  for (int i = 0; i < 4; i++)
    if (setsockopt(xsk->socket, SOL_XDP, options[i], &size, sizeof size) != 0) return fail("size an AF_XDP ring");
  struct xdp_mmap_offsets at;
  socklen_t length = sizeof at;
  if (getsockopt(xsk->socket, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length) != 0) return fail("ask for AF_XDP offsets");
  if (map_ring(xsk->socket, &xsk->fill, &at.fr, XDP_UMEM_PGOFF_FILL_RING, 8) != 0 ||
      map_ring(xsk->socket, &xsk->completion, &at.cr, XDP_UMEM_PGOFF_COMPLETION_RING, 8) != 0 ||
      map_ring(xsk->socket, &xsk->receive, &at.rx, XDP_PGOFF_RX_RING, sizeof(struct xdp_desc)) != 0 ||
      map_ring(xsk->socket, &xsk->transmit, &at.tx, XDP_PGOFF_TX_RING, sizeof(struct xdp_desc)) != 0)
    return fail("map an AF_XDP ring");
  for (uint32_t i = 0; i < XSK_RING; i++) {
    ((uint64_t *)xsk->fill.entries)[i] = (uint64_t)i * XSK_FRAME_BYTES;
    xsk->spare[i] = (uint64_t)(XSK_RING + i) * XSK_FRAME_BYTES;
  }
  xsk->spares = XSK_RING;
  __atomic_store_n(xsk->fill.producer, XSK_RING, __ATOMIC_RELEASE);
  struct sockaddr_xdp address = {
      .sxdp_family = AF_XDP, .sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP, .sxdp_ifindex = index};
  if (bind(xsk->socket, (struct sockaddr *)&address, sizeof address) != 0) return fail("bind an AF_XDP socket");
  return receives ? attach(xsk, index) : fine;
}

void xsk_reclaim(struct xsk *xsk) {
  uint32_t from = *xsk->completion.consumer;
  uint32_t to = __atomic_load_n(xsk->completion.producer, __ATOMIC_ACQUIRE);
  for (; from != to; from++) xsk->spare[xsk->spares++] = ((uint64_t *)xsk->completion.entries)[from & (XSK_RING - 1)];
  __atomic_store_n(xsk->completion.consumer, from, __ATOMIC_RELEASE);
}

void xsk_kick(struct xsk *xsk) { sendto(xsk->socket, NULL, 0, MSG_DONTWAIT, NULL, 0); }

void xsk_close(struct xsk *xsk) {
  if (xsk->link >= 0) close(xsk->link);
  if (xsk->socket >= 0) close(xsk->socket);
  if (xsk->program >= 0) close(xsk->program);
  if (xsk->map >= 0) close(xsk->map);
}
