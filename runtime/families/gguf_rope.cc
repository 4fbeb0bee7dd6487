// Factors of the rotation, which GGUF files have as tensors.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"
#include "runtime/families/gguf.h"
#include "runtime/families/gguf_architectures.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kFactorsOfAll = "rope_freqs.weight", kFactorsOfShort = "rope_factors_short.weight",
                            kFactorsOfLong = "rope_factors_long.weight";

// A factor for each pair of `dim` values that turn.
absl::StatusOr<std::vector<double>> ReadFactors(const Checkpoint& checkpoint, absl::string_view name, int64_t dim) {
  const std::string where = absl::StrCat(checkpoint.dir(), ": tensor '", name, "'");
  const Checkpoint::Tensor* tensor = checkpoint.Find(name);
  if (tensor == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(where, " is missing, but its sibling is there"));
  const std::vector<int64_t> shape = {dim / 2};
  const TensorInfo& info = *tensor->info;
  if (!info.problem.empty()) return absl::InvalidArgumentError(absl::StrCat(where, " ", info.problem));
  if (info.dtype != DType::kF32 || info.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(where, " is ", DescribeTensor(info.dtype, info.shape), ", must be ",
                                                   DescribeTensor(DType::kF32, shape),
                                                   ": a factor for each pair that turns"));
  }
  std::vector<float> factors(static_cast<size_t>(dim / 2));
  const auto bytes = absl::MakeSpan(reinterpret_cast<uint8_t*>(factors.data()), factors.size() * sizeof(float));
  TF_RETURN_IF_ERROR(checkpoint.Read(*tensor, 0, bytes));
  return std::vector<double>(factors.begin(), factors.end());
}

// One list for sequences within the original context, and another for longer ones.
absl::Status ReadLongRope(ConfigReader& in, const Checkpoint& checkpoint, RopeConfig& rope) {
  const auto key = [&](absl::string_view name) { return GgufKeyName(in, absl::StrCat("rope.scaling.", name)); };
  rope.scaling = RopeScaling::kLongRope;
  rope.original_max_position = in.Int(key("original_context_length"), 1, kMaxSize);
  if (in.Has(key("attn_factor"))) rope.attention_factor = in.Number(key("attn_factor"), 1e-6, 1e6);
  TF_RETURN_IF_ERROR(in.status());
  rope.factor = std::max(1.0, static_cast<double>(rope.max_position) / static_cast<double>(rope.original_max_position));
  TF_ASSIGN_OR_RETURN(rope.short_factors, ReadFactors(checkpoint, kFactorsOfShort, rope.dim));
  TF_ASSIGN_OR_RETURN(rope.long_factors, ReadFactors(checkpoint, kFactorsOfLong, rope.dim));
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadRopeFactors(const JsonNode& metadata, const Checkpoint& checkpoint, ModelSpec& spec) {
  ConfigReader in(metadata);
  for (const absl::string_view name : {kFactorsOfAll, kFactorsOfShort, kFactorsOfLong}) {
    if (checkpoint.Find(name) == nullptr || spec.rope.scaling == RopeScaling::kLongRope) continue;
    const std::string where = absl::StrCat(checkpoint.dir(), ": tensor '", name, "'");
    if (spec.rope.scaling != RopeScaling::kNone) {
      return absl::UnimplementedError(
          absl::StrCat(where, " is there beside another scaling of the rotation; only one is supported"));
    }
    if (name == kFactorsOfAll) {
      spec.rope.scaling = RopeScaling::kFactors;
      TF_ASSIGN_OR_RETURN(spec.rope.factors, ReadFactors(checkpoint, name, spec.rope.dim));
    } else {
      TF_RETURN_IF_ERROR(ReadLongRope(in, checkpoint, spec.rope));
    }
    TF_RETURN_IF_ERROR(Annotate(ValidateRope(spec.rope), where));
  }
  for (const absl::string_view name : {kFactorsOfAll, kFactorsOfShort, kFactorsOfLong}) {
    if (checkpoint.Find(name) != nullptr) spec.not_read.emplace_back(name);
  }
  return absl::OkStatus();
}

}  // namespace tokenferry
