// Weight matrices in the precision a checkpoint stores them in: the descriptor of a format, the view of one matrix, and
// the formats that kernels can read.
//
// To add a format: a struct here and its place in WeightFormats, and a reader in core/kernels/weight_reader-inl.h.
#pragma once

#include <cstdint>
#include <string>

#include "core/formats/block_decode.h"
#include "core/formats/dtype.h"
#include "core/formats/scalar.h"
#include "core/formats/weight_coding.h"

namespace tokenferry {

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

// Bytes of a matrix [rows, cols] in memory: its elements, its scales and its zero points.
struct WeightBytes {
  int64_t data = 0, scales = 0, zero_points = 0;

  int64_t total() const { return data + scales + zero_points; }
  friend bool operator==(const WeightBytes&, const WeightBytes&) = default;
};
WeightBytes BytesOf(const WeightFormat& format, int64_t rows, int64_t cols);

// A weight matrix [rows = outputs, cols = inputs], row-major; a row takes whole bytes. Owns nothing. Trivially
// copyable, and usable in device code.
struct WeightView {
  WeightFormat format;
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* scales = nullptr;          // of format.scale_dtype, row-major, by block; null: there are none
  int64_t scale_stride = 0;              // scales per row of blocks
  const uint8_t* zero_points = nullptr;  // as `scales`; kZeroPoint only
  int64_t row_offset = 0;  // where this view begins within the stored matrix, so that a slice of one is again a view

  DType dtype() const { return format.dtype; }
  int64_t row_bytes() const { return BytesOfElements(format.dtype, cols); }
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

struct F16Weights {
  static constexpr int64_t kBits = 16;
  static constexpr bool kIsBF16 = false;
  TF_HOST_DEVICE static bool Matches(const WeightFormat& f) { return f == WeightFormat{.dtype = DType::kF16}; }
  TF_HOST_DEVICE static float Value(const WeightView& w, int64_t o, int64_t i) {
    return ToFloat(static_cast<const FP16*>(w.data)[o * w.cols + i]);
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

// Integer codes of 8, 4 or 2 bits in groups of `block_cols` inputs of one row, each with a scale of its own (F32, BF16,
// F16 or F8_E8M0). A value is f32(integer) * (f32(scale) * unit), rounded to f32 where it must be; the integer is the
// code itself, the code minus the group's zero point, or the code's number in CodeTable. A row takes whole bytes.
struct PlanarWeights {
  static constexpr bool kIsBF16 = false;
  static constexpr WeightFormat Of(DType dtype, WeightCoding coding, DType scale_dtype, int32_t group) {
    return {.dtype = dtype, .coding = coding, .scale_dtype = scale_dtype, .block_rows = 1, .block_cols = group};
  }
  static bool Matches(const WeightFormat& f);
  // Times the unit; ScaleOf: of a group of the stored matrix.
  TF_HOST_DEVICE static float Scale(const WeightView& w, int64_t o, int64_t i) { return ScaleOf(w, Group(w, o, i)); }
  TF_HOST_DEVICE static float ScaleOf(const WeightView& w, int64_t group) {
    const float unit = CodeUnit(w.format.coding);
    switch (w.format.scale_dtype) {
      case DType::kBF16:
        return ToFloat(static_cast<const BF16*>(w.scales)[group]) * unit;
      case DType::kF16:
        return ToFloat(static_cast<const FP16*>(w.scales)[group]) * unit;
      case DType::kUE8M0:
        return ToFloat(static_cast<const UE8M0*>(w.scales)[group]) * unit;
      default:
        return static_cast<const float*>(w.scales)[group] * unit;
    }
  }
  TF_HOST_DEVICE static int32_t ZeroPoint(const WeightView& w, int64_t o, int64_t i) {  // 0: the format has none
    return w.format.coding == WeightCoding::kZeroPoint ? w.zero_points[Group(w, o, i)] : 0;
  }
  TF_HOST_DEVICE static int64_t RowBytes(const WeightView& w) { return (w.cols * BitsOf(w.format.dtype) + 7) / 8; }
  // The integer of element `i` of a row, `zero_point` its group's.
  TF_HOST_DEVICE static int32_t Number(const WeightFormat& f, const uint8_t* row, int64_t i, int32_t zero_point) {
    const int32_t bits = BitsOf(f.dtype), log_per_byte = bits == 4 ? 1 : bits == 2 ? 2 : 0;
    const int32_t at = static_cast<int32_t>(i & ((1 << log_per_byte) - 1)) * bits;
    const uint8_t byte = row[i >> log_per_byte];
    if (f.dtype == DType::kI8) return static_cast<int8_t>(byte);
    const int32_t code = byte >> at & ((1 << bits) - 1);
    return f.coding == WeightCoding::kZeroPoint ? code - zero_point : CodeNumber(f.coding, code);
  }
  TF_HOST_DEVICE static float Value(const WeightView& w, int64_t o, int64_t i) {
    const uint8_t* row = static_cast<const uint8_t*>(w.data) + o * RowBytes(w);
    return static_cast<float>(Number(w.format, row, i, ZeroPoint(w, o, i))) * Scale(w, o, i);
  }

 private:
  TF_HOST_DEVICE static int32_t BitsOf(DType dtype) { return dtype == DType::kU4 ? 4 : dtype == DType::kU2 ? 2 : 8; }
  TF_HOST_DEVICE static int64_t Group(const WeightView& w, int64_t o, int64_t i) {
    return (w.row_offset + o) * w.scale_stride + i / w.format.block_cols;
  }
};

// Blocks as GGUF files hold them, scales within (core/formats/block_decode.h). Rows are whole blocks. Below, nobody
// tells their types apart.
struct BlockWeights {
  static constexpr bool kIsBF16 = false;
  static bool Matches(const WeightFormat& f) { return IsBlockType(f.dtype) && f == WeightFormat{.dtype = f.dtype}; }
  // The block that holds the element; PlaceInBlock is its place there.
  TF_HOST_DEVICE static const uint8_t* Block(const WeightView& w, int64_t o, int64_t i) {
    const DType dtype = w.format.dtype;
    return static_cast<const uint8_t*>(w.data) + ((o * w.cols + i) >> LogBlockElements(dtype)) * BlockBytes(dtype);
  }
  TF_HOST_DEVICE static float Value(const WeightView& w, int64_t o, int64_t i) {
    return BlockValue(w.format.dtype, Block(w, o, i), PlaceInBlock(w.format.dtype, i));
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
using WeightFormats =
    WeightFormatList<F32Weights, BF16Weights, F16Weights, F8BlockWeights, PlanarWeights, BlockWeights>;

// Ends the program: the format is none of WeightFormats. Whoever reads files refuses such weights with a Status before.
[[noreturn]] void UnknownWeightFormat(const WeightFormat& format);

// visit(F()) with the one F of List that the matrix has. The only way from a WeightView to its elements.
template <class List = WeightFormats, class Visitor>
void VisitWeightFormat(const WeightFormat& format, Visitor&& visit) {
  if (!List::Visit(format, visit)) UnknownWeightFormat(format);
}

// For those who launch a kernel: the format is known, and the view has what the format needs.
void CheckWeight(const WeightView& w);

}  // namespace tokenferry
