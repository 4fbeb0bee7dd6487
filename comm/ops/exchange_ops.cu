#include "comm/ops/exchange_ops.h"
#include "comm/ops/sum_terms.cuh"

namespace tokenferry {
namespace {

// A block per token.
template <class In, class Out>
__global__ void CombineKernel(MatrixView<const In> rows, const int64_t* offsets, const int32_t* selection,
                              const int32_t* k, MatrixView<const float> weight, MatrixView<Out> out,
                              int64_t vector_cols) {
  const int64_t t = blockIdx.x, begin = offsets[t];
  const int num_terms = static_cast<int>(offsets[t + 1] - begin);
  const float* weights = weight.row(t);
  SumTerms<In>(
      num_terms, [&](int i) { return weights[k[begin + i]]; }, [&](int i) { return rows.row(selection[begin + i]); },
      out.cols, vector_cols, out.row(t));
}

template <class In, class Out>
absl::Status Combine(const CombineRowsArgs& a, void* stream) {
  const auto rows = a.rows.as<const In>();
  const auto out = a.out.as<Out>();
  const int64_t vector_cols = VectorCols(rows.data, rows.stride, out);
  return LaunchKernel(CombineKernel<In, Out>, {out.rows, SumThreads<In>(out.cols, vector_cols)}, stream, rows,
                      a.offsets, a.selection, a.k, a.weight, out, vector_cols);
}

}  // namespace

absl::Status CudaCombineRows(const CombineRowsArgs& a, void* stream) {
  const bool to_bf16 = a.out.dtype == DType::kBF16;
  if (a.rows.dtype == DType::kBF16) return to_bf16 ? Combine<BF16, BF16>(a, stream) : Combine<BF16, float>(a, stream);
  return to_bf16 ? Combine<float, BF16>(a, stream) : Combine<float, float>(a, stream);
}

}  // namespace tokenferry
