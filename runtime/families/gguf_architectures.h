// The architectures of GGUF files: which family each is, and how its metadata becomes that family's config. Internal to
// this folder.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/attention/rope.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/config_reader.h"
#include "runtime/model/weight_role.h"

namespace tokenferry {

// A key of the metadata, behind the architecture's name and a dot, and the config's key of the same meaning.
struct GgufKey {
  absl::string_view gguf, config;
};

enum class YarnTruncate : uint8_t { kYes, kNo };

struct GgufArchitecture {
  absl::string_view name;        // general.architecture
  absl::string_view model_type;  // of the family's config
  std::vector<GgufKey> keys;     // besides those that all architectures have
  // Completes the config; `in` reads the metadata. Null: there is nothing to complete.
  void (*read)(ConfigReader& in, const Checkpoint& checkpoint, nlohmann::json& config) = nullptr;
  RopeLayout rope_layout = RopeLayout::kHalfSplit;
  std::map<Role, std::string> names = {};  // where they differ from those that most architectures have
  int64_t scoring = 1;  // expert_gating_func: 1 softmax, 2 sigmoid, 3 softmax of the chosen; 0: `read` looks at it
  YarnTruncate truncate = YarnTruncate::kYes;
};

const std::vector<GgufArchitecture>& GgufArchitectures();

// "llama.block_count"
std::string GgufKeyName(ConfigReader& in, absl::string_view key);

}  // namespace tokenferry
