// The memory that a transformer's steps pass through.
#include <algorithm>

#include "runtime/engine/attention_layer.h"
#include "runtime/engine/transformer.h"

namespace tokenferry {
namespace {

// Tokens whose scores of all keys an indexer of a GPU holds at once.
constexpr int64_t kScoredTokens = 64;

}  // namespace

int64_t Transformer::ServedPositions(const ModelSpec& model, const EngineOptions& options) {
  return std::min(model.max_position_embeddings, CacheBlocks(options.cache_tokens_per_rank) * kCacheBlockTokens);
}

std::vector<Transformer::Activation> Transformer::Activations(const ModelSpec& model, const EngineOptions& options,
                                                              DeviceKind device) {
  const int64_t T = options.max_tokens(), H = model.hidden_size;
  const bool is_gpu = device == DeviceKind::kCuda, has_scores = model.num_selected_keys() > 0 && is_gpu;
  int64_t ffn = model.moe.shared_intermediate, attention = 0, heads = 0, widest = 0;
  for (const LayerSpec& layer : model.layers) {
    if (!layer.is_moe) ffn = std::max(ffn, layer.dense_intermediate);
    attention = std::max(attention, AttentionWorkspace(layer.attention, T));
    heads = std::max(heads, layer.attention.num_heads);
    widest = std::max(widest, WidestInput(layer.attention));
  }
  const bool has_tensor_cores = RunsOnTensorCores(device, options.compute);
  const auto floats = [](int64_t num_bf16) { return (num_bf16 + 1) / 2; };
  return {
      {&Transformer::hidden_, T, H, "hidden states"},
      {&Transformer::normed_, T, H, "normed hidden states"},
      {&Transformer::rounded_normed_, has_tensor_cores ? std::max(T, kLogitRows) : 0, floats(H),
       "rounded hidden states"},
      {&Transformer::rounded_, has_tensor_cores ? T : 0, floats(widest), "rounded inputs"},
      {&Transformer::selected_, T, model.num_selected_keys(), "selected keys"},
      {&Transformer::key_scores_, has_scores ? std::min(T, kScoredTokens) : 0, ServedPositions(model, options),
       "scores of keys"},
      {&Transformer::attention_, 1, attention, "attention"},
      {&Transformer::split_sums_, has_tensor_cores ? T : 0, 2 * heads, "sums of attention's splits"},
      {&Transformer::split_turns_, has_tensor_cores ? 1 : 0, SplitSums::Turns(T, heads), "turns of attention's splits"},
      {&Transformer::gate_, T, ffn, "ffn gate"},
      {&Transformer::up_, T, ffn, "ffn up"},
      {&Transformer::shared_out_, T, H, "shared expert output"},
      {&Transformer::shared_score_, T, model.moe.has_shared_score ? 1 : 0, "shared expert score"},
      {&Transformer::moe_out_, T, H, "routed experts output"},
      {&Transformer::head_rows_, kLogitRows, H, "head rows"},
  };
}

int64_t Transformer::ActivationBytes(const ModelSpec& model, const EngineOptions& options, DeviceKind device) {
  int64_t num_bytes = 0;
  for (const Activation& a : Activations(model, options, device)) num_bytes += a.rows * a.cols * sizeof(float);
  return num_bytes;
}

absl::Status Transformer::AllocateActivations(Device& device, Stream& stream) {
  for (const Activation& a : Activations(model_, options_, device.kind())) {
    TF_ASSIGN_OR_RETURN(this->*a.buffer,
                        device.Allocate(a.rows * a.cols * sizeof(float), MemoryKind::kDevice, a.label));
  }
  if (split_turns_.num_bytes() > 0) stream.Fill(split_turns_.data(), 0, split_turns_.num_bytes());
  return stream.Synchronize();
}

MatrixView<float> Transformer::KeyScores() const {
  const int64_t num_positions = ServedPositions(model_, options_);
  const auto num_rows = static_cast<int64_t>(key_scores_.num_bytes() / sizeof(float)) / num_positions;
  return MakeMatrix<float>(key_scores_.data(), num_rows, num_positions);
}

}  // namespace tokenferry
