#include "tests/comm/exchange/exchange_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "comm/tuning/exchange_choice.h"
#include "tests/comm/exchange/exchange_case_ops.h"

namespace tokenferry {
namespace {

float Rounded(float x, DType dtype) { return dtype == DType::kBF16 ? ToFloat(ToBF16(x)) : x; }

// What an expert sees of a row that was sent as `dtype` and widened to `wide`: every value by itself.
std::vector<float> SeenRow(const float* row, int64_t hidden, DType dtype, DType wide) {
  std::vector<float> seen(hidden);
  for (int64_t h = 0; h < hidden; ++h) {
    seen[h] = Rounded(row[h], dtype);
    if (dtype != DType::kF8E4M3 && dtype != DType::kI8) continue;
    float largest = 0;
    for (int64_t i = h / 128 * 128; i < std::min(hidden, h / 128 * 128 + 128); ++i) {
      largest = std::max(largest, std::abs(row[i]));
    }
    const float scale = largest / (dtype == DType::kI8 ? 127.0f : 448.0f);
    if (scale == 0) {
      seen[h] = 0;
    } else {
      const float code = row[h] / scale;
      seen[h] = Rounded((dtype == DType::kI8 ? std::nearbyint(code) : ToFloat(ToF8E4M3(code))) * scale, wide);
    }
  }
  return seen;
}

template <class T>
absl::StatusOr<Buffer> Upload(Device& device, Stream& stream, const T* values, int64_t count) {
  TF_ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(count * sizeof(T), MemoryKind::kDevice, "test"));
  if (count > 0) stream.CopyToDevice(buffer.data(), values, count * sizeof(T));
  return buffer;
}

// How a producer hands over its rows: f32 in memory of its own, or in the exchange's.
enum class GivenAs { kOwnMemory, kHomeRows };

// f32 rows stay so unless they are written where the exchange wants them, as it wants them.
absl::StatusOr<ConstFloatMatrix> GiveRows(Exchange& exchange, Stream& stream, const ExchangeCase& c,
                                          MatrixView<const float> rows, GivenAs given_as) {
  if (given_as == GivenAs::kOwnMemory) return ConstFloatMatrix(rows);
  TF_ASSIGN_OR_RETURN(const FloatMatrix home, exchange.HomeRows(rows.rows));
  const bool quantised = c.wire_dtype == DType::kF8E4M3 || c.wire_dtype == DType::kI8;
  if (home.dtype != (quantised ? c.expert_dtype : c.wire_dtype)) return absl::InternalError("dtype of the home rows");
  if (quantised && home.dtype == DType::kBF16) return ConstFloatMatrix(rows);  // would be rounded before, too
  stream.Launch(kWriteHome, {rows, home});
  return ConstFloatMatrix(home);
}

// What experts are told where the plan lies on the device is what the host's plan says.
absl::Status CheckSlotOffsets(Stream& stream, const ExpertRows& rows, const RecvPlan& plan) {
  std::vector<int64_t> offsets(plan.slot_offsets.size());
  stream.CopyToHost(offsets.data(), rows.slot_offsets, offsets.size() * sizeof(int64_t));
  TF_RETURN_IF_ERROR(stream.Synchronize());
  if (offsets != plan.slot_offsets) return absl::InternalError("slot_offsets");
  return offsets.back() == rows.max_selections ? absl::OkStatus() : absl::InternalError("max_selections");
}

absl::StatusOr<std::unique_ptr<Exchange>> MakeExchange(Transport& transport, Device& device, ExchangeOptions options,
                                                       const ExchangeRun& run) {
  options.path = run.path;
  options.reduction = run.reduction;
  options.max_tokens = run.max_tokens;
  options.max_top_k = run.max_top_k;
  return run.make_path ? Exchange::Create(transport, device, options, run.make_path)
                       : CreateExchange(transport, device, options);
}

// One exchange of this rank's tokens; the result is on the host.
absl::StatusOr<std::vector<float>> RunOnce(Exchange& exchange, Device& device, Stream& stream, const ExchangeCase& c,
                                           const Placement& placement, int rank, int64_t begin, int64_t end,
                                           GivenAs given_as = GivenAs::kOwnMemory,
                                           const std::vector<int32_t>& location = {},
                                           Transport* tell_experts = nullptr) {
  const int64_t num_tokens = end - begin, h = c.hidden;
  TF_ASSIGN_OR_RETURN(Buffer hidden, Upload(device, stream, c.rows.data() + begin * h, num_tokens * h));
  TF_ASSIGN_OR_RETURN(Buffer experts,
                      Upload(device, stream, c.expert_idx.data() + begin * c.top_k, num_tokens * c.top_k));
  TF_ASSIGN_OR_RETURN(Buffer weight, Upload(device, stream, c.weight.data() + begin * c.top_k, num_tokens * c.top_k));
  const auto local = placement.local_experts(RankId(rank));
  TF_ASSIGN_OR_RETURN(Buffer slot_expert, Upload(device, stream, local.data(), static_cast<int64_t>(local.size())));
  TF_ASSIGN_OR_RETURN(Buffer locations, Upload(device, stream, location.data(), static_cast<int64_t>(location.size())));
  Routing routing{MakeMatrix<int32_t>(experts.data(), num_tokens, c.top_k),
                  MakeMatrix<float>(weight.data(), num_tokens, c.top_k)};
  if (!location.empty()) routing.location = MakeMatrix<int32_t>(locations.data(), num_tokens, c.top_k);
  const CallSite site{"test", 2, 5};
  TF_ASSIGN_OR_RETURN(const ConstFloatMatrix given,
                      GiveRows(exchange, stream, c, MakeMatrix<const float>(hidden.data(), num_tokens, h), given_as));
  TF_RETURN_IF_ERROR(exchange.Plan(stream, site, routing, placement));
  TF_ASSIGN_OR_RETURN(const ExpertRows rows, exchange.Dispatch(stream, site, given));
  TF_RETURN_IF_ERROR(CheckSlotOffsets(stream, rows, exchange.host_plan()->recv));
  if (tell_experts != nullptr) TF_RETURN_IF_ERROR(tell_experts->EnterPhase({"experts", 2, 5}));
  TF_ASSIGN_OR_RETURN(const FloatMatrix expert_out, exchange.ExpertOut());
  if (expert_out.dtype != c.output_dtype) return absl::InternalError("dtype of the expert outputs");
  stream.Launch(kTestExperts, {rows, slot_expert.as<int32_t>(), static_cast<int64_t>(local.size()), expert_out});
  TF_ASSIGN_OR_RETURN(Buffer out, device.Allocate(num_tokens * h * sizeof(float), MemoryKind::kDevice, "combined"));
  if (out.num_bytes() > 0) stream.Fill(out.data(), 0xFF, out.num_bytes());  // NaN: every row must be written
  TF_RETURN_IF_ERROR(exchange.Combine(stream, site, routing.weight, MakeMatrix<float>(out.data(), num_tokens, h)));
  std::vector<float> host(num_tokens * h);
  if (!host.empty()) stream.CopyToHost(host.data(), out.data(), host.size() * sizeof(float));
  TF_RETURN_IF_ERROR(stream.Synchronize());
  return host;
}

}  // namespace

std::string ExchangeCase::ToString() const {
  return absl::StrCat("seed ", seed, ": ", num_tokens(), " tokens, ", num_experts, " experts, top-", top_k, ", hidden ",
                      hidden, ", ", DTypeName(wire_dtype), " to ", DTypeName(expert_dtype), ", back ",
                      DTypeName(output_dtype));
}

ExchangeCase RandomCase(uint32_t seed, int num_tokens, int num_experts, int top_k, int64_t hidden, DType wire_dtype) {
  ExchangeCase c{.seed = seed, .num_experts = num_experts, .top_k = top_k, .hidden = hidden, .wire_dtype = wire_dtype};
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<int32_t> all(num_experts);
  std::iota(all.begin(), all.end(), 0);
  for (int t = 0; t < num_tokens; ++t) {
    for (int64_t h = 0; h < hidden; ++h) c.rows.push_back(uniform(random) + static_cast<float>(t));
    std::shuffle(all.begin(), all.end(), random);
    const bool nothing = random() % 12 == 0;
    for (int k = 0; k < top_k; ++k) {
      const bool none = nothing || k >= num_experts || random() % 10 == 0;
      c.expert_idx.push_back(none ? -1 : all[k]);
      c.weight.push_back(none ? 0.0f : uniform(random));
    }
  }
  return c;
}

std::vector<float> DenseReference(const ExchangeCase& c) {
  std::vector<float> out(c.num_tokens() * c.hidden, 0.0f);
  for (int64_t t = 0; t < c.num_tokens(); ++t) {
    const std::vector<float> row = SeenRow(c.rows.data() + t * c.hidden, c.hidden, c.wire_dtype, c.expert_dtype);
    for (int e = 0; e < c.num_experts; ++e) {
      for (int k = 0; k < c.top_k; ++k) {
        if (c.expert_idx[t * c.top_k + k] != e) continue;
        for (int64_t h = 0; h < c.hidden; ++h) {
          float& sum = out[t * c.hidden + h];
          const float output = Rounded(ExpertOutput(e, row[h], row[(h + 1) % c.hidden]), c.output_dtype);
          sum = std::fma(c.weight[t * c.top_k + k], output, sum);
        }
      }
    }
  }
  return out;
}

std::vector<float> NodeReference(const ExchangeCase& c, const Placement& placement, const Topology& topology,
                                 const std::vector<int64_t>& token_offsets) {
  std::vector<float> out(c.num_tokens() * c.hidden, 0.0f);
  for (int64_t t = 0; t < c.num_tokens(); ++t) {
    const auto owner = std::upper_bound(token_offsets.begin(), token_offsets.end(), t);
    const int64_t local = t - *(owner - 1);
    const RankId source(static_cast<int>(owner - 1 - token_offsets.begin()));
    for (int host = 0; host < topology.num_hosts(); ++host) {
      ExchangeCase part = c;  // this token alone, with the experts of this host
      part.rows.assign(c.rows.begin() + t * c.hidden, c.rows.begin() + (t + 1) * c.hidden);
      part.expert_idx.assign(c.expert_idx.begin() + t * c.top_k, c.expert_idx.begin() + (t + 1) * c.top_k);
      part.weight.assign(c.weight.begin() + t * c.top_k, c.weight.begin() + (t + 1) * c.top_k);
      for (int32_t& e : part.expert_idx) {
        if (e < 0) continue;
        const int rank = placement.Choose(ExpertId(e), source, local).rank.value;
        if (topology.host_idx_per_rank[rank] != host) e = -1;
      }
      const std::vector<float> sum = DenseReference(part);
      for (int64_t h = 0; h < c.hidden; ++h) out[t * c.hidden + h] += Rounded(sum[h], c.output_dtype);
    }
  }
  return out;
}

std::vector<int64_t> RandomTokenSplit(uint32_t seed, int64_t num_tokens, int num_ranks) {
  std::mt19937 random(seed);
  std::vector<int64_t> offsets = {0, num_tokens};
  for (int r = 1; r < num_ranks; ++r) offsets.push_back(static_cast<int64_t>(random() % (num_tokens + 1)));
  if (num_ranks > 2 && random() % 2) offsets.back() = offsets[2];  // a rank without tokens
  std::sort(offsets.begin(), offsets.end());
  return offsets;
}

// Which replica each selection of the tokens [begin, end) goes to: any, or what the placement chooses.
std::vector<int32_t> RandomLocations(const ExchangeCase& c, const Placement& placement, int64_t begin, int64_t end) {
  std::mt19937 random(c.seed);
  std::vector<int32_t> out;
  for (int64_t i = begin * c.top_k; i < end * c.top_k; ++i) {
    const int32_t e = c.expert_idx[i];
    const auto num_locations = e < 0 ? 0 : static_cast<int32_t>(placement.locations(ExpertId(e)).size());
    out.push_back(static_cast<int32_t>(random() % (num_locations + 1)) - 1);
  }
  return out;
}

Placement RandomPlacement(uint32_t seed, int num_experts, int num_ranks) {
  std::mt19937 random(seed);
  std::vector<std::vector<int>> table(num_ranks);
  for (int e = 0; e < num_experts; ++e) {
    const int home = static_cast<int>(random() % num_ranks);
    for (int r = 0; r < num_ranks; ++r) {
      if (r == home || random() % 5 == 0) table[r].push_back(e);
    }
  }
  for (auto& row : table) std::shuffle(row.begin(), row.end(), random);
  return *Placement::FromTable(num_experts, std::move(table));
}

void RunExchangeCase(Transport& transport, const ExchangeCase& c, const Placement& given_placement,
                     const std::vector<int64_t>& token_offsets, const ExchangeRun& run) {
  SCOPED_TRACE(absl::StrCat(transport.ToString(), ", ", c.ToString()));
  const auto cpu = CreateCpuDevice(run.device);
  Device* const device = run.on != nullptr ? run.on : cpu.get();
  auto stream = *device->CreateStream();
  auto exchange = MakeExchange(
      transport, *device,
      {.hidden = c.hidden, .wire_dtype = c.wire_dtype, .expert_dtype = c.expert_dtype, .output_dtype = c.output_dtype},
      run);
  ASSERT_TRUE(exchange.ok()) << exchange.status();
  const int me = transport.rank().value;
  const int64_t begin = token_offsets[me], end = token_offsets[me + 1];
  Placement placement = given_placement;
  if (c.seed % 3 == 0) placement.SetHosts(Topology::Of(transport).host_idx_per_rank);
  std::vector<int32_t> location;  // a sum by hosts depends on it: the reference of kNode knows what Choose says
  if (c.seed % 5 == 0 && run.reduction == Reduction::kExact) location = RandomLocations(c, placement, begin, end);
  const std::vector<float> expected = run.reduction == Reduction::kExact
                                          ? DenseReference(c)
                                          : NodeReference(c, placement, Topology::Of(transport), token_offsets);
  const GivenAs given_as = c.seed % 2 ? GivenAs::kHomeRows : GivenAs::kOwnMemory;
  size_t steady_bytes = 0;
  for (int round = 0; round < run.num_rounds; ++round) {
    const auto out = RunOnce(**exchange, *device, *stream, c, placement, me, begin, end, given_as, location,
                             run.tells_experts ? &transport : nullptr);
    ASSERT_TRUE(out.ok()) << out.status();
    if (!out->empty()) {
      EXPECT_EQ(std::memcmp(out->data(), expected.data() + begin * c.hidden, out->size() * sizeof(float)), 0);
    }
    if (round == 0) steady_bytes = device->allocated_bytes();
    EXPECT_EQ(device->allocated_bytes(), steady_bytes);
  }
  const ExchangeStats stats = *(*exchange)->stats(*stream);
  EXPECT_EQ(stats.num_exchanges, run.num_rounds);
  int64_t num_tokens = 0;  // with any expert
  for (int t = begin; t < end; ++t) {
    const auto* experts = c.expert_idx.data() + t * c.top_k;
    num_tokens += std::any_of(experts, experts + c.top_k, [](int32_t e) { return e >= 0; }) ? 1 : 0;
  }
  EXPECT_EQ(stats.num_tokens, run.num_rounds * num_tokens);
  const bool has_scales = c.wire_dtype == DType::kF8E4M3 || c.wire_dtype == DType::kI8,
             peer = run.path == ExchangePath::kPeer;
  int64_t row_bytes = c.hidden * DTypeBytes(c.wire_dtype) + (has_scales ? (c.hidden + 127) / 128 * 4 : 0);
  if (has_scales && peer) row_bytes = c.hidden * DTypeBytes(c.expert_dtype);  // no wire: widened in memory
  int64_t combine_bytes = 0;
  for (int r = 0; r < transport.num_ranks(); ++r) {
    EXPECT_EQ(stats.dispatch_bytes_per_rank[r], stats.dispatch_rows_per_rank[r] * row_bytes);
    if (run.path == ExchangePath::kAllToAllV || run.path == ExchangePath::kPeer) {
      EXPECT_LE(stats.dispatch_rows_per_rank[r], stats.num_tokens);  // at most one row per token
    }
    combine_bytes += stats.combine_bytes_per_rank[r];
  }
  if (run.reduction == Reduction::kExact) {
    EXPECT_EQ(combine_bytes % (c.hidden * DTypeBytes(c.output_dtype)), 0);
  }
}

void RunRandomCases(Transport& transport, uint32_t seed, int num_cases, const ExchangeRun& run) {
  const int64_t kHidden[] = {1, 7, 16, 33, 256, 300};
  std::mt19937 random(seed);
  for (int i = 0; i < num_cases && !testing::Test::HasFailure(); ++i) {
    const int num_tokens = random() % 6 == 0 ? 0 : static_cast<int>(random() % (kMostCaseTokens + 1));
    const int num_experts = 1 + static_cast<int>(random() % 13), top_k = 1 + static_cast<int>(random() % kMostCaseTopK);
    const int64_t hidden = kHidden[random() % 6];
    const DType dtype = random() % 2 ? DType::kBF16 : DType::kF32;
    const uint32_t case_seed = static_cast<uint32_t>(random());
    ExchangeCase c = RandomCase(case_seed, num_tokens, num_experts, top_k, hidden, dtype);
    if (run.formats == Formats::kAll) {
      if (random() % 4) c.wire_dtype = random() % 2 ? DType::kF8E4M3 : DType::kI8;
      if (random() % 2) c.expert_dtype = DType::kBF16;
      if (random() % 2) c.output_dtype = DType::kBF16;
    }
    const int num_ranks = transport.num_ranks();
    const Placement placement =
        i % 3 == 0 ? Placement::Linear(num_experts, num_ranks) : RandomPlacement(case_seed + 1, num_experts, num_ranks);
    RunExchangeCase(transport, c, placement, RandomTokenSplit(case_seed + 2, num_tokens, num_ranks), run);
  }
}

void RunChangingCases(Transport& transport, uint32_t seed, int num_cases, const ExchangeRun& run) {
  const int64_t kHidden[] = {1, 7, 16, 33, 256};
  std::mt19937 random(seed);
  const int num_experts = 1 + static_cast<int>(random() % 13), num_ranks = transport.num_ranks();
  const int64_t hidden = kHidden[random() % 5];
  const DType dtype = random() % 2 ? DType::kBF16 : DType::kF32;
  const auto cpu = CreateCpuDevice(run.device);
  Device* const device = run.on != nullptr ? run.on : cpu.get();
  auto stream = *device->CreateStream();
  auto exchange = MakeExchange(transport, *device, {.hidden = hidden, .wire_dtype = dtype}, run);
  ASSERT_TRUE(exchange.ok()) << exchange.status();
  for (int i = 0; i < num_cases; ++i) {
    const int num_tokens = random() % 6 == 0 ? 0 : static_cast<int>(random() % 40);
    const int top_k = 1 + static_cast<int>(random() % 4);
    const uint32_t case_seed = static_cast<uint32_t>(random());
    const ExchangeCase c = RandomCase(case_seed, num_tokens, num_experts, top_k, hidden, dtype);
    SCOPED_TRACE(absl::StrCat(transport.ToString(), ", case ", i, ", ", c.ToString()));
    const Placement placement = RandomPlacement(case_seed + 1, num_experts, num_ranks);
    const std::vector<int64_t> offsets = RandomTokenSplit(case_seed + 2, num_tokens, num_ranks);
    const int64_t begin = offsets[transport.rank().value], end = offsets[transport.rank().value + 1];
    const GivenAs given_as = case_seed % 3 ? GivenAs::kHomeRows : GivenAs::kOwnMemory;
    const auto out = RunOnce(**exchange, *device, *stream, c, placement, transport.rank().value, begin, end, given_as);
    ASSERT_TRUE(out.ok()) << out.status();
    const std::vector<float> expected = DenseReference(c);
    if (out->empty()) continue;
    ASSERT_EQ(std::memcmp(out->data(), expected.data() + begin * hidden, out->size() * sizeof(float)), 0);
  }
}

absl::Status RunOneCase(Transport& transport, ExchangePath path) {
  return RunOneCase(transport, path, *CreateCpuDevice({}));
}

absl::Status RunOneCase(Transport& transport, ExchangePath path, Device& device) {
  const int num_ranks = transport.num_ranks(), me = transport.rank().value;
  ExchangeCase c{.num_experts = num_ranks, .top_k = num_ranks, .hidden = 8, .wire_dtype = DType::kF32};
  c.rows.assign(num_ranks * c.hidden, 1.0f);
  c.weight.assign(num_ranks * num_ranks, 0.5f);
  for (int i = 0; i < num_ranks * num_ranks; ++i) c.expert_idx.push_back(i % num_ranks);
  TF_ASSIGN_OR_RETURN(auto stream, device.CreateStream());
  const ExchangeOptions options{.hidden = c.hidden, .path = path, .max_tokens = 1, .max_top_k = num_ranks};
  TF_ASSIGN_OR_RETURN(auto exchange, CreateExchange(transport, device, options));
  return RunOnce(*exchange, device, *stream, c, Placement::Linear(num_ranks, num_ranks), me, me, me + 1).status();
}

}  // namespace tokenferry
