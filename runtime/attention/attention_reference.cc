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
  const float* cosines = args.cos_sin + static_cast<int64_t>(args.tokens.position[t]) * args.dim;
  const float* sines = cosines + args.dim / 2;
  for (int64_t h = 0; h < args.heads; ++h) {
    float* x = args.x + t * args.stride + h * args.head_stride;
    for (int64_t i = 0; i < args.dim / 2; ++i) {
      const float even = x[2 * i], odd = x[2 * i + 1];
      x[2 * i] = even * cosines[i] - odd * sines[i];
      x[2 * i + 1] = even * sines[i] + odd * cosines[i];
    }
  }
}

void WriteToken(const CacheWriteArgs& args, int64_t t) {
  const LatentCacheView& cache = args.cache;
  const int64_t row = CacheRow(cache, args.tokens.seq[t], args.tokens.position[t]);
  const float* latent = args.latent + t * args.latent_stride;
  const float* rope = args.rope + t * args.rope_stride;
  if (cache.dtype == DType::kF32) {
    float* out = static_cast<float*>(cache.data) + row;
    std::copy_n(latent, cache.latent, out);
    std::copy_n(rope, cache.rope, out + cache.latent);
  } else {
    BF16* out = static_cast<BF16*>(cache.data) + row;
    for (int64_t i = 0; i < cache.latent; ++i) out[i] = ToBF16(latent[i]);
    for (int64_t i = 0; i < cache.rope; ++i) out[cache.latent + i] = ToBF16(rope[i]);
  }
}

namespace attention_reference {
namespace {

float Rounded(float x, Compute compute) { return compute == Compute::kBF16 ? RoundToBF16(x) : x; }

std::vector<float> Widened(const LatentCacheView& cache, int64_t seq, int64_t position) {
  const int64_t row = CacheRow(cache, seq, position);
  std::vector<float> out(cache.latent + cache.rope);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = cache.dtype == DType::kF32 ? static_cast<const float*>(cache.data)[row + i]
                                        : ToFloat(static_cast<const BF16*>(cache.data)[row + i]);
  }
  return out;
}

// One query [r + p] over positions 0 .. last of a sequence.
void Attend(const LatentCacheView& cache, int64_t seq, int64_t last, const std::vector<float>& query, float scale,
            float* out) {
  const int64_t latent = cache.latent;
  float max = -std::numeric_limits<float>::infinity(), sum = 0;
  std::fill_n(out, latent, 0.0f);
  for (int64_t begin = 0; begin <= last; begin += kCacheBlockTokens) {
    const int64_t size = std::min(kCacheBlockTokens, last + 1 - begin);
    std::vector<std::vector<float>> keys(size);
    std::vector<float> weights(size);
    float new_max = max;
    for (int64_t j = 0; j < size; ++j) {
      keys[j] = Widened(cache, seq, begin + j);
      weights[j] = DotF32(query.data(), keys[j].data(), latent + cache.rope) * scale;
      if (weights[j] > new_max) new_max = weights[j];
    }
    const float rescale = ExpF32(max - new_max);
    float lanes[kNumLanes] = {};
    for (int64_t j = 0; j < size; ++j) {
      weights[j] = ExpF32(weights[j] - new_max);
      lanes[j % kNumLanes] += weights[j];
    }
    sum = std::fma(sum, rescale, SumLanes(lanes));
    for (int64_t i = 0; i < latent; ++i) {
      out[i] *= rescale;
      for (int64_t j = 0; j < size; ++j) out[i] = std::fma(weights[j], keys[j][i], out[i]);
    }
    max = new_max;
  }
  for (int64_t i = 0; i < latent; ++i) out[i] /= sum;
}

}  // namespace

void RopeInterleaved(const RopeArgs& args) {
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
  const int64_t latent = args.cache.latent;
  std::vector<float> query(latent + args.rope);
  for (int64_t t = 0; t < args.tokens.num_tokens; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t row = t * args.heads + h;
      const float* q_rope = args.q + row * (args.nope + args.rope) + args.nope;
      for (int64_t i = 0; i < latent; ++i) query[i] = Rounded(args.q_latent[row * latent + i], args.compute);
      for (int64_t i = 0; i < args.rope; ++i) query[latent + i] = Rounded(q_rope[i], args.compute);
      Attend(args.cache, args.tokens.seq[t], args.tokens.position[t], query, args.scale, args.out + row * latent);
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
