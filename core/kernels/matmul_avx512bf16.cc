// bf16 kernels of core/kernels/matmul.cc with vdpbf16ps: 32 inputs a step, inputs 2l and 2l + 1 of a step in lane l.
// Steps go up in order and the lanes are summed as in core/kernels/matmul.h, so a result depends on its row and weights
// alone. vdpbf16ps and the conversions take subnormal numbers as zero.
#include "core/kernels/matmul_kernels.h"

#if !defined(__x86_64__)

namespace tokenferry {
const MatMulKernels* Avx512Bf16MatMulKernels() { return nullptr; }
}  // namespace tokenferry

#else

#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "core/kernels/matmul_values.h"
#include "core/kernels/planar_row.h"
#include "hwy/base.h"

HWY_PUSH_ATTRIBUTES("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")
#include "core/kernels/weight_reader_avx512bf16-inl.h"

namespace tokenferry {
namespace {

constexpr int64_t kTileRows = 4;

// The lanes folded to four: l, l + 4, l + 8, l + 12.
HWY_INLINE __m128 FoldToFour(__m512 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

HWY_INLINE float SumLanes(__m512 a) {
  __m128 s = FoldToFour(a);
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

HWY_INLINE void StoreSum(const Output& out, int64_t row, int64_t o, float sum) {
  float& y = out.y[row * out.stride + o - out.first];
  y = out.accumulate == Accumulate::kYes ? y + sum : sum;
}

void PackRow(const void* row, DType dtype, PackSpan span, void* packed) {
  auto* dst = static_cast<BF16*>(packed);
  int64_t i = 0;
  for (; i + kInputs <= span.count; i += kInputs) {
    const int64_t at = span.begin + i;
    _mm512_storeu_si512(dst + i, dtype == DType::kBF16 ? Load(static_cast<const BF16*>(row) + at)
                                                       : RoundLoad(static_cast<const float*>(row) + at));
  }
  for (; i < span.num_steps * kInputs; ++i) {
    dst[i] = i < span.count ? ToBF16(RowValue(row, dtype, span.begin + i, Compute::kBF16)) : BF16{};
  }
}

template <class Format>
void PackWeightRow(const WeightView& w, int64_t o, PackSpan span, BF16* packed) {
  Reader<Format> reader(w, o);
  const int64_t limit = span.begin + span.count;
  for (int64_t begin = span.begin, end; begin < limit; begin = end) {
    end = reader.SegmentEnd(w, begin, limit);
    int64_t i = begin;
    if (reader.Begin(begin, end)) {
      for (; i + kInputs <= end; i += kInputs) _mm512_storeu_si512(packed + (i - span.begin), reader.LoadStep(i));
    }
    for (; i < end; i += kInputs) _mm512_storeu_si512(packed + (i - span.begin), reader.LoadSlowly(i, end));
  }
}

// Blocks of GGUF files are widened as f32 kernels do, and rounded. Rows and spans are whole steps.
template <>
void PackWeightRow<BlockWeights>(const WeightView& w, int64_t o, PackSpan span, BF16* packed) {
  constexpr int64_t kPiece = 256;  // values: the largest block, and a multiple of the others; spans begin at one
  const DTypeBlock block = BlockOf(w.dtype());
  const auto* row = static_cast<const uint8_t*>(w.data) + o * w.row_bytes();
  alignas(64) float wide[kPiece];
  for (int64_t begin = 0; begin < span.count; begin += kPiece) {
    const int64_t count = std::min(kPiece, span.count - begin), first = (span.begin + begin) / block.elements;
    Avx512WidenBlocks(w.dtype(), row + first * block.bytes, block, count / block.elements, wide);
    for (int64_t i = 0; i < count; i += kInputs) _mm512_storeu_si512(packed + begin + i, RoundLoad(wide + i));
  }
}

void PackWeights(const WeightView& w, int64_t o, int64_t num_outs, PackSpan span, void* packed) {
  VisitWeightFormat(w.format, [&](auto format) {
    for (int64_t j = 0; j < num_outs; ++j) {
      PackWeightRow<decltype(format)>(w, o + j, span, static_cast<BF16*>(packed) + j * span.num_steps * kInputs);
    }
  });
}

template <int kRows, int kOuts>
HWY_INLINE void AddStep(const __m512i (&w)[kOuts], const BF16* rows, int64_t stride, int64_t i,
                        __m512 (&sums)[kRows][kOuts]) {
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    const __m512i x = Load(rows + r * stride + i);
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) sums[r][j] = DotStep(sums[r][j], x, w[j]);
  }
}

// kRows rows times weight rows o .. o + kOuts - 1.
template <class Format, int kRows, int kOuts>
HWY_INLINE void StreamTile(const WeightView& w, int64_t o, const BF16* rows, Output out) {
  const int64_t stride = (w.cols + kInputs - 1) / kInputs * kInputs;
  constexpr int64_t kLine = Reader<Format>::kLineInputs;
  Reader<Format> readers[kOuts];
  for (int j = 0; j < kOuts; ++j) readers[j] = Reader<Format>(w, o + j);
  __m512 sums[kRows][kOuts];
  __m512i wide[kOuts];
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) sums[r][j] = _mm512_setzero_ps();
  }
  for (int64_t begin = 0, end; begin < w.cols; begin = end) {
    end = Reader<Format>::SegmentEnd(w, begin, w.cols);
    bool fast = true;
    for (int j = 0; j < kOuts; ++j) fast &= readers[j].Begin(begin, end);
    int64_t i = begin;
    for (const int64_t last = fast ? end - kLine : begin - 1; i <= last; i += kLine) {
      for (int j = 0; j < kOuts; ++j) readers[j].Prefetch(i, kOuts);
      HWY_UNROLL(2) for (int64_t step = 0; step < kLine; step += kInputs) {
        HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].LoadStep(i + step);
        AddStep<kRows, kOuts>(wide, rows, stride, i + step, sums);
      }
    }
    for (const int64_t last = fast ? end - kInputs : begin - 1; i <= last; i += kInputs) {
      HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].LoadStep(i);
      AddStep<kRows, kOuts>(wide, rows, stride, i, sums);
    }
    for (; i < end; i += kInputs) {
      HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].LoadSlowly(i, end);
      AddStep<kRows, kOuts>(wide, rows, stride, i, sums);
    }
  }
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) StoreSum(out, r, o + j, SumLanes(sums[r][j]));
  }
}

// Blocked FP8 has 256 codes and one scale per block: the bf16 value of every code is looked up instead of computed. A
// table holds the low bytes, then the high bytes, of the values of codes 0 .. 127; bit 7 of a code flips the sign.
constexpr int64_t kTableBytes = 256, kMaxTables = 160;

// Whether StreamCodedTile can read `w`, and rows enough share a table to be worth it.
bool HasTables(const WeightView& w) {
  const int64_t block = w.format.block_cols;
  return F8BlockWeights::Matches(w.format) && block % 64 == 0 && w.format.block_rows >= 8 &&
         (w.cols + block - 1) / block <= kMaxTables;
}

void MakeTable(float scale, uint8_t* table) {
  alignas(64) BF16 values[128];
  for (int code = 0; code < 128; ++code) {
    values[code] = ToBF16(ToFloat(F8E4M3{static_cast<uint8_t>(code)}) * scale);
  }
  for (int half = 0; half < 2; ++half) {
    const __m512i low = Load(values + half * 64), high = Load(values + half * 64 + 32);
    const __m512i low_bytes =
        _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(low)), _mm512_cvtepi16_epi8(high), 1);
    const __m512i high_bytes =
        _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(_mm512_srli_epi16(low, 8))),
                           _mm512_cvtepi16_epi8(_mm512_srli_epi16(high, 8)), 1);
    _mm512_storeu_si512(table + half * 64, low_bytes);
    _mm512_storeu_si512(table + 128 + half * 64, high_bytes);
  }
}

// The tables of the blocks that weight row `o` crosses.
void MakeTables(const WeightView& w, int64_t o, uint8_t* tables) {
  for (int64_t i = 0; i < w.cols; i += w.format.block_cols, tables += kTableBytes) {
    MakeTable(F8BlockWeights::Scale(w, o, i), tables);
  }
}

struct CodeTable {
  explicit CodeTable(const uint8_t* t)
      : low0(Load(t)), low1(Load(t + 64)), high0(Load(t + 128)), high1(Load(t + 192)) {}

  // The values of 64 codes: 0 .. 31 in `first`, 32 .. 63 in `second`.
  HWY_INLINE void Widen(const uint8_t* codes, __m512i& first, __m512i& second) const {
    // Unpacking works within 128 bits: bring the eight bytes that belong there side by side.
    const __m512i c = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), Load(codes));
    const __m512i low = _mm512_permutex2var_epi8(low0, c, low1);
    const __m512i high = _mm512_xor_si512(_mm512_permutex2var_epi8(high0, c, high1),
                                          _mm512_and_si512(c, _mm512_set1_epi8(static_cast<char>(0x80))));
    first = _mm512_unpacklo_epi8(low, high);
    second = _mm512_unpackhi_epi8(low, high);
  }

  __m512i low0, low1, high0, high1;
};

// StreamTile for weight rows that share their scales, whose tables are given.
template <int kRows, int kOuts>
HWY_INLINE void StreamCodedTile(const WeightView& w, int64_t o, const uint8_t* tables, const BF16* rows, Output out) {
  const int64_t stride = (w.cols + kInputs - 1) / kInputs * kInputs;
  const uint8_t* const codes = static_cast<const uint8_t*>(w.data) + o * w.cols;
  __m512 sums[kRows][kOuts];
  __m512i first[kOuts], second[kOuts];
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) sums[r][j] = _mm512_setzero_ps();
  }
  const int64_t block = w.format.block_cols;
  for (int64_t begin = 0; begin < w.cols; begin += block, tables += kTableBytes) {
    const CodeTable table(tables);
    const int64_t end = std::min(begin + block, w.cols);
    int64_t i = begin;
    for (; i + 64 <= end; i += 64) {
      HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) {
        __builtin_prefetch(codes + i + (j + kOuts) * w.cols, 0, 2);
        table.Widen(codes + i + j * w.cols, first[j], second[j]);
      }
      AddStep<kRows, kOuts>(first, rows, stride, i, sums);
      AddStep<kRows, kOuts>(second, rows, stride, i + kInputs, sums);
    }
    for (; i < end; i += kInputs) {
      HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) first[j] = Reader<F8BlockWeights>(w, o + j).LoadSlowly(i, end);
      AddStep<kRows, kOuts>(first, rows, stride, i, sums);
    }
  }
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) StoreSum(out, r, o + j, SumLanes(sums[r][j]));
  }
}

// At most four rows and outputs. `tables` are those of these outputs, or null.
template <class Format, int kRows>
void StreamOuts(const WeightView& w, int64_t o, int64_t num_outs, const uint8_t* tables, const BF16* rows, Output out) {
  if (std::is_same_v<Format, F8BlockWeights> && tables != nullptr) {
    if (num_outs == kTileOuts) return StreamCodedTile<kRows, kTileOuts>(w, o, tables, rows, out);
    for (int64_t j = 0; j < num_outs; ++j) StreamCodedTile<kRows, 1>(w, o + j, tables, rows, out);
    return;
  }
  if (num_outs == kTileOuts) return StreamTile<Format, kRows, kTileOuts>(w, o, rows, out);
  for (int64_t j = 0; j < num_outs; ++j) StreamTile<Format, kRows, 1>(w, o + j, rows, out);
}

// Four rows at a time, for a few outputs whose weights stay in the first-level cache meanwhile.
template <class Format>
void StreamRows(const WeightView& w, int64_t o, int64_t num_outs, const BF16* rows, int64_t num_rows, Output out) {
  constexpr decltype(&StreamOuts<Format, 1>) kQuads[] = {StreamOuts<Format, 1>, StreamOuts<Format, 2>,
                                                         StreamOuts<Format, 3>, StreamOuts<Format, 4>};
  const int64_t end = o + num_outs, stride = (w.cols + kInputs - 1) / kInputs * kInputs;
  const bool coded = HasTables(w);
  alignas(64) uint8_t tables[std::is_same_v<Format, F8BlockWeights> ? kMaxTables * kTableBytes : 1];
  int64_t band = -1;  // of blocks, whose tables these are
  for (int64_t count; o < end; o += count) {
    count = std::min(kTileOuts, end - o);
    if (coded) {
      const int64_t at = w.row_offset + o, height = w.format.block_rows;
      count = std::min(count, (at / height + 1) * height - at);  // a tile stays within a band
      if (at / height != band) MakeTables(w, o, tables);
      band = at / height;
    }
    for (int64_t r = 0; r < num_rows; r += 4) {
      kQuads[std::min<int64_t>(num_rows - r, 4) - 1](w, o, count, coded ? tables : nullptr, rows + r * stride,
                                                     out.FromRow(r));
    }
  }
}

void StreamWeights(const WeightView& w, int64_t o, int64_t num_outs, const void* rows, int64_t num_rows, Output out) {
  VisitWeightFormat<StreamedWeightFormats>(w.format, [&](auto format) {
    StreamRows<decltype(format)>(w, o, num_outs, static_cast<const BF16*>(rows), num_rows, out);
  });
}

template <int kRows>
HWY_INLINE void MultiplyTile(const BF16* rows, const BF16* weights, int64_t stride, bool begin_sums, float* sums) {
  __m512 acc[kRows][kTileOuts];
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) {
      acc[r][j] = begin_sums ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + (r * kTileOuts + j) * 16);
    }
  }
  for (int64_t i = 0; i < stride; i += kInputs) {
    __m512i x[kRows];
    HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) x[r] = Load(rows + r * stride + i);
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) {
      const __m512i w = Load(weights + j * stride + i);
      HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) acc[r][j] = DotStep(acc[r][j], x[r], w);
    }
  }
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) _mm512_storeu_ps(sums + (r * kTileOuts + j) * 16, acc[r][j]);
  }
}

void Multiply(const void* rows, int64_t num_rows, const void* weights, int64_t num_outs, int64_t num_steps,
              bool begin_sums, float* sums) {
  const int64_t stride = num_steps * kInputs;
  constexpr decltype(&MultiplyTile<1>) kTiles[] = {MultiplyTile<1>, MultiplyTile<2>, MultiplyTile<3>, MultiplyTile<4>};
  for (int64_t r = 0; r < num_rows; r += kTileRows) {
    const auto tile = kTiles[std::min(num_rows - r, kTileRows) - 1];
    for (int64_t o = 0; o < num_outs; o += kTileOuts, sums += kTileFloats) {
      tile(static_cast<const BF16*>(rows) + r * stride, static_cast<const BF16*>(weights) + o * stride, stride,
           begin_sums, sums);
    }
  }
}

void Finish(const float* sums, int64_t num_rows, int64_t num_outs, Output out) {
  for (int64_t row = 0; row < num_rows; row += kTileRows) {
    for (int64_t o = 0; o < num_outs; o += kTileOuts, sums += kTileFloats) {
      for (int64_t r = 0; r < std::min(num_rows - row, kTileRows); ++r) {
        for (int64_t j = 0; j < std::min(num_outs - o, kTileOuts); ++j) {
          StoreSum(out, row + r, o + j, SumLanes(_mm512_loadu_ps(sums + (r * kTileOuts + j) * 16)));
        }
      }
    }
  }
}

constexpr MatMulKernels kKernels = {kInputs, kTileRows, PackRow, PackWeights, StreamWeights, Multiply, Finish};

}  // namespace

const MatMulKernels* Avx512Bf16MatMulKernels() { return &kKernels; }

}  // namespace tokenferry
HWY_POP_ATTRIBUTES
#endif  // __x86_64__
