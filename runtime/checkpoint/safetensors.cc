#include "runtime/checkpoint/safetensors.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_join.h"
#include "core/io/foreign_text.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

// a * b for non-negative values; false when it does not fit.
bool MultiplyInto(int64_t& a, int64_t b) { return !__builtin_mul_overflow(a, b, &a); }

// Reads the one shape of JSON that a header may have, value by value: no tree is built and nothing deeper is accepted.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(absl::string_view file, int64_t data_bytes) : file_(file), data_bytes_(data_bytes) {}
  const absl::Status& status() const { return status_; }
  std::vector<TensorInfo> TakeTensors() { return std::move(tensors_); }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(int64_t value) override { return Unexpected(absl::StrCat("the number ", value)); }
  bool number_float(double, const std::string& text) override {
    return Unexpected(absl::StrCat("the number ", Excerpt(text)));
  }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool number_unsigned(uint64_t value) override;
  bool string(std::string& value) override;
  bool start_object(size_t) override;
  bool key(std::string& key) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("header is not JSON: syntax error at byte ", position, " of the header"));
  }

 private:
  enum class Place : uint8_t { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool Fail(absl::string_view problem) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", problem));
    return false;
  }
  bool FailTensor(absl::string_view problem) {
    return Fail(absl::StrCat("tensor '", Excerpt(tensor_.name), "': ", problem));
  }
  bool Unexpected(absl::string_view what) {
    if (place_ == Place::kStart) return Fail(absl::StrCat("header is ", what, " instead of an object"));
    if (place_ == Place::kMetadata) {
      return Fail(absl::StrCat("__metadata__ key '", Excerpt(key_), "' is ", what, " instead of a string"));
    }
    if (place_ == Place::kTop)
      return Fail(absl::StrCat("header key '", Excerpt(key_), "' is ", what, " instead of an object"));
    return FailTensor(absl::StrCat("'", Excerpt(key_), "' is or has ", what, ", which is not allowed there"));
  }
  bool FinishTensor();

  const absl::string_view file_;
  const int64_t data_bytes_;
  absl::Status status_;
  Place place_ = Place::kStart;
  std::string key_;
  TensorInfo tensor_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::vector<uint64_t> offsets_;
  absl::flat_hash_set<std::string> names_;  // of tensors and of __metadata__ (a reserved name)
  absl::flat_hash_set<std::string> metadata_keys_;
  std::vector<TensorInfo> tensors_;
};

bool HeaderReader::number_unsigned(uint64_t value) {
  if (place_ == Place::kShape) {
    if (value > static_cast<uint64_t>(kMaxInt64)) return FailTensor(absl::StrCat("dimension ", value, " overflows"));
    if (tensor_.shape.size() == kMaxTensorRank) {
      return FailTensor(absl::StrCat("shape has more than ", kMaxTensorRank, " dimensions"));
    }
    tensor_.shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  if (place_ == Place::kOffsets) {
    if (offsets_.size() == 2) return FailTensor("data_offsets has more than two values");
    offsets_.push_back(value);
    return true;
  }
  return Unexpected(absl::StrCat("the number ", value));
}

bool HeaderReader::string(std::string& value) {
  if (place_ == Place::kMetadata) return true;
  if (place_ != Place::kTensor || key_ != "dtype") return Unexpected(absl::StrCat("the string '", Excerpt(value), "'"));
  const auto dtype = DTypeFromName(value);
  if (!dtype) tensor_.problem = absl::StrCat("has the unknown dtype '", Excerpt(value), "'");
  tensor_.dtype = dtype.value_or(DType::kU8);
  has_dtype_ = true;
  return true;
}

bool HeaderReader::start_object(size_t) {
  if (place_ == Place::kStart) {
    place_ = Place::kTop;
    return true;
  }
  if (place_ != Place::kTop) return Unexpected("an object");
  if (key_ == "__metadata__") {
    place_ = Place::kMetadata;
    return true;
  }
  place_ = Place::kTensor;
  tensor_ = {};
  tensor_.name = key_;
  has_dtype_ = has_shape_ = has_offsets_ = false;
  offsets_.clear();
  return true;
}

bool HeaderReader::key(std::string& key) {
  key_ = key;
  if (place_ == Place::kTop) {
    if (!names_.insert(key).second) return Fail(absl::StrCat("header names '", Excerpt(key), "' twice"));
    return true;
  }
  if (place_ == Place::kMetadata) {
    if (!metadata_keys_.insert(key).second) {
      return Fail(absl::StrCat("__metadata__ has the key '", Excerpt(key), "' twice"));
    }
    return true;
  }
  const bool known = key == "dtype" || key == "shape" || key == "data_offsets";
  if (!known) return FailTensor(absl::StrCat("has the unknown key '", Excerpt(key), "'"));
  const bool seen = key == "dtype" ? has_dtype_ : key == "shape" ? has_shape_ : has_offsets_;
  if (seen) return FailTensor(absl::StrCat("has the key '", key, "' twice"));
  return true;
}

bool HeaderReader::end_object() {
  if (place_ == Place::kTop) {
    place_ = Place::kEnd;
    return true;
  }
  const bool ok = place_ == Place::kMetadata || FinishTensor();
  place_ = Place::kTop;
  return ok;
}

bool HeaderReader::start_array(size_t) {
  if (place_ == Place::kTensor && key_ == "shape") {
    place_ = Place::kShape;
    has_shape_ = true;
    return true;
  }
  if (place_ == Place::kTensor && key_ == "data_offsets") {
    place_ = Place::kOffsets;
    has_offsets_ = true;
    return true;
  }
  return Unexpected("an array");
}

bool HeaderReader::end_array() {
  place_ = Place::kTensor;
  return true;
}

bool HeaderReader::FinishTensor() {
  if (!has_dtype_) return FailTensor("has no dtype");
  if (!has_shape_) return FailTensor("has no shape");
  if (offsets_.size() != 2) return FailTensor("has no data_offsets of two values");
  const uint64_t begin = offsets_[0], end = offsets_[1];
  if (end < begin) return FailTensor(absl::StrCat("data_offsets [", begin, ", ", end, ") are descending"));
  if (end > static_cast<uint64_t>(data_bytes_)) {
    return FailTensor(absl::StrCat("data_offsets [", begin, ", ", end, ") reach beyond the ", data_bytes_,
                                   " bytes of data in the file; is it complete?"));
  }
  tensor_.begin = static_cast<int64_t>(begin);
  tensor_.num_bytes = static_cast<int64_t>(end - begin);
  if (!tensor_.problem.empty()) {
    tensors_.push_back(std::move(tensor_));
    return true;
  }
  int64_t num_bits = DTypeBits(tensor_.dtype);
  for (const int64_t dim : tensor_.shape) {
    if (!MultiplyInto(num_bits, dim)) {
      return FailTensor(absl::StrCat("the size of ", DescribeTensor(tensor_.dtype, tensor_.shape), " overflows"));
    }
  }
  if (num_bits % 8 != 0) {
    return FailTensor(absl::StrCat(DescribeTensor(tensor_.dtype, tensor_.shape), " has ", num_bits,
                                   " bits, which are no whole bytes"));
  }
  const int64_t num_bytes = num_bits / 8;
  if (tensor_.num_bytes != num_bytes) {
    return FailTensor(absl::StrCat(DescribeTensor(tensor_.dtype, tensor_.shape), " needs ", num_bytes,
                                   " bytes, but data_offsets [", begin, ", ", end, ") hold ", tensor_.num_bytes));
  }
  tensors_.push_back(std::move(tensor_));
  return true;
}

// The format allows neither overlaps nor holes: every byte of the data belongs to one tensor.
absl::Status CheckCoverage(std::vector<TensorInfo>& tensors, int64_t data_bytes, absl::string_view file) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.num_bytes < b.num_bytes;
  });
  int64_t covered = 0;
  const TensorInfo* previous = nullptr;
  for (const TensorInfo& t : tensors) {
    if (t.begin < covered) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": tensor '", Excerpt(t.name), "': data_offsets [", t.begin, ", ", t.begin + t.num_bytes,
          ") overlap those of tensor '", Excerpt(previous->name), "' [", previous->begin, ", ", covered, ")"));
    }
    if (t.begin > covered) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": tensor '", Excerpt(t.name), "': data_offsets begin at ",
                                                     t.begin, ", which leaves a hole of ", t.begin - covered,
                                                     " bytes after byte ", covered));
    }
    covered = t.begin + t.num_bytes;
    previous = &t;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": the tensors cover ", covered, " bytes of data, but the file has ", data_bytes, " after its header"));
  }
  return absl::OkStatus();
}

// An error that names the kind of file, if it is one of those that stand in for safetensors files. For files that
// begin with what is no length of a header.
absl::Status CheckKind(const RangeFile& file) {
  std::string head(static_cast<size_t>(std::min(kForeignKindBytes, file.num_bytes())), '\0');
  TF_RETURN_IF_ERROR(file.Read(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(head.data()), head.size())));
  return CheckNotForeign(file.path(), head);
}

}  // namespace

absl::StatusOr<std::vector<TensorInfo>> ParseSafetensorsHeader(absl::string_view header, int64_t data_bytes,
                                                               absl::string_view file) {
  HeaderReader reader(file, data_bytes);
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &reader)) {
    if (!reader.status().ok()) return reader.status();
    return absl::InvalidArgumentError(absl::StrCat(file, ": header is not JSON"));
  }
  std::vector<TensorInfo> tensors = reader.TakeTensors();
  TF_RETURN_IF_ERROR(CheckCoverage(tensors, data_bytes, file));
  return tensors;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path,
                                                                       RangeFile::PreadFunction read) {
  TF_ASSIGN_OR_RETURN(auto file, RangeFile::Open(path, read));
  constexpr int64_t kLengthBytes = 8;
  if (file->num_bytes() < kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": has only ", file->num_bytes(),
                                                   " bytes; a safetensors file starts with 8 bytes of header length"));
  }
  uint8_t length_bytes[kLengthBytes];
  TF_RETURN_IF_ERROR(file->Read(0, absl::MakeSpan(length_bytes)));
  uint64_t length = 0;
  for (int i = 0; i < kLengthBytes; ++i) length |= uint64_t{length_bytes[i]} << (8 * i);
  const int64_t rest = file->num_bytes() - kLengthBytes;
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    TF_RETURN_IF_ERROR(CheckKind(*file));
    return absl::InvalidArgumentError(absl::StrCat(path, ": header length ", length, " is beyond the limit of ",
                                                   kMaxSafetensorsHeaderBytes, " bytes; is this a safetensors file?"));
  }
  if (length > static_cast<uint64_t>(rest)) {
    TF_RETURN_IF_ERROR(CheckKind(*file));
    return absl::InvalidArgumentError(absl::StrCat(path, ": header length ", length, " is beyond the end of the file (",
                                                   file->num_bytes(), " bytes); is it complete?"));
  }
  std::string header(static_cast<size_t>(length), '\0');
  TF_RETURN_IF_ERROR(
      file->Read(kLengthBytes, absl::MakeSpan(reinterpret_cast<uint8_t*>(header.data()), header.size())));
  TF_ASSIGN_OR_RETURN(auto tensors, ParseSafetensorsHeader(header, rest - static_cast<int64_t>(length), path));
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(length);
  return std::unique_ptr<SafetensorsFile>(new SafetensorsFile(std::move(file), data_begin, std::move(tensors)));
}

}  // namespace tokenferry
