#include "bench/alltoall/problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "bench/alltoall/bench_ops.h"
#include "comm/ops/row_codec_ops.h"
#include "core/formats/scalar.h"
#include "core/keyed_hash.h"

namespace tokenferry {
namespace {

constexpr uint64_t kHiddenStream = 17, kPlacementStream = 18;

// The choices of one token in the order in which they are summed.
std::vector<int> SumOrder(const int32_t* experts, int top_k) {
  std::vector<int> order;
  for (int k = 0; k < top_k; ++k) {
    if (experts[k] >= 0) order.push_back(k);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return experts[a] < experts[b]; });
  return order;
}

}  // namespace

std::string BenchPoint::ToString() const {
  return absl::StrCat(tokens, " tokens, hidden ", hidden, ", top-", top_k, " of ", num_experts, ", ", DTypeName(dtype),
                      " back ", DTypeName(combine_dtype), ", placement ", placement, ", traffic ", traffic.text);
}

absl::StatusOr<Placement> MakePlacement(const std::string& text, int num_experts, int num_ranks) {
  if (text == "linear") return Placement::Linear(num_experts, num_ranks);
  absl::string_view seed_text = text;
  if (!absl::ConsumePrefix(&seed_text, "random:")) return Placement::FromFile(text, num_experts, num_ranks);
  uint64_t seed = 0;
  if (!absl::SimpleAtoi(seed_text, &seed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--placement '", text, "' is none of linear, random:SEED, and a JSON file's name"));
  }
  std::vector<int> order(num_experts);
  std::iota(order.begin(), order.end(), 0);
  KeyedRandom random(HashKey(seed, kPlacementStream, 0));
  for (int i = num_experts - 1; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
  const Placement linear = Placement::Linear(num_experts, num_ranks);
  std::vector<std::vector<int>> table(num_ranks);
  for (int r = 0; r < num_ranks; ++r) {
    for (const int e : linear.local_experts(RankId(r))) table[r].push_back(order[e]);
  }
  return Placement::FromTable(num_experts, std::move(table));
}

absl::StatusOr<std::unique_ptr<BenchProblem>> BenchProblem::Create(const Transport& transport, Device& device,
                                                                   const BenchPoint& point, Placement placement,
                                                                   const RoutingTrace* trace) {
  const int rank = transport.rank().value;
  const TrafficShape shape{point.num_experts, point.top_k, point.seed};
  TF_RETURN_IF_ERROR(CheckTraffic(point.traffic, shape, trace));
  std::unique_ptr<BenchProblem> problem(new BenchProblem(point, std::move(placement), transport.rank()));
  problem->num_tokens_ = TokensOfRank(point.traffic, point.tokens, rank, transport.num_ranks());
  problem->first_token_ = rank * point.tokens;
  problem->traffic_ = MakeTraffic(point.traffic, shape, trace, problem->first_token_, problem->num_tokens_);
  TF_RETURN_IF_ERROR(problem->Upload(device));
  return problem;
}

absl::Status BenchProblem::Upload(Device& device) {
  const int64_t T = num_tokens_, H = point_.hidden, K = point_.top_k;
  TF_ASSIGN_OR_RETURN(expert_idx_, device.Allocate(T * K * sizeof(int32_t), MemoryKind::kDevice, "bench: experts"));
  TF_ASSIGN_OR_RETURN(weight_, device.Allocate(T * K * sizeof(float), MemoryKind::kDevice, "bench: weights"));
  TF_ASSIGN_OR_RETURN(hidden_memory_,
                      device.Allocate(T * H * DTypeBytes(point_.given_dtype()), MemoryKind::kDevice, "bench: rows"));
  TF_ASSIGN_OR_RETURN(out_memory_, device.Allocate(T * H * sizeof(float), MemoryKind::kDevice, "bench: results"));
  routing_ = {MakeMatrix<int32_t>(expert_idx_.data(), T, K), MakeMatrix<float>(weight_.data(), T, K)};
  hidden_ = FloatMatrix(hidden_memory_.data(), point_.given_dtype(), T, H);
  out_ = MakeMatrix<float>(out_memory_.data(), T, H);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device.CreateStream());
  stream->CopyToDevice(expert_idx_.data(), traffic_.expert_idx.data(), expert_idx_.num_bytes());
  stream->CopyToDevice(weight_.data(), traffic_.weight.data(), weight_.num_bytes());
  std::vector<BF16> narrow(H);
  for (int64_t t = 0; t < T; ++t) {
    const std::vector<float> row = GivenRow(t);
    const void* values = row.data();
    if (hidden_.dtype == DType::kBF16) {
      for (int64_t c = 0; c < H; ++c) narrow[c] = ToBF16(row[c]);  // exact
      values = narrow.data();
    }
    stream->CopyToDevice(hidden_.row(t), values, H * hidden_.element_bytes());
  }
  return stream->Synchronize();
}

float BenchProblem::HiddenValue(int64_t token, int64_t column) const {
  const uint64_t bits = MixBits((first_token_ + token) * 0x9E3779B97F4A7C15u + column * 0xD1B54A32D192ED03u +
                                MixBits(point_.seed ^ kHiddenStream));
  return static_cast<float>(static_cast<int32_t>(bits >> 40) - (1 << 23)) * 0x1p-23f;
}

std::vector<float> BenchProblem::GivenRow(int64_t token) const {
  std::vector<float> row(point_.hidden);
  for (int64_t c = 0; c < point_.hidden; ++c) {
    row[c] = HiddenValue(token, c);
    if (point_.given_dtype() == DType::kBF16) row[c] = ToFloat(ToBF16(row[c]));
  }
  return row;
}

std::vector<float> BenchProblem::ReadRow(int64_t token) const {
  std::vector<float> row = GivenRow(token);
  if (!IsQuantised(point_.dtype)) return row;
  const int32_t first = 0;
  std::vector<uint8_t> codes(RowBytes(point_.dtype, point_.hidden));
  std::vector<BF16> read(point_.hidden);
  kQuantiseRows.reference(
      {MakeMatrix<const float>(row.data(), 1, point_.hidden), &first, 1, codes.data(), point_.dtype});
  kWidenRows.reference({codes.data(), point_.dtype, 1, point_.hidden, read.data(), DType::kBF16});
  for (int64_t c = 0; c < point_.hidden; ++c) row[c] = ToFloat(read[c]);
  return row;
}

std::vector<float> BenchProblem::SlotFactors() const {
  std::vector<float> factors;
  for (const int expert : placement_.local_experts(rank_)) factors.push_back(ExpertFactor(expert));
  return factors;
}

std::vector<int> BenchProblem::HostOfChoices(int64_t token, absl::Span<const int> host_per_rank) const {
  std::vector<int> hosts(point_.top_k, 0);
  if (host_per_rank.empty()) return hosts;
  for (int k = 0; k < point_.top_k; ++k) {
    const int32_t expert = traffic_.expert_idx[token * point_.top_k + k];
    if (expert >= 0) hosts[k] = host_per_rank[placement_.Choose(ExpertId(expert), rank_, token).rank.value];
  }
  return hosts;
}

absl::Status BenchProblem::CheckRows(const std::vector<float>& rows, Match match,
                                     absl::Span<const int> host_per_rank) const {
  const int64_t H = point_.hidden, K = point_.top_k;
  // kRounded: the expert's output, the sum on the expert's rank and the sum at home are each rounded to given_dtype,
  // by at most half the spacing of its values, u relatively; f32 sums of K terms add K 2^-24. All of them relative to
  // sum |w y|, so that together they are at most (1 + u)^3 (1 + 2^-24)^(K + 1) - 1, of which 1.02 covers the squares.
  const double u = point_.given_dtype() == DType::kBF16 ? 0x1p-8 : 0x1p-24;
  const double tolerance = 1.02 * (3 * u + static_cast<double>(K + 1) * 0x1p-24);
  int64_t num_wrong = 0;
  std::string first_wrong;
  for (int64_t t = 0; t < num_tokens_; ++t) {
    const int32_t* experts = traffic_.expert_idx.data() + t * K;
    const float* weight = traffic_.weight.data() + t * K;
    std::vector<int> order = SumOrder(experts, static_cast<int>(K));
    const std::vector<int> host = HostOfChoices(t, host_per_rank);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return host[a] < host[b]; });
    const std::vector<float> row = match == Match::kExact ? ReadRow(t) : GivenRow(t);
    const bool rounds = match == Match::kExact && point_.combine_dtype == DType::kBF16;
    const auto rounded = [&](float x) { return rounds ? ToFloat(ToBF16(x)) : x; };
    for (int64_t c = 0; c < H; ++c) {
      float sum = 0, of_host = 0, size = 0;
      for (size_t i = 0; i < order.size(); ++i) {
        const int k = order[i];
        const float y = rounded(ExpertFactor(experts[k]) * row[c]);
        of_host = std::fma(weight[k], y, of_host);
        size += std::abs(weight[k] * y);
        if (host_per_rank.empty() || (i + 1 < order.size() && host[order[i + 1]] == host[k])) continue;
        sum += rounded(of_host);
        of_host = 0;
      }
      if (host_per_rank.empty()) sum = of_host;
      const float got = rows[t * H + c];
      const bool right = match == Match::kExact ? std::memcmp(&got, &sum, sizeof(float)) == 0
                                                : std::abs(got - sum) <= tolerance * size;
      if (right) continue;
      if (num_wrong++ == 0) {
        first_wrong = absl::StrCat("token ", t, ", column ", c, " is ", got, " instead of ", sum);
      }
    }
  }
  if (num_wrong == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(num_wrong, " of ", num_tokens_ * H, " results are wrong (", point_.ToString(),
                                          "); first: ", first_wrong));
}

}  // namespace tokenferry
