// The mpi transport over a communicator of the caller's; apart from mpi_transport.h, since it needs mpi.h.
#pragma once

#include <mpi.h>

#include "comm/transport/mpi_transport.h"

namespace tokenferry {

// Collective over the ranks of `communicator`, which are the transport's. It is duplicated: messages of the two never
// meet, and the caller may free it. Abort ends the whole job all the same.
absl::StatusOr<std::unique_ptr<Transport>> CreateMpiTransport(MPI_Comm communicator,
                                                              const MpiTransportOptions& options = {});

}  // namespace tokenferry
