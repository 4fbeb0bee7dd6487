// Products in Compute::kBF16 on a GPU's tensor cores. For matmul.cu only.
#pragma once

#include "core/kernels/matmul.h"

namespace tokenferry {

// A row's bits depend on the row, the weights and their format, and on nothing else: neither on the other rows nor on
// how many there are. The order of the sum is the tensor core's own (matmul_mma.cuh), so results differ from
// matmul.h's by rounding: by at most (inputs / 16 + 2) * 2^-23 * sum |x w|, taking an instruction that adds 16 products
// to a sum as one rounding of 2^-23, toward zero, of the largest of its terms.
// `stream` is a cudaStream_t.
absl::Status CudaMmaMatMul(const MatMulArgs& args, void* stream);
absl::Status CudaMmaGroupedMatMul(const GroupedMatMulArgs& args, void* stream);

}  // namespace tokenferry
