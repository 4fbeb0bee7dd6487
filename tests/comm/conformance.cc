#include "tests/comm/conformance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "comm/collectives.h"
#include "comm/topology.h"
#include "core/device/cpu_device.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

std::vector<int64_t> Offsets(Transport& t, int64_t start, const std::function<int64_t(int)>& size) {
  std::vector<int64_t> offsets(t.num_ranks() + 1, start);
  for (int r = 0; r < t.num_ranks(); ++r) offsets[r + 1] = offsets[r] + size(r);
  return offsets;
}

void Sizes(Transport& t) {
  TransferAndCheck(t, 0, [](int, int, int) -> int64_t { return 0; });
  TransferAndCheck(t, 1, [](int, int, int) -> int64_t { return 1; });
  TransferAndCheck(t, 2, [](int, int, int) -> int64_t { return 4097; });
  TransferAndCheck(t, 3, [](int src, int dst, int) -> int64_t { return 1 + src * 37 + dst * 101; });
  TransferAndCheck(t, 4, [](int src, int dst, int) -> int64_t { return (src + dst) % 2 ? 3'000'001 : 0; });
  TransferAndCheck(t, 5, [](int src, int dst, int) -> int64_t { return src == dst ? 77 : 0; });
}

void EmptyRanks(Transport& t) {
  TransferAndCheck(t, 0, [](int src, int, int) -> int64_t { return src == 0 ? 1000 : 0; });  // one sender
  TransferAndCheck(t, 1, [](int, int dst, int) -> int64_t { return dst == 0 ? 1000 : 0; });  // one receiver
  TransferAndCheck(t, 2, [](int src, int dst, int) -> int64_t { return dst == src + 1 ? 12345 : 0; });
  TransferAndCheck(t, 3, [](int src, int dst, int) -> int64_t { return src % 2 && dst % 2 ? 5 : 0; });
}

void ManyRounds(Transport& t) {
  for (int round = 0; round < 300; ++round) {
    TransferAndCheck(t, round,
                     [](int src, int dst, int n) -> int64_t { return (src * 7 + dst * 13 + n * 5) % 11 * 8; });
  }
}

void Streams(Transport& t) {
  auto device = CreateCpuDevice({});
  auto stream = *device->CreateStream();
  const int64_t n = 1000;
  auto send = device->Allocate(n * t.num_ranks(), t.memory_kind(), "send");
  auto recv = device->Allocate(n * t.num_ranks(), t.memory_kind(), "recv");
  ASSERT_TRUE(send.ok() && recv.ok());
  stream->Fill(send->data(), static_cast<uint8_t>(10 + t.rank().value), send->num_bytes());
  stream->Fill(recv->data(), 0, recv->num_bytes());
  const auto offsets = Offsets(t, 0, [&](int) { return n; });
  ASSERT_EQ(t.AllToAllV(*stream, {"streams"}, {send->data(), offsets, recv->data(), offsets}), absl::OkStatus());
  std::vector<uint8_t> host(recv->num_bytes());
  stream->CopyToHost(host.data(), recv->data(), host.size());
  ASSERT_EQ(stream->Synchronize(), absl::OkStatus());
  for (int r = 0; r < t.num_ranks(); ++r) {
    EXPECT_EQ(host[r * n], 10 + r);
    EXPECT_EQ(host[(r + 1) * n - 1], 10 + r);
  }
}

void WaitSeconds(Transport& t) {
  TransferAndCheck(t, 0, [](int, int, int) -> int64_t { return 8; });
  ASSERT_EQ(static_cast<int>(t.wait_seconds_per_rank().size()), t.num_ranks());
  EXPECT_EQ(t.wait_seconds_per_rank()[t.rank().value], 0.0);
  double sum = 0;
  for (double seconds : t.wait_seconds_per_rank()) {
    EXPECT_GE(seconds, 0.0);
    sum += seconds;
  }
  EXPECT_EQ(sum > 0.0, t.num_ranks() > 1);
}

std::string MessageOf(int rank, int n) { return std::string(n, static_cast<char>('a' + rank)); }

void Collectives(Transport& t) {
  const int me = t.rank().value, num_ranks = t.num_ranks(), last = num_ranks - 1;
  for (int size : {0, 1, 1000}) {
    auto all = AllGather(t, {"gather"}, MessageOf(me, size + me * 3));
    ASSERT_TRUE(all.ok()) << all.status();
    for (int r = 0; r < num_ranks; ++r) EXPECT_EQ((*all)[r], MessageOf(r, size + r * 3));
    auto at_root = Gather(t, {"gather"}, RankId(last), MessageOf(me, size + me));
    ASSERT_TRUE(at_root.ok()) << at_root.status();
    ASSERT_EQ(static_cast<int>(at_root->size()), me == last ? num_ranks : 0);
    for (size_t r = 0; r < at_root->size(); ++r) EXPECT_EQ((*at_root)[r], MessageOf(r, size + static_cast<int>(r)));
    auto from_root = Broadcast(t, {"broadcast"}, RankId(last), me == last ? MessageOf(last, size) : "not read");
    ASSERT_TRUE(from_root.ok()) << from_root.status();
    EXPECT_EQ(*from_root, MessageOf(last, size));
  }
  EXPECT_EQ(Barrier(t, {"barrier"}), absl::OkStatus());
  EXPECT_EQ(AgreeOnStatus(t, {"agree"}, absl::OkStatus()), absl::OkStatus());
  const absl::Status agreed = AgreeOnStatus(
      t, {"agree"},
      me == last || me == num_ranks / 2 ? absl::NotFoundError(absl::StrCat("file ", me)) : absl::OkStatus());
  EXPECT_EQ(agreed.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(agreed.message(), absl::StrCat("rank ", num_ranks / 2, ": file ", num_ranks / 2));
  EXPECT_TRUE(IsAgreedOn(agreed));
  EXPECT_FALSE(Broadcast(t, {"broadcast"}, RankId(num_ranks), "x").ok());
}

void Names(Transport& t) {
  EXPECT_THAT(t.ToString(), HasSubstr(absl::StrCat("rank ", t.rank().value, " of ", t.num_ranks())));
  const Topology topology = Topology::Of(t);
  EXPECT_EQ(topology.num_hosts(), 1);  // these tests run on one host
  EXPECT_EQ(topology.local_idx_per_rank[t.rank().value], t.rank().value);
}

// Wrong arguments are refused, and so is everything after them.
void RefusesAfterError(Transport& t) {
  char byte = 0;
  std::vector<int64_t> offsets(t.num_ranks() + 1, 0), falling(t.num_ranks() + 1, 0);
  falling[0] = 5;
  const absl::Status first = t.HostAllToAllV({"bad offsets", 3, 9}, {&byte, falling, &byte, offsets});
  EXPECT_EQ(first.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(first.message()), HasSubstr("layer 3, bad offsets, step 9"));
  EXPECT_EQ(t.HostAllToAllV({"next"}, {&byte, offsets, &byte, offsets}), first);
  auto device = CreateCpuDevice({});
  auto stream = *device->CreateStream();
  EXPECT_EQ(t.AllToAllV(*stream, {"next"}, {&byte, offsets, &byte, offsets}), first);
  EXPECT_FALSE(Barrier(t, {"next"}).ok());
}

void RefusesWrongNumberOfOffsets(Transport& t) {
  char byte = 0;
  std::vector<int64_t> offsets(t.num_ranks() + 1, 0), few(t.num_ranks(), 0);
  EXPECT_EQ(t.HostAllToAllV({"few"}, {&byte, few, &byte, offsets}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace

void TransferAndCheck(Transport& t, int round, int64_t (*bytes_of)(int, int, int)) {
  constexpr int64_t kGuard = 16;  // bytes before and after that must stay as they are
  const int me = t.rank().value;
  const auto send_offsets = Offsets(t, kGuard, [&](int r) { return bytes_of(me, r, round); });
  const auto recv_offsets = Offsets(t, kGuard, [&](int r) { return bytes_of(r, me, round); });
  std::vector<uint8_t> send(send_offsets.back() + kGuard, 0xEE), recv(recv_offsets.back() + kGuard, 0xDD);
  for (int r = 0; r < t.num_ranks(); ++r) {
    for (int64_t i = send_offsets[r]; i < send_offsets[r + 1]; ++i) send[i] = ByteOf(me, r, i - send_offsets[r], round);
  }
  const absl::Status status =
      t.HostAllToAllV({"conformance", 1, round}, {send.data(), send_offsets, recv.data(), recv_offsets});
  ASSERT_EQ(status, absl::OkStatus());
  std::fill(send.begin(), send.end(), 0xAA);  // may be reused
  std::vector<uint8_t> expected(recv.size(), 0xDD);
  for (int r = 0; r < t.num_ranks(); ++r) {
    for (int64_t i = recv_offsets[r]; i < recv_offsets[r + 1]; ++i) {
      expected[i] = ByteOf(r, me, i - recv_offsets[r], round);
    }
  }
  EXPECT_EQ(std::memcmp(recv.data(), expected.data(), recv.size()), 0) << "round " << round;
}

const ConformanceCase kConformanceCases[] = {
    {"Sizes", Sizes},
    {"EmptyRanks", EmptyRanks},
    {"ManyRounds", ManyRounds},
    {"Streams", Streams},
    {"WaitSeconds", WaitSeconds},
    {"Collectives", Collectives},
    {"Names", Names},
    {"RefusesAfterError", RefusesAfterError},
    {"RefusesWrongNumberOfOffsets", RefusesWrongNumberOfOffsets},
};
const int kNumConformanceCases = static_cast<int>(std::size(kConformanceCases));

}  // namespace tokenferry
