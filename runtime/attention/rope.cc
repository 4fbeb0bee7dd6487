#include "runtime/attention/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/check.h"

namespace tokenferry {
namespace {

// Beyond this f32 cannot hold every position.
constexpr int64_t kMaxPositions = int64_t{1} << 24;
constexpr int64_t kMaxDim = 4096;

double YarnMscale(double factor, double weight) { return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1; }

// The dimension that turns `rotations` times over the original context.
double CorrectionDim(const RopeConfig& c, double rotations) {
  return static_cast<double>(c.dim) *
         std::log(static_cast<double>(c.original_max_position) / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(c.theta));
}

// How much of pair i is interpolated: 0 below the fast limit, 1 beyond the slow one.
std::vector<float> YarnRamp(const RopeConfig& c) {
  double low = CorrectionDim(c, c.beta_fast), high = CorrectionDim(c, c.beta_slow);
  if (c.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(c.dim - 1));
  if (low == high) high += 0.001;
  std::vector<float> ramp(c.dim / 2);
  for (size_t i = 0; i < ramp.size(); ++i) {
    const float x = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    ramp[i] = std::clamp(x, 0.0f, 1.0f);
  }
  return ramp;
}

// Llama 3's frequency of a pair whose unscaled one is `f`.
float Stretched(const RopeConfig& c, float f) {
  const double original = static_cast<double>(c.original_max_position);
  const double wavelength = 2 * std::numbers::pi / static_cast<double>(f);
  const float long_f = f / static_cast<float>(c.factor);
  if (wavelength > original / c.low_freq_factor) return long_f;
  if (wavelength < original / c.high_freq_factor || c.high_freq_factor == c.low_freq_factor) return f;
  const auto keep =
      static_cast<float>((original / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor));
  return (1.0f - keep) * long_f + keep * f;
}

// Of each pair's period; empty: they have none.
const std::vector<double>& PairFactors(const RopeConfig& c, RopeFactors factors) {
  if (c.scaling != RopeScaling::kLongRope) return c.factors;
  return factors == RopeFactors::kShort ? c.short_factors : c.long_factors;
}

float LongRopeFactor(const RopeConfig& c, RopeFactors factors) {
  const double mscale = factors == RopeFactors::kShort ? c.short_mscale : c.long_mscale;
  if (mscale != 0) return static_cast<float>(mscale);
  if (c.attention_factor) return static_cast<float>(*c.attention_factor);
  return static_cast<float>(std::sqrt(1 + std::log(c.factor) / std::log(static_cast<double>(c.original_max_position))));
}

float TableFactor(const RopeConfig& c, RopeFactors factors) {
  if (c.scaling == RopeScaling::kLongRope) return LongRopeFactor(c, factors);
  if (c.scaling != RopeScaling::kYarn) return 1;
  if (c.attention_factor) return static_cast<float>(*c.attention_factor);
  if (c.mscale != 0 && c.mscale_all_dim != 0) {
    return static_cast<float>(YarnMscale(c.factor, c.mscale) / YarnMscale(c.factor, c.mscale_all_dim));
  }
  return static_cast<float>(YarnMscale(c.factor, 1));
}

absl::Status ValidateStretch(const RopeConfig& c) {
  if (!(std::isfinite(c.factor) && c.factor >= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("rope: factor is ", c.factor, ", must be at least 1"));
  }
  if (c.original_max_position <= 0 || c.original_max_position > kMaxPositions) {
    return absl::InvalidArgumentError(absl::StrCat("rope: original_max_position_embeddings is ",
                                                   c.original_max_position, ", must be in 1..", kMaxPositions));
  }
  return absl::OkStatus();
}

absl::Status ValidateLlama3(const RopeConfig& c) {
  const double low = c.low_freq_factor, high = c.high_freq_factor;
  if (std::isfinite(low) && std::isfinite(high) && low > 0 && high >= low) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("rope: low_freq_factor ", low, " and high_freq_factor ", high, " must be positive, high >= low"));
}

absl::Status ValidateAttentionFactor(const RopeConfig& c) {
  if (!c.attention_factor || (std::isfinite(*c.attention_factor) && *c.attention_factor > 0)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("rope: attention_factor is ", *c.attention_factor, ", must be positive"));
}

// One for each pair.
absl::Status ValidateFactors(const RopeConfig& c, const char* name, const std::vector<double>& factors) {
  if (static_cast<int64_t>(factors.size()) != c.dim / 2) {
    return absl::InvalidArgumentError(absl::StrCat("rope: ", name, " has ", factors.size(), " factors, must have ",
                                                   c.dim / 2, ", one for each pair of the ", c.dim,
                                                   " dimensions that turn"));
  }
  for (const double factor : factors) {
    if (std::isfinite(factor) && factor > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("rope: ", name, " has ", factor, ", must be positive"));
  }
  return absl::OkStatus();
}

absl::Status ValidateLongRope(const RopeConfig& c) {
  TF_RETURN_IF_ERROR(ValidateFactors(c, "short_factor", c.short_factors));
  TF_RETURN_IF_ERROR(ValidateFactors(c, "long_factor", c.long_factors));
  for (const auto& [name, mscale] : {std::pair{"short_mscale", c.short_mscale}, {"long_mscale", c.long_mscale}}) {
    if (std::isfinite(mscale) && mscale >= 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("rope: ", name, " is ", mscale, ", must be positive"));
  }
  if (c.original_max_position < 2) {  // its logarithm divides
    return absl::InvalidArgumentError("rope: original_max_position_embeddings is 1, must be at least 2");
  }
  return ValidateAttentionFactor(c);
}

absl::Status ValidateYarn(const RopeConfig& c) {
  if (!(std::isfinite(c.beta_fast) && std::isfinite(c.beta_slow) && c.beta_slow > 0 && c.beta_fast >= c.beta_slow)) {
    return absl::InvalidArgumentError(absl::StrCat("rope: beta_fast ", c.beta_fast, " and beta_slow ", c.beta_slow,
                                                   " must be positive, fast >= slow"));
  }
  // A negative weight could make the factor zero or turn its sign; no model has one.
  if (!(std::isfinite(c.mscale) && c.mscale >= 0 && std::isfinite(c.mscale_all_dim) && c.mscale_all_dim >= 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope: mscale ", c.mscale, " and mscale_all_dim ", c.mscale_all_dim, " must not be negative"));
  }
  return ValidateAttentionFactor(c);
}

}  // namespace

RopeFactors FactorsFor(const RopeConfig& c, int64_t max_tokens) {
  const bool is_long = c.scaling == RopeScaling::kLongRope && max_tokens > c.original_max_position;
  return is_long ? RopeFactors::kLong : RopeFactors::kShort;
}

int64_t RopeRow(const RopeConfig& c, RopeFactors factors, int64_t position) {
  if (c.scaling != RopeScaling::kLongRope || factors == RopeFactors::kShort) return position;
  return std::min(c.original_max_position, c.max_position) + position;
}

absl::Status ValidateRope(const RopeConfig& c) {
  if (c.dim <= 0 || c.dim % 2 != 0 || c.dim > kMaxDim) {
    return absl::InvalidArgumentError(absl::StrCat("rope: dim is ", c.dim, ", must be even and in 2..", kMaxDim));
  }
  if (c.max_position <= 0 || c.max_position > kMaxPositions) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope: max_position is ", c.max_position, ", must be in 1..", kMaxPositions));
  }
  if (!(std::isfinite(c.theta) && c.theta > 1)) {
    return absl::InvalidArgumentError(absl::StrCat("rope: theta is ", c.theta, ", must be larger than 1"));
  }
  if (c.scaling == RopeScaling::kNone) return absl::OkStatus();
  if (c.scaling == RopeScaling::kFactors) return ValidateFactors(c, "factors", c.factors);
  if (absl::Status status = ValidateStretch(c); !status.ok()) return status;
  if (c.scaling == RopeScaling::kLongRope) return ValidateLongRope(c);
  return c.scaling == RopeScaling::kYarn ? ValidateYarn(c) : ValidateLlama3(c);
}

std::vector<float> RopeInverseFrequencies(const RopeConfig& c, RopeFactors factors) {
  TF_CHECK(ValidateRope(c).ok());
  const float theta = static_cast<float>(c.theta), dim = static_cast<float>(c.dim);
  const float factor = static_cast<float>(c.factor);
  const std::vector<float> ramp = c.scaling == RopeScaling::kYarn ? YarnRamp(c) : std::vector<float>();
  const std::vector<double>& stretch = PairFactors(c, factors);
  std::vector<float> out(c.dim / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / dim;
    // An f32 power, rounded once from the double one so that it does not depend on the C library's powf.
    const float period = static_cast<float>(std::pow(static_cast<double>(theta), static_cast<double>(exponent)));
    out[i] = 1.0f / period;
    if (c.scaling == RopeScaling::kLlama3) out[i] = Stretched(c, out[i]);
    if (!stretch.empty()) out[i] = 1.0f / (static_cast<float>(stretch[i]) * period);
    if (ramp.empty()) continue;
    const float keep = 1.0f - ramp[i];
    const float interpolated = 1.0f / (factor * period);
    out[i] = interpolated * (1.0f - keep) + out[i] * keep;
  }
  return out;
}

namespace {

// The table's rows of positions 0 .. num_positions - 1.
void FillRows(const RopeConfig& c, RopeFactors factors, int64_t num_positions, float* rows) {
  const std::vector<float> frequencies = RopeInverseFrequencies(c, factors);
  const float scale = TableFactor(c, factors);
  const int64_t half = c.dim / 2;
  for (int64_t position = 0; position < num_positions; ++position) {
    float* row = rows + position * c.dim;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<float>(position) * frequencies[i];  // the f32 product, widened
      row[i] = static_cast<float>(std::cos(angle)) * scale;
      row[half + i] = static_cast<float>(std::sin(angle)) * scale;
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<float>> RopeTable(const RopeConfig& c) {
  if (absl::Status status = ValidateRope(c); !status.ok()) return status;
  const int64_t num_short = RopeRow(c, RopeFactors::kLong, 0);
  std::vector<float> table((num_short + c.max_position) * c.dim);
  if (num_short > 0) FillRows(c, RopeFactors::kShort, num_short, table.data());
  FillRows(c, num_short > 0 ? RopeFactors::kLong : RopeFactors::kShort, c.max_position,
           table.data() + num_short * c.dim);
  return table;
}

float AttentionScale(const RopeConfig& c, int64_t head_dim) {
  TF_CHECK_GT(head_dim, 0);
  double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  if (c.scaling == RopeScaling::kYarn && c.mscale_all_dim != 0) {
    const double m = YarnMscale(c.factor, c.mscale_all_dim);
    scale *= m * m;
  }
  return static_cast<float>(scale);
}

}  // namespace tokenferry
