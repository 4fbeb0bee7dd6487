// The input is a config.json and a generation_config.json. Sizes of an accepted model must be positive and not
// overflow.
#include <string>

#include "core/check.h"
#include "runtime/families/families.h"
#include "runtime/model/generation_config.h"
#include "runtime/model/model_summary.h"

namespace {

void CheckMessage(const absl::Status& status) {
  TF_CHECK(status.message().size() < 2000);
  TF_CHECK(status.message().find('\n') == absl::string_view::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tokenferry;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  ModelSpec model;
  model.vocab_size = 100;
  if (const auto generation = ParseGenerationConfig(text, "generation_config.json", model); !generation.ok()) {
    CheckMessage(generation.status());
  }
  const auto config = ParseModelSpec(text, "config.json");
  if (!config.ok()) {
    CheckMessage(config.status());
    return 0;
  }
  constexpr int64_t kQuickExperts = 2000;  // larger plans are as correct and only slower
  if (config->moe.num_experts * config->num_layers() > kQuickExperts) return 0;
  const auto plan = PlanTensors(*config);
  if (!plan.ok()) {
    CheckMessage(plan.status());
    return 0;
  }
  for (const TensorSpec& spec : plan->tensors) TF_CHECK(spec.num_elements() > 0);
  const PartSummary total = SummarizeModel(*plan).Total();
  TF_CHECK(total.num_params >= total.num_active_params);
  TF_CHECK(total.num_active_params > 0);
  TF_CHECK(total.num_bytes >= total.num_params);
  return 0;
}
