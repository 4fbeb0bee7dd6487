// Writes a .safetensors file whose tensors are known beforehand and whose contents come piece by piece. Nothing stands
// under the final name before Commit: a run that fails leaves no half-written file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/formats/dtype.h"
#include "core/status.h"

namespace tokenferry {

class SafetensorsWriter {
 public:
  struct Spec {
    std::string name;  // unique
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
  };

  // Creates `path`.partial with room for everything. Errors name the path: it cannot be written, the disk is full.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path, std::vector<Spec> specs);
  // Removes the partial file unless committed.
  ~SafetensorsWriter();

  // Puts `num_bytes` at byte `offset` of tensor `tensor_idx` (place in `specs`). Must lie within the tensor.
  absl::Status Write(size_t tensor_idx, int64_t offset, const void* data, int64_t num_bytes);

  // Flushes to disk and moves the file to its final name, replacing what stood there.
  absl::Status Commit();

 private:
  SafetensorsWriter() = default;
  absl::Status Error(const char* what) const;  // with errno's text

  std::string path_, partial_path_;
  int fd_ = -1;
  std::vector<int64_t> tensor_offsets_;  // [n + 1] within the file
};

}  // namespace tokenferry
