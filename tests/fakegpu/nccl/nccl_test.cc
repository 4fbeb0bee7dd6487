// The fake NCCL itself: what is right passes in every order of streams, and each mistake is reported.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <atomic>
#include <barrier>
#include <functional>
#include <thread>
#include <vector>

#include "core/host/clock.h"
#include "tests/fakegpu/cudart/runtime.h"
#include "tests/fakegpu/nccl/faults.h"

namespace tokenferry::fakegpu {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// One rank, on a GPU of its own.
class Rank {
 public:
  Rank(int rank, int num_ranks, const ncclUniqueId& id) : rank(rank), num_ranks(num_ranks) {
    EXPECT_EQ(cudaSetDevice(rank), cudaSuccess);
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    EXPECT_EQ(ncclCommInitRankConfig(&comm, num_ranks, id, rank, &config), ncclInProgress);
    EXPECT_EQ(Settle(), ncclSuccess);
  }

  ncclResult_t Settle() {
    ncclResult_t result = ncclInProgress;
    while (ncclCommGetAsyncError(comm, &result) == ncclSuccess && result == ncclInProgress) std::this_thread::yield();
    return result;
  }
  int32_t* Allocate(size_t count) {
    void* data = nullptr;
    EXPECT_EQ(cudaMalloc(&data, count * 4 + 4), cudaSuccess);
    return static_cast<int32_t*>(data);
  }
  void Upload(int32_t* to, const std::vector<int32_t>& values) {
    EXPECT_EQ(cudaMemcpyAsync(to, values.data(), values.size() * 4, cudaMemcpyDefault, stream), cudaSuccess);
  }
  std::vector<int32_t> Download(const int32_t* from, size_t count) {
    std::vector<int32_t> values(count);
    EXPECT_EQ(cudaMemcpyAsync(values.data(), from, count * 4, cudaMemcpyDefault, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    return values;
  }
  // Until the stream is idle or the communicator has failed.
  ncclResult_t Wait() {
    ncclResult_t result = ncclSuccess;
    while (cudaStreamQuery(stream) == cudaErrorNotReady) {
      cudaGetLastError();
      EXPECT_EQ(ncclCommGetAsyncError(comm, &result), ncclSuccess);
      if (result != ncclSuccess && result != ncclInProgress) return result;
    }
    return ncclSuccess;
  }
  void Finalize() {
    ncclCommFinalize(comm);
    EXPECT_EQ(Settle(), ncclSuccess);
    EXPECT_EQ(ncclCommDestroy(comm), ncclSuccess);
  }

  const int rank, num_ranks;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
};

class FakeNcclTest : public testing::Test {
 protected:
  void SetUp() override {
    Runtime& runtime = Runtime::Get();
    runtime.num_devices = 8;
    runtime.sticky = cudaSuccess;
    TakeReports();
  }
  void TearDown() override { SetFault({}); }

  static void Run(int num_ranks, const std::function<void(Rank&)>& body) {
    ncclUniqueId id;
    ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    std::vector<std::thread> threads;
    for (int r = 0; r < num_ranks; ++r) {
      threads.emplace_back([&, r] {
        try {
          Rank rank(r, num_ranks, id);
          body(rank);
        } catch (const RankDied&) {
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
};

// What may go wrong in the exchange below.
enum class Mistake { kNone, kNoGroup, kCount, kZeroOnOneEnd, kNoSettle, kNoEvent };

int Count(int src, int dst) { return (src * 3 + dst * 2) % 5; }

// Sends Count values to every rank, by a stream of its own between events; what arrived.
std::vector<int32_t> Exchange(Rank& r, Mistake mistake) {
  const auto from = [&](int p) { return Count(p, r.rank) + (mistake == Mistake::kCount && r.rank == 1 && p == 2); };
  std::vector<int> send_at(r.num_ranks + 1), recv_at(r.num_ranks + 1);
  for (int p = 0; p < r.num_ranks; ++p) {
    send_at[p + 1] = send_at[p] + Count(r.rank, p);
    recv_at[p + 1] = recv_at[p] + from(p);
  }
  int32_t *send = r.Allocate(send_at.back()), *recv = r.Allocate(recv_at.back());
  std::vector<int32_t> values;
  for (int p = 0; p < r.num_ranks; ++p) values.insert(values.end(), Count(r.rank, p), r.rank * 100 + p);
  r.Upload(send, values);
  cudaStream_t side = nullptr;
  cudaEvent_t ready, end;
  EXPECT_EQ(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking), cudaSuccess);
  cudaEventCreate(&ready), cudaEventCreate(&end);
  cudaEventRecord(ready, r.stream);
  cudaStreamWaitEvent(side, ready, 0);
  const bool grouped = mistake != Mistake::kNoGroup;
  if (grouped) ncclGroupStart();
  for (int p = 0; p < r.num_ranks; ++p) {
    const bool skip_send = mistake == Mistake::kZeroOnOneEnd && Count(r.rank, p) == 0;
    if (!skip_send) ncclSend(send + send_at[p], Count(r.rank, p), ncclInt32, p, r.comm, side);
    if (!grouped) r.Settle();
    ncclRecv(recv + recv_at[p], from(p), ncclInt32, p, r.comm, side);
    if (!grouped) r.Settle();
  }
  if (grouped) ncclGroupEnd();
  if (mistake != Mistake::kNoSettle) r.Settle();
  cudaEventRecord(end, side);
  if (mistake != Mistake::kNoEvent) cudaStreamWaitEvent(r.stream, end, 0);
  if (mistake != Mistake::kNoSettle && mistake != Mistake::kNoEvent) {
    if (r.Wait() != ncclSuccess) return {};
  }
  const std::vector<int32_t> arrived = r.Download(recv, recv_at.back());
  r.Settle();
  return arrived;
}

std::vector<int32_t> Expected(const Rank& r) {
  std::vector<int32_t> values;
  for (int p = 0; p < r.num_ranks; ++p) values.insert(values.end(), Count(p, r.rank), p * 100 + r.rank);
  return values;
}

TEST_F(FakeNcclTest, ARightExchangePasses) {
  for (const int num_ranks : {1, 2, 3, 5}) {
    Run(num_ranks, [](Rank& r) {
      for (int i = 0; i < 10; ++i) EXPECT_EQ(Exchange(r, Mistake::kNone), Expected(r));
      r.Finalize();
    });
  }
  EXPECT_THAT(TakeReports(), IsEmpty());
}

// Every rank first waits for its own send, which waits for a receive that is behind it.
TEST_F(FakeNcclTest, SendsOutsideAGroupAreADeadlock) {
  Run(3, [](Rank& r) {
    EXPECT_EQ(Exchange(r, Mistake::kNoGroup), std::vector<int32_t>());
    ncclCommAbort(r.comm);
  });
  EXPECT_THAT(TakeReports(), Contains(AllOf(HasSubstr("deadlock"), HasSubstr("rank 0: group 0 under way: send of"),
                                            HasSubstr("behind it group 1: receive from rank"))));
}

TEST_F(FakeNcclTest, SizesThatDifferAreReportedWithBothRanks) {
  Run(4, [](Rank& r) {
    Exchange(r, Mistake::kCount);
    ncclCommAbort(r.comm);
  });
  EXPECT_THAT(TakeReports(), Contains(HasSubstr("size mismatch 2 -> 1: rank 2 sends 12 bytes in its group 0, rank 1 "
                                                "receives 16 in its group 0")));
}

TEST_F(FakeNcclTest, AnEmptyMessageLeftOutOnOneEndIsADeadlock) {
  Run(4, [](Rank& r) {
    Exchange(r, Mistake::kZeroOnOneEnd);
    ncclCommAbort(r.comm);
  });
  EXPECT_THAT(TakeReports(), Contains(AllOf(HasSubstr("deadlock"), HasSubstr("receive of 0 bytes from rank"))));
}

// A group that is still in progress is not in the stream, so an event recorded then does not come after it.
TEST_F(FakeNcclTest, AGroupInProgressIsNotInTheStream) {
  std::atomic<int> num_wrong{0};
  for (int i = 0; i < 20; ++i) {
    std::barrier both(2);
    Run(2, [&](Rank& r) {
      num_wrong += Exchange(r, Mistake::kNoSettle) != Expected(r);
      both.arrive_and_wait();
      ncclCommAbort(r.comm);
    });
  }
  EXPECT_GT(num_wrong.load(), 5);
}

TEST_F(FakeNcclTest, AMissingWaitIsAWrongResult) {
  std::atomic<int> num_wrong{0};
  Run(2, [&](Rank& r) {
    num_wrong += Exchange(r, Mistake::kNoEvent) != Expected(r);
    ncclCommAbort(r.comm);
  });
  EXPECT_EQ(num_wrong.load(), 2);
}

TEST_F(FakeNcclTest, CollectivesMustComeInOneOrder) {
  for (const bool one_differs : {false, true}) {
    TakeReports();
    Run(3, [&](Rank& r) {
      const std::vector<int32_t> mine = {r.rank, r.rank + 10, r.rank + 20};
      int32_t *send = r.Allocate(3), *all = r.Allocate(3), *turned = r.Allocate(3);
      r.Upload(send, mine);
      for (const bool gather : {r.rank == 2 && one_differs, !(r.rank == 2 && one_differs)}) {
        if (gather) {
          ncclAllGather(send, all, 1, ncclInt32, r.comm, r.stream);
        } else {
          ncclAlltoAll(send, turned, 1, ncclInt32, r.comm, r.stream);
        }
        r.Settle();
      }
      if (r.Wait() == ncclSuccess && !one_differs) {
        EXPECT_EQ(r.Download(all, 3), (std::vector<int32_t>{0, 1, 2}));
        EXPECT_EQ(r.Download(turned, 3), (std::vector<int32_t>{10 * r.rank, 10 * r.rank + 1, 10 * r.rank + 2}));
      }
      ncclCommAbort(r.comm);
    });
    if (one_differs) {
      EXPECT_THAT(TakeReports(), Contains(AllOf(HasSubstr("order mismatch"), HasSubstr("ncclAllGather"),
                                                HasSubstr("ncclAlltoAll"), HasSubstr("rank 2"))));
    } else {
      EXPECT_THAT(TakeReports(), IsEmpty());
    }
  }
}

// Whoever goes: the others see no end of their work until they abort it, and then their streams are idle.
TEST_F(FakeNcclTest, TheDeadAreWaitedForUntilAbort) {
  int64_t num_calls = 0;
  Run(3, [&](Rank& r) {
    EXPECT_EQ(Exchange(r, Mistake::kNone), Expected(r));
    ncclCommAbort(r.comm);
  });
  num_calls = NumCalls(1);
  EXPECT_EQ(num_calls, 8);  // the start, 6 messages, the end of a group
  for (int64_t call = 1; call < num_calls; ++call) {
    SetFault({.rank = 1, .call = call, .kind = FaultKind::kThrow});
    Run(3, [&](Rank& r) {
      int32_t* data = r.Allocate(30);
      ncclGroupStart();
      for (int p = 0; p < 3; ++p) {
        ncclSend(data + p, 1, ncclInt32, p, r.comm, r.stream);
        ncclRecv(data + 10 + p, 1, ncclInt32, p, r.comm, r.stream);
      }
      ncclGroupEnd();
      r.Settle();
      const Deadline deadline = Deadline::After(absl::Milliseconds(30));
      while (!deadline.Expired()) EXPECT_EQ(cudaStreamQuery(r.stream), cudaErrorNotReady);
      cudaGetLastError();
      EXPECT_EQ(ncclCommAbort(r.comm), ncclSuccess);
      EXPECT_EQ(cudaStreamSynchronize(r.stream), cudaSuccess);
    });
  }
  EXPECT_THAT(TakeReports(), IsEmpty());
}

TEST_F(FakeNcclTest, CallsOutOfTurnAreRefused) {
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t first = nullptr, second = nullptr;
  ASSERT_EQ(ncclCommInitRankConfig(&first, 2, id, 0, &config), ncclInProgress);
  void* data = nullptr;
  ASSERT_EQ(cudaMalloc(&data, 8), cudaSuccess);
  EXPECT_EQ(ncclSend(data, 1, ncclInt32, 1, first, nullptr), ncclInvalidUsage);
  EXPECT_EQ(ncclCommInitRankConfig(&second, 2, id, 1, &config), ncclInvalidUsage);
  ncclConfig_t zeros = {};
  EXPECT_EQ(ncclCommInitRankConfig(&second, 2, id, 1, &zeros), ncclInvalidArgument);
  EXPECT_EQ(ncclCommAbort(first), ncclSuccess);
  EXPECT_EQ(ncclCommAbort(first), ncclInvalidUsage);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  const std::vector<std::string> reports = TakeReports();
  EXPECT_THAT(reports, SizeIs(5));
  for (const char* word : {"before the communicator is ready", "duplicate GPU", "NCCL_CONFIG_INITIALIZER", "aborted",
                           "without ncclGroupStart"}) {
    EXPECT_THAT(reports, Contains(HasSubstr(word)));
  }
}

TEST_F(FakeNcclTest, OnlyDeviceMemoryAndRanksThatAreThere) {
  Run(1, [](Rank& r) {
    int32_t on_host = 0;
    EXPECT_EQ(ncclSend(&on_host, 1, ncclInt32, 0, r.comm, r.stream), ncclInvalidArgument);
    int32_t* data = r.Allocate(1);
    EXPECT_EQ(ncclSend(data, 100, ncclInt32, 0, r.comm, r.stream), ncclInvalidArgument);
    EXPECT_EQ(ncclRecv(data, 1, ncclInt32, 1, r.comm, r.stream), ncclInvalidArgument);
    ncclCommAbort(r.comm);
  });
  EXPECT_THAT(TakeReports(), SizeIs(3));
}

}  // namespace
}  // namespace tokenferry::fakegpu
