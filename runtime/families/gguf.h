// Models in GGUF files: their metadata as the config.json of the same model, and ggml's names of tensors. Internal to
// this folder.
#pragma once

#include "core/io/json.h"
#include "core/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

// The config.json that the hub's folder of the model has, as far as the runtime asks for it: sizes and rules from the
// metadata of the first file, the vocabulary and whether the head is tied from the tensors. Unimplemented names an
// architecture, a scaling of the rotation or a scoring that is not known, and the ones that are.
absl::StatusOr<JsonDocument> ConfigOfGguf(const JsonNode& metadata, const Checkpoint& checkpoint);

// After the family has read that: names, how experts lie, and which pairs of a head turn together.
void NameLikeGguf(const JsonNode& metadata, const Checkpoint& checkpoint, ModelSpec& spec);

// After that: factors of the rotation, which files have as tensors, where there are any. An error names the tensor: a
// wrong type or shape, a factor that is not positive, or another scaling beside it.
absl::Status ReadRopeFactors(const JsonNode& metadata, const Checkpoint& checkpoint, ModelSpec& spec);

}  // namespace tokenferry
