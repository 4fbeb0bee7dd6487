#include "bench/moe/bench_router.h"

#include "absl/strings/str_cat.h"
#include "core/kernels/matmul.h"
#include "core/keyed_hash.h"
#include "experts/router/study_routers.h"

namespace tokenferry {
namespace {

constexpr uint64_t kNoiseStream = (1 << 30) + 2, kNoiseSeed = 37, kIdSeed = 41;
constexpr int64_t kVocabulary = 1 << 15;

void Logits(Stream& stream, const MoeStep& step, const WeightView& weights, MatrixView<float> logits) {
  MatMul(stream, {.x = step.x.data,
                  .x_stride = step.x.stride,
                  .num_rows = step.x.rows,
                  .w = weights,
                  .y = logits.data,
                  .y_stride = logits.stride});
}

}  // namespace

const char* BenchRouterName(BenchRouterKind kind) {
  constexpr const char* kNames[] = {"top_k", "noisy_top_k", "expert_choice", "hash"};
  return kNames[static_cast<int>(kind)];
}

absl::Status CheckBenchRouter(BenchRouterKind kind, int top_k, DeviceKind device) {
  if (kind == BenchRouterKind::kHash && top_k != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--router hash has one expert for a token, but --top-k is ", top_k, ": give --top-k 1"));
  }
  if (kind == BenchRouterKind::kTopK || device == DeviceKind::kCpu) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("--router ", BenchRouterName(kind), " has no GPU kernel; use --device cpu"));
}

int RoutingColumns(BenchRouterKind kind, int top_k, int num_experts) {
  return kind == BenchRouterKind::kExpertChoice ? num_experts : top_k;
}

absl::StatusOr<BenchRouter> BenchRouter::Create(const BenchContext& context, MoeLayer& layer, const RandomLayer& random,
                                                BenchRouterKind kind, int top_k) {
  BenchRouter router(layer, random, kind, top_k);
  if (kind == BenchRouterKind::kTopK) return router;
  const MoeShape& shape = random.shape;
  const int64_t T = shape.max_tokens, E = shape.num_experts, K = shape.router.top_k;
  router.first_token_ = context.transport.rank().value * T;
  const auto allocate = [&](Buffer& buffer, size_t num_bytes) -> absl::Status {
    TF_ASSIGN_OR_RETURN(buffer, context.device.Allocate(num_bytes, MemoryKind::kDevice, "bench: router"));
    return absl::OkStatus();
  };
  TF_RETURN_IF_ERROR(allocate(router.logits_, T * E * sizeof(float)));
  TF_RETURN_IF_ERROR(allocate(router.expert_idx_, T * K * sizeof(int32_t)));
  TF_RETURN_IF_ERROR(allocate(router.expert_weight_, T * K * sizeof(float)));
  TF_RETURN_IF_ERROR(allocate(router.bad_tokens_, T));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, context.device.CreateStream());
  if (kind == BenchRouterKind::kNoisyTopK) {
    TF_RETURN_IF_ERROR(allocate(router.noise_logits_, T * E * sizeof(float)));
    const std::vector<float> weights = RandomFloats(E * shape.hidden, kNoiseStream, 0);
    TF_ASSIGN_OR_RETURN(router.noise_weights_,
                        UploadNew(*stream, weights.data(), weights.size() * sizeof(float), "bench: noise weights"));
    TF_RETURN_IF_ERROR(stream->Synchronize());
  }
  if (kind == BenchRouterKind::kHash) {
    std::vector<int32_t> ids(T);
    for (int64_t t = 0; t < T; ++t) {
      ids[t] = static_cast<int32_t>(HashKey(kIdSeed, 0, router.first_token_ + t) % kVocabulary);
    }
    const std::vector<int32_t> table = BalancedHashTable(std::vector<int64_t>(kVocabulary, 1), shape.num_experts);
    TF_ASSIGN_OR_RETURN(router.ids_, UploadNew(*stream, ids.data(), ids.size() * sizeof(int32_t), "bench: token ids"));
    TF_ASSIGN_OR_RETURN(router.table_,
                        UploadNew(*stream, table.data(), table.size() * sizeof(int32_t), "bench: hash table"));
    TF_RETURN_IF_ERROR(stream->Synchronize());
  }
  return router;
}

absl::Status BenchRouter::Route(Stream& stream, MoeStep& step) {
  if (kind_ == BenchRouterKind::kTopK) return layer_->Route(stream, step);
  const MoeShape& shape = random_->shape;
  const int64_t T = step.x.rows, E = shape.num_experts, K = shape.router.top_k;
  const auto logits = MakeMatrix<float>(logits_.data(), T, E);
  step.routing = {MakeMatrix<int32_t>(expert_idx_.data(), T, K), MakeMatrix<float>(expert_weight_.data(), T, K)};
  step.combine_weight = step.routing.weight;
  if (kind_ == BenchRouterKind::kHash) {
    HashRoute(stream, {.ids = ids_.as<int32_t>(), .table = table_.as<int32_t>(), .out = step.routing});
    return absl::OkStatus();
  }
  Logits(stream, step, step.weights->router, logits);
  step.router_logits = logits;
  if (kind_ == BenchRouterKind::kExpertChoice) {
    ExpertChoice(stream, {.logits = logits,
                          .capacity = ExpertChoiceCapacity(T, top_k_, E),
                          .out = step.routing,
                          .bad_tokens = bad_tokens_.as<uint8_t>()});
    return absl::OkStatus();
  }
  const auto noise = MakeMatrix<float>(noise_logits_.data(), T, E);
  Logits(stream, step, {.format = {}, .data = noise_weights_.data(), .rows = E, .cols = shape.hidden}, noise);
  AddGateNoise(stream, {.logits = logits, .noise_logits = noise, .seed = kNoiseSeed, .first_token = first_token_});
  RouteArgs args;
  args.scoring = Scoring::kSoftmaxOfChosen;
  args.top_k = static_cast<int32_t>(K);
  args.logits = logits;
  args.out = step.routing;
  args.bad_tokens = bad_tokens_.as<uint8_t>();
  tokenferry::Route(stream, args);
  return absl::OkStatus();
}

}  // namespace tokenferry
