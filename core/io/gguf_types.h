// The types of tensors in GGUF files.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "core/formats/dtype.h"

namespace tokenferry {

struct GgufType {
  uint32_t id;  // in files
  absl::string_view name;
  int64_t block_elements, block_bytes;
  std::optional<DType> dtype;  // none: nothing here reads it
};

// Null: ggml has no such type (some ids were given up).
const GgufType* FindGgufType(uint32_t id);

}  // namespace tokenferry
