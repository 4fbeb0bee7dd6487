// The overflow policy of all MoE layers on one rank: gathers the routings of all ranks, lets
// experts/overflow/overflow.h decide.
#pragma once

#include <memory>
#include <vector>

#include "comm/transport/transport.h"
#include "core/device/device.h"
#include "experts/overflow/overflow.h"
#include "experts/overflow/sequence_capacity.h"

namespace tokenferry {

struct OverflowStageOptions {
  OverflowPolicy policy;
  int num_layers = 0;  // MoE layers
  int top_k = 0;
  int64_t max_tokens = 0;  // most tokens of this rank in a step
};

// One per rank. Every rank sends each other rank 8 bytes per selection, with kReroute 4 E more per token, and decides
// for all tokens: what is decided does not depend on who owns which token.
class OverflowStage {
 public:
  static absl::StatusOr<std::unique_ptr<OverflowStage>> Create(Transport& transport, Device& device,
                                                               const Placement& placement,
                                                               const OverflowStageOptions& options);

  // What the router shall fill as RouteArgs::choice: null unless kReroute.
  MatrixView<float> choice(int64_t num_tokens) const;

  // Collective, all ranks, unless the policy is kDropless; not for kSequenceCapacity. Changes `routing` (device memory,
  // T <= max_tokens rows) in place; with kReroute it points routing.location at memory of this object. Synchronizes the
  // stream. Errors: kTrap's; DataLoss and FailedPrecondition when the ranks' messages or policies do not fit together;
  // the same on every rank.
  absl::Status Run(Stream& stream, const CallSite& site, int moe_idx, Routing& routing);

  // kSequenceCapacity, of this rank alone: for routing of tokens [first, first + T) of `tokens`. Synchronizes.
  absl::Status RunBySequence(Stream& stream, int moe_idx, const SequenceTokens& tokens, int64_t first,
                             Routing& routing);

  int64_t capacity() const { return capacity_; }  // of the last Run: of an expert or a rank
  int64_t most_capacity() const;                  // where every rank has max_tokens tokens
  const std::vector<OverflowCounts>& counts() const {
    return counts_;
  }  // [MoE layer] this rank's tokens, since creation

 private:
  OverflowStage(Transport& transport, const Placement& placement, const OverflowStageOptions& options);
  absl::Status Allocate(Device& device);
  absl::StatusOr<std::string> Pack(Stream& stream, const Routing& routing) const;
  absl::StatusOr<GlobalRouting> GatherAll(Stream& stream, const CallSite& site, const Routing& routing);
  int64_t CapacityOf(int64_t num_tokens) const;
  void WriteBack(Stream& stream, const GlobalRouting& all, Routing& routing) const;

  Transport& transport_;
  Placement placement_;
  OverflowStageOptions options_;
  Buffer choice_, location_;  // kReroute
  int64_t capacity_ = 0;
  std::vector<OverflowCounts> counts_;
};

}  // namespace tokenferry
