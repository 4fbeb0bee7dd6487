#include "launch/commands/cmd_inspect.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "core/io/json_writer.h"
#include "core/io/report_figures.h"
#include "core/mib.h"
#include "launch/cli/flag_set.h"
#include "launch/session/model_session.h"
#include "runtime/engine/generation_defaults.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/model/model_summary.h"

namespace tokenferry {
namespace {

// Bytes of what the name says; none: it cannot be.
struct NamedBytes {
  std::string name;
  std::optional<int64_t> bytes;
};

struct PartRow {
  std::string name;
  PartSummary part;
};

struct RankRow {
  int64_t rank = 0;
  std::vector<int> experts;  // in every MoE layer
  RankMemory memory;
};

struct InspectReport {
  const ModelFiles& files;
  EngineOptions engine;  // that ranks hold their memory for
  PartSummary total;
  int64_t end_params = 0;  // of the embedding and the head
  std::vector<PartRow> parts;
  std::vector<NamedBytes> by_dtype;         // in the files
  std::vector<NamedBytes> by_expert_dtype;  // all weights in memory, with experts of that type
  std::vector<RankRow> ranks;
};

const std::vector<FigureColumn<PartRow>>& PartColumns() {
  using Row = PartRow;
  static const auto* const columns = new std::vector<FigureColumn<Row>>{
      {.value = [](const Row& r) -> Cell { return r.name; }, .table = Table::kFirst, .heading = "part", .width = -16},
      {.key = "/parameters",
       .value = [](const Row& r) -> Cell { return r.part.num_params; },
       .table = Table::kFirst,
       .heading = "parameters",
       .width = 17},
      {.key = "/active_parameters",
       .value = [](const Row& r) -> Cell { return r.part.num_active_params; },
       .table = Table::kFirst,
       .heading = "active",
       .width = 17},
      {.key = "/bytes",
       .value = [](const Row& r) -> Cell { return r.part.num_bytes; },
       .table = Table::kFirst,
       .heading = "size",
       .unit = "MiB",
       .width = 13,
       .decimals = 2,
       .scale = kMibPerByte}};
  return *columns;
}

const std::vector<FigureColumn<RankRow>>& RankColumns() {
  using Row = RankRow;
  static const auto* const columns = [] {
    auto* all = new std::vector<FigureColumn<Row>>{
        {.value = [](const Row& r) -> Cell { return r.rank; }, .table = Table::kFirst, .heading = "rank", .width = -6},
        {.value = [](const Row& r) -> Cell { return static_cast<int64_t>(r.experts.size()); },
         .table = Table::kFirst,
         .heading = "experts",
         .width = 10}};
    const auto add = [all](const char* key, const char* heading, std::function<Cell(const Row&)> bytes) {
      all->push_back({.key = absl::StrCat("/", key),
                      .value = std::move(bytes),
                      .table = Table::kFirst,
                      .heading = heading,
                      .unit = "MiB",
                      .width = 13,
                      .decimals = 2,
                      .scale = kMibPerByte});
    };
    for (const MemoryPart& part : kMemoryParts) {
      add(part.key, part.name, [bytes = part.bytes](const Row& r) -> Cell { return r.memory.*bytes; });
    }
    add("total_bytes", "all", [](const Row& r) -> Cell { return r.memory.total(); });
    all->push_back(
        {.key = "/exchange_growth_bytes", .value = [](const Row& r) -> Cell { return r.memory.exchange_growth; }});
    return all;
  }();
  return *columns;
}

// What all weights take in memory on one rank, with experts of that type; none: they do not fill whole bytes.
std::optional<int64_t> BytesWith(ExpertDtype dtype, const ModelFiles& files) {
  TensorPlan plan = files.plan.plan;
  if (!SetExpertDtype(dtype, plan).ok()) return std::nullopt;
  return BytesPerRank(plan, Placement::Linear(static_cast<int>(files.model.moe.num_experts), 1))[0];
}

// `engine`: that ranks hold their memory for.
InspectReport MakeInspectReport(const ModelFiles& files, const EngineOptions& engine, const RankContext& context) {
  const ModelSummary summary = SummarizeModel(files.plan.plan);
  InspectReport report = {.files = files, .engine = engine, .total = summary.Total()};
  report.end_params = summary.part(ModelPart::kEmbedding).num_params + summary.part(ModelPart::kHead).num_params;
  for (int p = 0; p < kNumModelParts; ++p) {
    report.parts.push_back({std::string(ModelPartName(static_cast<ModelPart>(p))), summary.parts[p]});
  }
  for (const auto& [dtype, num_bytes] : summary.bytes_by_dtype) {
    report.by_dtype.push_back({std::string(DTypeName(dtype)), num_bytes});
  }
  const auto add = [&](ExpertDtype dtype) {
    report.by_expert_dtype.push_back({std::string(ExpertDtypeName(dtype)), BytesWith(dtype, files)});
  };
  add(ExpertDtype::kStored);
  for (const ExpertDtype dtype : kExpertDtypes) add(dtype);
  for (const RankMemory& memory :
       PlanMemory(files.plan.plan, files.placement, engine, context.topology, context.device.kind())) {
    const int64_t rank = std::ssize(report.ranks);
    const auto experts = files.placement.local_experts(RankId(static_cast<int>(rank)));
    report.ranks.push_back({rank, {experts.begin(), experts.end()}, memory});
  }
  return report;
}

// "15.9 M (15855744), 14.7 M without embedding and head; ..": the figures that model cards give differ in what they
// leave out.
std::string ParameterCounts(const InspectReport& report) {
  const PartSummary& total = report.total;
  const int64_t ends = report.end_params, skipped = report.files.plan.num_skipped_params;
  const auto millions = [](int64_t count) { return absl::StrFormat("%.1f M", static_cast<double>(count) / 1e6); };
  std::string text = absl::StrFormat("%s (%d), %s without embedding and head\n  active per token: %s (%d), %s without",
                                     millions(total.num_params), total.num_params, millions(total.num_params - ends),
                                     millions(total.num_active_params), total.num_active_params,
                                     millions(total.num_active_params - ends));
  if (skipped > 0) {
    absl::StrAppend(&text, "\n  in the files: ", millions(total.num_params + skipped), " with what is not read");
  }
  return text;
}

// "grouped, 32 heads of 128, 4 for keys and values, ..": one line for each kind of layer.
std::string DescribeAttention(const AttentionSpec& a) {
  if (a.kind == AttentionKind::kLatent) {
    std::string text =
        absl::StrFormat("latent, %d heads of %d + %d (rotary), values %d; cache %d + %d values per token and layer",
                        a.num_heads, a.nope_dim, a.rope_dim, a.value_dim, a.cache_first(), a.cache_second());
    const IndexerSpec& i = a.indexer;
    if (i.kind == IndexerSpec::Kind::kOwn) {
      absl::StrAppend(&text, ", ", i.head_dim, " of an indexer with ", i.num_heads, " heads, which selects ",
                      i.num_selected, " keys");
    }
    if (i.kind == IndexerSpec::Kind::kShared) absl::StrAppend(&text, "; keys that a layer before has selected");
    return text;
  }
  if (a.kind == AttentionKind::kGatedDelta) {
    const DeltaShape& d = a.delta;
    return absl::StrFormat(
        "gated delta net, %d heads of %d for keys, %d of %d for values, convolution of %d; state %d values per "
        "sequence "
        "and layer",
        d.num_key_heads, d.key_dim, d.num_value_heads, d.value_dim, d.conv_size, a.state_size());
  }
  std::string text =
      absl::StrFormat("grouped, %d heads of %d, %d for keys and values; cache %d + %d values per token and layer",
                      a.num_heads, a.head_dim, a.num_kv_heads, a.cache_first(), a.cache_second());
  if (a.keys.kind == KeyRange::Kind::kSliding) absl::StrAppend(&text, "; the last ", a.keys.size, " keys");
  if (a.keys.kind == KeyRange::Kind::kChunk) absl::StrAppend(&text, "; keys in chunks of ", a.keys.size);
  return text;
}

std::string DescribeModel(const ModelSpec& m) {
  std::string text =
      absl::StrFormat("%s, %d layers of hidden size %d (%d with experts), context %d, vocabulary %d\n", m.model_type,
                      m.num_layers(), m.hidden_size, m.num_moe_layers(), m.max_position_embeddings, m.vocab_size);
  if (m.has_encoder()) {
    absl::StrAppend(&text, m.num_layers(Stack::kEncoder), " of the layers are an encoder; experts take ",
                    m.moe.sequence_capacity, " tokens of a sequence\n");
  }
  std::map<std::string, int64_t> num_layers;
  for (const LayerSpec& layer : m.layers) ++num_layers[DescribeAttention(layer.attention)];
  for (const auto& [attention, count] : num_layers) {
    absl::StrAppend(&text, "attention", num_layers.size() > 1 ? absl::StrCat(" of ", count, " layers") : "", ": ",
                    attention, "\n");
  }
  const RouterSpec& router = m.moe.router;
  absl::StrAppendFormat(&text, "experts: %d routed of width %d, %d per token; shared width %d; groups %d of which %d",
                        m.moe.num_experts, m.moe.intermediate, router.top_k, m.moe.shared_intermediate,
                        router.num_groups, router.groups_kept);
  return text;
}

std::string BytesText(const std::vector<NamedBytes>& all) {
  std::string text;
  for (const auto& [name, bytes] : all) {
    absl::StrAppendFormat(&text, "%-16s %12s MiB\n", name, bytes ? absl::StrFormat("%.2f", Mib(*bytes)) : "-");
  }
  return text;
}

std::string InspectText(const InspectReport& report) {
  const ModelFiles& files = report.files;
  std::string out =
      absl::StrCat(DescribeModel(files.model), "\nanswers (generation_config.json): ",
                   files.generation.ok() ? Describe(*files.generation) : files.generation.status().message(), "\n",
                   files.checkpoint == nullptr ? "no weights here: sizes are those that config.json implies\n" : "",
                   "parameters: ", ParameterCounts(report), "\n\n");
  std::vector<PartRow> parts = report.parts;
  parts.push_back({"all", report.total});
  absl::StrAppend(&out, TableText(PartColumns(), Table::kFirst, parts), "\n", BytesText(report.by_dtype));
  if (files.plan.num_skipped > 0) {
    absl::StrAppendFormat(&out, "%-16s %12.2f MiB in %d tensors (multi-token prediction and the like)\n", "not read",
                          Mib(files.plan.skipped_bytes), files.plan.num_skipped);
  }
  absl::StrAppend(&out, "\nall weights in memory, by --expert-dtype\n", BytesText(report.by_expert_dtype));
  absl::StrAppendFormat(&out, "\nmemory per rank, at least, with a cache of %d tokens and steps of %d\n",
                        report.engine.cache_tokens_per_rank, report.engine.max_tokens());
  if (files.model.has_states()) {
    absl::StrAppendFormat(&out, "(of the cache %.2f MiB for each of %d sequences, whatever their length)\n",
                          Mib(KvCache::BytesPerState(Engine::CacheOptions(files.model, report.engine))),
                          report.engine.max_sequences_per_rank);
  }
  int64_t growth = 0;
  for (const RankRow& row : report.ranks) growth = std::max(growth, row.memory.exchange_growth);
  if (growth > 0) {
    absl::StrAppendFormat(&out, "(up to %.2f MiB more for exchanges, if the router sends all tokens to one rank)\n",
                          Mib(growth));
  }
  return absl::StrCat(out, TableText(RankColumns(), Table::kFirst, report.ranks));
}

// What the file says; null where it says nothing.
nlohmann::ordered_json GenerationJson(const GenerationConfig& config) {
  const auto or_null = [](const auto& value) { return value ? nlohmann::ordered_json(*value) : nullptr; };
  return {{"eos_token_ids", config.eos_token_ids},
          {"do_sample", or_null(config.do_sample)},
          {"temperature", or_null(config.temperature)},
          {"top_p", or_null(config.top_p)},
          {"top_k", or_null(config.top_k)},
          {"min_p", or_null(config.min_p)},
          {"repetition_penalty", or_null(config.repetition_penalty)},
          {"max_new_tokens", or_null(config.max_new_tokens)}};
}

nlohmann::ordered_json BytesJson(const std::vector<NamedBytes>& all) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [name, bytes] : all) json[name] = bytes ? nlohmann::ordered_json(*bytes) : nlohmann::ordered_json();
  return json;
}

std::string InspectJson(const InspectReport& report) {
  const ModelFiles& files = report.files;
  const PartSummary& total = report.total;
  nlohmann::ordered_json json = {{"model_type", files.model.model_type},
                                 {"parameters", total.num_params},
                                 {"active_parameters", total.num_active_params},
                                 {"parameters_without_embeddings", total.num_params - report.end_params},
                                 {"active_parameters_without_embeddings", total.num_active_params - report.end_params},
                                 {"skipped_parameters", files.plan.num_skipped_params},
                                 {"bytes", total.num_bytes}};
  for (const PartRow& row : report.parts) json["parts"][row.name] = FiguresJson(PartColumns(), row);
  json["bytes_by_dtype"] = BytesJson(report.by_dtype);
  if (files.generation.ok()) json["generation"] = GenerationJson(*files.generation);
  json["weights_there"] = files.checkpoint != nullptr;
  json["cache_tokens_per_rank"] = report.engine.cache_tokens_per_rank;
  json["state_bytes_per_sequence"] = KvCache::BytesPerState(Engine::CacheOptions(files.model, report.engine));
  json["bytes_by_expert_dtype"] = BytesJson(report.by_expert_dtype);
  json["skipped_bytes"] = files.plan.skipped_bytes;
  json["unknown_tensors"] = files.plan.num_unknown;
  for (const RankRow& row : report.ranks) {
    nlohmann::ordered_json rank = {{"experts", row.experts}};
    rank.update(FiguresJson(RankColumns(), row));
    json["ranks"].push_back(std::move(rank));
  }
  return FormatJson(json) + "\n";
}

}  // namespace

void InspectCommand::Declare(FlagSet& set, SharedFlags* shared) {
  set.Switch("json", &flags_.json, "print JSON");
  DeclareServingSize(set, &flags_.max_model_len, &flags_.max_num_seqs);
  DeclareModelFlags(set, shared);
  DeclareMemoryFlags(set, shared);
}

absl::Status InspectCommand::Check(const FlagSet& /*set*/, SharedFlags* /*shared*/) { return absl::OkStatus(); }

absl::Status InspectCommand::Run(RankContext& context) const {
  TF_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFiles> files,
                      OpenModel(context, TokenizerUse::kNone, WeightsUse::kIfThere));
  if (context.transport.rank() != RankId(0)) return absl::OkStatus();
  const EngineOptions engine = ServingEngine(context.flags, files->model, {flags_.max_num_seqs, flags_.max_model_len});
  const InspectReport report = MakeInspectReport(*files, engine, context);
  std::fputs((flags_.json ? InspectJson : InspectText)(report).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace tokenferry
