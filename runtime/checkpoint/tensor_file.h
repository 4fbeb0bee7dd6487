// A file of tensors whose header has been read: what safetensors and GGUF files have in common.
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

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // row-major
  int64_t begin = 0;           // first byte, counted from where the file's data begins
  int64_t num_bytes = 0;       // of all elements
  std::string problem;         // not empty: the tensor cannot be used, and dtype means nothing
};

// "BF16 [2, 3]"
std::string DescribeTensor(DType dtype, absl::Span<const int64_t> shape);

// Reads may come from any thread.
class TensorFile {
 public:
  // Of a header that has been checked: every tensor lies in the file.
  TensorFile(std::unique_ptr<RangeFile> file, int64_t data_begin, std::vector<TensorInfo> tensors);
  virtual ~TensorFile() = default;  // a checkpoint owns its files without knowing of which format they are

  absl::Span<const TensorInfo> tensors() const { return tensors_; }
  const TensorInfo* Find(absl::string_view name) const;  // null: not here

  // dst.size() bytes of the tensor (one of tensors()) from byte `offset` of it. OutOfRange when the tensor is shorter.
  absl::Status Read(const TensorInfo& tensor, int64_t offset, absl::Span<uint8_t> dst) const;

  const std::string& path() const { return file_->path(); }
  int64_t bytes_read() const { return file_->bytes_read(); }  // header included

 private:
  std::unique_ptr<RangeFile> file_;
  int64_t data_begin_;
  std::vector<TensorInfo> tensors_;
  absl::flat_hash_map<absl::string_view, const TensorInfo*> by_name_;
};

}  // namespace tokenferry
