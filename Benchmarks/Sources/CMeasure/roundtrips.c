#define _GNU_SOURCE 1
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "measure.h"
#include "traffic.h"

static struct traffic_error fail(const char *what) { return (struct traffic_error){what, errno}; }
static const struct traffic_error fine = {0, 0};

static int parse(const char *text, uint16_t port, struct sockaddr_in6 *address) {
  char mapped[64];
  memset(address, 0, sizeof *address);
  address->sin6_family = AF_INET6;
  address->sin6_port = htons(port);
  if (inet_pton(AF_INET6, text, &address->sin6_addr) == 1) return 1;
  if (strlen(text) > 16) return 0;
  strcpy(mapped, "::ffff:");
  strcat(mapped, text);
  return inet_pton(AF_INET6, mapped, &address->sin6_addr) == 1;
}

struct traffic_error traffic_respond(uint16_t port, const volatile int *stop) {
  int s = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (s < 0) return fail("open a UDP socket");
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT};
  struct timeval patience = {0, 100000};
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (bind(s, (struct sockaddr *)&address, sizeof address) != 0) {
    struct traffic_error error = fail("bind the UDP port");
    close(s);
    return error;
  }
  uint8_t buffer[65536];
  while (!*stop) {
    struct sockaddr_in6 from;
    socklen_t length = sizeof from;
    ssize_t count = recvfrom(s, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);
    if (count >= 0) sendto(s, buffer, (size_t)count, 0, (struct sockaddr *)&from, length);
  }
  close(s);
  return fine;
}

struct traffic_error traffic_request(
    const char *text, uint16_t port, uint32_t bytes, uint32_t count, uint64_t interval, uint64_t *times) {
  struct sockaddr_in6 address;
  if (!parse(text, port, &address) || bytes < 8 || bytes > 65000) {
    errno = EINVAL;
    return fail("take this address or size");
  }
  int s = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (s < 0) return fail("open a UDP socket");
  struct timeval patience = {0, 200000};
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(s, (struct sockaddr *)&address, sizeof address) != 0) {
    struct traffic_error error = fail("reach the address");
    close(s);
    return error;
  }
  uint8_t buffer[65536] = {0};
  uint64_t next = measure_now();
  for (uint64_t i = 0; i < count; i++) {
    // Asleep between requests: a spinning client would take the core that is measured.
    struct timespec at = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    uint64_t sent = measure_now();
    memcpy(buffer, &i, 8);
    times[i] = 0;
    if (send(s, buffer, bytes, 0) == (ssize_t)bytes) {
      while (recv(s, buffer, sizeof buffer, 0) >= 0) {
        uint64_t got;
        memcpy(&got, buffer, 8);
        // A late answer to a request that was given up is none to this one.
        if (got == i) {
          times[i] = measure_now() - sent;
          break;
        }
      }
    }
    uint64_t now = measure_now();
    next = next + interval > now ? next + interval : now;
  }
  close(s);
  return fine;
}
