#include "runtime/model/tensor_check.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace tokenferry {
namespace {

using Use = StoredTensor::Use;

constexpr size_t kMaxNamesShown = 5;

bool IsPlain(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

// Blocks of GGUF files: what is multiplied, and the embedding.
bool TakesBlocks(const TensorSpec& spec) {
  return InfoOf(spec.role).storage == Storage::kQuantised || spec.role == Role::kEmbedTokens ||
         spec.role == Role::kLmHead;
}
bool IsPlainFor(const TensorSpec& spec, DType dtype) {
  return IsPlain(dtype) || (IsBlockType(dtype) && TakesBlocks(spec));
}

bool IsQuantised(const TensorSpec& spec) { return spec.stored.size() > 1 && !spec.is_split(); }

std::string Describe(const StoredTensor& tensor) { return DescribeTensor(tensor.dtype, tensor.shape); }

// Who says what there should be.
absl::string_view AskedBy(const Checkpoint& checkpoint) {
  return checkpoint.is_gguf() ? "the metadata" : "config.json";
}

// What a tensor of that name may be.
std::string AllowedTypes(const ModelSpec& model, const TensorSpec& spec) {
  if (!IsPlain(spec.dtype()) && spec.dtype() != DType::kF8E4M3 && spec.dtype() != DType::kI8) {
    return std::string(DTypeName(spec.dtype()));
  }
  const bool quantised = InfoOf(spec.role).storage == Storage::kQuantised;
  if (!quantised) return "F32, BF16 or F16";
  return model.quant.method == QuantMethod::kI8 ? "F32, BF16, F16 or I8 with scales"
                                                : "F32, BF16, F16 or F8_E4M3 with scales";
}

std::string NameOf(Use use) {
  return use == Use::kScales ? "scales" : use == Use::kZeroPoints ? "zero points" : "groups of inputs";
}

std::string AllowedTypes(const StoredTensor& side) {
  return side.use == Use::kScales && side.dtype != DType::kU8 ? "F32, BF16 or F16" : std::string(DTypeName(side.dtype));
}

// Scales may come as [] or [1] or with dimensions of one at their ends.
std::vector<int64_t> WithoutOnes(std::vector<int64_t> shape) {
  std::erase(shape, 1);
  return shape;
}

// GGUF files leave out the first dimensions, ggml's last, where they are one.
absl::Span<const int64_t> WithoutFirstOnes(absl::Span<const int64_t> shape) {
  while (!shape.empty() && shape.front() == 1) shape.remove_prefix(1);
  return shape;
}

}  // namespace

std::string TensorCheck::PathOf(const std::string& name) const {
  return checkpoint_.shard(checkpoint_.Find(name)->shard_idx).path();
}

// An error when the tensor, which is needed, has a fault or a problem.
absl::Status TensorCheck::CheckUsable(const std::string& name) const {
  const absl::Status& fault = checkpoint_.FaultOf(name);
  if (!fault.ok()) return absl::Status(fault.code(), absl::StrCat(fault.message(), "; '", name, "' is needed"));
  const Checkpoint::Tensor* found = checkpoint_.Find(name);
  if (found == nullptr || found->info->problem.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(PathOf(name), ": tensor '", name, "' ", found->info->problem, ", and it is needed"));
}

// Quantised or not, as the files have it; where they have nothing, as it was.
absl::Status TensorCheck::Choose(TensorSpec& spec) const {
  if (!CanBeQuantised(model_, spec.role)) return absl::OkStatus();
  TensorSpec plain = spec, quantised = spec;
  StorePlain(model_, model_.dtype, plain);
  StoreQuantised(model_, quantised);
  const Checkpoint::Tensor *found = checkpoint_.Find(quantised.name()), *found_plain = checkpoint_.Find(plain.name());
  if (quantised.name() == plain.name()) {
    if (found != nullptr && IsPlain(found->info->dtype)) found = nullptr;
    if (found != nullptr) found_plain = nullptr;
  }
  if (found != nullptr && found_plain != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint_.dir(), ": there are '", plain.name(), "' and '", quantised.name(), "': one must go"));
  }
  if (found_plain != nullptr) spec = std::move(plain);
  if (found == nullptr) return absl::OkStatus();
  spec = std::move(quantised);
  const std::string& path = PathOf(spec.name());
  const std::string problem = QuantisationProblem(model_, spec);
  if (!problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor '", spec.name(), "' ", problem));
  }
  const std::string module(absl::StripSuffix(PlainName(model_, spec.role, spec.layer, spec.expert), ".weight"));
  TF_ASSIGN_OR_RETURN(const std::string* const pattern, ignored_.FindMatch(module));
  if (pattern == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": tensor '", spec.name(), "' is ", DTypeName(found->info->dtype), ", but '", model_.quant.ignore_key,
      "' in the quantization_config says by '", *pattern, "' that it is not quantised"));
}

absl::Status TensorCheck::CheckData(const TensorSpec& spec, const StoredTensor& data) const {
  const std::string& name = data.name;
  const TensorInfo& info = *checkpoint_.Find(name)->info;
  const std::string path = PathOf(name);
  const bool fits =
      checkpoint_.is_gguf() ? WithoutFirstOnes(info.shape) == WithoutFirstOnes(data.shape) : info.shape == data.shape;
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": tensor '", name, "' is ", DescribeTensor(info.dtype, info.shape), ", but ",
                     AskedBy(checkpoint_), " asks for [", absl::StrJoin(data.shape, ", "), "]"));
  }
  if (IsQuantised(spec) ? info.dtype == data.dtype : IsPlainFor(spec, info.dtype)) return absl::OkStatus();
  const bool is_projection = InfoOf(spec.role).storage == Storage::kQuantised;
  if (is_projection && !model_.quant.is_quantised() && (info.dtype == DType::kF8E4M3 || info.dtype == DType::kI8)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": tensor '", name, "' is stored as ", DTypeName(info.dtype),
                     ", but config.json has no quantization_config that says what its scales are"));
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": tensor '", name, "' is ",
                                                 DescribeTensor(info.dtype, info.shape), ", but must be ",
                                                 AllowedTypes(model_, spec)));
}

absl::Status TensorCheck::CheckSide(const TensorSpec& spec, StoredTensor& side) const {
  TF_RETURN_IF_ERROR(CheckUsable(side.name));
  const Checkpoint::Tensor* found = checkpoint_.Find(side.name);
  if (found == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        PathOf(spec.name()), ": tensor '", spec.name(), "' is stored as ", Describe(spec.stored[0]), ", but its ",
        NameOf(side.use), " '", side.name, "' ", Describe(side), " are missing in ", checkpoint_.dir()));
  }
  const TensorInfo& info = *found->info;
  const bool is_scales = side.use == Use::kScales;
  const bool fits = info.shape == side.shape || (is_scales && WithoutOnes(info.shape) == WithoutOnes(side.shape));
  const bool is_type = is_scales && side.dtype != DType::kU8 ? IsPlain(info.dtype) : info.dtype == side.dtype;
  if (!fits || !is_type) {
    return absl::InvalidArgumentError(absl::StrCat(PathOf(side.name), ": tensor '", side.name, "' is ",
                                                   DescribeTensor(info.dtype, info.shape), ", but '", spec.name(), "' ",
                                                   Describe(spec.stored[0]), " needs ", AllowedTypes(side), " [",
                                                   absl::StrJoin(side.shape, ", "), "]"));
  }
  side.dtype = info.dtype;
  return absl::OkStatus();
}

// What would change the meaning of the tensor's elements, if somebody took notice of it.
absl::Status TensorCheck::CheckSurplus(const TensorSpec& spec) const {
  const std::string name = PlainName(model_, spec.role, spec.layer, spec.expert);
  const std::string base(absl::StripSuffix(name, "weight"));
  if (base.size() == name.size()) return absl::OkStatus();
  const auto check = [&](const std::string& other) {
    if (checkpoint_.Find(other) == nullptr) return absl::OkStatus();
    for (const StoredTensor& tensor : spec.stored) {
      if (tensor.name == other) return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(PathOf(other), ": tensor '", other, "' is one too many: '",
                                                   spec.name(), "' is ", Describe(spec.stored[0]),
                                                   " and does not take it"));
  };
  for (const char* suffix : {"_scale", "_scale_inv", "_scale_2", "_zero_point", "_g_idx", "_packed"}) {
    TF_RETURN_IF_ERROR(check(name + suffix));
  }
  for (const char* suffix : {"qweight", "scales", "qzeros", "g_idx"}) TF_RETURN_IF_ERROR(check(base + suffix));
  return absl::OkStatus();
}

absl::Status TensorCheck::Resolve(TensorSpec& spec) {
  TF_RETURN_IF_ERROR(Choose(spec));
  const size_t num_data = spec.is_split() ? 2 : 1;
  for (size_t i = 0; i < num_data; ++i) {
    StoredTensor& data = spec.stored[i];
    TF_RETURN_IF_ERROR(CheckUsable(data.name));
    const Checkpoint::Tensor* found = checkpoint_.Find(data.name);
    if (found == nullptr) {
      const std::string shown = Describe(data) + " '" + data.name + "'";
      if (std::find(missing_.begin(), missing_.end(), shown) == missing_.end()) missing_.push_back(shown);
      return absl::OkStatus();
    }
    TF_RETURN_IF_ERROR(CheckData(spec, data));
    data.dtype = found->info->dtype;
  }
  // Without it the groups are in order, unless there are several and the config says otherwise.
  if (IsQuantised(spec) && !(model_.quant.needs_group_idx && model_.quant.block_cols > 0) &&
      spec.stored.back().use == Use::kGroupIdx && checkpoint_.Find(spec.stored.back().name) == nullptr) {
    spec.stored.pop_back();
  }
  for (size_t i = num_data; i < spec.stored.size(); ++i) TF_RETURN_IF_ERROR(CheckSide(spec, spec.stored[i]));
  TF_RETURN_IF_ERROR(CheckSurplus(spec));
  SetFormat(model_, spec);
  for (const StoredTensor& tensor : spec.stored) needed_.insert(tensor.name);
  return absl::OkStatus();
}

absl::Status TensorCheck::MissingTensors(size_t num_tensors) const {
  if (missing_.empty()) return absl::OkStatus();
  const size_t shown = std::min(missing_.size(), kMaxNamesShown);
  return absl::InvalidArgumentError(
      absl::StrCat(checkpoint_.dir(), ": ", missing_.size(), " of ", num_tensors, " tensors that ",
                   AskedBy(checkpoint_), " asks for are missing: ",
                   absl::StrJoin(missing_.begin(), missing_.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                   missing_.size() > shown ? ", ..." : ""));
}

}  // namespace tokenferry
