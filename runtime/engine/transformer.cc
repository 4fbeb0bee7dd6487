#include "runtime/engine/transformer.h"

#include <algorithm>

#include "core/kernels/gather_rows.h"
#include "core/kernels/matmul.h"
#include "experts/ffn/expert_ffn.h"
#include "runtime/attention/rope.h"
#include "runtime/ops/norm_ops.h"

namespace tokenferry {
namespace {

// Norms inside attention use this epsilon whatever rms_norm_eps says, as transformers does.
constexpr float kLatentNormEps = 1e-6f;

constexpr int kMaxMicroBatches = 2;

// The one place where a MoE layer's shape is read from a model.
MoeShape MoeShapeOf(const ModelConfig& c, Compute compute, int64_t max_tokens) {
  return {.num_layers = static_cast<int>(c.num_moe_layers()),
          .hidden = c.hidden_size,
          .intermediate = c.moe_intermediate_size,
          .num_experts = static_cast<int>(c.n_routed_experts),
          .router = {.scoring = Scoring::kSigmoid,
                     .renormalise = c.norm_topk_prob ? Renormalise::kYes : Renormalise::kNo,
                     .group_score = GroupScore::kSumOfTwoLargest,
                     .num_groups = static_cast<int32_t>(c.n_group),
                     .groups_kept = static_cast<int32_t>(c.topk_group),
                     .top_k = static_cast<int32_t>(c.num_experts_per_tok),
                     .scaling = static_cast<float>(c.routed_scaling_factor)},
          .compute = compute,
          .max_tokens = max_tokens};
}

template <class T>
MatrixView<T> Columns(MatrixView<T> m, int64_t begin, int64_t count) {
  return {m.data + begin, m.rows, count, m.stride};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(Transport& transport, Device& device,
                                                                 const ModelConfig& config, const ModelWeights& weights,
                                                                 const Placement& placement,
                                                                 const EngineOptions& options) {
  std::unique_ptr<Transformer> t(new Transformer(config, weights, options));
  TF_RETURN_IF_ERROR(t->AllocateActivations(device));
  TF_RETURN_IF_ERROR(t->CreateMoe(transport, device, placement));
  return t;
}

absl::Status Transformer::CreateMoe(Transport& transport, Device& device, const Placement& placement) {
  for (const LayerWeights& layer : weights_.layers) {
    const MoeWeights& w = layer.moe;
    if (!layer.is_moe) continue;
    moe_weights_.push_back({w.router, w.e_score_correction_bias, {w.gate.array(), w.up.array(), w.down.array()}});
  }
  const int num_batches = options_.overlap == Overlap::kTwoBatch ? kMaxMicroBatches : 1;
  if (num_batches > 1 && options_.moe.overflow.kind != Overflow::kDropless) {
    return absl::InvalidArgumentError(
        "overlap two_batch: an overflow policy looks at all tokens of a step at once; choose dropless, or overlap "
        "shared");
  }
  MoeOptions moe = options_.moe;
  moe.exchange_budget /= num_batches;
  const MoeShape shape = MoeShapeOf(config_, options_.compute, (options_.max_tokens() + num_batches - 1) / num_batches);
  for (int i = 0; i < num_batches; ++i) {
    TF_ASSIGN_OR_RETURN(MoeRounds rounds, MoeRounds::Create(transport, device, placement, shape, moe));
    moe_.push_back(std::move(rounds));
    moe.exchange.on_choice = nullptr;  // it has been told
  }
  return absl::OkStatus();
}

std::vector<Transformer::Activation> Transformer::Activations(const ModelConfig& c, int64_t max_tokens) {
  const int64_t T = max_tokens, nh = c.num_attention_heads;
  const int64_t ffn = std::max(c.intermediate_size, c.n_shared_experts * c.moe_intermediate_size);
  return {
      {&Transformer::hidden_, T, c.hidden_size, "hidden states"},
      {&Transformer::normed_, T, c.hidden_size, "normed hidden states"},
      {&Transformer::query_latent_, T, c.q_lora_rank, "query latent"},
      {&Transformer::query_, T, nh * c.qk_head_dim(), "query"},
      {&Transformer::key_value_, T, c.kv_lora_rank + c.qk_rope_head_dim, "key-value latent"},
      {&Transformer::absorbed_, T, nh * c.kv_lora_rank, "absorbed query"},
      {&Transformer::context_, T, nh * c.kv_lora_rank, "attention context"},
      {&Transformer::heads_, T, nh * c.v_head_dim, "attention heads"},
      {&Transformer::gate_, T, ffn, "ffn gate"},
      {&Transformer::up_, T, ffn, "ffn up"},
      {&Transformer::shared_out_, T, c.hidden_size, "shared expert output"},
      {&Transformer::moe_out_, T, c.hidden_size, "routed experts output"},
      {&Transformer::head_rows_, kLogitRows, c.hidden_size, "head rows"},
  };
}

int64_t Transformer::ActivationBytes(const ModelConfig& config, int64_t max_tokens) {
  int64_t num_bytes = 0;
  for (const Activation& a : Activations(config, max_tokens)) num_bytes += a.rows * a.cols * sizeof(float);
  return num_bytes;
}

absl::Status Transformer::AllocateActivations(Device& device) {
  const ModelConfig& c = config_;
  for (const Activation& a : Activations(c, options_.max_tokens())) {
    TF_ASSIGN_OR_RETURN(this->*a.buffer,
                        device.Allocate(a.rows * a.cols * sizeof(float), MemoryKind::kDevice, a.label));
  }
  attention_scale_ = AttentionScale(c.rope, c.qk_head_dim());
  TF_ASSIGN_OR_RETURN(const std::vector<float> table, RopeTable(c.rope));
  TF_ASSIGN_OR_RETURN(rope_table_, device.Allocate(table.size() * sizeof(float), MemoryKind::kDevice, "rope table"));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device.CreateStream());
  stream->CopyToDevice(rope_table_.data(), table.data(), rope_table_.num_bytes());
  return stream->Synchronize();
}

// Halves of this rank's tokens, the first one larger by one if need be: so that every rank knows the largest first and
// second half of all.
std::vector<Transformer::MicroBatch> Transformer::Split(const StepTokens& tokens) const {
  std::vector<MicroBatch> out;
  const int64_t n = static_cast<int64_t>(moe_.size()), T = tokens.positions.num_tokens;
  int64_t first = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t count = (T + n - 1 - i) / n;
    out.push_back({.first = first,
                   .positions = {tokens.positions.seq + first, tokens.positions.position + first, count},
                   .max_tokens_per_rank = (tokens.max_tokens_per_rank + n - 1 - i) / n});
    first += count;
  }
  return out;
}

MatrixView<float> Transformer::Rows(const Buffer& buffer, const MicroBatch& mb) const {
  return MakeMatrix<float>(buffer.as<float>() + mb.first * config_.hidden_size, mb.positions.num_tokens,
                           config_.hidden_size);
}

absl::Status Transformer::Forward(Stream& stream, int64_t step, const StepTokens& tokens, KvCache& cache,
                                  const RoutingObserver& observer) {
  const int64_t T = tokens.positions.num_tokens;
  Embed(stream, {tokens.ids, T, weights_.embed_tokens, MakeMatrix<float>(hidden_.data(), T, config_.hidden_size)});
  micro_batches_ = Split(tokens);
  const int num_batches = static_cast<int>(micro_batches_.size());
  int moe_idx = 0;
  // While rows of one micro-batch travel, the other one computes.
  for (int l = 0; l < config_.num_hidden_layers; ++l) {
    const LayerWeights& layer = weights_.layers[l];
    const CallSite site{"moe", l, step};
    for (int i = 0; i < num_batches; ++i) {
      TF_RETURN_IF_ERROR(FinishMoe(stream, i));
      Attention(stream, layer, micro_batches_[i], cache.Layer(l, tokens.block_table, tokens.max_blocks));
      if (!layer.is_moe) {
        DenseFfn(stream, layer, micro_batches_[i]);
      } else {
        TF_RETURN_IF_ERROR(BeginMoe(stream, site, layer, moe_idx, i, observer));
      }
    }
    if (!layer.is_moe) continue;
    for (int i = 0; i < num_batches; ++i) TF_RETURN_IF_ERROR(ComputeMoe(stream, i));
    ++moe_idx;
  }
  for (int i = 0; i < num_batches; ++i) TF_RETURN_IF_ERROR(FinishMoe(stream, i));
  return absl::OkStatus();
}

// Multi-head latent attention, absorbed form; adds its output to the hidden states.
void Transformer::Attention(Stream& stream, const LayerWeights& layer, const MicroBatch& mb,
                            const LatentCacheView& cache) {
  const ModelConfig& c = config_;
  const AttentionWeights& w = layer.attention;
  const TokenPositions& tokens = mb.positions;
  const int64_t T = tokens.num_tokens;
  const auto nh = static_cast<int32_t>(c.num_attention_heads), nope = static_cast<int32_t>(c.qk_nope_head_dim);
  const auto rope = static_cast<int32_t>(c.qk_rope_head_dim), value = static_cast<int32_t>(c.v_head_dim);
  const auto hidden = Rows(hidden_, mb), normed = Rows(normed_, mb);
  const auto key_value = MakeMatrix<float>(key_value_.data(), T, c.kv_lora_rank + rope);
  const auto latent = Columns(key_value, 0, c.kv_lora_rank), rope_key = Columns(key_value, c.kv_lora_rank, rope);
  float* const query = query_.as<float>();
  const int64_t query_stride = int64_t{nh} * (nope + rope);

  Norm(stream, hidden, layer.input_layernorm, normed, static_cast<float>(c.rms_norm_eps));
  if (c.q_lora_rank > 0) {
    const auto query_latent = MakeMatrix<float>(query_latent_.data(), T, c.q_lora_rank);
    Project(stream, normed, w.q_a_proj, query_latent.data);
    Norm(stream, query_latent, w.q_a_layernorm, query_latent, kLatentNormEps);
    Project(stream, query_latent, w.q_b_proj, query);
  } else {
    Project(stream, normed, w.q_proj, query);
  }
  Project(stream, normed, w.kv_a_proj_with_mqa, key_value.data);
  Norm(stream, latent, w.kv_a_layernorm, latent, kLatentNormEps);

  RopeArgs rotate{query + nope, query_stride, nope + rope, nh, rope, rope_table_.as<float>(), tokens};
  RopeInterleaved(stream, rotate);
  RopeInterleaved(stream, {rope_key.data, rope_key.stride, 0, 1, rope, rope_table_.as<float>(), tokens});
  CacheWrite(stream, {latent.data, latent.stride, rope_key.data, rope_key.stride, tokens, cache});

  AbsorbQuery(stream, {query, T, nh, nope, rope, value, w.kv_b_proj, absorbed_.as<float>(), options_.compute});
  LatentAttention(stream, {absorbed_.as<float>(), query, nh, nope, rope, attention_scale_, tokens, cache,
                           context_.as<float>(), options_.compute});
  ExpandValue(stream, {context_.as<float>(), T, nh, nope, value, w.kv_b_proj, heads_.as<float>(), options_.compute});
  Project(stream, MakeMatrix<float>(heads_.data(), T, int64_t{nh} * value), w.o_proj, hidden.data, Accumulate::kYes);
}

void Transformer::DenseFfn(Stream& stream, const LayerWeights& layer, const MicroBatch& mb) {
  const auto hidden = Rows(hidden_, mb), normed = Rows(normed_, mb);
  Norm(stream, hidden, layer.post_attention_layernorm, normed, static_cast<float>(config_.rms_norm_eps));
  GatedFfn(stream, normed, layer.dense, hidden.data, Accumulate::kYes);
}

void Transformer::SharedFfn(Stream& stream, const LayerWeights& layer, const MicroBatch& mb,
                            MatrixView<const float> x) {
  if (config_.n_shared_experts == 0) return;
  GatedFfn(stream, x, layer.moe.shared, Rows(shared_out_, mb).data, Accumulate::kNo);
}

absl::Status Transformer::BeginMoe(Stream& stream, const CallSite& site, const LayerWeights& layer, int moe_idx,
                                   int batch_idx, const RoutingObserver& observer) {
  const MicroBatch& mb = micro_batches_[batch_idx];
  MoeRounds& moe = moe_[batch_idx];
  // The norm writes rows as they travel, where they are read: instead of those that router and shared expert read, or,
  // when they travel in bf16, beside them.
  TF_ASSIGN_OR_RETURN(const FloatMatrix home, moe.HomeRows(mb.positions.num_tokens, mb.max_tokens_per_rank));
  const bool is_narrow = home.dtype == DType::kBF16;
  const auto x = home.data == nullptr || is_narrow ? Rows(normed_, mb) : home.as<float>();
  Norm(stream, Rows(hidden_, mb), layer.post_attention_layernorm, x, static_cast<float>(config_.rms_norm_eps),
       is_narrow ? home.as<BF16>() : MatrixView<BF16>());
  if (options_.overlap == Overlap::kOff) SharedFfn(stream, layer, mb, x);
  TF_RETURN_IF_ERROR(moe.Begin(stream, {.site = site,
                                        .moe_idx = moe_idx,
                                        .weights = &moe_weights_[moe_idx],
                                        .x = x,
                                        .rows = home.data == nullptr ? ConstFloatMatrix(x) : home,
                                        .out = Rows(moe_out_, mb),
                                        .max_tokens_per_rank = mb.max_tokens_per_rank}));
  if (options_.overlap != Overlap::kOff) SharedFfn(stream, layer, mb, x);
  if (observer) observer(moe_idx, mb.first, moe.routing());
  return absl::OkStatus();
}

absl::Status Transformer::ComputeMoe(Stream& stream, int batch_idx) {
  micro_batches_[batch_idx].combining = true;
  return moe_[batch_idx].Compute(stream);
}

absl::Status Transformer::FinishMoe(Stream& stream, int batch_idx) {
  MicroBatch& mb = micro_batches_[batch_idx];
  if (!mb.combining) return absl::OkStatus();
  TF_RETURN_IF_ERROR(moe_[batch_idx].Finish(stream));
  mb.combining = false;
  MatrixView<const float> shared;
  if (config_.n_shared_experts > 0) shared = Rows(shared_out_, mb);
  Add(stream, {Rows(hidden_, mb), Rows(moe_out_, mb), shared});
  return absl::OkStatus();
}

absl::Status Transformer::CheckRouting(Stream& stream, const CallSite& site) {
  absl::Status routed;
  for (MoeRounds& moe : moe_) routed.Update(moe.layer().CheckRouting(stream, site));
  return routed;
}

absl::StatusOr<MoeStats> Transformer::moe_stats(Stream& stream) const {
  TF_ASSIGN_OR_RETURN(MoeStats sum, moe_[0].layer().stats(stream));
  for (size_t i = 1; i < moe_.size(); ++i) {
    TF_ASSIGN_OR_RETURN(const MoeStats part, moe_[i].layer().stats(stream));
    sum += part;
  }
  return sum;
}

absl::StatusOr<ExchangeStats> Transformer::exchange_stats(Stream& stream) const {
  TF_ASSIGN_OR_RETURN(ExchangeStats sum, moe_[0].layer().exchange_stats(stream));
  for (size_t i = 1; i < moe_.size(); ++i) {
    TF_ASSIGN_OR_RETURN(const ExchangeStats part, moe_[i].layer().exchange_stats(stream));
    sum += part;
  }
  return sum;
}

void Transformer::Logits(Stream& stream, const int32_t* row_idx, MatrixView<float> logits) {
  const auto hidden = MakeMatrix<const float>(hidden_.data(), options_.max_tokens(), config_.hidden_size);
  const auto rows = MakeMatrix<float>(head_rows_.data(), logits.rows, config_.hidden_size);
  stream.Launch(kGatherRows, {hidden, row_idx, rows.rows, rows.data, DType::kF32});
  Norm(stream, rows, weights_.norm, rows, static_cast<float>(config_.rms_norm_eps));
  Project(stream, rows, weights_.lm_head, logits.data);
}

void Transformer::Project(Stream& stream, MatrixView<const float> x, const WeightView& w, float* y,
                          Accumulate accumulate) {
  MatMul(stream, {.x = x.data,
                  .x_stride = x.stride,
                  .num_rows = x.rows,
                  .w = w,
                  .y = y,
                  .y_stride = w.rows,
                  .compute = options_.compute,
                  .accumulate = accumulate});
}

void Transformer::GatedFfn(Stream& stream, MatrixView<const float> x, const FfnWeights& ffn, float* y,
                           Accumulate accumulate) {
  const auto gate = MakeMatrix<float>(gate_.data(), x.rows, ffn.gate.rows),
             up = MakeMatrix<float>(up_.data(), x.rows, ffn.up.rows);
  Project(stream, x, ffn.gate, gate.data);
  Project(stream, x, ffn.up, up.data);
  SiluMul(stream, {gate, up, gate});
  Project(stream, gate, ffn.down, y, accumulate);
}

void Transformer::Norm(Stream& stream, MatrixView<const float> x, const NormWeight& weight, MatrixView<float> out,
                       float eps, MatrixView<BF16> rounded) {
  RmsNorm(stream, {x, weight.data, weight.dtype, eps, out, rounded});
}

}  // namespace tokenferry
