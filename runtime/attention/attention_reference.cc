// The meaning of attention_ops.h: plain, sequential, one element after the other.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/kernels/dot.h"
#include "core/kernels/exp.h"
#include "core/kernels/matmul_values.h"
#include "runtime/attention/attention_kernels.h"

namespace tokenferry {

void RotateToken(const RopeArgs& args, int64_t t) {
  if (args.tokens.position[t] < 0) return;
  const float* cosines = args.cos_sin + args.tokens.RotationRow(t) * args.dim;
  const float* sines = cosines + args.dim / 2;
  for (int64_t h = 0; h < args.heads; ++h) {
    float* x = args.x + t * args.stride + h * args.head_stride;
    for (int32_t i = 0; i < args.dim / 2; ++i) {
      float &first = x[RopeFirst(args.layout, i)], &second = x[RopeSecond(args.layout, i, args.dim)];
      const float a = first, b = second;
      first = a * cosines[i] - b * sines[i];
      second = a * sines[i] + b * cosines[i];
    }
  }
}

void WriteToken(const CacheWriteArgs& args, int64_t t) {
  const CacheView& cache = args.cache;
  if (args.tokens.position[t] < 0) return;
  const int64_t row = CacheRow(cache, args.tokens.seq[t], args.tokens.position[t]);
  const float* first = args.first + t * args.first_stride;
  const float* second = args.second + t * args.second_stride;
  if (cache.dtype == DType::kF32) {
    float* out = static_cast<float*>(cache.data) + row;
    std::copy_n(first, cache.first, out);
    std::copy_n(second, cache.second, out + cache.first);
  } else {
    BF16* out = static_cast<BF16*>(cache.data) + row;
    for (int64_t i = 0; i < cache.first; ++i) out[i] = ToBF16(first[i]);
    for (int64_t i = 0; i < cache.second; ++i) out[cache.first + i] = ToBF16(second[i]);
  }
}

namespace attention_reference {
namespace {

float Rounded(float x, Compute compute) { return compute == Compute::kBF16 ? RoundToBF16(x) : x; }

// A cache row in f32.
std::vector<float> Widened(const CacheView& cache, int64_t seq, int64_t position) {
  const int64_t row = CacheRow(cache, seq, position);
  std::vector<float> out(cache.first + cache.second);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = cache.dtype == DType::kF32 ? static_cast<const float*>(cache.data)[row + i]
                                        : ToFloat(static_cast<const BF16*>(cache.data)[row + i]);
  }
  return out;
}

// Where the key and the value of one head lie in a cache row.
struct HeadPlace {
  int64_t key = 0, key_size = 0, value = 0, value_size = 0;
};

// What a query's scores gain by the distance of their keys.
struct Gain {
  RelativeBias bias;
  int64_t head = 0, position = 0;  // of the query

  float Add(float score, int64_t key) const {
    return bias.values == nullptr ? score : score + bias.At(head, key - position);
  }
};

// What one query has seen, and its weighted sum of values.
struct Online {
  float max = -std::numeric_limits<float>::infinity(), sum = 0;
};

// The positions [first, last], cut where cache blocks end.
using KeyBlocks = std::vector<std::vector<int64_t>>;
KeyBlocks BlocksOf(int64_t first, int64_t last) {
  KeyBlocks blocks;
  for (int64_t position = first; position <= last; ++position) {
    if (blocks.empty() || position % kCacheBlockTokens == 0) blocks.emplace_back();
    blocks.back().push_back(position);
  }
  return blocks;
}

// The positions of `selected`, up to its first -1, so many at a time.
KeyBlocks SelectedBlocks(const int32_t* selected, int64_t num_selected) {
  KeyBlocks blocks;
  for (int64_t i = 0; i < num_selected && selected[i] >= 0; ++i) {
    if (i % kCacheBlockTokens == 0) blocks.emplace_back();
    blocks.back().push_back(selected[i]);
  }
  return blocks;
}

// One query over keys of a sequence.
void Attend(const CacheView& cache, int64_t seq, const KeyBlocks& blocks, const HeadPlace& place,
            const std::vector<float>& query, float scale, const Gain& gain, Online online, float* out) {
  std::fill_n(out, place.value_size, 0.0f);
  if (blocks.empty()) return;  // no token
  for (const std::vector<int64_t>& positions : blocks) {
    const auto size = static_cast<int64_t>(positions.size());
    std::vector<std::vector<float>> rows(size);
    std::vector<float> weights(size);
    float new_max = online.max;
    for (int64_t j = 0; j < size; ++j) {
      rows[j] = Widened(cache, seq, positions[j]);
      const float dot = DotF32(query.data(), rows[j].data() + place.key, place.key_size);
      weights[j] = gain.Add(dot, positions[j]) * scale;
      if (weights[j] > new_max) new_max = weights[j];
    }
    const float rescale = ExpF32(online.max - new_max);
    float lanes[kNumLanes] = {};
    for (int64_t j = 0; j < size; ++j) {
      weights[j] = ExpF32(weights[j] - new_max);
      lanes[j % kNumLanes] += weights[j];
    }
    online.sum = std::fma(online.sum, rescale, SumLanes(lanes));
    for (int64_t i = 0; i < place.value_size; ++i) {
      out[i] *= rescale;
      for (int64_t j = 0; j < size; ++j) out[i] = std::fma(weights[j], rows[j][place.value + i], out[i]);
    }
    online.max = new_max;
  }
  for (int64_t i = 0; i < place.value_size; ++i) out[i] /= online.sum;
}

}  // namespace

void Rotate(const RopeArgs& args) {
  for (int64_t t = 0; t < args.tokens.num_tokens; ++t) RotateToken(args, t);
}

void CacheWrite(const CacheWriteArgs& args) {
  for (int64_t t = 0; t < args.tokens.num_tokens; ++t) WriteToken(args, t);
}

void AbsorbQuery(const AbsorbQueryArgs& args) {
  const int64_t latent = args.kv_b.cols;
  std::vector<float> w(latent);
  for (int64_t t = 0; t < args.num_tokens; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const float* q = args.q + (t * args.heads + h) * (args.nope + args.rope);
      float* out = args.out + (t * args.heads + h) * latent;
      std::fill_n(out, latent, 0.0f);
      for (int64_t i = 0; i < args.nope; ++i) {
        WeightValues(args.kv_b, h * (args.nope + args.value) + i, 0, latent, args.compute, w.data());
        for (int64_t c = 0; c < latent; ++c) out[c] = std::fma(Rounded(q[i], args.compute), w[c], out[c]);
      }
    }
  }
}

void LatentAttention(const LatentAttentionArgs& args) {
  const int64_t latent = args.cache.first;
  std::vector<float> query(latent + args.rope);
  for (int64_t t = 0; t < args.tokens.num_tokens; ++t) {
    const KeyBlocks blocks = args.selected == nullptr
                                 ? BlocksOf(0, args.tokens.position[t])
                                 : SelectedBlocks(args.selected + t * args.num_selected, args.num_selected);
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t row = t * args.heads + h;
      const float* q_rope = args.q + row * (args.nope + args.rope) + args.nope;
      for (int64_t i = 0; i < latent; ++i) query[i] = Rounded(args.q_latent[row * latent + i], args.compute);
      for (int64_t i = 0; i < args.rope; ++i) query[latent + i] = Rounded(q_rope[i], args.compute);
      const HeadPlace place{.key_size = latent + args.rope, .value_size = latent};
      Attend(args.cache, args.tokens.seq[t], blocks, place, query, args.scale, {}, {}, args.out + row * latent);
    }
  }
}

void GroupedAttention(const GroupedAttentionArgs& args) {
  const int64_t d = args.head_dim;
  std::vector<float> query(d);
  for (int64_t t = 0; t < args.tokens.num_tokens; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t row = t * args.heads + h, kv_head = h / (args.heads / args.kv_heads);
      for (int64_t i = 0; i < d; ++i) query[i] = Rounded(args.q[row * d + i], args.compute);
      const HeadPlace place{kv_head * d, d, args.cache.first + kv_head * d, d};
      const int64_t position = args.tokens.position[t];
      Online online;
      if (args.sinks != nullptr) online = {args.sinks[h], 1.0f};
      Attend(args.cache, args.tokens.seq[t], BlocksOf(args.keys.First(position), args.Last(t)), place, query,
             args.scale, {args.bias, h, position}, online, args.out + row * d);
    }
  }
}

void ExpandValue(const ExpandValueArgs& args) {
  const int64_t latent = args.kv_b.cols;
  std::vector<float> u(latent), w(latent);
  for (int64_t t = 0; t < args.num_tokens; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t row = t * args.heads + h;
      for (int64_t i = 0; i < latent; ++i) u[i] = Rounded(args.u[row * latent + i], args.compute);
      for (int64_t v = 0; v < args.value; ++v) {
        const int64_t weight_row = h * (args.nope + args.value) + args.nope + v;
        WeightValues(args.kv_b, weight_row, 0, latent, args.compute, w.data());
        args.out[row * args.value + v] = DotF32(u.data(), w.data(), latent);
      }
    }
  }
}

}  // namespace attention_reference
}  // namespace tokenferry
