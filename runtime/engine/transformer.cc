#include "runtime/engine/transformer.h"

#include <algorithm>

#include "core/kernels/gated_matmul.h"
#include "core/kernels/gather_rows.h"
#include "experts/ffn/expert_ffn.h"
#include "runtime/engine/cache_layers.h"
#include "runtime/engine/layer_ops.h"
#include "runtime/ops/elementwise_ops.h"

namespace tokenferry {
namespace {

constexpr int kMaxMicroBatches = 2;

int NumMicroBatches(const EngineOptions& options) {
  return options.overlap == Overlap::kTwoBatch ? kMaxMicroBatches : 1;
}

// The one place where a MoE layer's shape is read from a model; its tokens are a micro-batch's.
MoeShape MoeShapeOf(const ModelSpec& model, const EngineOptions& options) {
  const int num_batches = NumMicroBatches(options);
  return {.num_layers = static_cast<int>(model.num_moe_layers()),
          .hidden = model.hidden_size,
          .intermediate = model.moe.intermediate,
          .num_experts = static_cast<int>(model.moe.num_experts),
          .router = model.moe.router,
          .activation = model.moe.activation,
          .weight_on = model.moe.weight_on,
          .compute = options.compute,
          .max_tokens = (options.max_tokens() + num_batches - 1) / num_batches};
}

// Of a micro-batch, too.
MoeOptions MoeOptionsOf(const EngineOptions& options) {
  MoeOptions moe = options.moe;
  moe.exchange_budget /= NumMicroBatches(options);
  return moe;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(Transport& transport, Device& device,
                                                                 const ModelSpec& model, const ModelWeights& weights,
                                                                 const Placement& placement,
                                                                 const EngineOptions& options) {
  std::unique_ptr<Transformer> t(new Transformer(model, weights, options));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device.CreateStream());
  TF_RETURN_IF_ERROR(t->AllocateActivations(device, *stream));
  TF_ASSIGN_OR_RETURN(t->positions_, PositionTables::Create(*stream, model, ServedPositions(model, options)));
  TF_ASSIGN_OR_RETURN(t->relative_bias_, RelativeBiasTables::Create(*stream, model, weights));
  TF_RETURN_IF_ERROR(t->CreateMoe(transport, device, placement));
  return t;
}

absl::Status Transformer::CreateMoe(Transport& transport, Device& device, const Placement& placement) {
  for (size_t l = 0; l < weights_.layers.size(); ++l) {
    const LayerWeights& w = weights_.layers[l];
    if (!model_.layers[l].is_moe) continue;
    moe_weights_.push_back(
        {.router = w[Role::kRouter],
         .router_bias = w.vector(Role::kRouterBias),
         .choice_bias = w.vector(Role::kChoiceBias),
         .experts = {w.expert_gate.array(), w.expert_up.array(), w.expert_down.array(), w.expert_gate_bias.array(),
                     w.expert_up_bias.array(), w.expert_down_bias.array()}});
  }
  const int num_batches = NumMicroBatches(options_);
  if (num_batches > 1 && options_.moe.overflow.kind != Overflow::kDropless) {
    return absl::InvalidArgumentError(
        "overlap two_batch: an overflow policy looks at all tokens of a step at once; choose dropless, or overlap "
        "shared");
  }
  if (num_batches > 1 && model_.has_encoder()) {
    return absl::InvalidArgumentError(
        "overlap two_batch: an encoder's input passes whole; choose overlap off or shared for this model");
  }
  MoeOptions moe = MoeOptionsOf(options_);
  if (model_.moe.sequence_capacity > 0) {
    if (moe.overflow.kind != Overflow::kDropless) {
      return absl::InvalidArgumentError(
          absl::StrCat("overflow: experts of this model take ", model_.moe.sequence_capacity,
                       " tokens of a sequence, as its config.json says; leave the policy at dropless"));
    }
    moe.overflow = {.kind = Overflow::kSequenceCapacity, .sequence_capacity = model_.moe.sequence_capacity};
  }
  const MoeShape shape = MoeShapeOf(model_, options_);
  for (int i = 0; i < num_batches; ++i) {
    TF_ASSIGN_OR_RETURN(MoeRounds rounds, MoeRounds::Create(transport, device, placement, shape, moe));
    moe_.push_back(std::move(rounds));
    moe.exchange.on_choice = nullptr;  // it has been told
  }
  return absl::OkStatus();
}

ExchangeMemory Transformer::ExchangeBytes(const ModelSpec& model, const EngineOptions& options,
                                          const Placement& placement, const Topology& topology, DeviceKind device) {
  const int num_batches = NumMicroBatches(options);
  const ExchangeMemory one =
      MoeRounds::Memory(topology, device, placement, MoeShapeOf(model, options), MoeOptionsOf(options));
  return {one.at_start * num_batches, one.most * num_batches};
}

// Halves of a part's tokens, the first one larger by one if need be: so that every rank knows the largest first and
// second half of all.
std::vector<Transformer::MicroBatch> Transformer::Split(const TokenPositions& all, const Part& part) const {
  std::vector<MicroBatch> out;
  const int64_t n = static_cast<int64_t>(moe_.size()), T = part.num_tokens;
  int64_t first = part.first;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t count = (T + n - 1 - i) / n;
    out.push_back({.first = first,
                   .positions = {all.seq + first, all.position + first, count,
                                 all.rope_row == nullptr ? nullptr : all.rope_row + first},
                   .max_tokens_per_rank = (part.max_tokens_per_rank + n - 1 - i) / n});
    first += count;
  }
  return out;
}

MatrixView<float> Transformer::Rows(const Buffer& buffer, const MicroBatch& mb) const {
  return MakeMatrix<float>(buffer.as<float>() + mb.first * model_.hidden_size, mb.positions.num_tokens,
                           model_.hidden_size);
}

MatrixView<BF16> Transformer::RoundedRows(const MicroBatch& mb) const {
  if (rounded_normed_.num_bytes() == 0) return {};
  return MakeMatrix<BF16>(rounded_normed_.as<BF16>() + mb.first * model_.hidden_size, mb.positions.num_tokens,
                          model_.hidden_size);
}

absl::Status Transformer::Forward(Stream& stream, int64_t step, const StepTokens& tokens, KvCache& cache,
                                  const LayerObserver& observer) {
  const int64_t T = tokens.positions.num_tokens;
  Embed(stream,
        {tokens.ids, T, weights_.ends[Role::kEmbedTokens], MakeMatrix<float>(hidden_.data(), T, model_.hidden_size)});
  if (model_.embedding_scale != 1) {
    Scale(stream, {MakeMatrix<float>(hidden_.data(), T, model_.hidden_size), model_.embedding_scale});
  }
  const int64_t E = tokens.num_encoder_tokens;
  if (tokens.max_encoder_tokens_per_rank > 0) {
    const Part inputs{Stack::kEncoder, 0, E, tokens.max_encoder_tokens_per_rank};
    TF_RETURN_IF_ERROR(RunLayers(stream, step, tokens, inputs, cache, observer));
    WriteSources(stream, tokens, cache);
  }
  return RunLayers(stream, step, tokens, {Stack::kDecoder, E, T - E, tokens.max_tokens_per_rank}, cache, observer);
}

absl::Status Transformer::RunLayers(Stream& stream, int64_t step, const StepTokens& tokens, const Part& part,
                                    KvCache& cache, const LayerObserver& observer) {
  micro_batches_ = Split(tokens.positions, part);
  const int num_batches = static_cast<int>(micro_batches_.size());
  const int first = static_cast<int>(model_.first_layer(part.stack));
  const int end = first + static_cast<int>(model_.num_layers(part.stack));
  MoeCall call{.first_row = part.first, .sequences = tokens.sequences};
  if (part.stack == Stack::kDecoder) call.moe_idx = static_cast<int>(model_.num_moe_layers(Stack::kEncoder));
  // While rows of one micro-batch travel, the other one computes.
  for (int l = first; l < end; ++l) {
    const LayerWeights& layer = weights_.layers[l];
    const bool is_moe = model_.layers[l].is_moe;
    call.site = {"moe", l, step};
    for (int i = 0; i < num_batches; ++i) {
      TF_RETURN_IF_ERROR(FinishMoe(stream, i));
      ShowHidden(l - first, micro_batches_[i], observer);
      Attention(stream, l, micro_batches_[i], tokens, cache);
      ShowSelected(l - first, model_.layers[l].attention.indexer, micro_batches_[i], observer);
      if (!is_moe) {
        DenseFfn(stream, layer, micro_batches_[i]);
      } else {
        TF_RETURN_IF_ERROR(BeginMoe(stream, call, layer, i, observer));
      }
    }
    if (!is_moe) continue;
    for (int i = 0; i < num_batches; ++i) TF_RETURN_IF_ERROR(ComputeMoe(stream, i));
    ++call.moe_idx, ++call.moe_idx_in_stack;
  }
  for (int i = 0; i < num_batches; ++i) {
    TF_RETURN_IF_ERROR(FinishMoe(stream, i));
    ShowHidden(end - first, micro_batches_[i], observer);
  }
  return absl::OkStatus();
}

void Transformer::ShowHidden(int layer, const MicroBatch& mb, const LayerObserver& observer) const {
  if (observer.on_hidden) observer.on_hidden(layer, mb.first, Rows(hidden_, mb));
}

int32_t* Transformer::Selected(const IndexerSpec& indexer, const MicroBatch& mb) const {
  return selected_.as<int32_t>() + mb.first * indexer.num_selected;
}

void Transformer::ShowSelected(int layer, const IndexerSpec& indexer, const MicroBatch& mb,
                               const LayerObserver& observer) const {
  if (indexer.num_selected == 0 || !observer.on_selected) return;
  observer.on_selected(layer, mb.first,
                       MakeMatrix<const int32_t>(Selected(indexer, mb), mb.positions.num_tokens, indexer.num_selected));
}

bool Transformer::is_capturable() const {
  return std::all_of(moe_.begin(), moe_.end(), [](const MoeRounds& moe) { return moe.layer().is_capturable(); });
}

AttentionStep Transformer::AttentionOf(int layer, const MicroBatch& mb, const StepTokens& tokens) const {
  return {.spec = model_.layers[layer].attention,
          .weights = weights_.layers[layer],
          .norm_eps = model_.norm_eps,
          .residual_scale = model_.residual_scale,
          .compute = options_.compute,
          .rope_table = positions_.rope(),
          .rope_dim = model_.rope.dim,
          .temperature_factors = positions_.temperature_factors(),
          .tokens = mb.positions,
          .selected = Selected(model_.layers[layer].attention.indexer, mb),
          .key_scores = KeyScores(),
          .last_source = tokens.last_source == nullptr ? nullptr : tokens.last_source + mb.first,
          .bias = relative_bias_.Of(layer),
          .hidden = Rows(hidden_, mb),
          .normed = Rows(normed_, mb),
          .rounded_normed = RoundedRows(mb),
          .rounded = rounded_.as<BF16>(),
          .workspace = attention_.as<float>(),
          .splits = {split_sums_.as<float>(), split_turns_.as<int32_t>()}};
}

void Transformer::Attention(Stream& stream, int layer, const MicroBatch& mb, const StepTokens& tokens,
                            const KvCache& cache) {
  AttentionStep step = AttentionOf(layer, mb, tokens);
  step.cache = cache.Layer(OwnCacheLayer(model_, layer), tokens.block_table, tokens.max_blocks);
  step.index_keys = cache.IndexKeys(OwnCacheLayer(model_, layer), tokens.block_table, tokens.max_blocks);
  step.state = cache.State(OwnCacheLayer(model_, layer), tokens.states);
  RunAttention(stream, step);
  if (!model_.layers[layer].attends_to_encoder) return;
  step.cache = cache.Layer(CrossCacheLayer(model_, layer), tokens.block_table, tokens.max_blocks);
  CrossAttentionLayer(stream, step);
}

void Transformer::WriteSources(Stream& stream, const StepTokens& tokens, const KvCache& cache) {
  const MicroBatch& mb = micro_batches_.front();
  Norm(stream, Rows(hidden_, mb), weights_.ends[Role::kEncoderNorm], Rows(normed_, mb), model_.norm_eps,
       RoundedRows(mb));
  for (int l = static_cast<int>(model_.num_encoder_layers); l < model_.num_layers(); ++l) {
    AttentionStep step = AttentionOf(l, mb, tokens);
    step.cache = cache.Layer(CrossCacheLayer(model_, l), tokens.block_table, tokens.max_blocks);
    WriteSource(stream, step);
  }
}

void Transformer::DenseFfn(Stream& stream, const LayerWeights& layer, const MicroBatch& mb) {
  const auto hidden = Rows(hidden_, mb), normed = Rows(normed_, mb);
  const ConstFloatMatrix inputs = Norm(stream, hidden, layer, kPostNorm, normed, model_.norm_eps, RoundedRows(mb));
  const GatedWeights ffn{layer[Role::kDenseGate], layer[Role::kDenseUp], layer[Role::kDenseDown],
                         model_.dense_activation};
  if (model_.residual_scale == 1) return GatedFfn(stream, inputs, ffn, hidden.data, Accumulate::kYes);
  GatedFfn(stream, inputs, ffn, normed.data, Accumulate::kNo);
  Add(stream, {hidden, normed, {}, model_.residual_scale});
}

void Transformer::SharedFfn(Stream& stream, const LayerWeights& layer, const MicroBatch& mb, MatrixView<const float> x,
                            ConstFloatMatrix inputs) {
  if (model_.moe.shared_intermediate == 0) return;
  const auto out = Rows(shared_out_, mb);
  GatedFfn(stream, inputs, {layer[Role::kSharedGate], layer[Role::kSharedUp], layer[Role::kSharedDown]}, out.data,
           Accumulate::kNo);
  if (!model_.moe.has_shared_score) return;
  // One output per token: in f32, as the router.
  Project(stream, x, layer[Role::kSharedScore], shared_score_.as<float>(), Compute::kF32);
  GateRows(stream, {out, shared_score_.as<float>()});
}

absl::Status Transformer::BeginMoe(Stream& stream, const MoeCall& call, const LayerWeights& layer, int batch_idx,
                                   const LayerObserver& observer) {
  const MicroBatch& mb = micro_batches_[batch_idx];
  MoeRounds& moe = moe_[batch_idx];
  // The norm writes rows as they travel, where they are read: instead of those that router and shared expert read, or,
  // when they travel in bf16, beside them.
  TF_ASSIGN_OR_RETURN(const FloatMatrix home, moe.HomeRows(mb.positions.num_tokens, mb.max_tokens_per_rank));
  const bool is_narrow = home.dtype == DType::kBF16;
  const auto x = home.data == nullptr || is_narrow ? Rows(normed_, mb) : home.as<float>();
  const MatrixView<BF16> rounded = RoundedRows(mb);
  const ConstFloatMatrix normed =
      Norm(stream, Rows(hidden_, mb), layer, kPostNorm, x, model_.norm_eps, is_narrow ? home.as<BF16>() : rounded);
  const ConstFloatMatrix inputs = rounded.data == nullptr ? ConstFloatMatrix(x) : normed;
  if (options_.overlap == Overlap::kOff) SharedFfn(stream, layer, mb, x, inputs);
  TF_RETURN_IF_ERROR(moe.Begin(stream, {.site = call.site,
                                        .moe_idx = call.moe_idx,
                                        .weights = &moe_weights_[call.moe_idx],
                                        .x = x,
                                        .rows = home.data == nullptr ? ConstFloatMatrix(x) : home,
                                        .position = mb.positions.position,
                                        .out = Rows(moe_out_, mb),
                                        .max_tokens_per_rank = mb.max_tokens_per_rank,
                                        .first_row = call.first_row,
                                        .sequences = call.sequences}));
  if (options_.overlap != Overlap::kOff) SharedFfn(stream, layer, mb, x, inputs);
  if (observer.on_routing) observer.on_routing(call.moe_idx_in_stack, mb.first, moe.routing(), moe.router_logits());
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
  if (model_.moe.shared_intermediate > 0) shared = Rows(shared_out_, mb);
  Add(stream, {Rows(hidden_, mb), Rows(moe_out_, mb), shared, model_.residual_scale});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint8_t>> Transformer::TakeBadTokens(Stream& stream, const StepTokens& tokens) {
  std::vector<uint8_t> bad(tokens.positions.num_tokens);
  const std::vector<MicroBatch> micro_batches =
      Split(tokens.positions, {.num_tokens = tokens.positions.num_tokens});  // of all rows, as Routes have marked them
  for (size_t i = 0; i < moe_.size(); ++i) {
    const MicroBatch& mb = micro_batches[i];
    const auto marks = absl::MakeSpan(bad).subspan(mb.first, mb.positions.num_tokens);
    TF_RETURN_IF_ERROR(moe_[i].layer().TakeBadTokens(stream, marks));
  }
  return bad;
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
  const auto hidden = MakeMatrix<const float>(hidden_.data(), options_.max_tokens(), model_.hidden_size);
  const auto rows = MakeMatrix<float>(head_rows_.data(), logits.rows, model_.hidden_size);
  stream.Launch(kGatherRows, {hidden, row_idx, rows.rows, rows.data, DType::kF32});
  const MatrixView<BF16> rounded = RoundedRows({.positions = {.num_tokens = rows.rows}});
  const ConstFloatMatrix inputs = Norm(stream, rows, weights_.ends, kFinalNorm, rows, model_.norm_eps, rounded);
  Project(stream, inputs, weights_.ends[Role::kLmHead], logits.data, options_.compute);
  if (model_.has_head_bias) AddBias(stream, {logits, weights_.ends.vector(Role::kLmHeadBias)});
  if (model_.logits_scale != 1) Scale(stream, {logits, model_.logits_scale});
}

void Transformer::GatedFfn(Stream& stream, ConstFloatMatrix x, const GatedWeights& ffn, float* y,
                           Accumulate accumulate) {
  if (ffn.activation == GatedActivation::Kind::kSilu && RunsOnTensorCores(stream, options_.compute)) {
    const auto gated = MakeMatrix<BF16>(gate_.data(), x.rows, ffn.gate.rows);
    GatedMatMul(stream, {.x = x.data,
                         .x_dtype = x.dtype,
                         .x_stride = x.stride,
                         .max_rows = x.rows,
                         .gate = {.layout = ffn.gate},
                         .up = {.layout = ffn.up},
                         .y = gated});
    return Project(stream, gated, ffn.down, y, options_.compute, accumulate);
  }
  const auto gate = MakeMatrix<float>(gate_.data(), x.rows, ffn.gate.rows),
             up = MakeMatrix<float>(up_.data(), x.rows, ffn.up.rows);
  Project(stream, x, ffn.gate, gate.data, options_.compute);
  MatrixView<BF16> rounded;
  if (ffn.activation == GatedActivation::Kind::kRelu) {
    Relu(stream, {gate});
    if (RunsOnTensorCores(stream, options_.compute)) rounded = MakeMatrix<BF16>(up_.data(), gate.rows, gate.cols);
  } else {
    Project(stream, x, ffn.up, up.data, options_.compute);
    SiluMul(stream, {gate, up, gate});
  }
  Project(stream, AsInputs(stream, gate, rounded), ffn.down, y, options_.compute, accumulate);
}

}  // namespace tokenferry
