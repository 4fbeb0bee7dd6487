// How the files of a model store quantised projections: what quantization_config says. Which projections are quantised,
// the headers of the files say themselves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tokenferry {

// X is the name of a projection's tensor without "weight".
enum class QuantMethod : uint8_t {
  kNone,
  kF8,      // X.weight F8_E4M3; scales X.weight_scale or X.weight_scale_inv
  kI8,      // X.weight I8; scales X.weight_scale; zero points X.weight_zero_point, I8 as the scales
  kPacked,  // compressed-tensors' pack-quantized: X.weight_packed, words of codes along a row; scales X.weight_scale;
            // zero points X.weight_zero_point, words of codes along the outputs
  kGptq,    // X.qweight, transposed, words of codes along the inputs; X.scales, X.qzeros, X.g_idx
  kAwq,     // X.qweight, transposed, words of codes along the outputs; X.scales, X.qzeros
  kMxfp4,   // of all experts in one: X_blocks, rows as they are multiplied; X_scales
};

struct QuantSpec {
  QuantMethod method = QuantMethod::kNone;
  int32_t bits = 8;  // of a code
  // Outputs and inputs that share a scale; 0: all of a matrix's.
  int32_t block_rows = 0, block_cols = 0;
  std::string scale_suffix;          // behind the name of the tensor, for kF8, kI8 and kPacked
  int32_t zero_offset = 0;           // a zero point is the stored one plus this (GPTQ: 1)
  bool has_zero_points = false;      // kI8 and kPacked; kGptq and kAwq always have
  bool needs_group_idx = false;      // kGptq: groups may be out of order, and X.g_idx must say that they are not
  std::string ignore_key;            // the key of `ignored` in the config
  std::vector<std::string> ignored;  // projections that are not quantised: NamePatterns

  bool is_quantised() const { return method != QuantMethod::kNone; }
  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

}  // namespace tokenferry
