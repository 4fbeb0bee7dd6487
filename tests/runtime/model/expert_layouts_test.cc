// Experts one by one or in one tensor: the headers say which, and memory holds the same.
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/kernels/matmul_values.h"
#include "tests/runtime/model/quantised_fixture.h"

namespace tokenferry::testing {
namespace {

using ExpertLayouts = Quantised;

// Experts one by one become a tensor of all, gate rows and then up rows, under the names of transformers 5.
std::vector<FileTensor> FuseExperts(const std::vector<FileTensor>& tensors) {
  std::map<std::string, std::map<std::pair<int, bool>, const FileTensor*>> fused;  // by expert, gates first
  std::vector<FileTensor> result;
  for (const FileTensor& tensor : tensors) {
    const std::string name = absl::StrReplaceAll(tensor.name, {{".block_sparse_moe.", ".mlp."}});
    const std::vector<std::string> parts = absl::StrSplit(name, ".experts.");
    if (parts.size() == 1) {
      result.push_back(tensor);
      result.back().name = name;
      continue;
    }
    const std::vector<std::string> way = absl::StrSplit(parts[1], '.');  // "3", "up_proj", "weight_scale"
    const bool is_down = way[1] == "down_proj" || way[1] == "w2", is_up = way[1] == "up_proj" || way[1] == "w3";
    const std::string of_all = absl::StrCat(parts[0], ".experts.", is_down ? "down_proj" : "gate_up_proj",
                                            absl::StripPrefix(way[2], "weight"));
    fused[of_all][{std::stoi(way[0]), is_up}] = &tensor;
  }
  for (const auto& [name, parts] : fused) {
    FileTensor all{name, parts.begin()->second->dtype, parts.begin()->second->shape, ""};
    for (const auto& [key, part] : parts) all.data += part->data;
    const int64_t num_experts = parts.rbegin()->first.first + 1,
                  halves = static_cast<int64_t>(parts.size()) / num_experts;
    if (all.shape.empty()) all.shape = {1};
    all.shape[0] *= halves;
    all.shape.insert(all.shape.begin(), num_experts);
    result.push_back(std::move(all));
  }
  return result;
}

// All values of a layer's experts.
std::vector<float> ExpertValues(const LayerWeights& layer) {
  std::vector<float> values;
  for (const ExpertMatrices* matrices : {&layer.expert_gate, &layer.expert_up, &layer.expert_down}) {
    for (const WeightView& w : matrices->host) {
      const size_t begin = values.size();
      values.resize(begin + static_cast<size_t>(w.rows * w.cols));
      for (int64_t r = 0; r < w.rows; ++r) WeightValues(w, r, 0, w.cols, Compute::kF32, &values[begin + r * w.cols]);
    }
  }
  return values;
}

TEST_F(ExpertLayouts, HeadersSayWhetherExpertsAreFused) {
  std::vector<float> values, fused;
  for (const char* family : {"qwen3_moe", "mixtral", "minimax_m2", "olmoe", "qwen3_moe_fp8_channel"}) {
    SCOPED_TRACE(family);
    Start(family);
    look_ = [&](const ModelWeights& weights) { values = ExpertValues(weights.layers[1]); };
    ASSERT_EQ(absl::OkStatus(), Load());
    const int64_t bytes_read = stats_.bytes_read;
    tensors_ = FuseExperts(tensors_);
    look_ = [&](const ModelWeights& weights) { fused = ExpertValues(weights.layers[1]); };
    ASSERT_EQ(absl::OkStatus(), Load());
    EXPECT_EQ(checked_.plan.model.fused, FusedExperts::kRows);
    EXPECT_EQ(checked_.num_unknown, 0);
    EXPECT_EQ(stats_.bytes_read, bytes_read);
    EXPECT_TRUE(!values.empty() && fused == values);
  }
  look_ = nullptr;
  Start("mixtral");
  const std::string name = "model.layers.0.block_sparse_moe.experts.0.w1.weight";
  const FileTensor single = Tensor(name);
  tensors_ = FuseExperts(tensors_);
  Add(single);
  EXPECT_ERROR(Load(), kInvalid, "there are '" + name + "' and 'model.layers.0.mlp.experts.gate_up_proj'",
               "one must go");
  Start("mixtral_fp8_tensor");
  tensors_ = FuseExperts(tensors_);
  EXPECT_ERROR(Load(), kInvalid, "mlp.experts.gate_up_proj' holds several experts, which is supported for MXFP4, and ");
  Start("qwen3_5_moe");  // quantised but for its experts
  config_["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {16, 16}}};
  EXPECT_EQ(absl::OkStatus(), Load());
  EXPECT_EQ(checked_.plan.model.fused, FusedExperts::kRows);
}

// Llama 4's experts, fused and transposed, one by one.
TEST_F(ExpertLayouts, Llama4sExpertsMayBeSingle) {
  std::vector<float> values, single;
  Start("llama4_text");
  look_ = [&](const ModelWeights& weights) { values = ExpertValues(weights.layers[1]); };
  ASSERT_EQ(absl::OkStatus(), Load());
  for (const FileTensor& all : std::vector<FileTensor>(tensors_)) {
    const size_t at = all.name.find(".experts.");
    if (at == all.name.npos) continue;
    const int64_t rows = all.shape[1], cols = all.shape[2], size = DTypeBytes(all.dtype);
    const std::vector<std::string> parts = absl::EndsWith(all.name, "gate_up_proj")
                                               ? std::vector<std::string>{"gate_proj", "up_proj"}
                                               : std::vector<std::string>{"down_proj"};
    const int64_t width = cols / static_cast<int64_t>(parts.size());
    for (int64_t e = 0; e < all.shape[0]; ++e) {
      for (size_t p = 0; p < parts.size(); ++p) {
        FileTensor one{absl::StrCat(all.name.substr(0, at), ".experts.", e, ".", parts[p], ".weight"),
                       all.dtype,
                       {width, rows},
                       ""};
        for (int64_t i = 0; i < width * rows; ++i) {
          const int64_t from = (e * rows + i % rows) * cols + static_cast<int64_t>(p) * width + i / rows;
          one.data += all.data.substr(static_cast<size_t>(from * size), static_cast<size_t>(size));
        }
        Add(one);
      }
    }
    Remove(std::string(all.name));
  }
  look_ = [&](const ModelWeights& weights) { single = ExpertValues(weights.layers[1]); };
  ASSERT_EQ(absl::OkStatus(), Load());
  EXPECT_EQ(checked_.num_unknown, 0);
  EXPECT_TRUE(!values.empty() && single == values);
}

}  // namespace
}  // namespace tokenferry::testing
