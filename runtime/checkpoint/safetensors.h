// The safetensors format (huggingface/safetensors): 8 bytes of header length N (little-endian), N bytes of JSON
// {name: {"dtype", "shape", "data_offsets": [begin, end)}, "__metadata__": {..}}, then the data without holes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/io/range_file.h"
#include "core/status.h"
#include "runtime/checkpoint/tensor_file.h"

namespace tokenferry {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;
inline constexpr int kMaxTensorRank = 8;

// The tensors of a header, in the order of their data. `data_bytes` is what follows the header in the file. Refuses,
// with `file` and the tensor's name in the message: what is no JSON, unknown or missing fields, duplicate names, shapes
// whose size overflows or differs from the offsets, ranges outside the data, overlaps and holes. A tensor of an unknown
// dtype has a `problem`, since nobody may need it. Memory used is in proportion to the header.
absl::StatusOr<std::vector<TensorInfo>> ParseSafetensorsHeader(absl::string_view header, int64_t data_bytes,
                                                               absl::string_view file);

// Only the header is read by Open.
class SafetensorsFile : public TensorFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path,
                                                               RangeFile::PreadFunction read = nullptr);

 private:
  using TensorFile::TensorFile;
};

}  // namespace tokenferry
