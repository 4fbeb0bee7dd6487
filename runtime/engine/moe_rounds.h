// A MoE layer within a budget of memory: the tokens of a batch pass in as many rounds as it takes.
#pragma once

#include <memory>

#include "comm/tuning/exchange_budget.h"
#include "runtime/engine/moe_layer.h"

namespace tokenferry {

// One per rank and micro-batch. A round takes so many tokens of every rank that the exchange's buffers fit even if all
// of them went to one rank: the number of rounds follows from the step plan, and nothing has to be agreed on. Sums are
// by token, so that rounds change no bit.
class MoeRounds {
 public:
  // Collective. InvalidArgument when options.exchange_budget does not hold one token of every rank; 0: one round.
  static absl::StatusOr<MoeRounds> Create(Transport& transport, Device& device, const Placement& placement,
                                          const MoeShape& shape, const MoeOptions& options);

  // Of the exchange that Create makes among ranks of such hosts, on the rank with the most experts; and, of what grows
  // with it, scratch that experts on GPUs have from the start. Nothing where Create refuses the budget.
  static ExchangeMemory Memory(const Topology& topology, DeviceKind device, const Placement& placement,
                               const MoeShape& shape, const MoeOptions& options);

  // MoeLayer::HomeRows for a batch that travels in one round and as it was written; data null: it does not, because the
  // budget takes several rounds, or because rows are quantised, rounded from f32, or scaled.
  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens, int64_t max_tokens_per_rank);

  // A layer in three parts, between which other work may be done, also that of another micro-batch. Collective.
  absl::Status Begin(Stream& stream, const MoeStep& step);  // routes all tokens, plans, sends rows
  absl::Status Compute(Stream& stream);                     // receives rows, runs experts, sends their outputs
  absl::Status Finish(Stream& stream);                      // writes step.out

  // Of all tokens of the last Begin: device memory.
  const Routing& routing() const { return step_.routing; }
  MatrixView<const float> router_logits() const { return step_.router_logits; }
  MoeLayer& layer() { return *layer_; }
  const MoeLayer& layer() const { return *layer_; }

 private:
  enum class WireRows : uint8_t { kAsWritten, kChanged };
  MoeRounds(std::unique_ptr<MoeLayer> layer, int64_t tokens_per_round, WireRows wire_rows)
      : layer_(std::move(layer)), tokens_per_round_(tokens_per_round), wire_rows_(wire_rows) {}
  void SetRound(int64_t round_idx);
  absl::Status BeginRound(Stream& stream);

  std::unique_ptr<MoeLayer> layer_;
  int64_t tokens_per_round_;  // most of a rank
  WireRows wire_rows_;
  int64_t round_idx_ = 0, num_rounds_ = 1;
  MoeStep step_, round_;  // of all tokens, and of those of the round
};

}  // namespace tokenferry
