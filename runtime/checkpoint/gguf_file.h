// A GGUF file as a file of tensors.
#pragma once

#include <memory>
#include <string>

#include "core/io/json.h"
#include "core/status.h"
#include "runtime/checkpoint/tensor_file.h"

namespace tokenferry {

// Only the header is read by Open (core/io/gguf.h says what it refuses, and which tensors have a `problem`). One of a
// type that kernels do not read has a `problem` that says how many there are of such types.
class GgufFile : public TensorFile {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);

  const JsonDocument& metadata() const { return metadata_; }

 private:
  GgufFile(std::unique_ptr<RangeFile> file, std::vector<TensorInfo> tensors, JsonDocument metadata)
      : TensorFile(std::move(file), 0, std::move(tensors)), metadata_(std::move(metadata)) {}

  JsonDocument metadata_;
};

}  // namespace tokenferry
