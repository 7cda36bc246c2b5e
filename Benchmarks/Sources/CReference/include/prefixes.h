// Published designs for longest-prefix match, built once from a list of routes: what Weft's prefix trees are compared
// with. Each answers the same.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum prefixes_design {
  /// DIR-24-8 (Gupta, Lin, McKeown 1998; DPDK's rte_lpm): IPv4 only. One load for prefixes up to /24, else two.
  prefixes_dir_24_8,
  /// A multibit tree like Weft's, whose first step takes 16 bits.
  prefixes_16_8,
  /// The same tree, but the addresses of a batch go down together, a step at a time: their loads overlap.
  prefixes_16_8_batched,
  /// Poptrie (Asai, Ohara 2015) with 16 bits of direct pointing, then 6 bits a step.
  prefixes_poptrie,
  /// The same in batches.
  prefixes_poptrie_batched,
};

/// Addresses stand at the top of 128 bits; IPv4 takes the first 32. `path` is not 0.
struct prefixes_route {
  uint64_t high, low;
  int length;
  uint32_t path;
};

/// Sorts `routes`. NULL when there is no memory, or the design cannot hold them.
void *_Nullable prefixes_build(enum prefixes_design design, struct prefixes_route *_Nonnull routes, size_t count, int is_v6);
void prefixes_destroy(void *_Nonnull prefixes);
size_t prefixes_memory(const void *_Nonnull prefixes);
/// Looks all addresses up; the sum of the paths found, 0 for none, in 32 bits.
uint32_t prefixes_lookup4(const void *_Nonnull prefixes, const uint32_t *_Nonnull addresses, size_t count);
/// Addresses as pairs of high and low.
uint32_t prefixes_lookup6(const void *_Nonnull prefixes, const uint64_t *_Nonnull addresses, size_t count);
