// A copy of the NCCL transport with one mistake in it (tests/fakegpu/CMakeLists.txt): some order of streams must show
// it.
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tests/comm/transport/conformance.h"
#include "tests/fakegpu/nccl/rank_threads.h"

extern const bool kIsPlanted;  // behind the copy

namespace tokenferry::fakegpu {
namespace {

constexpr int kBytes = 40;  // from rank to rank, but nothing from the first to the last

int BytesOf(int src, int dst, int num_ranks) { return src == 0 && dst == num_ranks - 1 ? 0 : kBytes; }
uint8_t Value(int src, int dst, int round) { return ByteOf(src, dst, 0, round); }

// Sets `is_wrong` when a byte is.
absl::Status Exchange(Transport& t, Device& device, std::atomic<bool>& is_wrong) {
  const int num_ranks = t.num_ranks(), me = t.rank().value;
  TF_ASSIGN_OR_RETURN(auto stream, device.CreateStream());
  std::vector<int64_t> send_offsets(num_ranks + 1), recv_offsets(num_ranks + 1);
  for (int r = 0; r < num_ranks; ++r) {
    send_offsets[r + 1] = send_offsets[r] + BytesOf(me, r, num_ranks);
    recv_offsets[r + 1] = recv_offsets[r] + BytesOf(r, me, num_ranks);
  }
  TF_ASSIGN_OR_RETURN(const Buffer send, device.Allocate(num_ranks * kBytes, MemoryKind::kDevice, "send"));
  TF_ASSIGN_OR_RETURN(const Buffer recv, device.Allocate(num_ranks * kBytes, MemoryKind::kDevice, "recv"));
  for (int round = 0; round < 4; ++round) {
    for (int r = 0; r < num_ranks; ++r) {
      stream->Fill(send.as<char>() + send_offsets[r], Value(me, r, round), send_offsets[r + 1] - send_offsets[r]);
    }
    stream->Fill(recv.data(), 0xEE, recv.num_bytes());
    TF_RETURN_IF_ERROR(
        t.AllToAllV(*stream, {"planted", 0, round}, {send.data(), send_offsets, recv.data(), recv_offsets}));
    std::vector<uint8_t> arrived(recv_offsets.back());
    stream->CopyToHost(arrived.data(), recv.data(), arrived.size());
    stream->Fill(send.data(), 0x11, send.num_bytes());
    TF_RETURN_IF_ERROR(stream->Synchronize());
    for (int r = 0; r < num_ranks; ++r) {
      for (int64_t i = recv_offsets[r]; i < recv_offsets[r + 1]; ++i) {
        if (arrived[i] != Value(r, me, round)) is_wrong = true;
      }
    }
  }
  return absl::OkStatus();
}

TEST(PlantedTransport, IsFound) {
  std::atomic<bool> is_wrong{false};
  bool is_found = false;
  for (int seed = 1; seed <= 10 && !is_found; ++seed) {
    // A mistake may make ranks wait for ever.
    const auto ends = RunRanks(3, seed, kIsPlanted ? absl::Milliseconds(500) : absl::Seconds(30),
                               [&](Transport& t, Device& device) { return Exchange(t, device, is_wrong); });
    is_found = is_wrong || !TakeReports().empty();
    for (const RankEnd& end : ends) is_found |= !end.status.ok();
  }
  EXPECT_EQ(is_found, kIsPlanted);
}

}  // namespace
}  // namespace tokenferry::fakegpu
