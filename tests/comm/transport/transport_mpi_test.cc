// The mpi transport under mpirun: the conformance suite, deadlines, mismatches.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include "comm/transport/checked_transport.h"
#include "comm/transport/collectives.h"
#include "comm/transport/mpi_communicator.h"
#include "comm/transport/mpi_transport.h"
#include "comm/wait/wait.h"
#include "core/device/cpu_device.h"
#include "tests/comm/transport/conformance.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Conformance : public testing::TestWithParam<std::tuple<Backend, int>> {};

TEST_P(Conformance, Holds) {
  const auto [backend, case_idx] = GetParam();
  RunProcesses(backend, absl::Seconds(60), kConformanceCases[case_idx].body);
}

INSTANTIATE_TEST_SUITE_P(Processes, Conformance,
                         testing::Combine(testing::Values(Backend::kMpi, Backend::kCheckedMpi),
                                          testing::Range(0, kNumConformanceCases)),
                         [](const auto& info) {
                           return absl::StrCat(BackendName(std::get<0>(info.param)), "_",
                                               kConformanceCases[std::get<1>(info.param)].name);
                         });

TEST(DeviceConformance, Holds) {
  for (int i = 0; i < kNumDeviceConformanceCases; ++i) {
    SCOPED_TRACE(kDeviceConformanceCases[i].name);
    RunProcesses(Backend::kMpi, absl::Seconds(60), [&](Transport& t) {
      kDeviceConformanceCases[i].body(t, *CreateCpuDevice({.execution = CpuExecution::kLazy}));
    });
  }
}

std::unique_ptr<Transport> Create(const MpiTransportOptions& options) {
  auto transport = CreateMpiTransport(options);
  EXPECT_TRUE(transport.ok()) << transport.status();
  return *std::move(transport);
}

TEST(MpiTransport, SplitsLargeMessages) {
  auto t = Create({.timeout = absl::Seconds(60), .max_message_bytes = 1000});
  TransferAndCheck(*t, 0, [](int src, int dst, int) -> int64_t { return 10'000 + src * 999 + dst; });
  TransferAndCheck(*t, 1, [](int src, int dst, int) -> int64_t { return (src + dst) % 3 * 1000; });
}

// Of a communicator of the caller's, in which ranks have other numbers: even and odd ones apart, each in reverse order.
// The caller's own messages do not meet the transport's, and it may free the communicator.
TEST(MpiTransport, TakesACommunicator) {
  int rank = 0, size = 0, rank_within = 0, size_within = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm mine = MPI_COMM_NULL;
  ASSERT_EQ(MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &mine), MPI_SUCCESS);
  MPI_Comm_rank(mine, &rank_within);
  MPI_Comm_size(mine, &size_within);
  auto t = CreateMpiTransport(mine, {.timeout = absl::Seconds(60)});
  ASSERT_TRUE(t.ok()) << t.status();
  MPI_Comm_free(&mine);
  EXPECT_EQ((*t)->rank().value, rank_within);
  EXPECT_EQ((*t)->num_ranks(), size_within);
  TransferAndCheck(**t, rank % 2, [](int src, int dst, int round) -> int64_t { return 100 + src * 37 + dst + round; });
  const auto all = AllGather(**t, {"ranks"}, absl::StrCat(rank));
  ASSERT_TRUE(all.ok()) << all.status();
  for (int r = 0; r < size_within; ++r) {
    EXPECT_EQ((*all)[r], absl::StrCat(rank % 2 + 2 * (size_within - 1 - r)));
  }
  EXPECT_EQ(CreateMpiTransport(MPI_COMM_NULL).status().code(), absl::StatusCode::kInvalidArgument);
  MPI_Barrier(MPI_COMM_WORLD);
}

// The last rank never comes to the transfer.
TEST(MpiTransport, NamesARankThatNeverComes) {
  auto t = Create({.timeout = absl::Milliseconds(300)});
  const int me = t->rank().value, last = t->num_ranks() - 1;
  std::vector<char> send(8 * t->num_ranks()), recv(8 * t->num_ranks());
  std::vector<int64_t> offsets(t->num_ranks() + 1);
  for (int r = 0; r <= t->num_ranks(); ++r) offsets[r] = 8 * r;
  if (me != last) {
    const absl::Status status = t->HostAllToAllV({"combine rows", 3, 17}, {send.data(), offsets, recv.data(), offsets});
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("layer 3, combine rows, step 17"), HasSubstr(absl::StrCat("rank ", last, " on host")),
                      HasSubstr("0 of 8 bytes arrived"), HasSubstr("its process is running")));
    EXPECT_EQ(Barrier(*t, {"later"}), status);
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

TEST(MpiTransport, DetectsSizesThatDiffer) {
  // Rank 0 sends everybody 7, then 9 bytes where 8 are expected.
  for (int64_t sent : {7, 9}) {
    auto t = Create({.timeout = absl::Seconds(60)});
    const int me = t->rank().value;
    std::vector<char> send(16 * t->num_ranks()), recv(16 * t->num_ranks());
    std::vector<int64_t> send_offsets(t->num_ranks() + 1), recv_offsets(t->num_ranks() + 1);
    for (int r = 0; r < t->num_ranks(); ++r) {
      send_offsets[r + 1] = send_offsets[r] + (me == 0 && r != 0 ? sent : 0);
      recv_offsets[r + 1] = recv_offsets[r] + (r == 0 && me != 0 ? 8 : 0);
    }
    const absl::Status status = t->HostAllToAllV({"sizes"}, {send.data(), send_offsets, recv.data(), recv_offsets});
    if (me == 0) {
      EXPECT_EQ(status, absl::OkStatus());
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("expects 8 bytes from rank 0"));
    }
    MPI_Barrier(MPI_COMM_WORLD);
  }
}

TEST(MpiTransport, CheckedNamesBothSidesOfACallOrderMismatch) {
  auto t = CreateCheckedTransport(Create({.timeout = absl::Seconds(30)}));
  if (t->num_ranks() == 1) return;  // nobody to disagree with
  const absl::Status status =
      Barrier(*t, t->rank().value == 0 ? CallSite{"dispatch rows", 4} : CallSite{"combine rows", 3});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("layer 4, dispatch rows"), HasSubstr("layer 3, combine rows"), HasSubstr("rank 0")));
}

TEST(MpiTransport, StopRequestEndsAWaitWithNames) {
  auto t = Create({.timeout = absl::Seconds(60)});
  const int last = t->num_ranks() - 1;
  if (t->rank().value != last) {
    RequestStop();
    const absl::Status status = Barrier(*t, {"dispatch rows", 5});
    ClearStopRequest();
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("layer 5, dispatch rows"), HasSubstr(absl::StrCat("rank ", last, " on host"))));
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

}  // namespace
}  // namespace tokenferry
