#include "runtime/engine/attention_layer.h"

#include "runtime/engine/workspace.h"

namespace tokenferry {

void RunAttention(Stream& stream, const AttentionStep& step) {
  switch (step.spec.kind) {
    case AttentionKind::kLatent:
      return LatentAttentionLayer(stream, step);
    case AttentionKind::kGrouped:
      return GroupedAttentionLayer(stream, step);
  }
}

int64_t AttentionWorkspace(const AttentionSpec& a, int64_t max_tokens) {
  const int64_t latents = a.num_heads * a.kv_lora_rank;
  switch (a.kind) {
    case AttentionKind::kLatent:
      return Workspace::Floats(max_tokens,
                               {a.q_lora_rank, a.query_size(), a.cache_row(), latents, latents, a.output_size()});
    case AttentionKind::kGrouped:
      return Workspace::Floats(max_tokens, {a.query_size(), a.cache_first(), a.cache_second(), a.output_size()});
  }
  return 0;
}

}  // namespace tokenferry
