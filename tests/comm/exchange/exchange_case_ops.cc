#include "tests/comm/exchange/exchange_case_ops.h"

#include "core/device/cuda_launcher.h"

namespace tokenferry {

absl::Status CudaTestExperts(const TestExpertsArgs& args, void* stream);
absl::Status CudaWriteHome(const WriteHomeArgs& args, void* stream);

namespace {

void TestExperts(const TestExpertsArgs& a) {
  const int64_t hidden = a.rows.hidden;
  for (int64_t slot = 0; slot < a.num_slots; ++slot) {
    for (int64_t s = a.rows.slot_offsets[slot]; s < a.rows.slot_offsets[slot + 1]; ++s) {
      const int64_t start = a.rows.row_idx[s] * a.rows.row_stride;
      const auto value = [&](int64_t h) {
        return a.rows.dtype == DType::kBF16 ? ToFloat(static_cast<const BF16*>(a.rows.rows)[start + h])
                                            : static_cast<const float*>(a.rows.rows)[start + h];
      };
      for (int64_t h = 0; h < hidden; ++h) {
        const float y = ExpertOutput(a.slot_expert[slot], value(h), value((h + 1) % hidden));
        if (a.out.dtype == DType::kF32) a.out.as<float>().row(s)[h] = y;
        if (a.out.dtype == DType::kBF16) a.out.as<BF16>().row(s)[h] = ToBF16(y);
      }
    }
  }
}

void WriteHome(const WriteHomeArgs& a) {
  for (int64_t i = 0; i < a.to.rows; ++i) {
    for (int64_t h = 0; h < a.to.cols; ++h) {
      const float x = a.from.row(i)[h];
      if (a.to.dtype == DType::kF32) a.to.as<float>().row(i)[h] = x;
      if (a.to.dtype == DType::kBF16) a.to.as<BF16>().row(i)[h] = ToBF16(x);
    }
  }
}

}  // namespace

const Op<TestExpertsArgs> kTestExperts{"test: experts", TestExperts, nullptr, TF_CUDA_LAUNCHER(CudaTestExperts)};
const Op<WriteHomeArgs> kWriteHome{"test: write home", WriteHome, nullptr, TF_CUDA_LAUNCHER(CudaWriteHome)};

}  // namespace tokenferry
