// Overflow policies: what happens to selections beyond the room of an expert, a slot or a rank. Pure host functions
// over the routings of all ranks, so that every rank decides the same and the result does not depend on who owns a
// token.
//
// Sources: capacity and the order of positions from GShard (slot-major) and Switch; dropping by probability and the
// budget of a rank from Megatron-Core; renormalising over the survivors from DeepSpeed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/moe/placement.h"
#include "core/status.h"
#include "experts/router/router.h"

namespace tokenferry {

enum class Overflow : uint8_t {
  kDropless,    // exact: nothing is ever dropped
  kCapacity,    // an expert takes at most `capacity` selections; the others are dropped
  kRankBudget,  // a rank receives at most `budget` selections, whichever its experts; the others are dropped
  kReroute,     // a slot takes at most `capacity` selections; the others look for room elsewhere, else are dropped
  kTrap,        // a selection beyond an expert's capacity is an error
  // An expert takes the first `sequence_capacity` selections of every sequence (Switch); the others are dropped. Who
  // has a sequence decides for it: experts/overflow/sequence_capacity.h.
  kSequenceCapacity,
};
enum class DropBy : uint8_t { kPosition, kProbability };  // the late ones, or those with the smallest weights
// Order of positions over all ranks' tokens, which are numbered by (rank, token of the rank).
enum class PositionOrder : uint8_t {
  kSlotMajor,   // all first choices, then all second choices, .. (GShard): no second choice displaces a first one
  kTokenMajor,  // all choices of token 0, then those of token 1, ..
};
enum class Padding : uint8_t { kNone, kCapacity };  // kCapacity: every slot computes `capacity` rows, zeros beyond

struct OverflowPolicy {
  Overflow kind = Overflow::kDropless;
  double capacity_factor = 1.25;
  int64_t sequence_capacity = 0;  // kSequenceCapacity only: at least 1
  DropBy drop_by = DropBy::kPosition;
  PositionOrder order = PositionOrder::kSlotMajor;
  // kYes: what is left of a token's weights is scaled to the sum they had, w / sum(left) * sum(all), f32, sums by slot.
  Renormalise renormalise = Renormalise::kNo;
  Padding padding = Padding::kNone;  // kCapacity and kReroute only
};

// ceil(factor * top_k * num_tokens / num_bins), in double, at most INT32_MAX; T counts the tokens of all ranks in this
// step. With num_bins = E the capacity of an expert, with num_bins = R the budget of a rank.
int64_t ExpertCapacity(double factor, int top_k, int64_t num_tokens, int num_bins);

// The routings of all ranks side by side. Host memory.
struct GlobalRouting {
  int top_k = 0;
  std::vector<int64_t> token_offsets;  // [R + 1] tokens of rank r are [token_offsets[r], token_offsets[r + 1])
  std::vector<int32_t> expert_idx;     // [T, K], -1 = none
  std::vector<float> weight;           // [T, K], 0 where none; no NaN
  std::vector<float> choice;           // [T, E] the router's choice scores, kReroute only: -infinity = not to be taken
  // [T, K] index into Placement::locations(expert), -1 = what Placement::Choose says. Output of kReroute, else empty.
  std::vector<int32_t> location;

  int64_t num_tokens() const { return token_offsets.empty() ? 0 : token_offsets.back(); }
  int64_t num_selections() const { return num_tokens() * top_k; }
};

// Applies `policy` to `routing` in place: a dropped selection becomes expert -1 with weight 0. Who may stay is decided
// in one order: by position, or by falling weight with ties to the lower (token, slot).
//  kReroute: first every selection asks its own slot in that order, so that nobody loses a place to one that was sent
//  away. Then those without a place, in the same order, take the first with room of: the expert's other replicas, by
//  rank; the experts that the token has not selected, by falling choice score (ties to the lower index), each at its
//  own replica, then at its others. The weight goes along.
// `capacity` is ExpertCapacity's. FailedPrecondition for kTrap, naming the expert, its selections and the capacity.
// Time O(T K log(T K)), for kReroute O(E log E) more per selection sent away.
absl::Status ApplyOverflow(const OverflowPolicy& policy, int64_t capacity, const Placement& placement,
                           GlobalRouting& routing);

// What a policy has done to some tokens.
struct OverflowCounts {
  explicit OverflowCounts(int num_experts = 0)
      : dropped(num_experts), rerouted(num_experts), to_replica(num_experts), lost_weight(num_experts) {}
  std::vector<int64_t> dropped;     // [E] selections of this expert that were dropped
  std::vector<int64_t> rerouted;    // [E] .. that went to another expert
  std::vector<int64_t> to_replica;  // [E] .. that went to another replica of it
  std::vector<double> lost_weight;  // [E] routing weight of the dropped ones
  int64_t num_lost_tokens = 0;      // tokens that had a selection and have none left

  OverflowCounts& operator+=(const OverflowCounts& other);  // of as many experts
};

// Adds the difference between a rank's part of the routing before and after ApplyOverflow.
void CountOverflow(const GlobalRouting& before, const GlobalRouting& after, RankId rank, OverflowCounts& counts);

}  // namespace tokenferry
