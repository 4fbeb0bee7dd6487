// From config.json to ModelSpec: the families of models that this runtime knows.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

// `text` is the contents of a config.json; `name` stands for the file in errors. InvalidArgument names the key, its
// value and what is allowed. Unimplemented names a model_type, architecture, activation, router, rotary scaling or
// quantisation that is not known. Keys that do not change the model's function are ignored.
absl::StatusOr<ModelSpec> ParseModelSpec(absl::string_view text, absl::string_view name);
// Of a folder of the hub, or of a .gguf file: its metadata then is what config.json would say (families/gguf.h).
absl::StatusOr<ModelSpec> LoadModelSpec(const std::string& model_dir);

}  // namespace tokenferry
