// Between processes an exchange in steady state takes no memory and leaves no MPI request: both are counted, requests
// by standing in front of the MPI functions that make and complete them (the PMPI interface).
#include <gtest/gtest.h>
#include <mpi.h>

#include "comm/transport/collectives.h"
#include "comm/transport/mpi_transport.h"
#include "tests/comm/exchange/allocation_counter.h"
#include "tests/comm/exchange/steady_exchanges.h"
#include "tests/comm/transport/hosted_transport.h"

namespace {
int64_t num_started = 0, num_completed = 0;
}  // namespace

extern "C" {
int MPI_Isend(const void* buffer, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
              MPI_Request* request) {
  ++num_started;
  return PMPI_Isend(buffer, count, type, dest, tag, comm, request);
}
int MPI_Irecv(void* buffer, int count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Request* request) {
  ++num_started;
  return PMPI_Irecv(buffer, count, type, source, tag, comm, request);
}
int MPI_Testsome(int count, MPI_Request* requests, int* num_done, int* indices, MPI_Status* statuses) {
  const int code = PMPI_Testsome(count, requests, num_done, indices, statuses);
  if (*num_done != MPI_UNDEFINED) num_completed += *num_done;
  return code;
}
}

namespace tokenferry {
namespace {

TEST(Resources, NoneIsTakenAndNotGivenBackInSteadyState) {
  struct {
    ExchangePath path;
    Reduction reduction = Reduction::kExact;
  } constexpr kCases[] = {{ExchangePath::kPeer},
                          {ExchangePath::kAllToAllV},
                          {ExchangePath::kAllGather},
                          {ExchangePath::kTwoLevel},
                          {ExchangePath::kTwoLevel, Reduction::kNode}};
  for (const auto& [path, reduction] : kCases) {
    SCOPED_TRACE(absl::StrCat(ExchangePathName(path), reduction == Reduction::kNode ? ", node" : ""));
    auto transport = CreateMpiTransport({.timeout = absl::Seconds(60)});
    ASSERT_TRUE(transport.ok()) << transport.status();
    const bool one_host = path == ExchangePath::kPeer;
    std::string hosts((*transport)->num_ranks(), 'a');
    if (!one_host) hosts.back() = 'b';
    HostedTransport hosted(**transport, hosts);
    SteadyExchanges exchanges(hosted, path, reduction, DType::kBF16, DType::kF32);
    exchanges.WarmUp();
    const int64_t allocated = NumAllocations(), started = num_started;
    exchanges.Run(100);
    EXPECT_EQ(NumAllocations(), allocated);
    EXPECT_EQ(num_started, num_completed);
    if (!one_host && hosts.size() > 1) {
      EXPECT_GT(num_started, started + 100);
    }
    ASSERT_EQ(Barrier(**transport, {"next path"}), absl::OkStatus());
  }
}

}  // namespace
}  // namespace tokenferry
