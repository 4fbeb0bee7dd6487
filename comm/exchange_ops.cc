#include "comm/exchange_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"

namespace tokenferry {
namespace {

constexpr int64_t kMinTaskFloats = 16384;  // less work than this is not worth waking a thread

int64_t RowsPerTask(int64_t floats_per_row) {
  return std::max<int64_t>(1, kMinTaskFloats / std::max<int64_t>(1, floats_per_row));
}

float Value(ConstFloatMatrix rows, int64_t i, int64_t c) {
  return rows.dtype == DType::kBF16 ? ToFloat(rows.as<const BF16>().row(i)[c]) : rows.as<const float>().row(i)[c];
}

void CombineReference(const CombineRowsArgs& a) {
  for (int64_t t = 0; t < a.out.rows; ++t) {
    for (int64_t c = 0; c < a.out.cols; ++c) {
      float sum = 0.0f;
      for (int64_t i = a.offsets[t]; i < a.offsets[t + 1]; ++i) {
        sum = std::fma(a.weight.row(t)[a.k[i]], Value(a.rows, a.selection[i], c), sum);
      }
      a.out.row(t)[c] = sum;
    }
  }
}

// A block of columns of one token, summed in registers. Inlined into each instruction set's version below.
template <class T, int kColumns>
[[gnu::always_inline]] inline void CombineBlock(const CombineRowsArgs& a, int64_t t, int64_t column) {
  float sum[kColumns] = {};
  for (int64_t i = a.offsets[t]; i < a.offsets[t + 1]; ++i) {
    const float weight = a.weight.row(t)[a.k[i]];
    const T* row = a.rows.as<const T>().row(a.selection[i]) + column;
    for (int c = 0; c < kColumns; ++c) sum[c] = __builtin_fmaf(weight, ToFloat(row[c]), sum[c]);
  }
  std::memcpy(a.out.row(t) + column, sum, sizeof(sum));
}

template <class T>
[[gnu::always_inline]] inline void CombineRangeOf(const CombineRowsArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    int64_t c = 0;
    for (; c + 64 <= a.out.cols; c += 64) CombineBlock<T, 64>(a, t, c);
    for (; c + 8 <= a.out.cols; c += 8) CombineBlock<T, 8>(a, t, c);
    for (; c < a.out.cols; ++c) CombineBlock<T, 1>(a, t, c);
  }
}

[[gnu::always_inline]] inline void CombineRange(const CombineRowsArgs& a, int64_t begin, int64_t end) {
  if (a.rows.dtype == DType::kBF16) return CombineRangeOf<BF16>(a, begin, end);
  CombineRangeOf<float>(a, begin, end);
}

void CombineRangePortable(const CombineRowsArgs& a, int64_t begin, int64_t end) { CombineRange(a, begin, end); }

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void CombineRangeAvx2(const CombineRowsArgs& a, int64_t begin, int64_t end) {
  CombineRange(a, begin, end);
}
bool HasAvx2(Isa isa) { return isa >= Isa::kAvx2; }
#else
void CombineRangeAvx2(const CombineRowsArgs& a, int64_t begin, int64_t end) { CombineRange(a, begin, end); }
bool HasAvx2(Isa) { return false; }
#endif

void CombineCpu(const CombineRowsArgs& a, CpuContext& context) {
  const auto range = HasAvx2(context.isa) ? CombineRangeAvx2 : CombineRangePortable;
  const int64_t per_task = RowsPerTask(a.out.cols * std::max<int64_t>(1, a.weight.cols));
  context.pool.ParallelFor((a.out.rows + per_task - 1) / per_task, [&](int64_t task, int) {
    range(a, task * per_task, std::min(a.out.rows, (task + 1) * per_task));
  });
}

}  // namespace

const Op<CombineRowsArgs> kCombineRows{"combine rows", CombineReference, CombineCpu};

}  // namespace tokenferry
