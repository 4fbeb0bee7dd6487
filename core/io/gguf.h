// The header of a GGUF file (ggml's docs/gguf.md), versions 2 and 3, little-endian: "GGUF", u32 version, u64 number of
// tensors, u64 number of keys; key, u32 type and value of each; name, u32 number of dimensions, u64 dimensions with the
// fastest first, u32 type and u64 offset of each tensor. The data begins at the next multiple of `general.alignment`.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/formats/dtype.h"
#include "core/io/json.h"
#include "core/io/range_file.h"
#include "core/status.h"

namespace tokenferry {

struct GgufTensor {
  std::string name;
  std::string type_name;       // ggml's: "Q4_K"
  std::optional<DType> dtype;  // none: a type that kernels do not read
  std::vector<int64_t> shape;  // row-major, which is the file's order reversed
  int64_t begin = 0;           // first byte in the file
  int64_t num_bytes = 0;       // 0 where the type is not known, or with a problem
  std::string problem;         // not empty: the tensor cannot be used
};

struct GgufHeader {
  // An object with the file's keys as they are ("llama.block_count"). Numbers, strings, booleans and lists of them;
  // errors of its nodes name the file and the key.
  JsonDocument metadata;
  std::vector<GgufTensor> tensors;  // in the order of their data
};

// "a.gguf"
bool IsGgufPath(absl::string_view path);

// Refuses with one line that names the file: what is no GGUF, another version, a file that ends within its header,
// counts and lengths beyond what the file can hold, keys named twice, rows that are no whole blocks of their type,
// sizes that overflow, data off the alignment or overlapping. Tensors that nobody may need are kept: those of an
// unknown type, and as a `problem` those that are named twice or reach beyond the file's end. Memory used is in
// proportion to the header.
absl::StatusOr<GgufHeader> ReadGgufHeader(const RangeFile& file);
// The metadata of the file at `path`.
absl::StatusOr<JsonDocument> ReadGgufMetadata(const std::string& path);

// The GGUF files of a model, in order: `path` alone, or where its metadata counts shards (split.count) all of them,
// which are named NAME-00001-of-00003.gguf; `path` is then the first. NotFound names the shards that are missing.
absl::StatusOr<std::vector<std::string>> GgufShards(const std::string& path, const JsonNode& metadata);

}  // namespace tokenferry
