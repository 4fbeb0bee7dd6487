// Rotary position embedding: frequencies, the cos/sin table that RopeArgs reads, and the attention scale that goes with
// it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/status.h"

namespace tokenferry {

// Which two values of a head turn together as pair i of d / 2.
enum class RopeLayout : uint8_t {
  kInterleaved,  // 2i and 2i + 1 (DeepSeek, Llama 4)
  kHalfSplit,    // i and i + d / 2 (Llama, Mixtral, Qwen, GLM)
};

enum class RopeScaling : uint8_t {
  kNone,    // "default"
  kYarn,    // YaRN (arXiv:2309.00071), as transformers computes it
  kLlama3,  // long wavelengths are stretched by the factor (Llama 3.1)
  // LongRoPE (arXiv:2402.13753), as Phi-3.5-MoE has it: each pair turns slower by a factor of its own, from one list in
  // sequences within the original context and from another in longer ones.
  kLongRope,
  // Each pair turns slower by a factor of its own, in all sequences (`rope_freqs` of GGUF files); with one for all it
  // is linear scaling (arXiv:2306.15595).
  kFactors,
};

// Which of LongRoPE's lists a sequence is rotated by; all else has one rotation, kShort. It holds for all tokens of the
// sequence: keys of one list mean nothing to queries of the other.
enum class RopeFactors : uint8_t { kShort, kLong };

// The numbers of a config.json that fix the rotation: `rope_theta`, and `rope_scaling` or `rope_parameters`.
struct RopeConfig {
  double theta = 10000;      // rope_theta
  int64_t dim = 0;           // rotated dimensions of a head (qk_rope_head_dim, or a part of head_dim); even
  int64_t max_position = 0;  // rows of the table: max_position_embeddings, or less where the job serves less
  RopeScaling scaling = RopeScaling::kNone;

  // YaRN, Llama 3 and LongRoPE.
  double factor = 1;
  int64_t original_max_position = 0;  // original_max_position_embeddings

  // Llama 3 only: a wavelength longer than original_max_position / low_freq_factor is stretched, one shorter than
  // original_max_position / high_freq_factor stays, those between go over smoothly.
  double low_freq_factor = 1, high_freq_factor = 4;

  // YaRN only.
  double beta_fast = 32, beta_slow = 1;
  double mscale = 0, mscale_all_dim = 0;  // 0: absent
  // YaRN and LongRoPE: multiplies cosines and sines; absent: derived from factor and the mscales, or from factor and
  // original_max_position.
  std::optional<double> attention_factor;
  bool truncate = true;  // ramp limits rounded outwards to integers

  // LongRoPE only.
  std::vector<double> short_factors, long_factors;  // [dim / 2] of the periods
  double short_mscale = 0, long_mscale = 0;         // instead of the attention factor; 0: absent

  std::vector<double> factors;  // kFactors only: [dim / 2] of the periods

  friend bool operator==(const RopeConfig&, const RopeConfig&) = default;
};

// InvalidArgument, naming the value, when a table cannot be made of `config`.
absl::Status ValidateRope(const RopeConfig& config);

// The rotation of a sequence of up to `max_tokens` tokens.
RopeFactors FactorsFor(const RopeConfig& config, int64_t max_tokens);

// Radians per position of each pair, [dim / 2], rounded as the float32 reference rounds. `config` must be valid.
std::vector<float> RopeInverseFrequencies(const RopeConfig& config, RopeFactors factors = RopeFactors::kShort);

// [RopeRow(config, kLong, max_position), dim] f32: per position dim / 2 cosines, then dim / 2 sines, both times the
// attention factor. The angle is f32(position) * f32(inverse frequency), rounded; its cosine is libm's double cosine
// rounded to f32, so that every machine has the same table. LongRoPE: the positions of sequences with short factors, of
// which there are no more than original_max_position, and then those of the others.
absl::StatusOr<std::vector<float>> RopeTable(const RopeConfig& config);

// The row of that table for a position of a sequence.
int64_t RopeRow(const RopeConfig& config, RopeFactors factors, int64_t position);

// What attention scores are multiplied by: head_dim^-0.5, head_dim = nope + rope of a query head, times m^2 with
// m = 0.1 * mscale_all_dim * ln(factor) + 1 under YaRN (DeepSeek-V2/V3). `config` must be valid.
float AttentionScale(const RopeConfig& config, int64_t head_dim);

}  // namespace tokenferry
