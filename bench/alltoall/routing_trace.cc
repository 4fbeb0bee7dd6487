#include "bench/alltoall/routing_trace.h"

#include <fstream>
#include <nlohmann/json.hpp>

namespace tokenferry {
namespace {

constexpr char kFormat[] = "tokenferry-routing-1";
constexpr int64_t kMaxExperts = 1 << 20;
using Json = nlohmann::ordered_json;

// An integer member within [low, high], or what is wrong.
absl::StatusOr<int64_t> IntegerOf(const Json& object, const char* key, int64_t low, int64_t high) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer()) {
    return absl::DataLossError(absl::StrCat("has no integer \"", key, "\""));
  }
  const auto value = it->get<int64_t>();
  if (value >= low && value <= high) return value;
  return absl::DataLossError(absl::StrCat("\"", key, "\" is ", value, ", not in ", low, " to ", high));
}

absl::Status ReadHeader(const Json& line, RoutingTrace* trace) {
  if (!line.is_object() || line.value("format", Json()) != kFormat) {
    return absl::DataLossError(absl::StrCat("is not a routing trace: \"format\" must be \"", kFormat, "\""));
  }
  TF_ASSIGN_OR_RETURN(trace->num_experts, IntegerOf(line, "num_experts", 1, kMaxExperts));
  TF_ASSIGN_OR_RETURN(trace->top_k, IntegerOf(line, "top_k", 1, trace->num_experts));
  if (line.contains("source") && line["source"].is_string()) trace->source = line["source"].get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadRecord(const Json& line, RoutingTrace* trace) {
  if (!line.is_object()) return absl::DataLossError("is not an object");
  RoutingTrace::Record record;
  TF_ASSIGN_OR_RETURN(record.step, IntegerOf(line, "step", 0, INT64_MAX));
  TF_ASSIGN_OR_RETURN(record.layer, IntegerOf(line, "layer", 0, 1 << 20));
  const auto it = line.find("expert_idx");
  if (it == line.end() || !it->is_array()) return absl::DataLossError("has no array \"expert_idx\"");
  if (it->size() % trace->top_k != 0) {
    return absl::DataLossError(
        absl::StrCat("\"expert_idx\" has ", it->size(), " entries, no multiple of top_k ", trace->top_k));
  }
  for (const Json& expert : *it) {
    const int64_t e = expert.is_number_integer() ? expert.get<int64_t>() : INT64_MIN;
    if (e < -1 || e >= trace->num_experts) {
      return absl::DataLossError(absl::StrCat("expert ", expert.dump(), " is not in -1 to ", trace->num_experts - 1));
    }
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
  int64_t number = 0;
  while (std::getline(file, text)) {
    ++number;
    const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    const absl::Status status = line.is_discarded() ? absl::DataLossError("is not JSON")
                                : number == 1       ? ReadHeader(line, &trace)
                                                    : ReadRecord(line, &trace);
    TF_RETURN_IF_ERROR(Annotate(status, absl::StrCat(path, ", line ", number)));
  }
  if (number == 0) return absl::NotFoundError(absl::StrCat(path, ": cannot be read, or is empty"));
  if (file.bad()) return absl::DataLossError(absl::StrCat(path, ": cannot be read after line ", number));
  if (trace.num_rows() == 0) return absl::DataLossError(absl::StrCat(path, ": has no routed token"));
  return trace;
}

absl::Status WriteRoutingTrace(const std::string& path, const RoutingTrace& trace) {
  std::ofstream file(path);
  file << Json{{"format", kFormat},
               {"num_experts", trace.num_experts},
               {"top_k", trace.top_k},
               {"source", trace.source}}
              .dump()
       << "\n";
  for (const RoutingTrace::Record& r : trace.records) {
    file << Json{{"step", r.step}, {"layer", r.layer}, {"expert_idx", r.expert_idx}}.dump() << "\n";
  }
  file.close();
  return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
}

}  // namespace tokenferry
