// The safetensors format (huggingface/safetensors): 8 bytes of header length N (little-endian), N bytes of JSON
// {name: {"dtype", "shape", "data_offsets": [begin, end)}, "__metadata__": {..}}, then the data without holes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/formats/dtype.h"
#include "core/io/range_file.h"
#include "core/status.h"

namespace tokenferry {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;
inline constexpr int kMaxTensorRank = 8;

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // row-major
  int64_t begin = 0;           // first byte, counted from the end of the header
  int64_t num_bytes = 0;       // product of shape times bits per element, in whole bytes
  std::string problem;         // not empty: the tensor cannot be used, and dtype means nothing
};

// "BF16 [2, 3]"
std::string DescribeTensor(DType dtype, absl::Span<const int64_t> shape);

// The tensors of a header, in the order of their data. `data_bytes` is what follows the header in the file. Refuses,
// with `file` and the tensor's name in the message: what is no JSON, unknown or missing fields, duplicate names, shapes
// whose size overflows or differs from the offsets, ranges outside the data, overlaps and holes. A tensor of an unknown
// dtype has a `problem`, since nobody may need it. Memory used is in proportion to the header.
absl::StatusOr<std::vector<TensorInfo>> ParseSafetensorsHeader(absl::string_view header, int64_t data_bytes,
                                                               absl::string_view file);

// An open file. Only the header is read by Open. Reads may come from any thread.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path,
                                                               RangeFile::PreadFunction read = nullptr);

  absl::Span<const TensorInfo> tensors() const { return tensors_; }
  const TensorInfo* Find(absl::string_view name) const;  // null: not here

  // dst.size() bytes of the tensor (one of tensors()) from byte `offset` of it. OutOfRange when the tensor is shorter.
  absl::Status Read(const TensorInfo& tensor, int64_t offset, absl::Span<uint8_t> dst) const;

  const std::string& path() const { return file_->path(); }
  int64_t bytes_read() const { return file_->bytes_read(); }  // header included

 private:
  SafetensorsFile(std::unique_ptr<RangeFile> file, int64_t data_begin, std::vector<TensorInfo> tensors);

  std::unique_ptr<RangeFile> file_;
  int64_t data_begin_;
  std::vector<TensorInfo> tensors_;
  absl::flat_hash_map<absl::string_view, const TensorInfo*> by_name_;
};

}  // namespace tokenferry
