#define _GNU_SOURCE
#include "CGuestMemory.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>

enum { limit = 16384 };

// A start of 0: nobody's. Written under the lock, read by the handler.
static struct {
  _Atomic(uintptr_t) start;
  _Atomic(uintptr_t) end;
  atomic_bool hit;
} regions[limit];
static atomic_int used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;
static bool installed;

static void handle(int number, siginfo_t *info, void *context) {
  uintptr_t address = (uintptr_t)info->si_addr;
  int count = atomic_load(&used);
  for (int i = 0; i < count; i++) {
    uintptr_t start = atomic_load(&regions[i].start), end = atomic_load(&regions[i].end);
    if (start == 0 || address < start || address >= end) continue;
    // All of it: pages may be huge, and a part of one cannot be replaced.
    int saved = errno;
    void *there = mmap((void *)start, end - start, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    errno = saved;
    if (there == MAP_FAILED) break;
    atomic_store(&regions[i].hit, true);
    return;
  }
  // Not ours: who was asked before is asked again, when the access is tried once more.
  sigaction(SIGBUS, &before, NULL);
  (void)number;
  (void)context;
}

int weft_guard_add(void *base, size_t bytes) {
  pthread_mutex_lock(&lock);
  if (!installed) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    installed = sigaction(SIGBUS, &action, &before) == 0;
  }
  int found = -1;
  for (int i = 0; installed && i < limit; i++) {
    if (atomic_load(&regions[i].start) != 0) continue;
    found = i;
    break;
  }
  if (found >= 0) {
    atomic_store(&regions[found].hit, false);
    atomic_store(&regions[found].end, (uintptr_t)base + bytes);
    atomic_store(&regions[found].start, (uintptr_t)base);
    if (found >= atomic_load(&used)) atomic_store(&used, found + 1);
  } else {
    errno = ENOSPC;
  }
  pthread_mutex_unlock(&lock);
  return found;
}

void weft_guard_remove(int number) { atomic_store(&regions[number].start, 0); }

bool weft_guard_hit(int number) { return atomic_load(&regions[number].hit); }
