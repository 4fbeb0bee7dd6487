#include "runtime/model/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/device/cpu_device.h"
#include "core/formats/scalar.h"
#include "runtime/families/families.h"
#include "runtime/model/model_summary.h"
#include "runtime/ops/finite_check.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

struct DeviceCase {
  const char* name;
  CpuDeviceOptions options;
};

// A checkpoint on disk and a device to load it into.
class Weights : public ::testing::TestWithParam<DeviceCase> {
 protected:
  void Write(RandomCheckpoint spec) {
    spec_ = spec;
    tensors_ = RandomTensors(spec);
    WriteCheckpoint(dir_.path(), spec_, tensors_);
  }
  absl::StatusOr<ModelWeights> Load(const Placement& placement, int rank) {
    TF_ASSIGN_OR_RETURN(checkpoint_, OpenCheckpoint());
    TF_ASSIGN_OR_RETURN(const CheckedPlan checked, CheckCheckpoint(SpecOf(spec_.config), *checkpoint_));
    options_.placement = &placement;
    options_.rank = RankId(rank);
    return LoadWeights(*checkpoint_, checked.plan, *stream_, options_);
  }
  void SetUp() override {
    device_ = CreateCpuDevice(GetParam().options);
    auto stream = device_->CreateStream();
    ASSERT_OK(stream);
    stream_ = *std::move(stream);
  }

  std::string FromDevice(const void* data, size_t num_bytes) {
    std::string bytes(num_bytes, '?');
    stream_->CopyToHost(bytes.data(), data, num_bytes);
    EXPECT_TRUE(stream_->Synchronize().ok());
    return bytes;
  }

  void ExpectMatrix(const WeightView& view, const std::string& name) {
    const FileTensor& tensor = FindTensor(tensors_, name);
    ASSERT_EQ(view.dtype(), tensor.dtype) << name;
    ASSERT_EQ(view.rows, tensor.shape[0]) << name;
    ASSERT_EQ(view.cols, tensor.shape[1]) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % 64, 0u) << name;
    EXPECT_EQ(FromDevice(view.data, tensor.data.size()), tensor.data) << name;
    EXPECT_EQ(view.scales != nullptr, tensor.dtype == DType::kF8E4M3) << name;
    if (view.scales == nullptr) return;
    const FileTensor& scales = FindTensor(tensors_, name + "_scale_inv");
    EXPECT_EQ(view.scale_stride, scales.shape[1]) << name;
    EXPECT_TRUE(view.format == F8BlockWeights::Of(spec_.config.fp8_block, spec_.config.fp8_block)) << name;
    EXPECT_EQ(view.row_offset, 0) << name;
    EXPECT_EQ(FromDevice(view.scales, scales.data.size()), scales.data) << name;
  }

  void ExpectVector(const WeightView& view, const std::string& name) {
    const FileTensor& tensor = FindTensor(tensors_, name);
    ASSERT_EQ(view.dtype(), tensor.dtype) << name;
    ASSERT_EQ(view.rows, 1) << name;
    ASSERT_EQ(view.cols, tensor.shape[0]) << name;
    EXPECT_EQ(FromDevice(view.data, tensor.data.size()), tensor.data) << name;
  }

  void ExpectFfn(const LayerWeights& layer, Role gate, Role up, Role down, const std::string& prefix) {
    ExpectMatrix(layer[gate], prefix + "gate_proj.weight");
    ExpectMatrix(layer[up], prefix + "up_proj.weight");
    ExpectMatrix(layer[down], prefix + "down_proj.weight");
  }

  void ExpectExperts(const ExpertMatrices& matrices, absl::Span<const int> experts, const std::string& prefix,
                     const std::string& suffix) {
    ASSERT_EQ(matrices.host.size(), experts.size());
    if (experts.empty()) return;
    for (size_t slot = 0; slot < experts.size(); ++slot) {
      ExpectMatrix(matrices.host[slot], absl::StrCat(prefix, "experts.", experts[slot], suffix));
    }
    const std::string device = FromDevice(matrices.device, experts.size() * sizeof(WeightView));
    for (size_t slot = 0; slot < experts.size(); ++slot) {
      WeightView view;
      std::memcpy(&view, device.data() + slot * sizeof(WeightView), sizeof(WeightView));
      EXPECT_EQ(view.data, matrices.host[slot].data);
      EXPECT_EQ(view.scales, matrices.host[slot].scales);
      EXPECT_EQ(view.rows, matrices.host[slot].rows);
      EXPECT_EQ(view.cols, matrices.host[slot].cols);
    }
  }

  void ExpectAttention(const LayerWeights& layer, const std::string& prefix) {
    if (spec_.config.q_lora_rank > 0) {
      ExpectMatrix(layer[Role::kQA], prefix + "q_a_proj.weight");
      ExpectVector(layer[Role::kQANorm], prefix + "q_a_layernorm.weight");
      ExpectMatrix(layer[Role::kQB], prefix + "q_b_proj.weight");
      EXPECT_EQ(layer[Role::kQ].data, nullptr);
    } else {
      ExpectMatrix(layer[Role::kQ], prefix + "q_proj.weight");
      EXPECT_EQ(layer[Role::kQA].data, nullptr);
    }
    ExpectMatrix(layer[Role::kKvA], prefix + "kv_a_proj_with_mqa.weight");
    ExpectVector(layer[Role::kKvANorm], prefix + "kv_a_layernorm.weight");
    ExpectMatrix(layer[Role::kKvB], prefix + "kv_b_proj.weight");
    ExpectMatrix(layer[Role::kO], prefix + "o_proj.weight");
  }

  void ExpectAll(const ModelWeights& weights, absl::Span<const int> experts) {
    ExpectMatrix(weights.ends[Role::kEmbedTokens], "model.embed_tokens.weight");
    ExpectVector(weights.ends[Role::kFinalNorm], "model.norm.weight");
    ExpectMatrix(weights.ends[Role::kLmHead],
                 spec_.config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
    const ModelSpec model = SpecOf(spec_.config);
    ASSERT_EQ(weights.layers.size(), model.layers.size());
    for (size_t i = 0; i < weights.layers.size(); ++i) {
      const LayerWeights& layer = weights.layers[i];
      const std::string prefix = absl::StrCat("model.layers.", i, ".");
      ExpectVector(layer[Role::kInputNorm], prefix + "input_layernorm.weight");
      ExpectVector(layer[Role::kPostNorm], prefix + "post_attention_layernorm.weight");
      ExpectAttention(layer, prefix + "self_attn.");
      if (!model.layers[i].is_moe) {
        ExpectFfn(layer, Role::kDenseGate, Role::kDenseUp, Role::kDenseDown, prefix + "mlp.");
        EXPECT_TRUE(layer.expert_gate.host.empty());
        continue;
      }
      ExpectMoe(layer, experts, prefix + "mlp.");
    }
  }

  void ExpectMoe(const LayerWeights& layer, absl::Span<const int> experts, const std::string& prefix) {
    ExpectMatrix(layer[Role::kRouter], prefix + "gate.weight");
    const FileTensor& bias = FindTensor(tensors_, prefix + "gate.e_score_correction_bias");
    EXPECT_EQ(FromDevice(layer.vector(Role::kChoiceBias), bias.data.size()), bias.data);
    if (spec_.config.n_shared_experts > 0) {
      ExpectFfn(layer, Role::kSharedGate, Role::kSharedUp, Role::kSharedDown, prefix + "shared_experts.");
    } else {
      EXPECT_EQ(layer[Role::kSharedGate].data, nullptr);
    }
    ExpectExperts(layer.expert_gate, experts, prefix, ".gate_proj.weight");
    ExpectExperts(layer.expert_up, experts, prefix, ".up_proj.weight");
    ExpectExperts(layer.expert_down, experts, prefix, ".down_proj.weight");
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  TempDir dir_;
  RandomCheckpoint spec_;
  std::vector<FileTensor> tensors_;
  std::unique_ptr<Checkpoint> checkpoint_;
  LoadOptions options_;

 private:
  absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint() const {
    TF_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(dir_.path()));
    return std::make_unique<Checkpoint>(std::move(checkpoint));
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, Weights,
                         ::testing::Values(DeviceCase{"Eager", {}}, DeviceCase{"Threads", {.num_threads = 3}},
                                           DeviceCase{"Lazy", {.execution = CpuExecution::kLazy}},
                                           DeviceCase{"LazyTrap",
                                                      {.execution = CpuExecution::kLazy, .memory = CpuMemory::kTrap}}),
                         [](const auto& info) { return info.param.name; });

RandomCheckpoint TinyFp8() {
  RandomCheckpoint spec{.config = TinyConfig()};
  spec.config.dtype = DType::kBF16;
  spec.config.fp8_block = 16;  // 24, 20, 14 and 10 make partial blocks
  spec.num_shards = 3;
  spec.with_mtp = true;
  return spec;
}

TEST_P(Weights, EveryRankGetsItsExpertsAndTheRest) {
  options_.staging_bytes = 1024;  // so that tensors come in several chunks
  RandomCheckpoint f32{.config = TinyConfig()};
  RandomCheckpoint bf16{.config = TinyConfig(), .num_shards = 2};
  bf16.config.dtype = DType::kBF16;
  bf16.config.q_lora_rank = 0;
  bf16.config.n_shared_experts = 0;
  bf16.config.tie_word_embeddings = true;
  for (const RandomCheckpoint& spec : {f32, bf16, TinyFp8()}) {
    Write(spec);
    const Placement placement = Placement::Linear(8, 3);
    for (int rank = 0; rank < 3; ++rank) {
      const auto weights = Load(placement, rank);
      ASSERT_OK(weights);
      ExpectAll(*weights, placement.local_experts(RankId(rank)));
    }
    std::filesystem::remove(dir_.path() + "/model.safetensors");
  }
}

TEST_P(Weights, FollowsAnyPlacement) {
  Write(TinyFp8());
  const auto placement = Placement::FromTable(8, {{7, 0, 3}, {}, {5, 4, 6, 3, 2, 1}});
  ASSERT_OK(placement);
  for (int rank = 0; rank < 3; ++rank) {
    const auto weights = Load(*placement, rank);
    ASSERT_OK(weights);
    ExpectAll(*weights, placement->local_experts(RankId(rank)));
  }
}

TEST_P(Weights, ReadsNoMoreThanItKeepsAndUsesLittleMemory) {
  RandomCheckpoint spec = TinyFp8();
  spec.config.hidden_size = 192;
  spec.config.moe_intermediate_size = 160;
  Write(spec);
  options_.staging_bytes = 16 << 10;
  const Placement placement = Placement::Linear(8, 4);
  const auto weights = Load(placement, 2);
  ASSERT_OK(weights);
  const LoadStats& stats = weights->stats;
  const TensorPlan plan = CheckCheckpoint(SpecOf(spec_.config), *checkpoint_)->plan;
  EXPECT_EQ(stats.bytes_kept, BytesPerRank(plan, placement)[2]);
  EXPECT_LE(stats.bytes_read, stats.bytes_kept * 105 / 100);
  EXPECT_GE(stats.bytes_read, stats.bytes_kept);
  EXPECT_LT(stats.bytes_kept, SummarizeModel(plan).Total().num_bytes / 2);
  // What the files say was read: that, and their headers.
  int64_t header_bytes = 0;
  for (int s = 0; s < checkpoint_->num_shards(); ++s) {
    const std::string bytes = ReadFile(checkpoint_->shard(s).path());
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    header_bytes += 8 + static_cast<int64_t>(length);
  }
  EXPECT_EQ(checkpoint_->bytes_read(), stats.bytes_read + header_bytes);
  // On the device: the weights with their alignment, the views of the experts, and the staging buffer.
  const size_t views = 2 * 3 * 2 * sizeof(WeightView);
  EXPECT_EQ(device_->allocated_bytes(), static_cast<size_t>(stats.buffer_bytes) + views);
  EXPECT_LE(device_->peak_allocated_bytes(), static_cast<size_t>(stats.buffer_bytes) + views + (16 << 10));
  EXPECT_LE(stats.buffer_bytes, stats.bytes_kept + 64 * 2 * stats.num_tensors);
  EXPECT_LE(weights->buffers.size(), 3u * 3 + 3);  // at most three per layer, embedding, head, views
}

TEST_P(Weights, ReportsProgress) {
  Write(TinyFp8());
  std::vector<std::pair<int64_t, int64_t>> seen;
  options_.progress = [&](int64_t done, int64_t total) {
    seen.emplace_back(done, total);
    return absl::OkStatus();
  };
  const Placement placement = Placement::Linear(8, 1);
  const auto weights = Load(placement, 0);
  ASSERT_OK(weights);
  ASSERT_FALSE(seen.empty());
  for (size_t i = 1; i < seen.size(); ++i) EXPECT_GT(seen[i].first, seen[i - 1].first);
  EXPECT_EQ(seen.back().first, weights->stats.bytes_read);
  EXPECT_EQ(seen.front().second, weights->stats.bytes_read);
}

TEST_P(Weights, WidensABiasInBF16) {
  RandomCheckpoint spec = TinyFp8();
  Write(spec);
  FileTensor& bias = FindTensor(tensors_, "model.layers.1.mlp.gate.e_score_correction_bias");
  const std::string wide = bias.data;
  bias.dtype = DType::kBF16;
  bias.data.clear();
  std::vector<float> expected;
  for (size_t i = 0; i < wide.size(); i += 4) {
    float value;
    std::memcpy(&value, wide.data() + i, 4);
    const BF16 narrow = ToBF16(value);
    bias.data.append(reinterpret_cast<const char*>(&narrow), 2);
    expected.push_back(ToFloat(narrow));
  }
  WriteCheckpoint(dir_.path(), spec_, tensors_);
  const Placement placement = Placement::Linear(8, 1);
  const auto weights = Load(placement, 0);
  ASSERT_OK(weights);
  const std::string loaded = FromDevice(weights->layers[1].vector(Role::kChoiceBias), 32);
  EXPECT_EQ(std::memcmp(loaded.data(), expected.data(), 32), 0);
}

TEST_P(Weights, RefusesElementsThatAreNoNumbers) {
  const Placement placement = Placement::Linear(8, 2);
  const std::string fp8 = "model.layers.2.mlp.experts.1.down_proj.weight";  // [24, 20]
  Write(TinyFp8());
  FindTensor(tensors_, fp8).data[5 * 20 + 7] = '\xFF';
  WriteCheckpoint(dir_.path(), spec_, tensors_);
  EXPECT_ERROR(Load(placement, 0), kDataLoss, dir_.path(), absl::StrCat("tensor '", fp8, "'"), "element 107",
               "row 5, column 7", "F8_E4M3 [24, 20]", "NaN (0xff)");
  EXPECT_TRUE(Load(placement, 1).ok());  // does not need that expert

  Write(TinyFp8());
  const float infinity = -std::numeric_limits<float>::infinity();
  std::memcpy(FindTensor(tensors_, fp8 + "_scale_inv").data.data() + 12, &infinity, 4);  // [2, 2]
  WriteCheckpoint(dir_.path(), spec_, tensors_);
  int64_t done = 0;
  options_.progress = [&](int64_t bytes_done, int64_t) {
    done = bytes_done;
    return absl::OkStatus();
  };
  EXPECT_ERROR(Load(placement, 0), kDataLoss, fp8 + "_scale_inv", "element 3", "-inf (0xff800000)");
  EXPECT_LT(done, 8000);  // before the large weights
  options_.progress = nullptr;

  Write(TinyFp8());
  std::string& head = FindTensor(tensors_, "lm_head.weight").data;  // BF16 [37, 24]
  head[head.size() - 2] = '\xC0';
  head[head.size() - 1] = '\x7F';
  WriteCheckpoint(dir_.path(), spec_, tensors_);
  options_.staging_bytes = 1024;
  EXPECT_ERROR(Load(placement, 1), kDataLoss, "lm_head.weight", "element 887", "row 36, column 23", "NaN (0x7fc0)");

  std::memset(head.data() + 200, 0xFF, head.size() - 200);  // whoever reads what lies behind, the first one is named
  WriteCheckpoint(dir_.path(), spec_, tensors_);
  EXPECT_ERROR(Load(placement, 1), kDataLoss, "lm_head.weight", "element 100", "row 4, column 4", "NaN (0xffff)");
}

TEST_P(Weights, RefusesAPlacementOfAnotherModel) {
  Write(TinyFp8());
  const Placement placement = Placement::Linear(9, 2);
  EXPECT_ERROR(Load(placement, 0), absl::StatusCode::kInvalidArgument, "placement is for 9 experts", "has 8");
  const Placement other = Placement::Linear(8, 2);
  EXPECT_ERROR(Load(other, 2), absl::StatusCode::kInvalidArgument, "rank 2 is not one of the placement's 2 ranks");
}

TEST_P(Weights, NamesAFileThatEndsEarly) {
  RandomCheckpoint spec = TinyFp8();
  spec.with_mtp = false;  // what is cut off must be needed
  Write(spec);
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_OK(checkpoint);
  const auto checked = CheckCheckpoint(SpecOf(spec_.config), *checkpoint);
  ASSERT_OK(checked);
  const std::string& path = checkpoint->shard(2).path();
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 300);
  const Placement placement = Placement::Linear(8, 1);
  options_.placement = &placement;
  EXPECT_ERROR(LoadWeights(*checkpoint, checked->plan, *stream_, options_), kDataLoss, path, "ended while reading",
               "tensor '");
}

TEST(ShippedModel, LoadsOnEveryRankCount) {
  const std::string dir = std::string(std::getenv("TF_SOURCE_DIR")) + "/models/ferry-tiny-v3";
  const auto config = LoadModelSpec(dir);
  const auto checkpoint = Checkpoint::Open(dir);
  ASSERT_OK(config);
  ASSERT_OK(checkpoint);
  const auto checked = CheckCheckpoint(*config, *checkpoint);
  ASSERT_OK(checked);
  for (const int num_ranks : {1, 3}) {
    const Placement placement = Placement::Linear(32, num_ranks);
    const auto device = CreateCpuDevice({});
    const auto stream = device->CreateStream();
    ASSERT_OK(stream);
    const auto weights =
        LoadWeights(*checkpoint, checked->plan, **stream, {.placement = &placement, .rank = RankId(num_ranks - 1)});
    ASSERT_OK(weights);
    EXPECT_EQ(weights->stats.bytes_kept, BytesPerRank(checked->plan, placement)[static_cast<size_t>(num_ranks) - 1]);
    EXPECT_EQ(weights->stats.bytes_read, weights->stats.bytes_kept);
  }
}

TEST(FindNonFinite, FindsTheFirstWhereverItIs) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, size_t{10000}}) {
    std::vector<uint8_t> bytes(count * 4, 0x7E);  // finite in all three types: 448, 8.4e37, 8.4e37
    for (const DType dtype : {DType::kF8E4M3, DType::kBF16, DType::kF32}) {
      EXPECT_EQ(FindNonFinite(dtype, bytes), -1);
      const size_t size = static_cast<size_t>(DTypeBytes(dtype));
      for (const size_t idx : {size_t{0}, count / 2, count - 1}) {
        if (idx >= count) continue;
        std::vector<uint8_t> damaged = bytes;
        std::fill_n(damaged.end() - static_cast<std::ptrdiff_t>(size), size, 0xFF);  // the last, and one before
        std::fill_n(damaged.begin() + static_cast<std::ptrdiff_t>(idx * size), size, 0xFF);
        EXPECT_EQ(FindNonFinite(dtype, damaged), static_cast<int64_t>(idx)) << DTypeName(dtype) << " of " << count;
      }
    }
  }
  // All codes of the two narrow types, against their meaning.
  for (int code = 0; code < 0x10000; ++code) {
    const uint8_t bytes[2] = {static_cast<uint8_t>(code), static_cast<uint8_t>(code >> 8)};
    EXPECT_EQ(FindNonFinite(DType::kBF16, bytes) < 0, std::isfinite(ToFloat(BF16{static_cast<uint16_t>(code)})));
    if (code > 0xFF) continue;
    EXPECT_EQ(FindNonFinite(DType::kF8E4M3, absl::MakeSpan(bytes, 1)) < 0,
              std::isfinite(ToFloat(F8E4M3{static_cast<uint8_t>(code)})));
  }
}

}  // namespace
}  // namespace tokenferry::testing
