// The forward pass of a model on one rank: its own tokens' attention, everybody's experts.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/kernels/matmul.h"
#include "runtime/attention/attention_ops.h"
#include "runtime/attention/kv_cache.h"
#include "runtime/engine/attention_layer.h"
#include "runtime/engine/engine_options.h"
#include "runtime/engine/moe_rounds.h"
#include "runtime/engine/position_tables.h"
#include "runtime/engine/relative_bias_tables.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/weights.h"

namespace tokenferry {

// The tokens of this rank in one step; device memory, num_tokens may be 0.
struct StepTokens {
  const int32_t* ids = nullptr;          // [T]
  TokenPositions positions;              // T = positions.num_tokens
  const int32_t* block_table = nullptr;  // [num_seqs, max_blocks]
  int64_t max_blocks = 0;
  const int32_t* states = nullptr;  // [num_seqs] StateView::slots; null: the model has none
  int64_t max_tokens_per_rank = 0;  // of any rank in this step; with an encoder, of its decoder

  // Of a model with an encoder: the first rows are inputs of encoders, each whole; all others are the decoder's.
  int64_t num_encoder_tokens = 0;
  int64_t max_encoder_tokens_per_rank = 0;    // of any rank in this step
  const int32_t* last_source = nullptr;       // [T] last position of the input of its sequence's encoder
  const SequenceTokens* sequences = nullptr;  // host memory; MoeSpec::sequence_capacity
};

// Sees what the layers of a step hold for its tokens [first_token, ..), while the step is enqueued; null: nobody looks.
// Device memory that later layers overwrite: it is read by what the call enqueues on the same stream.
struct LayerObserver {
  // Before layer `layer` of the stack that these tokens pass through, and as its layer L after the last one, before the
  // final norm; `hidden` is [n, H].
  std::function<void(int layer, int64_t first_token, MatrixView<const float> hidden)> on_hidden;
  // After the attention of a layer whose tokens see keys that an indexer selects, its own or one before; `selected` is
  // [n, num_selected], SelectKeysArgs's.
  std::function<void(int layer, int64_t first_token, MatrixView<const int32_t> selected)> on_selected;
  // After each MoE layer of the stack has routed; `router_logits` is [n, E], MoeStep's.
  std::function<void(int moe_idx, int64_t first_token, const Routing& routing, MatrixView<const float> router_logits)>
      on_routing;
};

class Transformer {
 public:
  static absl::StatusOr<std::unique_ptr<Transformer>> Create(Transport& transport, Device& device,
                                                             const ModelSpec& model, const ModelWeights& weights,
                                                             const Placement& placement, const EngineOptions& options);

  // Collective. Runs all layers over the tokens, writing their keys into `cache`; hidden states stay here.
  absl::Status Forward(Stream& stream, int64_t step, const StepTokens& tokens, KvCache& cache,
                       const LayerObserver& observer);

  // logits [n, V] f32 (device memory) of the tokens row_idx [n] (device memory) of the last Forward. n <= kLogitRows.
  void Logits(Stream& stream, const int32_t* row_idx, MatrixView<float> logits);
  static constexpr int64_t kLogitRows = 64;

  // Of the activations that Create allocates.
  static int64_t ActivationBytes(const ModelSpec& model, const EngineOptions& options, DeviceKind device);

  // Of the exchanges that Create makes among ranks of such hosts, all micro-batches together.
  static ExchangeMemory ExchangeBytes(const ModelSpec& model, const EngineOptions& options, const Placement& placement,
                                      const Topology& topology, DeviceKind device);

  // TokenPositions::rope_row of a token.
  int32_t RopeRowOf(RopeFactors factors, int64_t position) const {
    return static_cast<int32_t>(RopeRow(positions_.rope_config(), factors, position));
  }

  // Whether Forward and Logits of the same shapes, in the same memory, may be captured and launched again: nothing of
  // them asks the host, and rows at negative positions leave no trace.
  bool is_capturable() const;
  int num_micro_batches() const { return static_cast<int>(moe_.size()); }

  // [T] of `tokens`, those of the last Forward or of a launch of a captured one: 1 for one that a router could send
  // nowhere (MoeLayer::TakeBadTokens), else 0. Synchronizes the stream.
  absl::StatusOr<std::vector<uint8_t>> TakeBadTokens(Stream& stream, const StepTokens& tokens);
  // Of all micro-batches; both synchronize the stream.
  absl::StatusOr<MoeStats> moe_stats(Stream& stream) const;
  absl::StatusOr<ExchangeStats> exchange_stats(Stream& stream) const;
  std::string exchange_path() const { return moe_.front().layer().exchange_path(); }  // by size

 private:
  Transformer(const ModelSpec& model, const ModelWeights& weights, const EngineOptions& options)
      : model_(model), weights_(weights), options_(options) {}
  // Positions that a sequence can have: the model's, or fewer where the cache does not reach as far.
  static int64_t ServedPositions(const ModelSpec& model, const EngineOptions& options);
  // transformer_activations.cc
  struct Activation {
    Buffer Transformer::*buffer;
    int64_t rows, cols;  // f32
    const char* label;
  };
  static std::vector<Activation> Activations(const ModelSpec& model, const EngineOptions& options, DeviceKind device);
  absl::Status AllocateActivations(Device& device, Stream& stream);
  absl::Status CreateMoe(Transport& transport, Device& device, const Placement& placement);
  // The rows of a step that pass through one stack.
  struct Part {
    Stack stack = Stack::kDecoder;
    int64_t first = 0, num_tokens = 0;
    int64_t max_tokens_per_rank = 0;
  };
  absl::Status RunLayers(Stream& stream, int64_t step, const StepTokens& tokens, const Part& part, KvCache& cache,
                         const LayerObserver& observer);
  // A part of a part's tokens: rows [first, first + positions.num_tokens) of the activations.
  struct MicroBatch {
    int64_t first = 0;
    TokenPositions positions;
    int64_t max_tokens_per_rank = 0;
    bool combining = false;  // the outputs of a MoE layer are on their way here
  };
  std::vector<MicroBatch> Split(const TokenPositions& all, const Part& part) const;
  MatrixView<float> Rows(const Buffer& buffer, const MicroBatch& mb) const;  // of hidden_size columns
  MatrixView<BF16> RoundedRows(const MicroBatch& mb) const;                  // of rounded_normed_, or null
  MatrixView<float> KeyScores() const;
  void ShowHidden(int layer, const MicroBatch& mb, const LayerObserver& observer) const;
  int32_t* Selected(const IndexerSpec& indexer, const MicroBatch& mb) const;
  void ShowSelected(int layer, const IndexerSpec& indexer, const MicroBatch& mb, const LayerObserver& observer) const;
  AttentionStep AttentionOf(int layer, const MicroBatch& mb, const StepTokens& tokens) const;
  void Attention(Stream& stream, int layer, const MicroBatch& mb, const StepTokens& tokens, const KvCache& cache);
  // Of what the encoder has made of its rows, for every layer that attends to it.
  void WriteSources(Stream& stream, const StepTokens& tokens, const KvCache& cache);
  void DenseFfn(Stream& stream, const LayerWeights& layer, const MicroBatch& mb);
  // `inputs`: x as products read it.
  void SharedFfn(Stream& stream, const LayerWeights& layer, const MicroBatch& mb, MatrixView<const float> x,
                 ConstFloatMatrix inputs);
  // A MoE layer, for the observer by its number within the stack.
  struct MoeCall {
    CallSite site;
    int moe_idx = 0, moe_idx_in_stack = 0;
    int64_t first_row = 0;  // MoeStep's
    const SequenceTokens* sequences = nullptr;
  };
  absl::Status BeginMoe(Stream& stream, const MoeCall& call, const LayerWeights& layer, int batch_idx,
                        const LayerObserver& observer);
  absl::Status ComputeMoe(Stream& stream, int batch_idx);
  absl::Status FinishMoe(Stream& stream, int batch_idx);
  // down(silu(gate(x)) * up(x)), or down(relu(gate(x))). gate, up [I, H]; down [H, I].
  struct GatedWeights {
    const WeightView &gate, &up, &down;
    GatedActivation::Kind activation = GatedActivation::Kind::kSilu;
  };
  void GatedFfn(Stream& stream, ConstFloatMatrix x, const GatedWeights& ffn, float* y, Accumulate accumulate);

  const ModelSpec& model_;
  const ModelWeights& weights_;
  EngineOptions options_;
  std::vector<MoeLayerWeights> moe_weights_;  // [MoE layers]
  std::vector<MoeRounds> moe_;                // [micro-batches]
  std::vector<MicroBatch> micro_batches_;     // of the step
  PositionTables positions_;                  // as far as this job serves
  RelativeBiasTables relative_bias_;
  // Activations of max_tokens rows, f32.
  Buffer hidden_, normed_, gate_, up_, shared_out_, shared_score_, moe_out_;
  // What products on tensor cores read, bf16: normed_, and AttentionStep::rounded. Elsewhere there are none.
  Buffer rounded_normed_, rounded_;
  Buffer selected_;    // [max_tokens, ModelSpec::num_selected_keys()] int32
  Buffer key_scores_;  // SelectKeysArgs::scores
  Buffer attention_;   // AttentionWorkspace of the layer that needs most
  // SplitSums, of a GPU's attention alone: micro-batches take them one after the other.
  Buffer split_sums_, split_turns_;
  Buffer head_rows_;  // [kLogitRows, H]
};

}  // namespace tokenferry
