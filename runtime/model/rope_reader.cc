#include "runtime/model/rope_reader.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_join.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxPositions = int64_t{1} << 24;
// As RopeScaling; and one that changes nothing up to max_position_embeddings, beyond which nobody serves.
constexpr absl::string_view kRopeTypes[] = {"default", "yarn", "llama3", "longrope", "linear", "dynamic"};
constexpr absl::string_view kScalingKeys[] = {"factor",           "beta_fast",        "beta_slow",   "mscale",
                                              "mscale_all_dim",   "attention_factor", "truncate",    "low_freq_factor",
                                              "high_freq_factor", "short_factor",     "long_factor", "short_mscale",
                                              "long_mscale"};

// One of the objects that may say how positions are scaled.
struct RopeObject {
  JsonNode node;
  std::optional<JsonNode> type;  // of the scaling; none: the object says nothing about it
  std::optional<JsonNode> theta, partial;
  RopeConfig rope;  // as if there were no other
};

// The factor, and the context that it stretches. `original` is where config.json itself has
// original_max_position_embeddings, if it does.
void ReadStretch(ConfigReader& in, const std::optional<JsonNode>& original, RopeConfig& rope) {
  constexpr absl::string_view kOriginal = "original_max_position_embeddings";
  if (const auto own = in.Find(kOriginal); own && original) in.Fail(CheckSame(*original, *own));
  int64_t fallback = rope.max_position;
  if (original) {
    const absl::StatusOr<int64_t> number = original->Int(1, kMaxPositions);
    in.Fail(number.status());
    fallback = number.value_or(1);
  }
  rope.original_max_position = in.Int(kOriginal, 1, kMaxPositions, fallback);
  if (!in.Has("factor") && !in.Has(kOriginal) && !original) in.Fail("factor", "is missing");
  const double ratio = static_cast<double>(rope.max_position) / static_cast<double>(rope.original_max_position);
  rope.factor = in.Number("factor", 1, 1e6, ratio);
}

void ReadYarn(ConfigReader& in, RopeConfig& rope) {
  rope.scaling = RopeScaling::kYarn;
  rope.beta_fast = in.Number("beta_fast", 1e-6, 1e6, rope.beta_fast);
  rope.beta_slow = in.Number("beta_slow", 1e-6, 1e6, rope.beta_slow);
  rope.mscale = in.Number("mscale", 0, 1e6, 0);
  rope.mscale_all_dim = in.Number("mscale_all_dim", 0, 1e6, 0);
  if (in.Has("attention_factor")) rope.attention_factor = in.Number("attention_factor", 1e-6, 1e6);
  rope.truncate = in.Bool("truncate", true);
}

void ReadLlama3(ConfigReader& in, RopeConfig& rope) {
  rope.scaling = RopeScaling::kLlama3;
  rope.low_freq_factor = in.Number("low_freq_factor", 1e-6, 1e6);
  rope.high_freq_factor = in.Number("high_freq_factor", 1e-6, 1e6);
}

void ReadLongRope(ConfigReader& in, RopeConfig& rope) {
  rope.scaling = RopeScaling::kLongRope;
  rope.short_factors = in.Numbers("short_factor", 1e-6, 1e6);
  rope.long_factors = in.Numbers("long_factor", 1e-6, 1e6);
  rope.short_mscale = in.Number("short_mscale", 1e-6, 1e6, 0);
  rope.long_mscale = in.Number("long_mscale", 1e-6, 1e6, 0);
  if (in.Has("attention_factor")) rope.attention_factor = in.Number("attention_factor", 1e-6, 1e6);
}

// Without a type nothing may look as if it were meant to scale.
void CheckNoScaling(ConfigReader& in, const JsonNode& object) {
  for (const absl::string_view key : kScalingKeys) {
    if (in.Has(key)) in.Fail(key, "is there, but no 'rope_type' that says what it scales");
  }
  for (const auto& [key, member] : object.value().items()) {
    if (member.is_object()) in.FailUnsupported(key, "is an object; settings for kinds of layers are not supported");
  }
}

absl::StatusOr<RopeObject> ReadObject(const JsonNode& node, const std::optional<JsonNode>& original,
                                      const RopeConfig& start) {
  RopeObject object{.node = node, .rope = start};
  ConfigReader in(node);
  const absl::string_view type_key = in.KeyOf({"rope_type", "type"});  // `type` is the older spelling
  object.type = in.Find(type_key);
  object.theta = in.Find("rope_theta");
  object.partial = in.Find("partial_rotary_factor");
  const std::string type = in.String(type_key, "default");
  in.RequireOneOf(type_key, type, kRopeTypes, "rotary scaling");
  if (!object.type) CheckNoScaling(in, node);
  if (type == "yarn" || type == "llama3" || type == "longrope") ReadStretch(in, original, object.rope);
  if (type == "yarn") ReadYarn(in, object.rope);
  if (type == "llama3") ReadLlama3(in, object.rope);
  if (type == "longrope") ReadLongRope(in, object.rope);
  if (type == "linear") {
    object.rope.scaling = RopeScaling::kFactors;  // one for all pairs, once it is known how many turn
    object.rope.factor = in.Number("factor", 1, 1e6);
  }
  if (type == "dynamic") in.Number("factor", 1, 1e6);
  TF_RETURN_IF_ERROR(in.status());
  return object;
}

// Equal in what they mean, however they are written.
absl::Status CheckSameScaling(const RopeObject& a, const RopeObject& b) {
  const auto check = [&](absl::string_view key, auto left, auto right) {
    if (left == right) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        b.node.Where(), ": '", b.node.path(), ".", key, "' is ", right, ", but '", a.node.path(), ".", key, "' is ",
        left, "; both mean one setting, so leave one of '", a.node.path(), "' and '", b.node.path(), "'"));
  };
  const auto type = [](const RopeConfig& rope) { return kRopeTypes[static_cast<int>(rope.scaling)]; };
  const RopeConfig &l = a.rope, &r = b.rope;
  TF_RETURN_IF_ERROR(check("rope_type", type(l), type(r)));
  TF_RETURN_IF_ERROR(check("factor", l.factor, r.factor));
  TF_RETURN_IF_ERROR(check("original_max_position_embeddings", l.original_max_position, r.original_max_position));
  TF_RETURN_IF_ERROR(check("beta_fast", l.beta_fast, r.beta_fast));
  TF_RETURN_IF_ERROR(check("beta_slow", l.beta_slow, r.beta_slow));
  TF_RETURN_IF_ERROR(check("mscale", l.mscale, r.mscale));
  TF_RETURN_IF_ERROR(check("mscale_all_dim", l.mscale_all_dim, r.mscale_all_dim));
  TF_RETURN_IF_ERROR(check("attention_factor", l.attention_factor.value_or(0), r.attention_factor.value_or(0)));
  TF_RETURN_IF_ERROR(check("low_freq_factor", l.low_freq_factor, r.low_freq_factor));
  TF_RETURN_IF_ERROR(check("high_freq_factor", l.high_freq_factor, r.high_freq_factor));
  const auto list = [](const std::vector<double>& factors) { return absl::StrJoin(factors, ", "); };
  TF_RETURN_IF_ERROR(check("short_factor", list(l.short_factors), list(r.short_factors)));
  TF_RETURN_IF_ERROR(check("long_factor", list(l.long_factors), list(r.long_factors)));
  TF_RETURN_IF_ERROR(check("short_mscale", l.short_mscale, r.short_mscale));
  TF_RETURN_IF_ERROR(check("long_mscale", l.long_mscale, r.long_mscale));
  return check("truncate", l.truncate ? "true" : "false", r.truncate ? "true" : "false");
}

// Takes over what another object says of the same setting.
void Merge(ConfigReader& in, const std::optional<JsonNode>& other, std::optional<JsonNode>& setting) {
  if (setting && other) in.Fail(CheckSame(*setting, *other));
  if (other) setting = other;
}

// The dimensions that turn.
int64_t RotaryDim(ConfigReader& in, const RopeRequest& request, const std::optional<JsonNode>& partial) {
  const std::optional<double>& allowed = request.defaults.partial_rotary_factor;
  const double factor = partial ? in.NumberAt(partial, "partial_rotary_factor", 0, 1) : allowed.value_or(1);
  if (in.ok() && factor != 1 && !allowed) {
    in.Fail(absl::UnimplementedError(
        absl::StrCat(partial->Where(), ": '", partial->path(), "' is ", factor, "; only 1 is supported")));
  }
  return static_cast<int64_t>(static_cast<double>(request.head_dim) * factor);
}

absl::StatusOr<RopeConfig> RopeOf(ConfigReader& in, const RopeRequest& request) {
  RopeConfig rope{.dim = request.head_dim, .max_position = request.max_position};
  const std::optional<JsonNode> original = in.Find("original_max_position_embeddings");
  std::vector<RopeObject> objects;
  std::optional<JsonNode> theta = in.Find("rope_theta"), partial = in.Find("partial_rotary_factor");
  bool is_silent = true;
  for (const absl::string_view key : {"rope_parameters", "rope_scaling"}) {
    const std::optional<JsonNode> node = in.Object(key);
    if (!in.ok()) return in.status();
    if (!node) continue;
    is_silent = is_silent && node->value().empty();
    TF_ASSIGN_OR_RETURN(const RopeObject object, ReadObject(*node, original, rope));
    Merge(in, object.theta, theta);
    Merge(in, object.partial, partial);
    if (object.type) objects.push_back(object);
  }
  TF_RETURN_IF_ERROR(in.status());
  if (objects.size() == 2) TF_RETURN_IF_ERROR(CheckSameScaling(objects[0], objects[1]));
  if (!objects.empty()) {
    rope = objects[0].rope;
  } else if (is_silent) {
    rope = request.defaults.scaling;
    rope.max_position = request.max_position;
  }
  rope.dim = RotaryDim(in, request, partial);
  if (rope.scaling == RopeScaling::kFactors) rope.factors.assign(static_cast<size_t>(rope.dim / 2), rope.factor);
  rope.theta = in.NumberAt(theta, "rope_theta", 1.001, 1e12);
  TF_RETURN_IF_ERROR(in.status());
  const JsonNode blamed = objects.empty() ? *theta : objects[0].node;
  TF_RETURN_IF_ERROR(Annotate(ValidateRope(rope), absl::StrCat(blamed.Where(), ": '", blamed.path(), "'")));
  return rope;
}

}  // namespace

RopeConfig ReadRope(ConfigReader& in, const RopeRequest& request) {
  if (!in.ok()) return {};
  const absl::StatusOr<RopeConfig> rope = RopeOf(in, request);
  in.Fail(rope.status());
  return rope.value_or(RopeConfig());
}

}  // namespace tokenferry
