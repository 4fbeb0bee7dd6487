#include "runtime/checkpoint/tensor_file.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tokenferry {

std::string DescribeTensor(DType dtype, absl::Span<const int64_t> shape) {
  return absl::StrCat(DTypeName(dtype), " [", absl::StrJoin(shape, ", "), "]");
}

TensorFile::TensorFile(std::unique_ptr<RangeFile> file, int64_t data_begin, std::vector<TensorInfo> tensors)
    : file_(std::move(file)), data_begin_(data_begin), tensors_(std::move(tensors)) {
  by_name_.reserve(tensors_.size());
  for (const TensorInfo& t : tensors_) by_name_[t.name] = &t;
}

const TensorInfo* TensorFile::Find(absl::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

absl::Status TensorFile::Read(const TensorInfo& tensor, int64_t offset, absl::Span<uint8_t> dst) const {
  const int64_t count = static_cast<int64_t>(dst.size());
  if (offset < 0 || offset > tensor.num_bytes || count > tensor.num_bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat(path(), ": tensor '", tensor.name, "': bytes [", offset, ", +", count,
                                              ") were asked for, but it has ", tensor.num_bytes));
  }
  return Annotate(file_->Read(data_begin_ + tensor.begin + offset, dst), absl::StrCat("tensor '", tensor.name, "'"));
}

}  // namespace tokenferry
