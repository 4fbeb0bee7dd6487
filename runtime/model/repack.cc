// Stored bytes to those of memory.
#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/formats/f16.h"
#include "runtime/model/byte_vectors.h"
#include "runtime/model/stored_tensor.h"

namespace tokenferry {
namespace {

uint32_t WordAt(absl::Span<const uint8_t> src, int64_t idx) {
  uint32_t word;
  std::memcpy(&word, src.data() + idx * 4, sizeof(word));
  return word;
}

float Same(float x) { return x; }
float PlusOne(float x) { return x + 1; }

// Elements to F32.
template <class Element, float (*kChange)(float)>
void Widen(absl::Span<const uint8_t> src, uint8_t* dst) {
  for (size_t i = 0; i < src.size() / sizeof(Element); ++i) {
    Element element;
    std::memcpy(&element, src.data() + i * sizeof(Element), sizeof(Element));
    const float value = kChange(ToFloat(element));
    std::memcpy(dst + i * sizeof(float), &value, sizeof(float));
  }
}

void UnpackWords(absl::Span<const uint8_t> src, int bits, int32_t offset, uint8_t* dst) {
  const uint32_t mask = (1u << bits) - 1;
  for (int64_t i = 0; i < static_cast<int64_t>(src.size() / 4); ++i) {
    const uint32_t word = WordAt(src, i);
    for (int shift = 0; shift < 32; shift += bits) {
      *dst++ = static_cast<uint8_t>((word >> shift & mask) + static_cast<uint32_t>(offset));
    }
  }
}

void UnpackWordRows(int64_t cols, absl::Span<const uint8_t> src, int bits, uint8_t* dst) {
  const uint32_t mask = (1u << bits) - 1;
  for (int64_t begin = 0; begin < static_cast<int64_t>(src.size() / 4); begin += cols) {
    for (int shift = 0; shift < 32; shift += bits) {
      for (int64_t c = 0; c < cols; ++c) *dst++ = static_cast<uint8_t>(WordAt(src, begin + c) >> shift & mask);
    }
  }
}

using Words = Vector<uint32_t>;
constexpr int64_t kWords = kVectorBytes / 4;

// At most kWords; zeros behind them.
Words LoadWords(absl::Span<const uint8_t> src, int64_t idx, int64_t count) {
  Words words = {};
  if (count == kWords) {
    std::memcpy(&words, src.data() + idx * 4, kVectorBytes);
  } else {
    std::memcpy(&words, src.data() + idx * 4, static_cast<size_t>(count) * 4);
  }
  return words;
}

// Code j of 0, .., 7 of a word of AWQ is output 0, 2, 4, 6, 1, 3, 5, 7 of its eight. `even` and `odd` have those codes
// a byte each; eight bytes of outputs follow for each word.
void StoreAwqBytes(Words even, Words odd, int64_t count, uint8_t* dst) {
  const auto swap_middle = [](Words w) { return (w & 0xFF0000FFu) | (w >> 8 & 0x0000FF00u) | (w << 8 & 0x00FF0000u); };
  const Words a = swap_middle(even), b = swap_middle(odd);
  Vector<uint16_t> left, right, outs[2];
  std::memcpy(&left, &a, sizeof(left));
  std::memcpy(&right, &b, sizeof(right));
  outs[0] = InterleaveLower<uint16_t>(left, right);
  outs[1] = InterleaveUpper<uint16_t>(left, right);
  if (count == kWords) {
    std::memcpy(dst, outs, sizeof(outs));
  } else {
    std::memcpy(dst, outs, static_cast<size_t>(count) * 8);
  }
}

void UnpackAwqRows(int64_t cols, absl::Span<const uint8_t> src, uint8_t* dst) {
  const int64_t num_pairs = static_cast<int64_t>(src.size()) / (8 * cols);
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    for (int64_t c = 0; c < cols; c += kWords) {
      const int64_t count = std::min(kWords, cols - c);
      const Words low = LoadWords(src, 2 * pair * cols + c, count);
      const Words high = LoadWords(src, (2 * pair + 1) * cols + c, count);
      StoreAwqBytes((low & 0x0F0F0F0Fu) | (high & 0x0F0F0F0Fu) << 4, (low >> 4 & 0x0F0F0F0Fu) | (high & 0xF0F0F0F0u),
                    count, dst);
      dst += 8 * count;
    }
  }
}

void UnpackAwqZeroPoints(absl::Span<const uint8_t> src, uint8_t* dst) {
  const auto num_words = static_cast<int64_t>(src.size() / 4);
  for (int64_t i = 0; i < num_words; i += kWords) {
    const int64_t count = std::min(kWords, num_words - i);
    const Words words = LoadWords(src, i, count);
    StoreAwqBytes(words & 0x0F0F0F0Fu, words >> 4 & 0x0F0F0F0Fu, count, dst + 8 * i);
  }
}

}  // namespace

int64_t Repack::growth() const {
  switch (kind) {
    case Kind::kWiden:
    case Kind::kWidenAddOne:
      return 2;
    case Kind::kZeroPoints:
    case Kind::kAwqZeroPoints:
    case Kind::kZeroPointRows:
      return 8 / bits;
    default:
      return 1;
  }
}

void RepackBytes(const Repack& repack, DType dtype, int64_t cols, absl::Span<const uint8_t> src, uint8_t* dst) {
  switch (repack.kind) {
    case Repack::Kind::kNone:
      if (!src.empty()) std::memcpy(dst, src.data(), src.size());
      return;
    case Repack::Kind::kWiden:
      return dtype == DType::kF16 ? Widen<F16, Same>(src, dst) : Widen<BF16, Same>(src, dst);
    case Repack::Kind::kWidenAddOne:
      return dtype == DType::kF16 ? Widen<F16, PlusOne>(src, dst) : Widen<BF16, PlusOne>(src, dst);
    case Repack::Kind::kAddOne:
      return Widen<float, PlusOne>(src, dst);
    case Repack::Kind::kFlipSigns:
      for (size_t i = 0; i < src.size(); ++i) dst[i] = src[i] ^ 0x80;
      return;
    case Repack::Kind::kZeroPoints:
      return UnpackWords(src, repack.bits, repack.zero_offset, dst);
    case Repack::Kind::kAwqZeroPoints:
      return UnpackAwqZeroPoints(src, dst);
    case Repack::Kind::kZeroPointRows:
      return UnpackWordRows(cols, src, repack.bits, dst);
    case Repack::Kind::kAwqCodes:
      return UnpackAwqRows(cols, src, dst);
  }
}

}  // namespace tokenferry
