#define _GNU_SOURCE 1
#include "CCloser.h"

#include <errno.h>
#include <linux/bpf.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HELPERS = 48, MOST = 1 << 20 };

// What is closed when.
enum phase { FIRST, UNIX_SOCKETS, LAST, PHASES, NONE };

static int is_xdp_link(int descriptor) {
  struct bpf_link_info info = {0};
  union bpf_attr attributes = {.info = {.bpf_fd = (uint32_t)descriptor, .info_len = sizeof info, .info = (uintptr_t)&info}};
  // Of a program or a map this has other fields: those have no link's type in their descriptor's name.
  char path[32], name[64] = "";
  snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(path, name, sizeof name - 1);
  if (length < 0 || strstr(name, "bpf") == NULL || strstr(name, "link") == NULL) return 0;
  return syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attributes, sizeof attributes) == 0 && info.type == BPF_LINK_TYPE_XDP;
}

static enum phase phase_of(int descriptor) {
  struct stat status;
  if (fstat(descriptor, &status) != 0) return NONE;
  // TAP queues (and /dev/null, which takes no time).
  if (S_ISCHR(status.st_mode)) return FIRST;
  if (!S_ISSOCK(status.st_mode)) return is_xdp_link(descriptor) ? FIRST : LAST;
  int family = 0;
  socklen_t size = sizeof family;
  if (getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0) return LAST;
  return family == AF_UNIX ? UNIX_SOCKETS : family == AF_XDP ? FIRST : LAST;
}

static pid_t split(void) { return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0); }

static void close_some(const int *descriptors, int count, int first, int step) {
  for (int i = first; i < count; i += step) close(descriptors[i]);
}

// The kernel's waits for all cores are shared by those who wait at the same time.
static void close_all(const int *descriptors, int count) {
  int helpers = count < HELPERS ? count : HELPERS;
  for (int i = 1; i < helpers; i++) {
    pid_t pid = split();
    if (pid == 0) {
      close_some(descriptors, count, i, helpers);
      _exit(0);
    }
    if (pid < 0) close_some(descriptors, count, i, helpers);
  }
  close_some(descriptors, count, 0, helpers);
  while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {
  }
}

static void run(int forwarder) {
  prctl(PR_SET_NAME, "weft-closer");
  // What ends the forwarder in order is not for its closer, which ends after it.
  for (int number = SIGHUP; number <= SIGTERM; number++)
    if (number != SIGKILL) signal(number, SIG_IGN);
  struct pollfd ended = {forwarder, POLLIN, 0};
  while (poll(&ended, 1, -1) <= 0) {
    if (errno != EINTR && errno != EAGAIN) _exit(1);
  }
  signal(SIGCHLD, SIG_DFL);
  struct rlimit limit;
  int most = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < MOST ? (int)limit.rlim_cur : MOST;
  int *descriptors = calloc((size_t)most, sizeof *descriptors);
  if (descriptors == NULL) _exit(1);
  for (int phase = FIRST; phase < PHASES; phase++) {
    int count = 0;
    // Numbers are given out from below: after a long stretch without one there are none.
    for (int number = 0, last = 0; number < most && number - last < 65536; number++) {
      enum phase its = phase_of(number);
      if (its != NONE) last = number;
      if (number != forwarder && (int)its == phase) descriptors[count++] = number;
    }
    close_all(descriptors, count);
  }
  _exit(0);
}

int weft_start_closer(void) {
  int forwarder = (int)syscall(SYS_pidfd_open, getpid(), 0);
  if (forwarder < 0) return -1;
  pid_t pid = split();
  if (pid == 0) run(forwarder);
  if (pid < 0) close(forwarder);
  return (int)pid;
}
