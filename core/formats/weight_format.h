// Weight matrices in the precision a checkpoint stores them in: the descriptor of a format, the view of one matrix, and
// the formats that kernels can read.
//
// To add a format: a struct here and its place in WeightFormats, and a reader in core/kernels/weight_reader-inl.h.
#pragma once

#include <cstdint>
#include <string>

#include "core/formats/dtype.h"
#include "core/formats/scalar.h"

namespace tokenferry {

// What a stored element stands for, before it is multiplied by the scale of its block.
enum class WeightCoding : uint8_t {
  kNumber,     // a number of type `dtype`
  kZeroPoint,  // that number minus its block's zero point
  kTable,      // the place of a number in a table that all of the matrix shares
};

// A value. value(o, i) = decoded(o, i) * scale((row_offset + o) / block_rows, i / block_cols); blocks at the edges may
// be partial. A block of [1, n] is what others call a group, one of [1, cols] a channel.
struct WeightFormat {
  DType dtype = DType::kF32;  // of a stored element. Below 8 bits: packed, the first element in the lowest bits
  WeightCoding coding = WeightCoding::kNumber;
  DType scale_dtype = DType::kF32;
  int32_t block_rows = 0;  // 0, and block_cols too: there are no scales
  int32_t block_cols = 0;

  TF_HOST_DEVICE bool has_scales() const { return block_rows != 0 || block_cols != 0; }
  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
};

// "BF16", "F8_E4M3 in blocks of 128 x 128 with F32 scales"
std::string ToString(const WeightFormat& format);

// A weight matrix [rows = outputs, cols = inputs], row-major; a row takes whole bytes. Owns nothing. Trivially
// copyable, and usable in device code.
struct WeightView {
  WeightFormat format;
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* scales = nullptr;       // of format.scale_dtype, row-major, by block; null: there are none
  int64_t scale_stride = 0;           // scales per row of blocks
  const void* zero_points = nullptr;  // as `scales`, of format.dtype; kZeroPoint only
  const float* table = nullptr;       // a number for each code; kTable only
  int64_t row_offset = 0;  // where this view begins within the stored matrix, so that a slice of one is again a view

  DType dtype() const { return format.dtype; }
  int64_t row_bytes() const { return DTypeBits(format.dtype) * cols / 8; }
  WeightView Rows(int64_t begin, int64_t count) const {
    WeightView v = *this;
    v.data = static_cast<const uint8_t*>(data) + begin * row_bytes();
    v.rows = count;
    v.row_offset = row_offset + begin;
    return v;
  }
};

// Matrices of one shape and format that lie in an array of views in device memory, and what the host knows of each of
// them without looking there.
struct WeightArray {
  WeightView layout;                  // rows, cols, format; its pointers are not read
  const WeightView* views = nullptr;  // device memory
};

// Each of the following is a format, or a family of them, that kernels are compiled for. kBits: of an element.
// kIsBF16: all values are bf16 numbers, so that rounding to bf16 changes none. Value: the meaning of one element.

struct F32Weights {
  static constexpr int64_t kBits = 32;
  static constexpr bool kIsBF16 = false;
  TF_HOST_DEVICE static bool Matches(const WeightFormat& f) { return f == WeightFormat{.dtype = DType::kF32}; }
  TF_HOST_DEVICE static float Value(const WeightView& w, int64_t o, int64_t i) {
    return static_cast<const float*>(w.data)[o * w.cols + i];
  }
};

struct BF16Weights {
  static constexpr int64_t kBits = 16;
  static constexpr bool kIsBF16 = true;
  TF_HOST_DEVICE static bool Matches(const WeightFormat& f) { return f == WeightFormat{.dtype = DType::kBF16}; }
  TF_HOST_DEVICE static float Value(const WeightView& w, int64_t o, int64_t i) {
    return ToFloat(static_cast<const BF16*>(w.data)[o * w.cols + i]);
  }
};

// Blocks of any shape with one f32 scale each. A value is f32(q) * scale rounded to f32.
struct F8BlockWeights {
  static constexpr int64_t kBits = 8;
  static constexpr bool kIsBF16 = false;
  TF_HOST_DEVICE static constexpr WeightFormat Of(int32_t block_rows, int32_t block_cols) {
    return {.dtype = DType::kF8E4M3, .block_rows = block_rows, .block_cols = block_cols};
  }
  TF_HOST_DEVICE static bool Matches(const WeightFormat& f) {
    return f.block_rows > 0 && f.block_cols > 0 && f == Of(f.block_rows, f.block_cols);
  }
  TF_HOST_DEVICE static float Scale(const WeightView& w, int64_t o, int64_t i) {
    const int64_t band = (w.row_offset + o) / w.format.block_rows;
    return static_cast<const float*>(w.scales)[band * w.scale_stride + i / w.format.block_cols];
  }
  TF_HOST_DEVICE static float Value(const WeightView& w, int64_t o, int64_t i) {
    return ToFloat(static_cast<const F8E4M3*>(w.data)[o * w.cols + i]) * Scale(w, o, i);
  }
};

template <class... Formats>
struct WeightFormatList {
  static bool Contains(const WeightFormat& f) { return (Formats::Matches(f) || ...); }
  template <class Visitor>
  static bool Visit(const WeightFormat& f, Visitor&& visit) {
    return ((Formats::Matches(f) && (visit(Formats()), true)) || ...);
  }
};
using WeightFormats = WeightFormatList<F32Weights, BF16Weights, F8BlockWeights>;

// Ends the program: the format is none of WeightFormats. Whoever reads files refuses such weights with a Status before.
[[noreturn]] void UnknownWeightFormat(const WeightFormat& format);

// visit(F()) with the one F of WeightFormats that the matrix has. The only way from a WeightView to its elements.
template <class Visitor>
void VisitWeightFormat(const WeightFormat& format, Visitor&& visit) {
  if (!WeightFormats::Visit(format, visit)) UnknownWeightFormat(format);
}

// For those who launch a kernel: the format is known, and the view has what the format needs.
void CheckWeight(const WeightView& w);

}  // namespace tokenferry
