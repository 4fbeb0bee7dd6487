#include "runtime/ops/unit_norm.h"

#include <cmath>

#include "core/kernels/dot.h"
#include "core/kernels/row_parallel.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry {
namespace {

void NormRow(const UnitNormArgs& a, int64_t t, float sum_squares) {
  float* x = a.x.row(t);
  const float inverse = 1.0f / std::sqrt(sum_squares / static_cast<float>(a.x.cols) + a.eps);
  for (int64_t i = 0; i < a.x.cols; ++i) x[i] *= inverse;
}

void Reference(const UnitNormArgs& a) {
  for (int64_t t = 0; t < a.x.rows; ++t) NormRow(a, t, DotF32(a.x.row(t), a.x.row(t), a.x.cols));
}

void Cpu(const UnitNormArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  ParallelRows(context, a.x.rows, a.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const Rows row{a.x.row(t), 1, a.x.stride};
      float sum_squares;
      kernels.dot(row, row, a.x.cols, &sum_squares, 1);
      NormRow(a, t, sum_squares);
    }
  });
}

}  // namespace

constexpr Op<UnitNormArgs> kUnitNorm{"unit_norm", &Reference, &Cpu};

void UnitNorm(Stream& stream, const UnitNormArgs& args) { stream.Launch(kUnitNorm, args); }

}  // namespace tokenferry
