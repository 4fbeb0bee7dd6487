// Plans made on the device against PlanBuilder's, array by array: the references of the operations, and their CUDA
// kernels where there is a CUDA device.
#include "comm/plan/device_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"

namespace tokenferry {
namespace {

struct PlanCase {
  int num_ranks = 1, num_experts = 1, top_k = 1;
  std::vector<int64_t> tokens;                  // [R]
  std::vector<std::vector<int32_t>> experts;    // [R] of [T, K]
  std::vector<std::vector<int32_t>> locations;  // [R] of [T, K], or empty
  Placement placement = Placement::Linear(1, 1);
};

// Experts on random ranks, some on several; selections that are none; locations that are given and that are not.
PlanCase RandomCase(std::mt19937& rng) {
  const auto draw = [&](int n) { return static_cast<int>(rng() % static_cast<uint32_t>(n)); };
  PlanCase c;
  c.num_ranks = std::vector<int>{1, 2, 3, 5, 8, 40}[draw(6)];
  c.num_experts = 1 + draw(70);
  c.top_k = std::vector<int>{0, 1, 2, 5, 8, 32}[draw(6)];
  std::vector<std::vector<int>> table(c.num_ranks);
  for (int e = 0; e < c.num_experts; ++e) {
    const int first = draw(c.num_ranks), copies = 1 + (draw(4) == 0 ? draw(c.num_ranks) : 0);
    for (int i = 0; i < copies; ++i) table[(first + i) % c.num_ranks].push_back(e);
  }
  c.placement = *Placement::FromTable(c.num_experts, table);
  if (draw(2) == 0) {
    std::vector<int> hosts(c.num_ranks);
    for (int& host : hosts) host = draw(2);
    c.placement.SetHosts(hosts);
  }
  const bool gives_locations = draw(2) == 0, crowded = draw(3) == 0;
  for (int r = 0; r < c.num_ranks; ++r) {
    c.tokens.push_back(std::vector<int>{0, 1, 2, 7, 33, 70}[draw(6)]);
    auto& experts = c.experts.emplace_back();
    auto& locations = c.locations.emplace_back();
    for (int64_t i = 0; i < c.tokens[r] * c.top_k; ++i) {
      experts.push_back(draw(5) == 0 ? -1 : crowded ? 0 : draw(c.num_experts));
      if (!gives_locations) continue;
      const int num_locations =
          experts[i] < 0 ? 1 : static_cast<int>(c.placement.locations(ExpertId(experts[i])).size());
      locations.push_back(draw(num_locations + 1) - 1);
    }
  }
  return c;
}

// Device arrays with bytes behind their ends that nobody may write.
class Arrays {
 public:
  explicit Arrays(Device& device) : device_(device), stream_(*device.CreateStream()) {}

  Stream& stream() { return *stream_; }

  template <class T>
  T* New(size_t size) {
    const std::vector<T> poison(size + kGuard, Poison<T>());
    return Upload(poison);
  }
  template <class T>
  T* Upload(const std::vector<T>& values) {
    auto buffer = device_.Allocate(std::max<size_t>(1, values.size()) * sizeof(T), MemoryKind::kDevice, "plan");
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    stream_->CopyToDevice(buffer->data(), values.data(), values.size() * sizeof(T));
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().as<T>();
  }
  template <class T>
  std::vector<T> Read(const T* from, size_t size) {
    std::vector<T> values(size);
    stream_->CopyToHost(values.data(), from, size * sizeof(T));
    EXPECT_EQ(stream_->Synchronize(), absl::OkStatus());
    return values;
  }
  // `want` lies at `from`, and behind it what New left there, up to `size`.
  template <class T>
  void Expect(const char* name, const T* from, const std::vector<T>& want, size_t size) {
    std::vector<T> expected = want;
    expected.resize(size + kGuard, Poison<T>());
    const std::vector<T> got = Read(from, size + kGuard);
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(T)), 0) << name;
  }

  template <class T>
  static T Poison() {
    T value;
    std::memset(static_cast<void*>(&value), 0xA5, sizeof value);
    return value;
  }

 private:
  static constexpr size_t kGuard = 4;

  Device& device_;
  std::unique_ptr<Stream> stream_;
  std::vector<Buffer> buffers_;
};

struct Counters {
  int64_t totals[3] = {};
  std::vector<int64_t> rows, returned;
};

// All ranks' plans on one device.
class DevicePlans {
 public:
  DevicePlans(Device& device, const PlanCase& c) : c_(c), arrays_(device) {
    fault_ = arrays_.Upload(std::vector<PlanFault>(1));
    for (int r = 0; r < c.num_ranks; ++r) Send(r);
    sources_ = arrays_.Upload(source_list_);
  }

  void Send(int rank) {
    const size_t T = c_.tokens[rank], K = c_.top_k, R = c_.num_ranks, n = T * K;
    PlanSendArgs& a = sends_.emplace_back();
    tables_.emplace_back();
    // Which copy of an expert is meant depends on the source: the tables of another one are not kept.
    for (const int source : {(rank + 1) % c_.num_ranks, rank}) {
      ASSERT_EQ(tables_.back().Set(arrays_.stream(), c_.placement, RankId(source)), absl::OkStatus());
      ASSERT_TRUE(tables_.back().Holds(c_.placement, RankId(source)));
    }
    a.placement = tables_.back().view();
    a.expert_idx = MakeMatrix<const int32_t>(nullptr, T, K);
    a.expert_idx.data = arrays_.Upload(c_.experts[rank]);
    if (!c_.locations[rank].empty()) {
      a.location = a.expert_idx;
      a.location.data = arrays_.Upload(c_.locations[rank]);
    }
    a.plan = {arrays_.New<int64_t>(R + 1),   arrays_.New<int64_t>(R + 1), arrays_.New<int32_t>(n),
              arrays_.New<WireSelection>(n), arrays_.New<int32_t>(n),     arrays_.New<int32_t>(n),
              arrays_.New<int64_t>(T + 1),   arrays_.New<int32_t>(n),     arrays_.New<int32_t>(n)};
    a.scratch = arrays_.New<int32_t>(n);
    a.fault = fault_;
    a.counters = NewCounters();
    arrays_.stream().Launch(kPlanSend, a);
    source_list_.push_back({a.plan.row_offsets, a.plan.selection_offsets, a.plan.selections});
  }

  RecvPlanArrays Recv(int rank, int64_t max_rows, int64_t max_selections, const int32_t* nothing_came = nullptr) {
    const size_t S = c_.placement.num_local_slots(RankId(rank)), R = c_.num_ranks, m = max_selections;
    PlanRecvArgs a;
    a.sources = sources_;
    a.rank = rank;
    a.num_ranks = c_.num_ranks;
    a.num_slots = static_cast<int32_t>(S);
    a.max_rows = max_rows;
    a.max_selections = max_selections;
    a.nothing_came = nothing_came;
    a.plan = {arrays_.New<int64_t>(R + 1), arrays_.New<int64_t>(R + 1), arrays_.New<int64_t>(S + 1),
              arrays_.New<int32_t>(m), arrays_.New<int32_t>(m)};
    a.scratch = arrays_.New<WireSelection>(m);
    a.fault = fault_;
    a.counters = sends_[rank].counters;
    arrays_.stream().Launch(kPlanRecv, a);
    return a.plan;
  }

  PlanFault fault() { return arrays_.Read(fault_, 1)[0]; }
  PlanSendArgs& send(int rank) { return sends_[rank]; }
  Arrays& arrays() { return arrays_; }
  Counters counters(int rank) {
    const PlanCounters& at = sends_[rank].counters;
    Counters counters;
    counters.totals[0] = arrays_.Read(at.num_exchanges, 1)[0];
    counters.totals[1] = arrays_.Read(at.num_tokens, 1)[0];
    counters.totals[2] = arrays_.Read(at.num_selections, 1)[0];
    counters.rows = arrays_.Read(at.rows_per_rank, c_.num_ranks);
    counters.returned = arrays_.Read(at.returned_per_rank, c_.num_ranks);
    return counters;
  }

 private:
  PlanCounters NewCounters() {
    int64_t* at = arrays_.Upload(std::vector<int64_t>(3 + 2 * c_.num_ranks));
    return {at, at + 1, at + 2, at + 3, at + 3 + c_.num_ranks};
  }

  const PlanCase& c_;
  Arrays arrays_;
  PlanFault* fault_ = nullptr;
  std::vector<PlanSendArgs> sends_;
  std::vector<PlacementTables> tables_;
  std::vector<SendPlanSource> source_list_;
  const SendPlanSource* sources_ = nullptr;
};

void ExpectSendPlan(Arrays& arrays, const PlanSendArgs& a, const SendPlan& want) {
  const size_t T = a.expert_idx.rows, n = T * a.expert_idx.cols, R = a.placement.num_ranks;
  arrays.Expect("row_offsets", a.plan.row_offsets, want.row_offsets, R + 1);
  arrays.Expect("selection_offsets", a.plan.selection_offsets, want.selection_offsets, R + 1);
  arrays.Expect("row_token", a.plan.row_token, want.row_token, n);
  arrays.Expect("selections", a.plan.selections, want.selections, n);
  arrays.Expect("selection_expert", a.plan.selection_expert, want.selection_expert, n);
  arrays.Expect("selection_k", a.plan.selection_k, want.selection_k, n);
  arrays.Expect("combine_offsets", a.plan.combine_offsets, want.combine_offsets, T + 1);
  arrays.Expect("combine_selection", a.plan.combine_selection, want.combine_selection, n);
  arrays.Expect("combine_k", a.plan.combine_k, want.combine_k, n);
}

void ExpectRecvPlan(Arrays& arrays, const RecvPlanArrays& got, const RecvPlan& want, int64_t max_selections) {
  arrays.Expect("recv row_offsets", got.row_offsets, want.row_offsets, want.row_offsets.size());
  arrays.Expect("recv selection_offsets", got.selection_offsets, want.selection_offsets, want.selection_offsets.size());
  arrays.Expect("slot_offsets", got.slot_offsets, want.slot_offsets, want.slot_offsets.size());
  arrays.Expect("row_idx", got.row_idx, want.row_idx, max_selections);
  arrays.Expect("return_selection", got.return_selection, want.return_selection, max_selections);
}

std::vector<SendPlan> BuildSends(const PlanCase& c) {
  std::vector<SendPlan> plans(c.num_ranks);
  for (int r = 0; r < c.num_ranks; ++r) {
    const HostRouting routing{c.experts[r], c.tokens[r], c.top_k, c.locations[r], RankId(r)};
    EXPECT_EQ(PlanBuilder().BuildSend(routing, c.placement, plans[r]), absl::OkStatus());
  }
  return plans;
}

RecvPlan BuildRecv(const PlanCase& c, const std::vector<SendPlan>& sends, int rank) {
  std::vector<int64_t> rows, counts;
  std::vector<WireSelection> selections;
  for (const SendPlan& s : sends) {
    rows.push_back(s.row_offsets[rank + 1] - s.row_offsets[rank]);
    counts.push_back(s.selection_offsets[rank + 1] - s.selection_offsets[rank]);
    selections.insert(selections.end(), s.selections.begin() + s.selection_offsets[rank],
                      s.selections.begin() + s.selection_offsets[rank + 1]);
  }
  RecvPlan plan;
  EXPECT_EQ(PlanBuilder().BuildRecv(rows, counts, selections, c.placement.num_local_slots(RankId(rank)), plan),
            absl::OkStatus());
  return plan;
}

// "reference", or "cuda" where there is one.
class DevicePlanTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "reference") {
      device_ = CreateCpuDevice({.kernels = KernelSet::kReference});
      return;
    }
    auto device = CreateCudaDevice({});
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    device_ = *std::move(device);
  }
  std::unique_ptr<Device> device_;
};
INSTANTIATE_TEST_SUITE_P(Devices, DevicePlanTest, testing::Values("reference", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(DevicePlanTest, EveryArrayIsPlanBuilders) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 rng(seed);
    const PlanCase c = RandomCase(rng);
    const std::vector<SendPlan> sends = BuildSends(c);
    DevicePlans plans(*device_, c);
    for (int r = 0; r < c.num_ranks; ++r) {
      SCOPED_TRACE(testing::Message() << "rank " << r << " of " << c.num_ranks << ", " << c.tokens[r] << " tokens, top-"
                                      << c.top_k << ", " << c.num_experts << " experts");
      ExpectSendPlan(plans.arrays(), plans.send(r), sends[r]);
      const RecvPlan want = BuildRecv(c, sends, r);
      const int64_t room = want.selection_offsets.back() + static_cast<int64_t>(rng() % 3);
      ExpectRecvPlan(plans.arrays(), plans.Recv(r, want.row_offsets.back(), room), want, room);
      const Counters counted = plans.counters(r);
      EXPECT_EQ(counted.totals[0], 1);
      EXPECT_EQ(counted.totals[2], sends[r].selection_offsets.back());
      for (int other = 0; other < c.num_ranks; ++other) {
        EXPECT_EQ(counted.rows[other], sends[r].row_offsets[other + 1] - sends[r].row_offsets[other]);
        EXPECT_EQ(counted.returned[other], want.selection_offsets[other + 1] - want.selection_offsets[other]);
      }
      int64_t num_tokens = 0;
      for (int64_t t = 0; t < c.tokens[r]; ++t) {
        num_tokens += sends[r].combine_offsets[t + 1] > sends[r].combine_offsets[t];
      }
      EXPECT_EQ(counted.totals[1], num_tokens);
    }
    EXPECT_EQ(plans.fault().kind, PlanFault::kNone) << ToString(plans.fault());
    if (HasFailure()) return;
  }
}

TEST_P(DevicePlanTest, SelectionsOfExpertsAndPlacesThatDoNotExistAreFaultsAndCountAsNone) {
  for (const int32_t expert : {-2, 3, 1 << 20}) {
    PlanCase c{.num_ranks = 2, .num_experts = 3, .top_k = 2, .tokens = {40, 1}, .placement = Placement::Linear(3, 2)};
    c.experts = {std::vector<int32_t>(80, 1), {0, 2}};
    c.locations = {{}, {}};
    c.experts[0][33] = c.experts[0][60] = expert;
    DevicePlans plans(*device_, c);
    const PlanFault fault = plans.fault();
    EXPECT_EQ(fault.kind, PlanFault::kExpert);
    EXPECT_EQ(fault.item, 16) << "the first";
    EXPECT_EQ(fault.k, 1);
    EXPECT_EQ(fault.value, expert);
    EXPECT_THAT(ToString(fault), testing::HasSubstr(absl::StrCat("token 16 selects expert ", expert)));
    c.experts[0][33] = c.experts[0][60] = -1;
    ExpectSendPlan(plans.arrays(), plans.send(0), BuildSends(c)[0]);
  }
  PlanCase c{.num_ranks = 2, .num_experts = 1, .top_k = 1, .tokens = {3, 0}, .placement = Placement::Linear(1, 2)};
  c.experts = {{0, 0, 0}, {}};
  c.locations = {{0, 1, -1}, {}};
  EXPECT_THAT(ToString(DevicePlans(*device_, c).fault()), testing::HasSubstr("token 1 wants location 1"));
}

// What peers have written may be anything.
TEST_P(DevicePlanTest, MessagesThatDoNotHoldTogetherAreFaults) {
  PlanCase c{.num_ranks = 2, .num_experts = 4, .top_k = 2, .tokens = {2, 2}, .placement = Placement::Linear(4, 2)};
  c.experts = {{0, 2, 1, 3}, {0, 1, 2, 3}};  // rank 0 has experts 0 and 1
  c.locations = {{}, {}};
  const auto recv_with = [&](auto spoil, int64_t room, int64_t max_rows = 3) {
    DevicePlans plans(*device_, c);
    spoil(plans);
    const RecvPlanArrays got = plans.Recv(0, max_rows, room);
    return std::pair(ToString(plans.fault()), plans.arrays().Read(got.selection_offsets, 3));
  };
  const auto set = [](DevicePlans& plans, auto* at, auto value) {
    plans.arrays().stream().CopyToDevice(at, &value, sizeof(value));
  };
  EXPECT_EQ(recv_with([](DevicePlans&) {}, 4), std::pair(std::string("no fault"), std::vector<int64_t>{0, 2, 4}));
  EXPECT_EQ(recv_with([](DevicePlans&) {}, 3).second, (std::vector<int64_t>{0, 2, 2}));
  EXPECT_THAT(recv_with([](DevicePlans&) {}, 3).first, testing::HasSubstr("plan from rank 1: announces 2 selections"));
  const auto without_room_for_rows =
      recv_with([](DevicePlans&) {}, 4, /*max_rows=*/2);  // rows 2 and 1, for selections 2 and 2
  EXPECT_EQ(without_room_for_rows.second, (std::vector<int64_t>{0, 2, 2}));
  EXPECT_THAT(without_room_for_rows.first, testing::HasSubstr("plan from rank 1: announces 2 selections"));
  EXPECT_THAT(recv_with([&](DevicePlans& p) { set(p, p.send(1).plan.selection_offsets + 1, int64_t{-7}); }, 4).first,
              testing::HasSubstr("plan from rank 1: announces -7"));
  EXPECT_THAT(recv_with([&](DevicePlans& p) { set(p, p.send(1).plan.row_offsets + 1, int64_t{5}); }, 4).first,
              testing::HasSubstr("plan from rank 1"));
  for (const WireSelection wire :
       {WireSelection{0, 2}, WireSelection{0, -1}, WireSelection{2, 0}, WireSelection{-1, 0}}) {
    EXPECT_THAT(recv_with([&](DevicePlans& p) { set(p, p.send(0).plan.selections + 1, wire); }, 4).first,
                testing::HasSubstr("plan from rank 0: names slot"));
  }
}

TEST_P(DevicePlanTest, NothingIsReadWhereNothingCame) {
  PlanCase c{.num_ranks = 2, .num_experts = 4, .top_k = 1, .tokens = {2, 2}, .placement = Placement::Linear(4, 2)};
  c.experts = {{0, 2}, {1, 3}};
  c.locations = {{}, {}};
  DevicePlans plans(*device_, c);
  const int32_t* yes = plans.arrays().Upload(std::vector<int32_t>{1});
  ExpectRecvPlan(plans.arrays(), plans.Recv(0, 4, 4, yes), {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {}, {}}, 4);
  EXPECT_EQ(plans.fault().kind, PlanFault::kNone);
}

}  // namespace
}  // namespace tokenferry
