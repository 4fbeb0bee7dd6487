// Zero points of compressed-tensors: what memory holds is what the files' definition makes of codes.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <utility>

#include "core/kernels/matmul_values.h"
#include "runtime/model/model_summary.h"
#include "tests/runtime/model/quantised_fixture.h"

namespace tokenferry::testing {
namespace {

// Weight (o, i), of codes and zero points that are both stored plus half their range, or both signed.
class ZeroPointWeights {
 public:
  ZeroPointWeights(const FileTensor& codes, const FileTensor& scales, const FileTensor& zeros, int64_t bits)
      : codes_(codes), scales_(scales), zeros_(zeros), bits_(bits), per_word_(32 / bits) {}

  int64_t rows() const { return codes_.shape[0]; }
  int64_t cols() const { return codes_.shape[1] * (is_packed() ? per_word_ : 1); }
  float Value(int64_t o, int64_t i) const {
    const int64_t num_groups = scales_.shape[1], group = i / (cols() / num_groups), at = o * num_groups + group;
    float scale;
    if (scales_.dtype == DType::kBF16) {
      scale = ToFloat(reinterpret_cast<const BF16*>(scales_.data.data())[at]);
    } else {
      std::memcpy(&scale, &scales_.data[static_cast<size_t>(4 * at)], sizeof(scale));
    }
    if (!is_packed()) {
      return static_cast<float>(Signed(codes_, o * cols() + i) - Signed(zeros_, at)) * scale;
    }
    const int32_t code = Code(codes_, o * codes_.shape[1] + i / per_word_, i % per_word_);
    const int32_t zero = Code(zeros_, o / per_word_ * num_groups + group, o % per_word_);
    return static_cast<float>(code - zero) * scale;
  }

 private:
  bool is_packed() const { return codes_.dtype == DType::kI32; }
  static int32_t Signed(const FileTensor& t, int64_t idx) {
    return static_cast<int8_t>(t.data[static_cast<size_t>(idx)]);
  }
  int32_t Code(const FileTensor& t, int64_t word_idx, int64_t place) const {
    uint32_t word;
    std::memcpy(&word, &t.data[static_cast<size_t>(4 * word_idx)], sizeof(word));
    return static_cast<int32_t>(word >> (place * bits_) & ((1u << bits_) - 1));
  }

  const FileTensor &codes_, &scales_, &zeros_;
  int64_t bits_, per_word_;
};

const std::string kMatrix = "model.layers.1.mlp.experts.3.gate_proj.";

TEST_F(Quantised, CompressedTensorsHaveZeroPoints) {
  for (const auto& stored :
       {std::pair<const char*, int64_t>{"deepseek_v3_int4", 4}, {"qwen3_moe_int8_packed", 8}, {"olmoe_int8", 8}}) {
    const char* const family = stored.first;
    const int64_t bits = stored.second;  // a name of its own, which clang lets lambdas capture
    SCOPED_TRACE(family);
    Start(family);
    quant()["config_groups"]["group_0"]["weights"]["symmetric"] = false;
    const bool is_packed = quant()["format"] == "pack-quantized";
    std::minstd_rand random(35);
    const size_t num_tensors = tensors_.size();
    for (size_t t = 0; t < num_tensors; ++t) {
      const std::string base = tensors_[t].name.substr(0, tensors_[t].name.rfind('_'));
      if (base + "_scale" != tensors_[t].name) continue;
      const int64_t rows = tensors_[t].shape[0], groups = tensors_[t].shape[1];
      const std::vector<int64_t> shape = {is_packed ? rows * bits / 32 : rows, groups};
      std::string zeros(static_cast<size_t>(shape[0] * groups * (is_packed ? 4 : 1)), '\0');
      for (char& byte : zeros) byte = static_cast<char>(random() >> 8);
      Add({base + "_zero_point", is_packed ? DType::kI32 : DType::kI8, shape, zeros});
    }
    look_ = [&](const ModelWeights& loaded) {
      const WeightView& w = loaded.layers[1].expert_gate.host[3];
      const ZeroPointWeights want(Tensor(kMatrix + (is_packed ? "weight_packed" : "weight")),
                                  Tensor(kMatrix + "weight_scale"), Tensor(kMatrix + "weight_zero_point"), bits);
      ASSERT_EQ(std::pair(w.rows, w.cols), std::pair(want.rows(), want.cols()));
      std::vector<float> row(static_cast<size_t>(w.cols));
      int64_t num_wrong = 0;
      for (int64_t o = 0; o < w.rows; ++o) {
        WeightValues(w, o, 0, w.cols, Compute::kF32, row.data());
        for (int64_t i = 0; i < w.cols; ++i) num_wrong += row[static_cast<size_t>(i)] == want.Value(o, i) ? 0 : 1;
      }
      EXPECT_EQ(num_wrong, 0);
    };
    EXPECT_EQ(absl::OkStatus(), Load());
    EXPECT_EQ(stats_.bytes_read, SummarizeModel(checked_.plan).Total().num_bytes);
    EXPECT_EQ(stats_.bytes_kept, kept_);
    EXPECT_EQ(checked_.num_unknown, 0);
    look_ = nullptr;
    expert_dtype_ = ExpertDtype::kInt2;
    EXPECT_EQ(absl::OkStatus(), Load());
    expert_dtype_ = ExpertDtype::kStored;
    Remove(kMatrix + "weight_zero_point");
    EXPECT_ERROR(Load(), absl::StatusCode::kInvalidArgument, "but its zero points '" + kMatrix + "weight_zero_point' ",
                 "are missing");
  }
}

}  // namespace
}  // namespace tokenferry::testing
