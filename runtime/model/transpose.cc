#include "runtime/model/transpose.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "runtime/model/byte_vectors.h"

namespace tokenferry {
namespace {

constexpr int64_t kTileBytes = 64;  // a cache line of either side
constexpr int64_t kMaxStep = 2;     // of columns that are picked from whole lines

// A square of as many rows as a vector has elements. Rows i and i + half of them are interleaved, log2 times.
template <class Element>
void TransposeSquare(const Element* src, int64_t src_stride, Element* dst, int64_t dst_stride) {
  constexpr int kSide = kVectorBytes / sizeof(Element);
  Vector<Element> rows[kSide];
  for (int i = 0; i < kSide; ++i) std::memcpy(&rows[i], src + i * src_stride, kVectorBytes);
  for (int done = 1; done < kSide; done *= 2) {
    Vector<Element> next[kSide];
    for (int i = 0; i < kSide / 2; ++i) {
      next[2 * i] = InterleaveLower<Element>(rows[i], rows[i + kSide / 2]);
      next[2 * i + 1] = InterleaveUpper<Element>(rows[i], rows[i + kSide / 2]);
    }
    std::copy_n(next, kSide, rows);
  }
  for (int i = 0; i < kSide; ++i) std::memcpy(dst + i * dst_stride, &rows[i], kVectorBytes);
}

template <class Element>
constexpr int64_t kTileSide = kTileBytes / static_cast<int64_t>(sizeof(Element));

// Every step-th of the elements at `src`.
template <class Element>
void PickElements(const uint8_t* src, int64_t step, int64_t count, Element* out) {
  const auto at = [&](int64_t i) { return src + i * static_cast<int64_t>(sizeof(Element)); };
  if (step == 1) {
    std::memcpy(out, src, static_cast<size_t>(count) * sizeof(Element));
  } else if (step == kMaxStep && count == kTileSide<Element>) {
    Element line[kMaxStep * kTileSide<Element>];
    std::memcpy(line, src, sizeof(line) - sizeof(Element));  // nothing need be behind the last
    for (int64_t i = 0; i < kTileSide<Element>; ++i) out[i] = line[kMaxStep * i];
  } else {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i, at(i * step), sizeof(Element));
  }
}

// Rows of `src` may lie a power of two apart, where few of them are in a cache at a time: so they are brought together
// first.
template <class Element>
void TransposeTile(const TransposeColumnsArgs& a, int64_t row, int64_t col) {
  constexpr int64_t kSide = kTileSide<Element>, kBytes = sizeof(Element), kSquare = kVectorBytes / kBytes;
  const int64_t num_rows = std::min(kSide, a.num_rows - row), num_cols = std::min(kSide, a.num_cols - col);
  alignas(kTileBytes) Element in[kSide * kSide], out[kSide * kSide];
  const uint8_t* src = a.src + row * a.src_stride + col * a.step * kBytes;
  for (int64_t r = 0; r < num_rows; ++r) PickElements(src + r * a.src_stride, a.step, num_cols, in + r * kSide);
  for (int64_t r = 0; r < num_rows; r += kSquare) {
    for (int64_t c = 0; c < num_cols; c += kSquare) {
      TransposeSquare(in + r * kSide + c, kSide, out + c * kSide + r, kSide);
    }
  }
  uint8_t* dst = a.dst + col * a.dst_stride + row * kBytes;
  if (num_rows == kSide) {
    for (int64_t c = 0; c < num_cols; ++c) std::memcpy(dst + c * a.dst_stride, out + c * kSide, kTileBytes);
  } else {
    const auto num_bytes = static_cast<size_t>(num_rows * kBytes);
    for (int64_t c = 0; c < num_cols; ++c) std::memcpy(dst + c * a.dst_stride, out + c * kSide, num_bytes);
  }
}

template <class Element>
void Transpose(const TransposeColumnsArgs& a) {
  for (int64_t col = 0; col < a.num_cols; col += kTileSide<Element>) {
    for (int64_t row = 0; row < a.num_rows; row += kTileSide<Element>) TransposeTile<Element>(a, row, col);
  }
}

}  // namespace

void TransposeColumns(const TransposeColumnsArgs& args) {
  switch (args.element_bytes) {
    case 1:
      return Transpose<uint8_t>(args);
    case 2:
      return Transpose<uint16_t>(args);
    default:
      TF_CHECK_EQ(args.element_bytes, 4);
      return Transpose<uint32_t>(args);
  }
}

}  // namespace tokenferry
