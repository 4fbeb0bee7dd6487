// What a user takes for a model's folder.
#pragma once

#include <string>

#include "core/status.h"

namespace tokenferry {

// OK for a folder with a config.json. Else one line that says what `path` is and what to give instead: a file of the
// folder, a name of the Hugging Face hub, a folder of its cache, an empty folder, ..
absl::Status CheckModelFolder(const std::string& path);

// For a folder without the safetensors files that it should have: what weights are there instead, and what to do.
// Empty: none that is known.
std::string OtherWeights(const std::string& dir);

}  // namespace tokenferry
