#define _GNU_SOURCE 1
#include "prefixes.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define INLINE static inline __attribute__((always_inline))

/// Memory that grows by being touched, in huge pages where the system has them.
struct area { void *base; size_t bytes; };

static struct area reserve(size_t bytes) {
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return (struct area){NULL, 0};
  madvise(p, bytes, MADV_HUGEPAGE);
  return (struct area){p, bytes};
}
static void give_back(struct area a) { if (a.base) munmap(a.base, a.bytes); }

struct poptrie_node { uint64_t children, leaves; uint32_t first_leaf, first_child; };

struct prefixes {
  enum prefixes_design design;
  /// DIR-24-8: 2^24 of 32 bits. 16-8: 2^16 of 64 bits. Poptrie: 2^16 of 32 bits.
  struct area root;
  /// DIR-24-8: groups of 256 of 32 bits. 16-8: nodes of 256 of 64 bits. Poptrie: nodes.
  struct area nodes;
  /// Poptrie's leaves.
  struct area leaves;
  uint32_t nodes_used, leaves_used;
};

static const uint32_t marked = 1u << 31;

static int by_length(const void *a, const void *b) {
  return ((const struct prefixes_route *)a)->length - ((const struct prefixes_route *)b)->length;
}

/// `count` bits from bit `from`, counted from the top of 128; beyond the end there are zeros.
INLINE uint32_t bits_of(uint64_t high, uint64_t low, int from, int count) {
  uint64_t word = from < 64 ? high : low;
  int at = from & 63;
  return (uint32_t)(word << at >> (64 - count));
}

// MARK: DIR-24-8

static int build_dir_24_8(struct prefixes *p, const struct prefixes_route *routes, size_t count) {
  p->root = reserve((size_t)4 << 24);
  p->nodes = reserve((size_t)1 << 30);
  uint32_t *root = p->root.base, *groups = p->nodes.base;
  if (!root || !groups) return 0;
  for (size_t x = 0; x < count; x++) {
    uint32_t address = (uint32_t)(routes[x].high >> 32);
    if (routes[x].length <= 24) {
      uint32_t first = address >> 8, size = 1u << (24 - routes[x].length);
      for (uint32_t slot = first; slot < first + size; slot++) root[slot] = routes[x].path;
      continue;
    }
    uint32_t *entry = &root[address >> 8];
    if (!(*entry & marked)) {
      for (int slot = 0; slot < 256; slot++) groups[p->nodes_used * 256 + slot] = *entry;
      *entry = marked | p->nodes_used++;
    }
    uint32_t *group = &groups[(*entry & ~marked) * 256], first = address & 255;
    for (uint32_t slot = first; slot < first + (1u << (32 - routes[x].length)); slot++) group[slot] = routes[x].path;
  }
  return 1;
}

INLINE uint32_t look_dir_24_8(const struct prefixes *p, uint32_t address) {
  uint32_t entry = ((const uint32_t *)p->root.base)[address >> 8];
  if (__builtin_expect(entry & marked, 0)) entry = ((const uint32_t *)p->nodes.base)[(entry & ~marked) * 256 + (address & 255)];
  return entry;
}

// MARK: 16 bits, then 8 a step

static int build_16_8(struct prefixes *p, const struct prefixes_route *routes, size_t count) {
  p->root = reserve((size_t)8 << 16);
  p->nodes = reserve((size_t)4 << 30);
  uint64_t *root = p->root.base, *nodes = p->nodes.base;
  if (!root || !nodes) return 0;
  p->nodes_used = 1;
  for (size_t x = 0; x < count; x++) {
    uint64_t high = routes[x].high, low = routes[x].low, *node = root;
    int at = 0, step = 16, length = routes[x].length;
    while (length > at + step) {
      uint64_t *entry = &node[bits_of(high, low, at, step)];
      if (!(*entry >> 32)) *entry |= (uint64_t)p->nodes_used++ << 32;
      node = &nodes[(*entry >> 32) * 256];
      at += step;
      step = 8;
    }
    uint32_t first = bits_of(high, low, at, step), size = 1u << (step - (length - at));
    for (uint32_t slot = first; slot < first + size; slot++)
      node[slot] = (node[slot] & 0xFFFFFFFF00000000ull) | routes[x].path;
  }
  return 1;
}

INLINE uint32_t look_16_8(const struct prefixes *p, uint64_t high, uint64_t low) {
  const uint64_t *nodes = p->nodes.base;
  uint64_t entry = ((const uint64_t *)p->root.base)[high >> 48];
  uint32_t best = (uint32_t)entry;
  for (int at = 16; entry >> 32; at += 8) {
    entry = nodes[(entry >> 32) * 256 + bits_of(high, low, at, 8)];
    if ((uint32_t)entry) best = (uint32_t)entry;
  }
  return best;
}

enum { batch_size = 32 };

/// `count` <= 32 addresses; the sum of their paths.
INLINE uint32_t look_16_8_batch(const struct prefixes *p, const uint64_t *high, const uint64_t *low, int count) {
  const uint64_t *nodes = p->nodes.base, *root = p->root.base;
  uint32_t best[batch_size], child[batch_size], sum = 0;
  uint8_t active[batch_size];
  int left = 0;
  for (int x = 0; x < count; x++) __builtin_prefetch(&root[high[x] >> 48]);
  for (int x = 0; x < count; x++) {
    uint64_t entry = root[high[x] >> 48];
    best[x] = (uint32_t)entry;
    child[x] = (uint32_t)(entry >> 32);
    active[left] = (uint8_t)x;
    left += child[x] != 0;
    __builtin_prefetch(&nodes[(uint64_t)child[x] * 256 + bits_of(high[x], low[x], 16, 8)]);
  }
  for (int at = 16; left; at += 8) {
    int still = 0;
    for (int i = 0; i < left; i++) {
      int x = active[i];
      uint64_t entry = nodes[(uint64_t)child[x] * 256 + bits_of(high[x], low[x], at, 8)];
      best[x] = (uint32_t)entry ? (uint32_t)entry : best[x];
      child[x] = (uint32_t)(entry >> 32);
      active[still] = (uint8_t)x;
      still += child[x] != 0;
      __builtin_prefetch(&nodes[(uint64_t)child[x] * 256 + bits_of(high[x], low[x], at + 8, 8)]);
    }
    left = still;
  }
  for (int x = 0; x < count; x++) sum += best[x];
  return sum;
}

// MARK: poptrie

/// The routes as a binary tree: what a poptrie is made of.
struct binary { uint32_t child[2], path; };

/// The node `count` bits below `node`, 0 if the tree ends before; `best` becomes the longest prefix met.
static uint32_t descend(const struct binary *tree, uint32_t node, uint32_t bits, int count, uint32_t *best) {
  while (count-- > 0 && node) {
    node = tree[node].child[bits >> count & 1];
    if (node && tree[node].path) *best = tree[node].path;
  }
  return node;
}
static int has_children(const struct binary *tree, uint32_t node) {
  return node && (tree[node].child[0] || tree[node].child[1]);
}

static void build_node(struct prefixes *p, const struct binary *tree, uint32_t at, uint32_t from, uint32_t inherited) {
  uint32_t below[64], best[64], count = 0, last = 0;
  int is_first = 1;
  struct poptrie_node made = {0, 0, p->leaves_used, 0};
  for (uint32_t slot = 0; slot < 64; slot++) {
    best[slot] = inherited;
    below[slot] = descend(tree, from, slot, 6, &best[slot]);
    if (has_children(tree, below[slot])) {
      made.children |= 1ull << slot;
      count++;
      continue;
    }
    if (!is_first && best[slot] == last) continue;
    is_first = 0;
    last = best[slot];
    made.leaves |= 1ull << slot;
    ((uint32_t *)p->leaves.base)[p->leaves_used++] = last;
  }
  made.first_child = p->nodes_used;
  p->nodes_used += count;
  ((struct poptrie_node *)p->nodes.base)[at] = made;
  uint32_t child = made.first_child;
  for (uint32_t slot = 0; slot < 64; slot++) {
    if (made.children >> slot & 1) build_node(p, tree, child++, below[slot], best[slot]);
  }
}

static int build_poptrie(struct prefixes *p, const struct prefixes_route *routes, size_t count) {
  struct area tree_area = reserve((size_t)8 << 30);
  p->root = reserve((size_t)4 << 16);
  p->nodes = reserve((size_t)1 << 30);
  p->leaves = reserve((size_t)1 << 30);
  struct binary *tree = tree_area.base;
  uint32_t *root = p->root.base, used = 2;
  if (!tree || !root || !p->nodes.base || !p->leaves.base) { give_back(tree_area); return 0; }
  for (size_t x = 0; x < count; x++) {
    uint32_t node = 1;
    for (int at = 0; at < routes[x].length; at++) {
      uint32_t *child = &tree[node].child[bits_of(routes[x].high, routes[x].low, at, 1)];
      if (!*child) *child = used++;
      node = *child;
    }
    tree[node].path = routes[x].path;
  }
  for (uint32_t slot = 0; slot < 1 << 16; slot++) {
    uint32_t best = tree[1].path, node = descend(tree, 1, slot, 16, &best);
    root[slot] = marked | best;
    if (has_children(tree, node)) {
      root[slot] = p->nodes_used++;
      build_node(p, tree, root[slot], node, best);
    }
  }
  give_back(tree_area);
  return 1;
}

INLINE uint32_t look_poptrie(const struct prefixes *p, uint64_t high, uint64_t low) {
  const struct poptrie_node *nodes = p->nodes.base;
  uint32_t entry = ((const uint32_t *)p->root.base)[high >> 48];
  if (entry & marked) return entry & ~marked;
  for (int at = 16;; at += 6) {
    const struct poptrie_node *node = &nodes[entry];
    uint32_t slot = bits_of(high, low, at, 6);
    uint64_t upto = (2ull << slot) - 1;
    if (node->children >> slot & 1) {
      entry = node->first_child + (uint32_t)__builtin_popcountll(node->children & upto) - 1;
      continue;
    }
    return ((const uint32_t *)p->leaves.base)[node->first_leaf + (uint32_t)__builtin_popcountll(node->leaves & upto) - 1];
  }
}

INLINE uint32_t look_poptrie_batch(const struct prefixes *p, const uint64_t *high, const uint64_t *low, int count) {
  const struct poptrie_node *nodes = p->nodes.base;
  const uint32_t *root = p->root.base, *leaves = p->leaves.base;
  uint32_t entry[batch_size], sum = 0;
  uint8_t active[batch_size], waiting[batch_size];
  int left = 0, ends = 0;
  for (int x = 0; x < count; x++) __builtin_prefetch(&root[high[x] >> 48]);
  for (int x = 0; x < count; x++) {
    entry[x] = root[high[x] >> 48];
    sum += entry[x] & marked ? entry[x] & ~marked : 0;
    active[left] = (uint8_t)x;
    left += !(entry[x] & marked);
    __builtin_prefetch(&nodes[entry[x] & ~marked]);
  }
  for (int at = 16; left; at += 6) {
    int still = 0;
    for (int i = 0; i < left; i++) {
      int x = active[i];
      const struct poptrie_node *node = &nodes[entry[x]];
      uint32_t slot = bits_of(high[x], low[x], at, 6);
      uint64_t upto = (2ull << slot) - 1;
      int goes_on = node->children >> slot & 1;
      uint32_t child = node->first_child + (uint32_t)__builtin_popcountll(node->children & upto) - 1;
      uint32_t leaf = node->first_leaf + (uint32_t)__builtin_popcountll(node->leaves & upto) - 1;
      entry[x] = goes_on ? child : leaf;
      active[still] = (uint8_t)x;
      still += goes_on;
      waiting[ends] = (uint8_t)x;
      ends += !goes_on;
      __builtin_prefetch(goes_on ? (const void *)&nodes[child] : (const void *)&leaves[leaf]);
    }
    left = still;
  }
  for (int i = 0; i < ends; i++) sum += leaves[entry[waiting[i]]];
  return sum;
}

// MARK: for all

void *prefixes_build(enum prefixes_design design, struct prefixes_route *routes, size_t count, int is_v6) {
  struct prefixes *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->design = design;
  qsort(routes, count, sizeof *routes, by_length);
  int done = design == prefixes_dir_24_8 ? !is_v6 && build_dir_24_8(p, routes, count)
      : design == prefixes_16_8 || design == prefixes_16_8_batched ? build_16_8(p, routes, count)
                                : build_poptrie(p, routes, count);
  if (done) return p;
  prefixes_destroy(p);
  return NULL;
}

void prefixes_destroy(void *prefixes) {
  struct prefixes *p = prefixes;
  give_back(p->root);
  give_back(p->nodes);
  give_back(p->leaves);
  free(p);
}

size_t prefixes_memory(const void *prefixes) {
  const struct prefixes *p = prefixes;
  switch (p->design) {
    case prefixes_dir_24_8: return p->root.bytes + (size_t)p->nodes_used * 1024;
    case prefixes_16_8:
    case prefixes_16_8_batched: return p->root.bytes + (size_t)p->nodes_used * 2048;
    case prefixes_poptrie:
    case prefixes_poptrie_batched:
      return p->root.bytes + p->nodes_used * sizeof(struct poptrie_node) + (size_t)p->leaves_used * 4;
  }
  return 0;
}

uint32_t prefixes_lookup4(const void *prefixes, const uint32_t *addresses, size_t count) {
  const struct prefixes *p = prefixes;
  uint32_t sum = 0;
  switch (p->design) {
    case prefixes_dir_24_8:
      for (size_t x = 0; x < count; x++) sum += look_dir_24_8(p, addresses[x]);
      break;
    case prefixes_16_8:
      for (size_t x = 0; x < count; x++) sum += look_16_8(p, (uint64_t)addresses[x] << 32, 0);
      break;
    case prefixes_16_8_batched:
    case prefixes_poptrie_batched:
      for (size_t x = 0; x < count; x += batch_size) {
        uint64_t high[batch_size], low[batch_size] = {0};
        int n = count - x < batch_size ? (int)(count - x) : batch_size;
        for (int i = 0; i < n; i++) high[i] = (uint64_t)addresses[x + (size_t)i] << 32;
        sum += p->design == prefixes_16_8_batched ? look_16_8_batch(p, high, low, n) : look_poptrie_batch(p, high, low, n);
      }
      break;
    case prefixes_poptrie:
      for (size_t x = 0; x < count; x++) sum += look_poptrie(p, (uint64_t)addresses[x] << 32, 0);
      break;
  }
  return sum;
}

uint32_t prefixes_lookup6(const void *prefixes, const uint64_t *addresses, size_t count) {
  const struct prefixes *p = prefixes;
  uint32_t sum = 0;
  if (p->design == prefixes_16_8) {
    for (size_t x = 0; x < count; x++) sum += look_16_8(p, addresses[2 * x], addresses[2 * x + 1]);
  } else if (p->design == prefixes_16_8_batched || p->design == prefixes_poptrie_batched) {
    for (size_t x = 0; x < count; x += batch_size) {
      uint64_t high[batch_size], low[batch_size];
      int n = count - x < batch_size ? (int)(count - x) : batch_size;
      for (int i = 0; i < n; i++) {
        high[i] = addresses[2 * (x + (size_t)i)];
        low[i] = addresses[2 * (x + (size_t)i) + 1];
      }
      sum += p->design == prefixes_16_8_batched ? look_16_8_batch(p, high, low, n) : look_poptrie_batch(p, high, low, n);
    }
  } else if (p->design == prefixes_poptrie) {
    for (size_t x = 0; x < count; x++) sum += look_poptrie(p, addresses[2 * x], addresses[2 * x + 1]);
  }
  return sum;
}
