// quantization_config: how files store projections in fewer bits.
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/io/foreign_text.h"
#include "runtime/families/family.h"
#include "runtime/model/name_patterns.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxBlock = int64_t{1} << 20;
constexpr int32_t kMxfp4Group = 32;

// The object that describes quantised weights. Some programs write it as compression_config, and configs of several
// models in one put it into their text_config.
absl::StatusOr<std::optional<JsonNode>> FindQuantization(ConfigReader& in) {
  const auto find = [](ConfigReader& reader) {
    return reader.Object(reader.KeyOf({"quantization_config", "compression_config"}));
  };
  std::optional<JsonNode> found = find(in);
  TF_RETURN_IF_ERROR(in.status());
  const std::optional<JsonNode> text = in.Find("text_config");
  if (!text || !text->value().is_object()) return found;
  ConfigReader text_reader(*text);
  const std::optional<JsonNode> nested = find(text_reader);
  TF_RETURN_IF_ERROR(text_reader.status());
  if (found && nested) TF_RETURN_IF_ERROR(CheckSame(*found, *nested));
  if (!found) found = nested;
  return found;
}

void ReadIgnored(ConfigReader& in, absl::Span<const absl::string_view> keys, QuantSpec& quant) {
  const absl::string_view key = in.KeyOf(keys);
  quant.ignore_key = std::string(key);
  quant.ignored = in.Strings(key);
  if (!in.ok()) return;
  const auto patterns = NamePatterns::Compile(quant.ignored);
  if (!patterns.ok()) in.Fail(key, absl::StrCat("has ", patterns.status().message()));
}

void ReadF8(ConfigReader& in, QuantSpec& quant) {
  quant.method = QuantMethod::kF8;
  const std::string format = in.String("fmt", "e4m3");
  in.RequireOneOf("fmt", format, {"e4m3", "float8_e4m3fn"}, "FP8 format");  // DeepSeek's name, and torch's (MiniMax)
  const std::string scheme = in.String("activation_scheme", "dynamic");
  in.RequireOneOf("activation_scheme", scheme, {"dynamic", "static"}, "activation scheme");
  ReadIgnored(in, {"modules_to_not_convert", "ignored_layers"}, quant);
  quant.scale_suffix = "_scale";
  if (!in.Has("weight_block_size")) return;  // one scale for a matrix
  const std::vector<int64_t> block = in.IntOrList("weight_block_size", 1, kMaxBlock);
  if (!in.ok()) return;
  if (block.size() != 2) {
    in.FailUnsupported("weight_block_size", "must be two numbers, such as [128, 128]");
    return;
  }
  quant.scale_suffix = "_scale_inv";
  quant.block_rows = static_cast<int32_t>(block[0]);
  quant.block_cols = static_cast<int32_t>(block[1]);
}

// group_size: -1 for all inputs.
void ReadGroup(ConfigReader& in, absl::string_view key, QuantSpec& quant) {
  const int64_t group = in.Int(key, -1, kMaxBlock);
  if (group == 0) in.Fail(key, "is 0, not a size or -1");
  quant.block_rows = 1;
  quant.block_cols = group < 0 ? 0 : static_cast<int32_t>(group);
}

void RequireBits(ConfigReader& in, absl::string_view key, absl::Span<const int32_t> known, QuantSpec& quant) {
  quant.bits = static_cast<int32_t>(in.Int(key, 1, 64));
  for (const int32_t bits : known) {
    if (quant.bits == bits) return;
  }
  in.FailUnsupported(key,
                     absl::StrCat("is ", quant.bits, "; only ", known.size() == 1 ? "4" : "4 and 8", " are supported"));
  quant.bits = 8;
}

// GPTQModel's settings for single modules: "-:EXPRESSION" are not quantised, anything else has settings of its own.
void ReadDynamic(ConfigReader& in, QuantSpec& quant) {
  const std::optional<JsonNode> dynamic = in.Object("dynamic");
  if (!in.ok() || !dynamic) return;
  for (const auto& [pattern, settings] : dynamic->value().items()) {
    if (absl::StartsWith(pattern, "-:")) {
      quant.ignore_key = "dynamic";
      quant.ignored.push_back(absl::StrCat("re:", pattern.substr(2)));
    } else if (!settings.empty()) {
      in.FailUnsupported("dynamic", absl::StrCat("has settings for '", Excerpt(pattern),
                                                 "'; only modules that are not quantised are supported"));
      return;
    }
  }
  const auto patterns = NamePatterns::Compile(quant.ignored);
  if (!patterns.ok()) in.Fail("dynamic", absl::StrCat("has ", patterns.status().message()));
}

void ReadGptq(ConfigReader& in, QuantSpec& quant) {
  quant.method = QuantMethod::kGptq;
  RequireBits(in, "bits", {4, 8}, quant);
  ReadGroup(in, "group_size", quant);
  const absl::string_view key = in.KeyOf({"checkpoint_format", "format"});
  const std::string format = in.String(key, "gptq");
  in.RequireOneOf(key, format, {"gptq", "gptq_v2"}, "GPTQ format");
  quant.zero_offset = format == "gptq" ? 1 : 0;  // the first format stores zero points less one
  // Act-order puts inputs into groups by their importance, unless the groups are made before.
  quant.needs_group_idx = in.Bool("desc_act", false) && !in.Bool("static_groups", false);
  if (in.Bool("lm_head", false)) in.FailUnsupported("lm_head", "is true; only false is supported");
  ReadIgnored(in, {"modules_to_not_convert"}, quant);
  ReadDynamic(in, quant);
}

void ReadAwq(ConfigReader& in, QuantSpec& quant) {
  quant.method = QuantMethod::kAwq;
  RequireBits(in, in.KeyOf({"bits", "w_bit"}), {4}, quant);
  ReadGroup(in, in.KeyOf({"group_size", "q_group_size"}), quant);
  const std::string version = in.String("version", "gemm");
  in.RequireOneOf("version", version, {"gemm", "GEMM"}, "AWQ layout");
  if (!in.Bool("zero_point", true)) in.FailUnsupported("zero_point", "is false; only true is supported");
  ReadIgnored(in, {"modules_to_not_convert"}, quant);
}

void ReadMxfp4(ConfigReader& in, QuantSpec& quant) {
  quant.method = QuantMethod::kMxfp4;
  quant.bits = 4;
  quant.block_rows = 1;
  quant.block_cols = kMxfp4Group;
  ReadIgnored(in, {"modules_to_not_convert"}, quant);
}

// What scales are for, by compressed-tensors' `strategy`.
void ReadStrategy(ConfigReader& in, QuantSpec& quant) {
  const std::string strategy = in.String("strategy");
  in.RequireOneOf("strategy", strategy, {"tensor", "channel", "group", "block"}, "strategy of scales");
  if (strategy == "channel") quant.block_rows = 1;
  if (strategy == "group") ReadGroup(in, "group_size", quant);
  if (strategy != "block") return;
  const std::vector<int64_t> block = in.IntOrList("block_structure", 1, kMaxBlock);
  if (in.ok() && block.size() != 2) in.FailUnsupported("block_structure", "must be two numbers, such as [128, 128]");
  if (!in.ok()) return;
  quant.block_rows = static_cast<int32_t>(block[0]);
  quant.block_cols = static_cast<int32_t>(block[1]);
}

// The `weights` of a group of compressed-tensors.
void ReadWeightScheme(ConfigReader& in, absl::string_view format, QuantSpec& quant) {
  const std::string type = in.String("type");
  in.RequireOneOf("type", type, {"int", "float"}, "type of number");
  if (in.Bool("dynamic", false)) in.FailUnsupported("dynamic", "is true; only false is supported for weights");
  const std::optional<JsonNode> order = in.Find("actorder");
  if (order && order->value() != "weight" && order->value() != "static" && order->value() != false) {
    in.FailUnsupported("actorder", "groups inputs out of order; only null, \"weight\" and \"static\" are supported");
  }
  const bool is_float = type == "float", is_packed = format == "pack-quantized";
  quant.has_zero_points = !in.Bool("symmetric", true);
  if (is_float && quant.has_zero_points) in.FailUnsupported("symmetric", "is false; floats have no zero points");
  RequireBits(in, "num_bits", {4, 8}, quant);
  if (!in.ok()) return;
  if ((is_float || !is_packed) && quant.bits != 8) {
    in.FailUnsupported("num_bits",
                       absl::StrCat("is ", quant.bits, " with format \"", format, "\"; only 8 is supported"));
  }
  if (is_float == (is_packed || format == "int-quantized") || (!is_float && format == "float-quantized")) {
    in.FailUnsupported("type", absl::StrCat("is \"", type, "\", which format \"", format, "\" does not store"));
  }
  quant.method = is_packed ? QuantMethod::kPacked : is_float ? QuantMethod::kF8 : QuantMethod::kI8;
  ReadStrategy(in, quant);
  if (in.ok() && !is_float && quant.block_rows != 1) {
    in.FailUnsupported("strategy", "must be \"channel\" or \"group\" for integers");
  }
}

absl::Status ReadCompressedTensors(ConfigReader& in, QuantSpec& quant) {
  quant.scale_suffix = "_scale";
  const std::string format = in.String("format");
  in.RequireOneOf("format", format, {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized"},
                  "format of compressed-tensors");
  const std::string status = in.String("quantization_status", "compressed");
  in.RequireOneOf("quantization_status", status, {"compressed", "frozen"}, "status");
  const std::optional<JsonNode> transform = in.Find("transform_config");
  if (transform && !transform->value().empty()) {
    in.FailUnsupported("transform_config", "rotates what is multiplied, which is not supported");
  }
  ReadIgnored(in, {"ignore"}, quant);
  const std::optional<JsonNode> groups = in.Object("config_groups");
  if (!groups) in.Fail("config_groups", "is missing");
  TF_RETURN_IF_ERROR(in.status());
  TF_ASSIGN_OR_RETURN(const auto members, groups->Members());
  ConfigReader groups_reader(*groups);
  std::optional<QuantSpec> first;
  for (const auto& [name, unused] : members) {
    const std::optional<JsonNode> group = groups_reader.Object(name);
    TF_RETURN_IF_ERROR(groups_reader.status());
    if (!group) continue;  // null
    ConfigReader group_reader(*group);
    const std::optional<JsonNode> weights = group_reader.Object("weights");
    if (!weights) group_reader.Fail("weights", "is missing");
    TF_RETURN_IF_ERROR(group_reader.status());
    ConfigReader scheme(*weights);
    QuantSpec one = quant;
    ReadWeightScheme(scheme, format, one);
    TF_RETURN_IF_ERROR(scheme.status());
    if (first && !(*first == one)) {
      in.FailUnsupported("config_groups", "store weights in several ways; only one is supported");
    }
    first = one;
  }
  if (!first) in.Fail("config_groups", "has no group");
  TF_RETURN_IF_ERROR(in.status());
  quant = *first;
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadQuantization(ConfigReader& in, ModelSpec& spec) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> object, FindQuantization(in));
  if (!object) return absl::OkStatus();
  ConfigReader quant(*object);
  const std::string method = quant.String("quant_method");
  quant.RequireOneOf("quant_method", method, {"fp8", "compressed-tensors", "gptq", "awq", "mxfp4"}, "quantisation");
  TF_RETURN_IF_ERROR(quant.status());
  if (method == "fp8") ReadF8(quant, spec.quant);
  if (method == "gptq") ReadGptq(quant, spec.quant);
  if (method == "awq") ReadAwq(quant, spec.quant);
  if (method == "mxfp4") ReadMxfp4(quant, spec.quant);
  if (method == "compressed-tensors") TF_RETURN_IF_ERROR(ReadCompressedTensors(quant, spec.quant));
  return quant.status();
}

}  // namespace tokenferry
