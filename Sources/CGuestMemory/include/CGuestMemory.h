// Memory that another process has handed over and may truncate at any time: touching what is gone raises SIGBUS. Regions
// that are guarded here are replaced by zeroes of our own then, and whoever touched them goes on.
#pragma once
#include <stdbool.h>
#include <stddef.h>

/// Guards mapped memory; the handler is installed with the first. A number for what follows, or -1 with errno where there
/// are too many.
int weft_guard_add(void *_Nonnull base, size_t bytes);
/// Before the memory is unmapped.
void weft_guard_remove(int number);
/// The region was replaced: its owner has truncated it.
bool weft_guard_hit(int number);
