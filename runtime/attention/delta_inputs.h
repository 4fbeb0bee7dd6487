// Where DeltaInputs finds what it convolves: the one meaning that CPU and GPU share. Internal to this folder.
#pragma once

#include "runtime/attention/gated_delta.h"

namespace tokenferry {

inline constexpr float kUnitHeadEps = 1e-6f;

// Whether row t of the step is a token, and the one after row t - 1 in its sequence. The tokens of a sequence in a step
// are a run: the first does not continue another, all that follow do.
TF_HOST_DEVICE inline bool ContinuesRun(const TokenPositions& tokens, int64_t t) {
  return t > 0 && tokens.position[t] > 0 && tokens.seq[t - 1] == tokens.seq[t] &&
         tokens.position[t - 1] + 1 == tokens.position[t];
}

// Tokens of the run before token t, or `most` of them.
TF_HOST_DEVICE inline int64_t NumBefore(const TokenPositions& tokens, int64_t t, int64_t most) {
  int64_t n = 0;
  while (n < most && ContinuesRun(tokens, t - n)) ++n;
  return n;
}

// A head of queries, keys or values: channels that lie in one piece in a projection.
struct DeltaHead {
  int64_t first = 0, size = 0;  // channels
  const float* data = nullptr;  // of row 0
  int64_t stride = 0;

  TF_HOST_DEVICE const float* at(int64_t t) const { return data + t * stride; }
};

// Heads of queries, then those of keys, then those of values: as channels are.
TF_HOST_DEVICE inline int64_t NumHeads(const DeltaShape& s) { return 2 * s.num_key_heads + s.num_value_heads; }
TF_HOST_DEVICE inline DeltaHead HeadOf(const DeltaInputsArgs& a, int64_t head) {
  const DeltaShape& s = a.shape;
  if (head < 2 * s.num_key_heads) {
    const bool is_key = head >= s.num_key_heads;
    const HeadGroups& from = is_key ? a.k : a.q;
    return {head * s.key_dim, s.key_dim, from.at(0, is_key ? head - s.num_key_heads : head), from.stride};
  }
  const int64_t h = head - 2 * s.num_key_heads, r = s.values_per_key();
  return {2 * s.num_key_heads * s.key_dim + h * s.value_dim, s.value_dim, a.v.at(0, h / r) + h % r * s.value_dim,
          a.v.stride};
}

// The head's inputs `back` < conv_size tokens before token t, of which `before` (NumBefore) are in the step; null:
// before the sequence's start, or t is no token.
TF_HOST_DEVICE inline const float* InputBefore(const DeltaInputsArgs& a, const DeltaHead& head, int64_t t,
                                               int64_t before, int64_t back) {
  if (back > a.tokens.position[t]) return nullptr;
  if (back <= before) return head.at(t - back);
  const int64_t row = a.shape.conv_size - 1 - (back - before);
  return a.state.of(a.tokens.seq[t]) + row * a.shape.num_channels() + head.first;
}

}  // namespace tokenferry
