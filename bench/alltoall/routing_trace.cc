#include "bench/alltoall/routing_trace.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "core/io/json.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kFormat = "tokenferry-routing-1";
constexpr int64_t kMaxExperts = 1 << 20;
using Json = nlohmann::ordered_json;

// Lines are many and short.
constexpr JsonLimits kLineLimits = {.max_depth = 4, .max_values = 10'000'000};

absl::StatusOr<int64_t> IntegerOf(const JsonNode& object, absl::string_view key, int64_t min, int64_t max) {
  TF_ASSIGN_OR_RETURN(const JsonNode value, object.Child(key));
  return value.Int(min, max);
}

absl::Status ReadHeader(const JsonNode& line, RoutingTrace* trace) {
  TF_ASSIGN_OR_RETURN(const JsonNode format, line.Child("format"));
  if (format.String().value_or("") != kFormat) {
    return format.Error(absl::StrCat("is ", format.Shown(), ", but a routing trace has \"", kFormat, "\""));
  }
  TF_ASSIGN_OR_RETURN(const int64_t num_experts, IntegerOf(line, "num_experts", 1, kMaxExperts));
  TF_ASSIGN_OR_RETURN(const int64_t top_k, IntegerOf(line, "top_k", 1, num_experts));
  trace->num_experts = static_cast<int>(num_experts);
  trace->top_k = static_cast<int>(top_k);
  TF_ASSIGN_OR_RETURN(trace->source, line.StringOr("source", ""));
  return absl::OkStatus();
}

absl::Status ReadRecord(const JsonNode& line, RoutingTrace* trace) {
  RoutingTrace::Record record;
  TF_ASSIGN_OR_RETURN(record.step, IntegerOf(line, "step", 0, INT64_MAX));
  TF_ASSIGN_OR_RETURN(const int64_t layer, IntegerOf(line, "layer", 0, 1 << 20));
  record.layer = static_cast<int>(layer);
  TF_ASSIGN_OR_RETURN(const JsonNode list, line.Child("expert_idx"));
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> experts, list.Elements());
  if (experts.size() % trace->top_k != 0) {
    return list.Error(absl::StrCat("has ", experts.size(), " entries, no multiple of top_k ", trace->top_k));
  }
  for (const JsonNode& expert : experts) {
    TF_ASSIGN_OR_RETURN(const int64_t e, expert.Int(-1, trace->num_experts - 1));
    record.expert_idx.push_back(static_cast<int32_t>(e));
  }
  trace->expert_idx.insert(trace->expert_idx.end(), record.expert_idx.begin(), record.expert_idx.end());
  trace->records.push_back(std::move(record));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RoutingTrace> ReadRoutingTrace(const std::string& path) {
  std::ifstream file(path);
  RoutingTrace trace;
  std::string text;
  JsonLimits limits = kLineLimits;
  for (limits.first_line = 0; std::getline(file, text);) {
    ++limits.first_line;
    TF_ASSIGN_OR_RETURN(const JsonDocument line, JsonDocument::Parse(std::move(text), path, limits));
    TF_RETURN_IF_ERROR(limits.first_line == 1 ? ReadHeader(line.root(), &trace) : ReadRecord(line.root(), &trace));
  }
  if (limits.first_line == 0) return absl::NotFoundError(absl::StrCat(path, ": cannot be read, or is empty"));
  if (file.bad()) return absl::DataLossError(absl::StrCat(path, ": cannot be read after line ", limits.first_line));
  if (trace.num_rows() == 0) return absl::DataLossError(absl::StrCat(path, ": has no routed token"));
  return trace;
}

std::string RoutingTraceText(const RoutingTrace& trace) {
  const Json header = {{"format", std::string(kFormat)},
                       {"num_experts", trace.num_experts},
                       {"top_k", trace.top_k},
                       {"source", trace.source}};
  std::string text = header.dump();
  for (const RoutingTrace::Record& r : trace.records) {
    const Json record = {{"step", r.step}, {"layer", r.layer}, {"expert_idx", r.expert_idx}};
    absl::StrAppend(&text, "\n", record.dump());
  }
  return text + "\n";
}

}  // namespace tokenferry
