// Random attention layers, run through the operations in any cut of their sequences into steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "runtime/attention/attention_ops.h"
#include "runtime/attention/kv_cache.h"
#include "runtime/attention/rope.h"
#include "tests/support/device_cases.h"

namespace tokenferry {

struct AttentionShape {
  int32_t heads = 4, nope = 64, rope = 32, value = 64;
  int64_t latent = 128;
  DType weights = DType::kF32;
  int32_t scale_block = 128;  // of an FP8 kv_b
  int64_t row_offset = 0;     // kv_b is a slice of a larger matrix, from this row on
  DType cache = DType::kF32;
  Compute compute = Compute::kF32;

  int64_t kv_b_rows() const { return static_cast<int64_t>(heads) * (nope + value); }
};

inline std::ostream& operator<<(std::ostream& out, const AttentionShape& s) {
  return out << s.heads << " heads, nope " << s.nope << ", rope " << s.rope << ", value " << s.value << ", latent "
             << s.latent << ", kv_b " << DTypeName(s.weights) << " from row " << s.row_offset << ", cache "
             << DTypeName(s.cache) << (s.compute == Compute::kBF16 ? ", bf16" : "");
}

// What the projections would deliver for one sequence, before RoPE.
struct SequenceInput {
  int64_t length = 0;
  std::vector<float> q;       // [length, heads, nope + rope]
  std::vector<float> latent;  // [length, latent]
  std::vector<float> key;     // [length, rope]
};

struct AttentionProblem {
  AttentionShape shape;
  std::vector<SequenceInput> sequences;
  std::vector<uint8_t> weight_bytes;  // the matrix that kv_b is a slice of
  std::vector<float> scales;
  std::vector<float> weights;  // kv_b's values, [heads * (nope + value), latent]
  std::vector<float> cos_sin;
  float scale = 0;
};

inline AttentionProblem MakeProblem(const AttentionShape& shape, const std::vector<int64_t>& lengths, unsigned seed) {
  std::mt19937 rng(seed);
  AttentionProblem p{.shape = shape};
  int64_t longest = 1;
  for (int64_t n : lengths) {
    longest = std::max(longest, n);
    p.sequences.push_back({n, RandomNormal(rng, n * shape.heads * (shape.nope + shape.rope)),
                           RandomNormal(rng, n * shape.latent), RandomNormal(rng, n * shape.rope)});
  }
  const RopeConfig rope{.dim = shape.rope, .max_position = longest};
  p.cos_sin = *RopeTable(rope);
  p.scale = AttentionScale(rope, shape.nope + shape.rope);

  const int64_t rows = shape.row_offset + shape.kv_b_rows(), cols = shape.latent, block = shape.scale_block;
  const int64_t scale_cols = (cols + block - 1) / block;
  const std::vector<float> values = RandomNormal(rng, rows * cols, 1 / std::sqrt(static_cast<float>(cols)));
  if (shape.weights == DType::kF8E4M3) {
    std::uniform_real_distribution<float> uniform(0.001f, 0.004f);
    p.scales.resize((rows + block - 1) / block * scale_cols);
    for (float& s : p.scales) s = uniform(rng);
  }
  p.weight_bytes.resize(rows * cols * DTypeBytes(shape.weights));
  for (int64_t i = 0; i < rows * cols; ++i) {
    float stored = values[i];
    if (shape.weights == DType::kF32) {
      std::memcpy(&p.weight_bytes[i * 4], &stored, 4);
    } else if (shape.weights == DType::kBF16) {
      const BF16 narrow = ToBF16(stored);
      std::memcpy(&p.weight_bytes[i * 2], &narrow, 2);
      stored = ToFloat(narrow);
    } else {
      const float scale = p.scales[i / cols / block * scale_cols + i % cols / block];
      const F8E4M3 code = ToF8E4M3(stored / scale);
      p.weight_bytes[i] = code.bits;
      stored = ToFloat(code) * scale;
    }
    if (i >= shape.row_offset * cols) p.weights.push_back(stored);
  }
  return p;
}

struct Piece {
  int32_t seq = 0;
  int64_t begin = 0, end = 0;  // tokens
};
using Step = std::vector<Piece>;  // what one step computes, in this order

// All sequences one after the other, each in chunks of `chunk` tokens, one chunk per step.
inline std::vector<Step> Chunked(const AttentionProblem& p, int64_t chunk) {
  std::vector<Step> steps;
  for (size_t s = 0; s < p.sequences.size(); ++s) {
    for (int64_t begin = 0; begin < p.sequences[s].length; begin += chunk) {
      steps.push_back({{static_cast<int32_t>(s), begin, std::min(begin + chunk, p.sequences[s].length)}});
    }
  }
  return steps;
}

// Steps of one chunk of each sequence that still has tokens: a batch whose members come and go.
inline std::vector<Step> Batched(const AttentionProblem& p, int64_t chunk) {
  std::vector<Step> steps;
  for (int64_t begin = 0;; begin += chunk) {
    Step step;
    for (size_t s = 0; s < p.sequences.size(); ++s) {
      if (begin < p.sequences[s].length) {
        step.push_back({static_cast<int32_t>(s), begin, std::min(begin + chunk, p.sequences[s].length)});
      }
    }
    if (step.empty()) return steps;
    steps.push_back(step);
  }
}

// Of each sequence, [length, ..].
struct AttentionResult {
  std::vector<std::vector<float>> q_latent, u, out;
  bool operator==(const AttentionResult& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(), SameBits<float>);
    };
    return same(q_latent, other.q_latent) && same(u, other.u) && same(out, other.out);
  }
};

class AttentionRun {
 public:
  // block_seed permutes the blocks that the sequences get.
  AttentionRun(CpuDeviceOptions options, const AttentionProblem& p, unsigned block_seed)
      : device_(std::move(options)),
        p_(p),
        kv_b_(device_.Upload(p.weight_bytes)),
        scales_(device_.Upload(p.scales)),
        cos_sin_(device_.Upload(p.cos_sin)) {
    int64_t num_blocks = 3;
    for (const SequenceInput& s : p.sequences) {
      max_blocks_ = std::max(max_blocks_, (s.length + kCacheBlockTokens - 1) / kCacheBlockTokens);
      num_blocks += (s.length + kCacheBlockTokens - 1) / kCacheBlockTokens;
    }
    std::vector<int32_t> blocks(num_blocks);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::mt19937 rng(block_seed);
    if (block_seed != 0) std::shuffle(blocks.begin(), blocks.end(), rng);
    std::vector<int32_t> table(p.sequences.size() * max_blocks_, -1);
    for (size_t s = 0; s < p.sequences.size(); ++s) {
      for (int64_t b = 0; b * kCacheBlockTokens < p.sequences[s].length; ++b) {
        table[s * max_blocks_ + b] = blocks.back();
        blocks.pop_back();
      }
    }
    table_ = device_.Upload(table);
    const int64_t row_bytes = (p.shape.latent + p.shape.rope) * DTypeBytes(p.shape.cache);
    // All NaN: a read of a key that nobody wrote shows.
    cache_ = device_.Upload(std::vector<uint8_t>(num_blocks * kCacheBlockTokens * row_bytes, 0xFF));
    for (const SequenceInput& s : p.sequences) {
      result_.q_latent.emplace_back(s.length * p.shape.heads * p.shape.latent);
      result_.u.emplace_back(s.length * p.shape.heads * p.shape.latent);
      result_.out.emplace_back(s.length * p.shape.heads * p.shape.value);
    }
  }

  void Run(const Step& step) {
    const AttentionShape& s = p_.shape;
    std::vector<float> q, latent, key;
    std::vector<int32_t> seq, position;
    for (const Piece& piece : step) {
      const SequenceInput& in = p_.sequences[piece.seq];
      const auto append = [&](std::vector<float>& to, const std::vector<float>& from, int64_t width) {
        to.insert(to.end(), from.begin() + piece.begin * width, from.begin() + piece.end * width);
      };
      append(q, in.q, s.heads * (s.nope + s.rope));
      append(latent, in.latent, s.latent);
      append(key, in.key, s.rope);
      for (int64_t t = piece.begin; t < piece.end; ++t) {
        seq.push_back(piece.seq);
        position.push_back(static_cast<int32_t>(t));
      }
    }
    const int64_t num_tokens = static_cast<int64_t>(seq.size());
    Buffer q_buf = device_.Upload(q), latent_buf = device_.Upload(latent), key_buf = device_.Upload(key);
    Buffer seq_buf = device_.Upload(seq), position_buf = device_.Upload(position);
    Buffer q_latent = device_.Allocate<float>(num_tokens * s.heads * s.latent);
    Buffer u = device_.Allocate<float>(num_tokens * s.heads * s.latent);
    Buffer out = device_.Allocate<float>(num_tokens * s.heads * s.value);
    const TokenPositions tokens{seq_buf.as<int32_t>(), position_buf.as<int32_t>(), num_tokens};
    Launch(tokens, q_buf.as<float>(), latent_buf.as<float>(), key_buf.as<float>(), q_latent.as<float>(), u.as<float>(),
           out.as<float>());
    Keep(step, device_.Download<float>(q_latent), s.heads * s.latent, result_.q_latent);
    Keep(step, device_.Download<float>(u), s.heads * s.latent, result_.u);
    Keep(step, device_.Download<float>(out), s.heads * s.value, result_.out);
  }

  const AttentionResult& result() const { return result_; }

 private:
  void Launch(TokenPositions tokens, float* q, float* latent, float* key, float* q_latent, float* u, float* out) {
    const AttentionShape& s = p_.shape;
    Stream& stream = device_.stream();
    const CacheView cache{cache_.data(), s.cache, s.latent, s.rope, table_.as<int32_t>(), max_blocks_};
    WeightView kv_b{.format = s.weights == DType::kF8E4M3 ? F8BlockWeights::Of(s.scale_block, s.scale_block)
                                                          : WeightFormat{.dtype = s.weights},
                    .data = kv_b_.data(),
                    .rows = s.row_offset + s.kv_b_rows(),
                    .cols = s.latent,
                    .scales = scales_.as<float>(),
                    .scale_stride = (s.latent + s.scale_block - 1) / s.scale_block};
    kv_b = kv_b.Rows(s.row_offset, s.kv_b_rows());
    const int64_t head_dim = s.nope + s.rope;
    float* q_rope = q == nullptr ? nullptr : q + s.nope;  // no tokens: no rows
    Rotate(stream, {q_rope, s.heads * head_dim, head_dim, s.heads, s.rope, cos_sin_.as<float>(), tokens});
    Rotate(stream, {key, s.rope, 0, 1, s.rope, cos_sin_.as<float>(), tokens});
    CacheWrite(stream, {latent, s.latent, key, s.rope, tokens, cache});
    AbsorbQuery(stream, {q, tokens.num_tokens, s.heads, s.nope, s.rope, s.value, kv_b, q_latent, s.compute});
    LatentAttention(stream, {q_latent, q, s.heads, s.nope, s.rope, p_.scale, tokens, cache, u, s.compute});
    ExpandValue(stream, {u, tokens.num_tokens, s.heads, s.nope, s.value, kv_b, out, s.compute});
  }

  void Keep(const Step& step, const std::vector<float>& rows, int64_t width, std::vector<std::vector<float>>& kept) {
    auto from = rows.begin();
    for (const Piece& piece : step) {
      std::copy_n(from, (piece.end - piece.begin) * width, kept[piece.seq].begin() + piece.begin * width);
      from += (piece.end - piece.begin) * width;
    }
  }

  TestDevice device_;
  const AttentionProblem& p_;
  Buffer kv_b_, scales_, cos_sin_, table_, cache_;
  int64_t max_blocks_ = 0;
  AttentionResult result_;
};

inline AttentionResult RunAttention(CpuDeviceOptions options, const AttentionProblem& p, const std::vector<Step>& steps,
                                    unsigned block_seed = 0) {
  AttentionRun run(std::move(options), p, block_seed);
  for (const Step& step : steps) run.Run(step);
  return run.result();
}

}  // namespace tokenferry
