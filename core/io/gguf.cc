#include "core/io/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/io/foreign_text.h"
#include "core/io/gguf_types.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

using nlohmann::json;

constexpr int64_t kMaxHeaderBytes = int64_t{512} << 20;
constexpr int64_t kMaxValues = 16'000'000;  // of all lists together, and of tensors
constexpr uint32_t kMaxDims = 8;
constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
constexpr int64_t kDefaultAlignment = 32, kMaxAlignment = int64_t{1} << 20;

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kNumTypes
};
constexpr int64_t kValueBytes[kNumTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};  // of strings and lists: at least

// Reads forward through the file. The first error sticks; what is read after it is zero or empty.
class Cursor {
 public:
  explicit Cursor(const RangeFile& file) : file_(file) {}

  int64_t offset() const { return window_begin_ + static_cast<int64_t>(at_); }
  int64_t rest() const { return file_.num_bytes() - offset(); }
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

  void Fail(absl::string_view problem) {
    if (ok()) status_ = absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", problem));
  }

  template <class T>
  T Read(absl::string_view what) {
    T value{};
    if (Need(sizeof(T), what)) {
      std::memcpy(&value, window_.data() + at_, sizeof(T));
      at_ += sizeof(T);
    }
    return value;
  }

  // A number of things of at least `min_bytes` each.
  int64_t Count(int64_t min_bytes, absl::string_view what) {
    const auto count = Read<uint64_t>(what);
    if (count <= static_cast<uint64_t>(std::min(rest() / min_bytes, kMaxValues - num_values_))) {
      num_values_ += static_cast<int64_t>(count);
      return static_cast<int64_t>(count);
    }
    Fail(absl::StrCat("says that there are ", count, " ", what, ", for which the ", rest(),
                      " bytes that follow are too few or the limit of ", kMaxValues, " too low"));
    return 0;
  }

  std::string String(absl::string_view what) {
    const auto length = Read<uint64_t>(what);
    if (length > static_cast<uint64_t>(rest())) {
      Fail(absl::StrCat("has a ", what, " of ", length, " bytes at byte ", offset(), ", but only ", rest(),
                        " follow; is it complete?"));
    }
    if (!ok() || !Need(static_cast<size_t>(length), what)) return "";
    std::string text(reinterpret_cast<const char*>(window_.data()) + at_, static_cast<size_t>(length));
    at_ += static_cast<size_t>(length);
    return text;
  }

 private:
  // Whether the next `count` bytes lie in the window.
  bool Need(size_t count, absl::string_view what) {
    if (!ok()) return false;
    if (window_.size() - at_ >= count) return true;
    if (rest() < static_cast<int64_t>(count) || offset() + static_cast<int64_t>(count) > kMaxHeaderBytes) {
      Fail(rest() < static_cast<int64_t>(count)
               ? absl::StrCat("ends after ", file_.num_bytes(), " bytes, within its header, where a ", what,
                              " should be; is it complete?")
               : absl::StrCat("has a header of more than ", kMaxHeaderBytes, " bytes"));
      return false;
    }
    constexpr int64_t kWindowBytes = int64_t{1} << 20;
    const int64_t begin = offset(), num_bytes = std::min(std::max<int64_t>(kWindowBytes, count), rest());
    window_.resize(static_cast<size_t>(num_bytes));
    window_begin_ = begin;
    at_ = 0;
    status_ = file_.Read(begin, absl::MakeSpan(window_));
    return ok();
  }

  const RangeFile& file_;
  absl::Status status_;
  std::vector<uint8_t> window_;
  int64_t window_begin_ = 0;
  size_t at_ = 0;
  int64_t num_values_ = 0;
};

json ReadScalar(Cursor& in, uint32_t type, absl::string_view key) {
  switch (type) {
    case kU8:
      return in.Read<uint8_t>("value");
    case kI8:
      return in.Read<int8_t>("value");
    case kU16:
      return in.Read<uint16_t>("value");
    case kI16:
      return in.Read<int16_t>("value");
    case kU32:
      return in.Read<uint32_t>("value");
    case kI32:
      return in.Read<int32_t>("value");
    case kF32:
      return in.Read<float>("value");
    case kU64:
      return in.Read<uint64_t>("value");
    case kI64:
      return in.Read<int64_t>("value");
    case kF64:
      return in.Read<double>("value");
    case kString:
      return in.String("string");
    case kBool: {
      const auto value = in.Read<uint8_t>("value");
      if (value > 1) in.Fail(absl::StrCat("key '", Excerpt(key), "': the boolean is ", value, ", neither 0 nor 1"));
      return value == 1;
    }
    default:
      in.Fail(absl::StrCat("key '", Excerpt(key), "': the type ", type, " of its value is not known"));
      return nullptr;
  }
}

json ReadValue(Cursor& in, absl::string_view key) {
  const auto type = in.Read<uint32_t>("type");
  if (type != kArray) return ReadScalar(in, type, key);
  const auto element = in.Read<uint32_t>("type");
  if (element >= kNumTypes || element == kArray) {
    in.Fail(absl::StrCat("key '", Excerpt(key), "' is a list of elements of type ", element, ", which is not known"));
    return nullptr;
  }
  json list = json::array();
  const int64_t count = in.Count(kValueBytes[element], "elements");
  list.get_ref<json::array_t&>().reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count && in.ok(); ++i) list.push_back(ReadScalar(in, element, key));
  return list;
}

json ReadMetadata(Cursor& in, int64_t count) {
  json metadata = json::object();
  for (int64_t i = 0; i < count && in.ok(); ++i) {
    const std::string key = in.String("key");
    if (in.ok() && metadata.contains(key)) in.Fail(absl::StrCat("has the key '", Excerpt(key), "' twice"));
    json value = ReadValue(in, key);
    if (in.ok()) metadata.emplace(key, std::move(value));
  }
  return metadata;
}

// "Q4_K [64, 256]"
std::string Describe(const GgufTensor& t) { return absl::StrCat(t.type_name, " [", absl::StrJoin(t.shape, ", "), "]"); }

// Bytes of a tensor; -1, with an error: they overflow, or rows are no whole blocks.
int64_t NumBytes(Cursor& in, const GgufTensor& tensor, const GgufType& type) {
  const int64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (cols % type.block_elements != 0) {
    in.Fail(absl::StrCat("tensor '", Excerpt(tensor.name), "' is ", Describe(tensor), ", but blocks of ", type.name,
                         " have ", type.block_elements, " elements, which do not divide ", cols));
    return -1;
  }
  int64_t num_bytes = cols / type.block_elements;
  bool fits = !__builtin_mul_overflow(num_bytes, type.block_bytes, &num_bytes);
  for (size_t d = 0; d + 1 < tensor.shape.size(); ++d) {
    fits = fits && !__builtin_mul_overflow(num_bytes, tensor.shape[d], &num_bytes);
  }
  if (fits) return num_bytes;
  in.Fail(absl::StrCat("tensor '", Excerpt(tensor.name), "': the size of ", Describe(tensor), " overflows"));
  return -1;
}

// `begin` counts from the beginning of the data.
GgufTensor ReadTensor(Cursor& in) {
  GgufTensor tensor{.name = in.String("name")};
  const auto num_dims = in.Read<uint32_t>("number of dimensions");
  if (num_dims > kMaxDims) {
    in.Fail(absl::StrCat("tensor '", Excerpt(tensor.name), "' has ", num_dims, " dimensions, more than ", kMaxDims));
  }
  for (uint32_t d = 0; d < num_dims && in.ok(); ++d) {
    const auto dim = in.Read<uint64_t>("dimension");
    if (dim > static_cast<uint64_t>(kMaxInt64)) {
      in.Fail(absl::StrCat("tensor '", Excerpt(tensor.name), "': dimension ", dim, " overflows"));
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(dim));
  }
  const auto type_id = in.Read<uint32_t>("type");
  const auto offset = in.Read<uint64_t>("offset");
  if (offset > static_cast<uint64_t>(kMaxInt64)) {
    in.Fail(absl::StrCat("tensor '", Excerpt(tensor.name), "': offset ", offset, " overflows"));
  }
  if (!in.ok()) return tensor;
  tensor.begin = static_cast<int64_t>(offset);
  const GgufType* type = FindGgufType(type_id);
  tensor.type_name = type == nullptr ? absl::StrCat("type ", type_id) : std::string(type->name);
  if (type == nullptr) return tensor;
  tensor.dtype = type->dtype;
  tensor.num_bytes = NumBytes(in, tensor, *type);
  return tensor;
}

int64_t Alignment(Cursor& in, const json& metadata) {
  const auto it = metadata.find("general.alignment");
  if (it == metadata.end()) return kDefaultAlignment;
  const int64_t alignment = it->is_number_integer() ? it->get<int64_t>() : 0;
  if (alignment > 0 && alignment <= kMaxAlignment && (alignment & (alignment - 1)) == 0) return alignment;
  in.Fail(absl::StrCat("key 'general.alignment' is ", Excerpt(it->dump(-1, ' ', true, json::error_handler_t::replace)),
                       ", not a power of two of at most ", kMaxAlignment));
  return kDefaultAlignment;
}

// Moves the tensors' ranges to where they lie in the file, and checks them.
absl::Status PlaceTensors(const RangeFile& file, int64_t data_begin, int64_t alignment,
                          std::vector<GgufTensor>& tensors) {
  const auto fail = [&](const GgufTensor& t, auto&&... problem) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor '", Excerpt(t.name), "' ", problem...));
  };
  const int64_t data_bytes = file.num_bytes() - data_begin;  // negative: the file ends before its data
  absl::flat_hash_map<absl::string_view, GgufTensor*> by_name;
  for (GgufTensor& t : tensors) {
    if (t.begin % alignment != 0)
      return fail(t, "begins at byte ", t.begin, " of the data, which is no multiple of ", alignment);
    const auto [other, is_first] = by_name.emplace(t.name, &t);
    if (!is_first) t.problem = other->second->problem = "is there twice";
    if (t.num_bytes == 0 || (t.begin <= data_bytes && t.num_bytes <= data_bytes - t.begin)) continue;
    t.problem =
        absl::StrCat("takes ", t.num_bytes, " bytes from byte ", t.begin, " of the data, but the file has only ",
                     std::max<int64_t>(data_bytes, 0), " after its header (is it complete?)");
  }
  for (GgufTensor& t : tensors) {
    if (!t.problem.empty()) t.num_bytes = 0;
  }
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const GgufTensor& a, const GgufTensor& b) { return a.begin < b.begin; });
  const GgufTensor* previous = nullptr;
  for (const GgufTensor& t : tensors) {
    if (t.num_bytes == 0) continue;
    if (previous != nullptr && t.begin < previous->begin + previous->num_bytes) {
      return fail(t, "begins at byte ", t.begin, " of the data, within tensor '", Excerpt(previous->name), "' [",
                  previous->begin, ", ", previous->begin + previous->num_bytes, ")");
    }
    previous = &t;
  }
  for (GgufTensor& t : tensors) t.begin = t.num_bytes == 0 ? 0 : t.begin + data_begin;
  return absl::OkStatus();
}

void CheckMagic(Cursor& in, const RangeFile& file) {
  char magic[4];
  for (char& c : magic) c = in.Read<char>("\"GGUF\"");
  if (in.ok() && std::memcmp(magic, "GGUF", 4) != 0) {
    std::string head(static_cast<size_t>(std::min(kForeignKindBytes, file.num_bytes())), '\0');
    const absl::Status read = file.Read(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(head.data()), head.size()));
    const absl::string_view kind = read.ok() ? ForeignKind(head) : "";
    in.Fail(kind.empty() ? absl::StrCat("is no GGUF file: it begins with '", Excerpt({magic, 4}), "'")
                         : absl::StrCat("is ", kind));
  }
  const auto version = in.Read<uint32_t>("version");
  if (in.ok() && version != 0 && __builtin_bswap32(version) <= 3)
    in.Fail("is a big-endian GGUF file, which is not read");
  if (in.ok() && version != 2 && version != 3) {
    in.Fail(absl::StrCat("is of version ", version, " of the format; only 2 and 3 are read"));
  }
}

}  // namespace

bool IsGgufPath(absl::string_view path) { return absl::EndsWith(path, ".gguf"); }

absl::StatusOr<GgufHeader> ReadGgufHeader(const RangeFile& file) {
  Cursor in(file);
  CheckMagic(in, file);
  constexpr int64_t kMinTensorBytes = 24, kMinKeyBytes = 13;
  const int64_t num_tensors = in.Count(kMinTensorBytes, "tensors");
  const int64_t num_keys = in.Count(kMinKeyBytes, "keys");
  json metadata = ReadMetadata(in, num_keys);
  std::vector<GgufTensor> tensors;
  for (int64_t i = 0; i < num_tensors && in.ok(); ++i) tensors.push_back(ReadTensor(in));
  const int64_t alignment = Alignment(in, metadata);
  TF_RETURN_IF_ERROR(in.status());
  const int64_t data_begin = RoundUp(in.offset(), alignment);
  TF_RETURN_IF_ERROR(PlaceTensors(file, data_begin, alignment, tensors));
  return GgufHeader{JsonDocument::Of(std::move(metadata), file.path()), std::move(tensors)};
}

absl::StatusOr<JsonDocument> ReadGgufMetadata(const std::string& path) {
  TF_ASSIGN_OR_RETURN(const auto file, RangeFile::Open(path));
  TF_ASSIGN_OR_RETURN(GgufHeader header, ReadGgufHeader(*file));
  return header.metadata;
}

absl::StatusOr<std::vector<std::string>> GgufShards(const std::string& path, const JsonNode& metadata) {
  constexpr int64_t kMaxShards = 99'999;
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> count_node, metadata.Optional("split.count"));
  if (!count_node) return std::vector<std::string>{path};
  TF_ASSIGN_OR_RETURN(const int64_t count, count_node->Int(0, kMaxShards));
  if (count <= 1) return std::vector<std::string>{path};
  const std::string first = absl::StrFormat("-00001-of-%05d.gguf", count);
  const auto end = static_cast<int64_t>(path.size() - first.size());
  if (path.size() < first.size() || !absl::EndsWith(path, first)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": is one of ", count, " shards (split.count); give the first, whose name ends in '", first, "'"));
  }
  std::vector<std::string> shards, missing;
  for (int64_t i = 1; i <= count; ++i) {
    shards.push_back(absl::StrFormat("%s-%05d-of-%05d.gguf", path.substr(0, static_cast<size_t>(end)), i, count));
    if (absl::IsNotFound(RangeFile::Open(shards.back()).status())) missing.push_back(shards.back());
  }
  if (missing.empty()) return shards;
  return absl::NotFoundError(absl::StrCat(path, ": ", missing.size(), " of ", count,
                                          " shards are missing, the first of them ", missing[0],
                                          "; download them again"));
}

}  // namespace tokenferry
