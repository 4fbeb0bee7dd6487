// Transport over Open MPI: nonblocking messages between host buffers, completed by polling.
#pragma once

#include <memory>

#include "comm/transport/transport.h"

namespace tokenferry {

struct MpiTransportOptions {
  absl::Duration timeout = absl::Seconds(30);    // of every wait
  int64_t max_message_bytes = int64_t{1} << 30;  // larger ones travel in pieces (MPI counts are ints)
};

// Collective over all ranks of the job (over some of them: comm/transport/mpi_communicator.h); MPI must be initialised
// (comm/transport/mpi_session.h) with at least MPI_THREAD_SERIALIZED. A rank of this host whose process has ended is
// reported before the deadline (Unavailable). After an error messages may still be under way: memory passed to the
// failed call must stay alive until the process ends, and it ends by Abort.
absl::StatusOr<std::unique_ptr<Transport>> CreateMpiTransport(const MpiTransportOptions& options = {});

}  // namespace tokenferry
