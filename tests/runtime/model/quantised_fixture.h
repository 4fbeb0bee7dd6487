// A golden checkpoint with quantised projections, of which a test changes something.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/device/cpu_device.h"
#include "runtime/families/families.h"
#include "runtime/model/expert_dtype.h"
#include "runtime/model/model_summary.h"
#include "runtime/model/weights.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {

inline std::string FamilyDir(const std::string& name) {
  return std::string(std::getenv("TF_SOURCE_DIR")) + "/tests/data/families/" + name;
}

// A golden checkpoint of one file whose config and tensors a test changes.
class Quantised : public ::testing::Test {
 protected:
  void Start(const std::string& family) {
    config_ = nlohmann::json::parse(ReadFile(FamilyDir(family) + "/config.json"));
    const auto file = SafetensorsFile::Open(FamilyDir(family) + "/model.safetensors");
    ASSERT_OK(file);
    tensors_.clear();
    for (const TensorInfo& info : (*file)->tensors()) {
      FileTensor tensor{info.name, info.dtype, info.shape, std::string(static_cast<size_t>(info.num_bytes), '\0')};
      ASSERT_OK(
          (*file)->Read(info, 0, absl::MakeSpan(reinterpret_cast<uint8_t*>(tensor.data.data()), tensor.data.size())));
      tensors_.push_back(std::move(tensor));
    }
  }
  FileTensor& Tensor(const std::string& name) { return FindTensor(tensors_, name); }
  void Remove(const std::string& name) {
    std::erase_if(tensors_, [&](const FileTensor& t) { return t.name == name; });
  }
  void Add(FileTensor tensor) { tensors_.push_back(std::move(tensor)); }
  nlohmann::json& quant() { return config_["quantization_config"]; }

  // The status of reading the config, checking the headers and loading, whichever fails first.
  absl::Status Load() {
    WriteFile(dir_.path() + "/config.json", config_.dump());
    WriteFile(dir_.path() + "/model.safetensors", SafetensorsBytes(tensors_));
    TF_ASSIGN_OR_RETURN(const ModelSpec model, LoadModelSpec(dir_.path()));
    TF_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(dir_.path()));
    TF_ASSIGN_OR_RETURN(checked_, CheckCheckpoint(model, checkpoint));
    const auto device = CreateCpuDevice({});
    TF_ASSIGN_OR_RETURN(const auto stream, device->CreateStream());
    const Placement placement = Placement::Linear(static_cast<int>(model.moe.num_experts), 1);
    TF_RETURN_IF_ERROR(SetExpertDtype(expert_dtype_, checked_.plan));
    TF_ASSIGN_OR_RETURN(const ModelWeights weights, LoadWeights(checkpoint, checked_.plan, *stream,
                                                                {.placement = &placement, .staging_bytes = 64 << 10}));
    stats_ = weights.stats;
    if (look_) look_(weights);
    kept_ = BytesPerRank(checked_.plan, placement)[0];
    conversion_ = ConversionBytesPerRank(checked_.plan, placement)[0];
    return absl::OkStatus();
  }

  TempDir dir_;
  nlohmann::json config_;
  std::vector<FileTensor> tensors_;
  ExpertDtype expert_dtype_ = ExpertDtype::kStored;
  CheckedPlan checked_;
  std::function<void(const ModelWeights&)> look_;  // once they are loaded; may be empty
  LoadStats stats_;
  int64_t kept_ = 0, conversion_ = 0;  // bytes that the plan says memory holds, and while experts are converted
};

}  // namespace tokenferry::testing
