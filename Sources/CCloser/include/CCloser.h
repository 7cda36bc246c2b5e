// A process beside the forwarder that closes its descriptors should it die without having closed them.
#pragma once

/// Starts it; to be called before there is a second thread. Returns its process id, or -1 with errno.
///
/// A process that is killed has its descriptors closed by the kernel one after the other, and has not ended before that.
/// A packet socket takes some tens of milliseconds (the kernel waits for all cores): 250 of them are seconds during which
/// nobody forwards, since a supervisor starts the next forwarder after the end of this one. The closer shares the table
/// of descriptors (CLONE_FILES), so the forwarder's end closes nothing; then the closer does, many at once, and ends. It
/// has none of the forwarder's memory and does nothing else.
///
/// Unix sockets are closed after all that a next forwarder could find in use (TAP queues, AF_XDP sockets, programs), and
/// before packet sockets and pods' programs, of which several processes may have some: when the socket at which clients ask does not answer any
/// more, a next forwarder may start.
int weft_start_closer(void);
