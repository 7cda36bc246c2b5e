// What measurements need of the machine.
#pragma once
#include <stdint.h>

/// Allocations by this thread since it began: malloc, calloc, realloc and their aligned kin, whoever asks (the Swift
/// run-time's objects too).
uint64_t measure_allocations(void);
/// CLOCK_MONOTONIC, ns.
uint64_t measure_now(void);
/// Under callgrind: writes the costs since the last mark under this name and starts from zero. Else nothing.
void measure_mark(const char *_Nonnull name);
/// Under valgrind.
int measure_is_simulated(void);
/// Resident memory of the process, bytes.
uint64_t measure_resident(void);
/// How often the kernel has taken this thread off its core, or stopped it for a page.
uint64_t measure_interruptions(void);
/// Takes so many bytes from the system and gives them back: what takes them next does not wait for the host of a virtual
/// machine to find them.
void measure_warm(uint64_t bytes);
/// Keeps the calling thread on a core; 0, or -1 when it may not run there.
int measure_pin(int core);
