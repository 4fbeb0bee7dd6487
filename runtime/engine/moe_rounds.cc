#include "runtime/engine/moe_rounds.h"

#include <algorithm>

#include "comm/exchange/path/path_costs.h"
#include "comm/tuning/exchange_choice.h"
#include "core/check.h"
#include "runtime/engine/expert_network.h"

namespace tokenferry {
namespace {

// Rows [begin, end) of those that there are.
template <class T>
MatrixView<T> Rows(MatrixView<T> m, int64_t begin, int64_t end) {
  if (m.data != nullptr) m.data += std::min(begin, m.rows) * m.stride;
  m.rows = std::min(end, m.rows) - std::min(begin, m.rows);
  return m;
}

// With as many tokens at a time as the budget allows.
absl::StatusOr<MoeOptions> WithinBudget(const Topology& topology, DeviceKind device, const Placement& placement,
                                        const MoeShape& shape, const MoeOptions& options) {
  MoeOptions bounded = options;
  bounded.exchange.max_tokens = std::max<int64_t>(1, shape.max_tokens);
  if (options.exchange_budget == 0) return bounded;
  // The automatic path between hosts may be several, by size, each with its own buffers.
  const bool one_path = topology.num_hosts() == 1;
  if (options.exchange.path == ExchangePath::kAuto && !one_path) bounded.exchange.path = ExchangePath::kAllToAllV;
  TF_ASSIGN_OR_RETURN(bounded.exchange.max_tokens,
                      TokensWithin(options.exchange_budget, ExchangeOptionsOf(shape, bounded), placement, device));
  return bounded;
}

}  // namespace

absl::StatusOr<MoeRounds> MoeRounds::Create(Transport& transport, Device& device, const Placement& placement,
                                            const MoeShape& shape, const MoeOptions& options) {
  TF_ASSIGN_OR_RETURN(const MoeOptions bounded,
                      WithinBudget(Topology::Of(transport), device.kind(), placement, shape, options));
  TF_ASSIGN_OR_RETURN(auto layer, MoeLayer::Create(transport, device, placement, shape, bounded));
  const ExchangeOptions exchange = ExchangeOptionsOf(shape, bounded);
  const bool as_written = shape.weight_on == WeightOn::kOutput && exchange.wire_dtype == exchange.resident_dtype();
  return MoeRounds(std::move(layer), exchange.max_tokens, as_written ? WireRows::kAsWritten : WireRows::kChanged);
}

ExchangeMemory MoeRounds::Memory(const Topology& topology, DeviceKind device, const Placement& placement,
                                 const MoeShape& shape, const MoeOptions& options) {
  const auto bounded = WithinBudget(topology, device, placement, shape, options);
  if (!bounded.ok()) return {};
  const ExchangeOptions exchange = ExchangeOptionsOf(shape, *bounded);
  ExchangeMemory memory = MemoryOfExchange(exchange, placement, topology, device);
  const bool is_padded = options.overflow.padding == Padding::kCapacity;
  if (device == DeviceKind::kCpu || is_padded || !MeansPeer(exchange.path, topology)) return memory;
  const WorstCase worst(exchange, placement, exchange.max_tokens, device);
  const int64_t scratch = GatedExperts::ScratchBytes(worst.selections_in, shape.intermediate);
  return {memory.at_start + scratch, memory.most + scratch};
}

absl::StatusOr<FloatMatrix> MoeRounds::HomeRows(int64_t num_tokens, int64_t max_tokens_per_rank) {
  if (max_tokens_per_rank > tokens_per_round_ || wire_rows_ != WireRows::kAsWritten) return FloatMatrix();
  return layer_->HomeRows(num_tokens, max_tokens_per_rank);
}

void MoeRounds::SetRound(int64_t round_idx) {
  const int64_t begin = round_idx * tokens_per_round_, end = begin + tokens_per_round_;
  round_idx_ = round_idx;
  round_ = step_;
  if (num_rounds_ == 1) return;
  round_.x = Rows(step_.x, begin, end);
  TF_CHECK(step_.rows.dtype == DType::kF32);
  round_.rows = ConstFloatMatrix(Rows(step_.rows.as<const float>(), begin, end));
  round_.out = Rows(step_.out, begin, end);
  if (step_.position != nullptr) round_.position = step_.position + std::min(begin, step_.x.rows);
  round_.routing = {Rows(step_.routing.expert_idx, begin, end), Rows(step_.routing.weight, begin, end),
                    Rows(step_.routing.location, begin, end)};
  round_.combine_weight = Rows(step_.combine_weight, begin, end);
  round_.max_tokens_per_rank = std::min(tokens_per_round_, step_.max_tokens_per_rank - begin);
}

absl::Status MoeRounds::BeginRound(Stream& stream) {
  TF_RETURN_IF_ERROR(layer_->Plan(stream, round_));
  return layer_->BeginDispatch(stream, round_);
}

absl::Status MoeRounds::Begin(Stream& stream, const MoeStep& step) {
  step_ = step;
  num_rounds_ = std::max<int64_t>(1, (step.max_tokens_per_rank + tokens_per_round_ - 1) / tokens_per_round_);
  TF_RETURN_IF_ERROR(layer_->Route(stream, step_));
  SetRound(0);
  return BeginRound(stream);
}

absl::Status MoeRounds::Compute(Stream& stream) {
  for (;;) {
    TF_ASSIGN_OR_RETURN(const ExpertRows rows, layer_->FinishDispatch(stream, round_));
    TF_RETURN_IF_ERROR(layer_->Experts(stream, round_, rows));
    TF_RETURN_IF_ERROR(layer_->BeginCombine(stream, round_));
    if (round_idx_ + 1 == num_rounds_) return absl::OkStatus();
    TF_RETURN_IF_ERROR(layer_->FinishCombine(stream, round_));
    SetRound(round_idx_ + 1);
    TF_RETURN_IF_ERROR(BeginRound(stream));
  }
}

absl::Status MoeRounds::Finish(Stream& stream) { return layer_->FinishCombine(stream, round_); }

}  // namespace tokenferry
