#include "tests/comm/transport/conformance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "comm/transport/collectives.h"
#include "comm/transport/topology.h"
#include "core/device/cpu_device.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

std::vector<int64_t> Offsets(Transport& t, int64_t start, const std::function<int64_t(int)>& size) {
  std::vector<int64_t> offsets(t.num_ranks() + 1, start);
  for (int r = 0; r < t.num_ranks(); ++r) offsets[r + 1] = offsets[r] + size(r);
  return offsets;
}

// One rank's messages of one transfer, with bytes before and after them that must stay as they are.
class TestMessages {
 public:
  TestMessages(Transport& t, int round, int64_t (*bytes_of)(int, int, int))
      : me_(t.rank().value),
        round_(round),
        send_offsets_(Offsets(t, kGuard, [&](int r) { return bytes_of(me_, r, round); })),
        recv_offsets_(Offsets(t, kGuard, [&](int r) { return bytes_of(r, me_, round); })),
        send_(send_offsets_.back() + kGuard, 0xEE),
        recv_(recv_offsets_.back() + kGuard, 0xDD) {
    for (int r = 0; r < t.num_ranks(); ++r) {
      for (int64_t i = send_offsets_[r]; i < send_offsets_[r + 1]; ++i) {
        send_[i] = ByteOf(me_, r, i - send_offsets_[r], round);
      }
    }
  }
  AllToAllVArgs args() { return {send_.data(), send_offsets_, recv_.data(), recv_offsets_}; }
  std::vector<uint8_t>& recv() { return recv_; }
  size_t send_bytes() const { return send_.size(); }

  // After the transfer.
  void Check() {
    std::fill(send_.begin(), send_.end(), 0xAA);  // may be reused
    std::vector<uint8_t> expected(recv_.size(), 0xDD);
    for (size_t r = 0; r + 1 < recv_offsets_.size(); ++r) {
      for (int64_t i = recv_offsets_[r]; i < recv_offsets_[r + 1]; ++i) {
        expected[i] = ByteOf(static_cast<int>(r), me_, i - recv_offsets_[r], round_);
      }
    }
    EXPECT_EQ(std::memcmp(recv_.data(), expected.data(), recv_.size()), 0) << "round " << round_;
  }

 private:
  static constexpr int64_t kGuard = 16;
  const int me_, round_;
  const std::vector<int64_t> send_offsets_, recv_offsets_;
  std::vector<uint8_t> send_, recv_;
};

// The same in memory of `device`. What comes after Finish in the stream, and what comes before Begin, must not disturb
// it.
class DeviceMessages {
 public:
  DeviceMessages(Transport& t, Device& device, Stream& stream, int round, int64_t (*bytes_of)(int, int, int))
      : messages_(t, round, bytes_of),
        stream_(stream),
        send_(*device.Allocate(messages_.send_bytes(), t.memory_kind(), "send")),
        recv_(*device.Allocate(messages_.recv().size(), t.memory_kind(), "recv")) {
    stream_.Fill(send_.data(), 0x77, send_.num_bytes());
    stream_.CopyToDevice(recv_.data(), messages_.recv().data(), recv_.num_bytes());
    stream_.CopyToDevice(send_.data(), messages_.args().send, send_.num_bytes());
  }
  AllToAllVArgs args() {
    AllToAllVArgs args = messages_.args();
    args.send = send_.data();
    args.recv = recv_.data();
    return args;
  }
  // After Finish.
  void Check() {
    stream_.Fill(send_.data(), 0xAA, send_.num_bytes());
    stream_.CopyToHost(messages_.recv().data(), recv_.data(), recv_.num_bytes());
    stream_.Fill(recv_.data(), 0xBB, recv_.num_bytes());
    ASSERT_EQ(stream_.Synchronize(), absl::OkStatus());
    messages_.Check();
  }

 private:
  TestMessages messages_;
  Stream& stream_;
  Buffer send_, recv_;
};

struct SizeCase {
  int64_t (*bytes_of)(int src, int dst, int round);
};
constexpr SizeCase kSizes[] = {
    {[](int, int, int) -> int64_t { return 0; }},
    {[](int, int, int) -> int64_t { return 1; }},
    {[](int, int, int) -> int64_t { return 4097; }},
    {[](int src, int dst, int) -> int64_t { return 1 + src * 37 + dst * 101; }},
    {[](int src, int dst, int) -> int64_t { return (src + dst) % 2 ? 400'001 : 0; }},
    {[](int src, int dst, int) -> int64_t { return src == dst ? 77 : 0; }},
    {[](int src, int, int) -> int64_t { return src == 0 ? 1000 : 0; }},  // one sender
    {[](int, int dst, int) -> int64_t { return dst == 0 ? 1000 : 0; }},  // one receiver
    {[](int src, int dst, int) -> int64_t { return dst == src + 1 ? 12345 : 0; }},
    {[](int src, int dst, int) -> int64_t { return src % 2 && dst % 2 ? 5 : 0; }},
};

void Sizes(Transport& t) {
  int round = 0;
  for (const SizeCase& size : kSizes) TransferAndCheck(t, round++, size.bytes_of);
}

void DeviceSizes(Transport& t, Device& device) {
  auto stream = *device.CreateStream();
  int round = 0;
  for (const SizeCase& size : kSizes) {
    DeviceMessages messages(t, device, *stream, round, size.bytes_of);
    ASSERT_EQ(t.AllToAllV(*stream, {"sizes", 1, round++}, messages.args()), absl::OkStatus());
    messages.Check();
  }
}

void ManyRounds(Transport& t) {
  for (int round = 0; round < 300; ++round) {
    TransferAndCheck(t, round,
                     [](int src, int dst, int n) -> int64_t { return (src * 7 + dst * 13 + n * 5) % 11 * 8; });
  }
}

int64_t OddSizes(int src, int dst, int n) { return (src * 7 + dst * 13 + n * 5) % 11 * (n % 3 == 0 ? 1'001 : 9); }

// Started one after the other, finished in any order, with whole transfers between them.
void SeveralUnderWay(Transport& t) {
  std::mt19937_64 random(7);                        // the same on every rank
  constexpr int kMost = kMaxTransfersInFlight - 1;  // and one for the whole transfer
  int round = 0;
  for (const int count : {1, 2, 3, 5, kMost, 7, 4, kMost}) {
    ++round;
    std::vector<std::unique_ptr<TestMessages>> messages;
    std::vector<TransferHandle> handles;
    for (int i = 0; i < count; ++i) {
      messages.push_back(std::make_unique<TestMessages>(t, 100 * round + i, OddSizes));
      auto handle = t.HostBegin({"under way", i, round}, messages.back()->args());
      ASSERT_EQ(handle.status(), absl::OkStatus());
      handles.push_back(*handle);
    }
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (const int i : order) {
      TransferAndCheck(t, 100 * round + 50 + i, OddSizes);
      ASSERT_EQ(t.HostFinish(handles[i]), absl::OkStatus());
      messages[i]->Check();
    }
  }
}

void DeviceSeveralUnderWay(Transport& t, Device& device) {
  auto stream = *device.CreateStream();
  std::mt19937_64 random(8);  // the same on every rank
  int round = 0;
  for (const int count : {1, 3, kMaxTransfersInFlight, 2}) {
    ++round;
    std::vector<std::unique_ptr<DeviceMessages>> messages;
    std::vector<TransferHandle> handles;
    std::vector<int> order(count);
    for (int i = 0; i < count; ++i) {
      messages.push_back(std::make_unique<DeviceMessages>(t, device, *stream, 100 * round + i, OddSizes));
      auto handle = t.Begin(*stream, {"under way", i, round}, messages.back()->args());
      ASSERT_EQ(handle.status(), absl::OkStatus());
      handles.push_back(*handle);
    }
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (const int i : order) {
      ASSERT_EQ(t.Finish(*stream, handles[i]), absl::OkStatus());
      messages[i]->Check();
    }
  }
}

// Two streams take turns; messages of the host's memory go between.
void DeviceManyRounds(Transport& t, Device& device) {
  const std::unique_ptr<Stream> streams[] = {*device.CreateStream(), *device.CreateStream()};
  for (int round = 0; round < 40; ++round) {
    Stream& stream = *streams[round % 2];
    DeviceMessages messages(t, device, stream, round, OddSizes);
    auto handle = t.Begin(stream, {"rounds", 2, round}, messages.args());
    ASSERT_EQ(handle.status(), absl::OkStatus());
    if (round % 3 == 0) TransferAndCheck(t, round, OddSizes);
    ASSERT_EQ(t.Finish(stream, *handle), absl::OkStatus());
    messages.Check();
  }
}

constexpr int64_t kPartRowBytes = 24;
int64_t SizesForParts(int src, int dst, int n) {
  return kPartRowBytes * (std::array{0, 1, 9'000, 25'001}[(src + 2 * dst + n) % 4]);
}

void DeviceInParts(Transport& t, Device& device) {
  auto stream = *device.CreateStream();
  for (const int num_parts : {1, 3, 8}) {
    DeviceMessages messages(t, device, *stream, num_parts, SizesForParts);
    AllToAllVArgs args = messages.args();
    args.row_bytes = kPartRowBytes;
    args.num_parts = num_parts;
    std::vector<TransferHandle> handles;
    for (args.part = 0; args.part < num_parts; ++args.part) {
      auto handle = t.Begin(*stream, {"parts", 1, num_parts}, args);
      ASSERT_EQ(handle.status(), absl::OkStatus());
      handles.push_back(*handle);
    }
    for (TransferHandle handle : handles) ASSERT_EQ(t.Finish(*stream, handle), absl::OkStatus());
    messages.Check();
  }
}

// All parts under way at once: together they are the whole.
void InParts(Transport& t) {
  int round = 0;
  for (const int num_parts : {1, 2, 5, 8}) {
    TestMessages messages(t, ++round, SizesForParts);
    AllToAllVArgs args = messages.args();
    args.row_bytes = kPartRowBytes;
    args.num_parts = num_parts;
    std::vector<TransferHandle> handles;
    for (args.part = 0; args.part < num_parts; ++args.part) {
      auto handle = t.HostBegin({"parts", 1, round}, args);
      ASSERT_EQ(handle.status(), absl::OkStatus());
      handles.push_back(*handle);
    }
    for (TransferHandle handle : handles) ASSERT_EQ(t.HostFinish(handle), absl::OkStatus());
    messages.Check();
  }
}

void RefusesAPartThatIsNot(Transport& t) {
  const std::vector<int64_t> offsets(t.num_ranks() + 1, 0);
  AllToAllVArgs args{.send_offsets = offsets, .recv_offsets = offsets, .row_bytes = 8, .part = 2, .num_parts = 2};
  EXPECT_EQ(t.HostAllToAllV({"third half"}, args).code(), absl::StatusCode::kInvalidArgument);
}

void RefusesTooManyUnderWay(Transport& t) {
  const std::vector<int64_t> offsets(t.num_ranks() + 1, 0);
  TransferHandle first;
  for (int i = 0; i < kMaxTransfersInFlight; ++i) {
    auto handle = t.HostBegin({"one of many"}, {nullptr, offsets, nullptr, offsets});
    ASSERT_EQ(handle.status(), absl::OkStatus()) << i;
    if (i == 0) first = *handle;
  }
  auto handle = t.HostBegin({"one too many"}, {nullptr, offsets, nullptr, offsets});
  EXPECT_EQ(handle.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(handle.status().message()), HasSubstr("one too many"));
  EXPECT_EQ(t.HostFinish(first), handle.status());
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
  EXPECT_FALSE(Barrier(t, {"next"}).ok());
}

void DeviceRefusesAfterError(Transport& t, Device& device) {
  auto stream = *device.CreateStream();
  std::vector<int64_t> offsets(t.num_ranks() + 1, 0), falling(t.num_ranks() + 1, 0);
  falling[0] = 5;
  const absl::Status first = t.AllToAllV(*stream, {"bad offsets", 3, 9}, {nullptr, falling, nullptr, offsets});
  EXPECT_EQ(first.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(first.message()), HasSubstr("layer 3, bad offsets, step 9"));
  EXPECT_EQ(t.AllToAllV(*stream, {"next"}, {nullptr, offsets, nullptr, offsets}), first);
  EXPECT_EQ(t.HostAllToAllV({"next"}, {nullptr, offsets, nullptr, offsets}), first);
}

void RefusesWrongNumberOfOffsets(Transport& t) {
  char byte = 0;
  std::vector<int64_t> offsets(t.num_ranks() + 1, 0), few(t.num_ranks(), 0);
  EXPECT_EQ(t.HostAllToAllV({"few"}, {&byte, few, &byte, offsets}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace

void TransferAndCheck(Transport& t, int round, int64_t (*bytes_of)(int, int, int)) {
  TestMessages messages(t, round, bytes_of);
  ASSERT_EQ(t.HostAllToAllV({"conformance", 1, round}, messages.args()), absl::OkStatus());
  messages.Check();
}

const ConformanceCase kConformanceCases[] = {
    {"Sizes", Sizes},
    {"SeveralUnderWay", SeveralUnderWay},
    {"InParts", InParts},
    {"RefusesAPartThatIsNot", RefusesAPartThatIsNot},
    {"RefusesTooManyUnderWay", RefusesTooManyUnderWay},
    {"ManyRounds", ManyRounds},
    {"WaitSeconds", WaitSeconds},
    {"Collectives", Collectives},
    {"Names", Names},
    {"RefusesAfterError", RefusesAfterError},
    {"RefusesWrongNumberOfOffsets", RefusesWrongNumberOfOffsets},
};
const int kNumConformanceCases = static_cast<int>(std::size(kConformanceCases));

const DeviceConformanceCase kDeviceConformanceCases[] = {
    {"Sizes", DeviceSizes},     {"SeveralUnderWay", DeviceSeveralUnderWay},     {"ManyRounds", DeviceManyRounds},
    {"InParts", DeviceInParts}, {"RefusesAfterError", DeviceRefusesAfterError},
};
const int kNumDeviceConformanceCases = static_cast<int>(std::size(kDeviceConformanceCases));

}  // namespace tokenferry
