#include "runtime/engine/overflow_stage.h"

#include <algorithm>
#include <cstring>

#include "comm/transport/collectives.h"
#include "core/check.h"

namespace tokenferry {
namespace {

// In front of every rank's routing: what must be equal on all ranks, then the number of its tokens.
struct RoutingHeader {
  double capacity_factor = 0;
  int32_t kind = 0, drop_by = 0, order = 0, renormalise = 0;
  int32_t top_k = 0, num_experts = 0;
  uint64_t placement_digest = 0;
  int64_t num_tokens = 0;
};
static_assert(sizeof(RoutingHeader) == 48, "headers travel as bytes");

RoutingHeader MakeHeader(const OverflowStageOptions& options, const Placement& placement) {
  const OverflowPolicy& p = options.policy;
  return {p.capacity_factor,
          static_cast<int32_t>(p.kind),
          static_cast<int32_t>(p.drop_by),
          static_cast<int32_t>(p.order),
          static_cast<int32_t>(p.renormalise),
          options.top_k,
          placement.num_experts(),
          placement.Digest(),
          0};
}

// Takes `count` values from the front of `bytes`, which are known to be there.
template <class T>
void TakeValues(absl::string_view& bytes, int64_t count, std::vector<T>& out) {
  const size_t old_size = out.size(), num_bytes = count * sizeof(T);
  out.resize(old_size + count);
  if (num_bytes > 0) std::memcpy(out.data() + old_size, bytes.data(), num_bytes);
  bytes.remove_prefix(num_bytes);
}

// Checks a peer's message and appends its routing.
absl::Status Append(absl::string_view bytes, int rank, const RoutingHeader& mine, GlobalRouting& all) {
  RoutingHeader theirs;
  if (bytes.size() < sizeof(theirs)) {
    return absl::DataLossError(absl::StrCat("rank ", rank, " sent ", bytes.size(), " bytes, less than a header"));
  }
  std::memcpy(&theirs, bytes.data(), sizeof(theirs));
  bytes.remove_prefix(sizeof(theirs));
  const int64_t num_tokens = theirs.num_tokens;
  theirs.num_tokens = mine.num_tokens;
  if (std::memcmp(&theirs, &mine, sizeof(mine)) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", rank, " has another overflow policy, top-k, number of experts or placement than this ",
                     "rank; start all ranks with the same model and options"));
  }
  const bool has_choice = mine.kind == static_cast<int32_t>(Overflow::kReroute);
  const int64_t token_bytes = 8 * int64_t{mine.top_k} + (has_choice ? 4 * int64_t{mine.num_experts} : 0);
  const auto num_bytes = static_cast<int64_t>(bytes.size());
  if (num_tokens < 0 || num_tokens > num_bytes || num_tokens * token_bytes != num_bytes) {
    return absl::DataLossError(
        absl::StrCat("rank ", rank, " announces ", num_tokens, " tokens but sent ", num_bytes, " bytes of routing"));
  }
  const size_t begin = all.expert_idx.size();
  TakeValues(bytes, num_tokens * mine.top_k, all.expert_idx);
  TakeValues(bytes, num_tokens * mine.top_k, all.weight);
  if (has_choice) TakeValues(bytes, num_tokens * mine.num_experts, all.choice);
  all.token_offsets.push_back(all.token_offsets.back() + num_tokens);
  for (size_t i = begin; i < all.expert_idx.size(); ++i) {
    if (all.expert_idx[i] >= -1 && all.expert_idx[i] < mine.num_experts) continue;
    return absl::DataLossError(absl::StrCat("rank ", rank, " selects expert ", all.expert_idx[i], " of ",
                                            mine.num_experts, " for its token ", (i - begin) / mine.top_k));
  }
  return absl::OkStatus();
}

}  // namespace

OverflowStage::OverflowStage(Transport& transport, const Placement& placement, const OverflowStageOptions& options)
    : transport_(transport),
      placement_(placement),
      options_(options),
      counts_(options.num_layers, OverflowCounts(placement.num_experts())) {}

absl::StatusOr<std::unique_ptr<OverflowStage>> OverflowStage::Create(Transport& transport, Device& device,
                                                                     const Placement& placement,
                                                                     const OverflowStageOptions& options) {
  if (placement.num_ranks() != transport.num_ranks()) {
    return absl::InvalidArgumentError(
        absl::StrCat("placement is for ", placement.num_ranks(), " ranks, but there are ", transport.num_ranks()));
  }
  std::unique_ptr<OverflowStage> stage(new OverflowStage(transport, placement, options));
  TF_RETURN_IF_ERROR(stage->Allocate(device));
  return stage;
}

absl::Status OverflowStage::Allocate(Device& device) {
  if (options_.policy.kind != Overflow::kReroute) return absl::OkStatus();
  const int64_t T = options_.max_tokens, E = placement_.num_experts(), K = options_.top_k;
  TF_ASSIGN_OR_RETURN(choice_, device.Allocate(T * E * sizeof(float), MemoryKind::kDevice, "choice scores"));
  TF_ASSIGN_OR_RETURN(location_, device.Allocate(T * K * sizeof(int32_t), MemoryKind::kDevice, "replicas to use"));
  return absl::OkStatus();
}

MatrixView<float> OverflowStage::choice(int64_t num_tokens) const {
  if (options_.policy.kind != Overflow::kReroute) return {};
  return MakeMatrix<float>(choice_.data(), num_tokens, placement_.num_experts());
}

absl::StatusOr<std::string> OverflowStage::Pack(Stream& stream, const Routing& routing) const {
  const int64_t T = routing.expert_idx.rows, n = T * options_.top_k;
  const MatrixView<float> scores = choice(T);
  RoutingHeader header = MakeHeader(options_, placement_);
  header.num_tokens = T;
  const size_t idx_bytes = n * sizeof(int32_t), choice_bytes = scores.rows * scores.cols * sizeof(float);
  std::string bytes(sizeof(header) + 2 * idx_bytes + choice_bytes, '\0');
  char* at = bytes.data();
  std::memcpy(at, &header, sizeof(header));
  at += sizeof(header);
  stream.CopyToHost(at, routing.expert_idx.data, idx_bytes);
  stream.CopyToHost(at + idx_bytes, routing.weight.data, idx_bytes);
  stream.CopyToHost(at + 2 * idx_bytes, scores.data, choice_bytes);
  TF_RETURN_IF_ERROR(stream.Synchronize());
  return bytes;
}

absl::StatusOr<GlobalRouting> OverflowStage::GatherAll(Stream& stream, const CallSite& site, const Routing& routing) {
  TF_ASSIGN_OR_RETURN(const std::string mine, Pack(stream, routing));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> messages, AllGather(transport_, site, mine));
  const RoutingHeader header = MakeHeader(options_, placement_);
  GlobalRouting all;
  all.top_k = options_.top_k;
  all.token_offsets = {0};
  for (size_t r = 0; r < messages.size(); ++r) {
    TF_RETURN_IF_ERROR(Annotate(Append(messages[r], static_cast<int>(r), header, all), ToString(site)));
  }
  return all;
}

void OverflowStage::WriteBack(Stream& stream, const GlobalRouting& all, Routing& routing) const {
  const int64_t begin = all.token_offsets[transport_.rank().value] * options_.top_k;
  const size_t num_bytes = routing.expert_idx.rows * options_.top_k * sizeof(int32_t);
  stream.CopyToDevice(routing.expert_idx.data, all.expert_idx.data() + begin, num_bytes);
  stream.CopyToDevice(routing.weight.data, all.weight.data() + begin, num_bytes);
  if (all.location.empty()) return;
  stream.CopyToDevice(location_.data(), all.location.data() + begin, num_bytes);
  routing.location = MakeMatrix<int32_t>(location_.data(), routing.expert_idx.rows, options_.top_k);
}

int64_t OverflowStage::CapacityOf(int64_t num_tokens) const {
  const OverflowPolicy& policy = options_.policy;
  const int num_bins = policy.kind == Overflow::kRankBudget ? placement_.num_ranks() : placement_.num_experts();
  return ExpertCapacity(policy.capacity_factor, options_.top_k, num_tokens, num_bins);
}

int64_t OverflowStage::most_capacity() const { return CapacityOf(transport_.num_ranks() * options_.max_tokens); }

absl::Status OverflowStage::RunBySequence(Stream& stream, int moe_idx, const SequenceTokens& tokens, int64_t first,
                                          Routing& routing) {
  const int64_t T = routing.expert_idx.rows, K = options_.top_k;
  // As if the other ranks had no tokens: theirs do not matter to a sequence of this one.
  GlobalRouting mine;
  mine.top_k = options_.top_k;
  mine.token_offsets.assign(transport_.num_ranks() + 1, T);
  std::fill_n(mine.token_offsets.begin(), transport_.rank().value + 1, 0);
  mine.expert_idx.resize(T * K);
  mine.weight.resize(T * K);
  stream.CopyToHost(mine.expert_idx.data(), routing.expert_idx.data, T * K * sizeof(int32_t));
  stream.CopyToHost(mine.weight.data(), routing.weight.data, T * K * sizeof(float));
  TF_RETURN_IF_ERROR(stream.Synchronize());
  const GlobalRouting before = mine;
  ApplySequenceCapacity(options_.policy.sequence_capacity, tokens, first, moe_idx, placement_.num_experts(),
                        MakeMatrix<int32_t>(mine.expert_idx.data(), T, K), MakeMatrix<float>(mine.weight.data(), T, K));
  CountOverflow(before, mine, transport_.rank(), counts_[moe_idx]);
  WriteBack(stream, mine, routing);
  return absl::OkStatus();
}

absl::Status OverflowStage::Run(Stream& stream, const CallSite& site, int moe_idx, Routing& routing) {
  const OverflowPolicy& policy = options_.policy;
  if (policy.kind == Overflow::kDropless) return absl::OkStatus();
  TF_CHECK_LE(routing.expert_idx.rows, options_.max_tokens);
  TF_CHECK_EQ(routing.expert_idx.cols, options_.top_k);
  TF_CHECK_EQ(routing.expert_idx.stride, options_.top_k);
  TF_CHECK_EQ(routing.weight.stride, options_.top_k);
  TF_ASSIGN_OR_RETURN(GlobalRouting all, GatherAll(stream, site, routing));
  capacity_ = CapacityOf(all.num_tokens());
  const GlobalRouting before = all;
  TF_RETURN_IF_ERROR(Annotate(ApplyOverflow(policy, capacity_, placement_, all), ToString(site)));
  CountOverflow(before, all, transport_.rank(), counts_[moe_idx]);
  WriteBack(stream, all, routing);
  return absl::OkStatus();
}

}  // namespace tokenferry
