#include "launch/commands/cmd_inspect.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_format.h"
#include "core/io/json_writer.h"
#include "core/mib.h"
#include "launch/cli/flag_set.h"
#include "launch/session/model_session.h"
#include "runtime/engine/generation_defaults.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/model/model_summary.h"

namespace tokenferry {
namespace {

// What a rank holds, and for what engine.
struct MemoryReport {
  EngineOptions engine;
  std::vector<RankMemory> per_rank;
};

// What all weights take in memory on one rank, with experts of that type; none: they do not fill whole bytes.
std::optional<int64_t> BytesWith(ExpertDtype dtype, const ModelFiles& files) {
  TensorPlan plan = files.plan.plan;
  if (!SetExpertDtype(dtype, plan).ok()) return std::nullopt;
  return BytesPerRank(plan, Placement::Linear(static_cast<int>(files.model.moe.num_experts), 1))[0];
}

std::vector<ExpertDtype> AllExpertDtypes() {
  std::vector<ExpertDtype> all = {ExpertDtype::kStored};
  all.insert(all.end(), kExpertDtypes.begin(), kExpertDtypes.end());
  return all;
}

// Of the embedding and the head.
int64_t EndParams(const ModelSummary& summary) {
  return summary.part(ModelPart::kEmbedding).num_params + summary.part(ModelPart::kHead).num_params;
}

// "15.9 M (15855744), 14.7 M without embedding and head; ..": the figures that model cards give differ in what they
// leave out.
std::string ParameterCounts(const ModelFiles& files, const ModelSummary& summary) {
  const PartSummary total = summary.Total();
  const int64_t ends = EndParams(summary);
  const auto millions = [](int64_t count) { return absl::StrFormat("%.1f M", static_cast<double>(count) / 1e6); };
  std::string text = absl::StrFormat("%s (%d), %s without embedding and head\n  active per token: %s (%d), %s without",
                                     millions(total.num_params), total.num_params, millions(total.num_params - ends),
                                     millions(total.num_active_params), total.num_active_params,
                                     millions(total.num_active_params - ends));
  if (files.plan.num_skipped_params > 0) {
    absl::StrAppend(&text, "\n  in the files: ", millions(total.num_params + files.plan.num_skipped_params),
                    " with what is not read");
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

void PrintTables(const ModelFiles& files, const ModelSummary& summary, const MemoryReport& report) {
  const PartSummary total = summary.Total();
  std::printf("%s\n", DescribeModel(files.model).c_str());
  const std::string generation =
      files.generation.ok() ? Describe(*files.generation) : std::string(files.generation.status().message());
  std::printf("answers (generation_config.json): %s\n", generation.c_str());
  if (files.checkpoint == nullptr) std::printf("no weights here: sizes are those that config.json implies\n");
  std::printf("parameters: %s\n\n", ParameterCounts(files, summary).c_str());
  std::printf("%-16s %16s %16s %12s\n", "part", "parameters", "active", "MiB");
  for (int p = 0; p < kNumModelParts; ++p) {
    const PartSummary& part = summary.parts[p];
    const std::string name(ModelPartName(static_cast<ModelPart>(p)));
    std::printf("%-16s %16ld %16ld %12.2f\n", name.c_str(), static_cast<long>(part.num_params),
                static_cast<long>(part.num_active_params), Mib(part.num_bytes));
  }
  std::printf("%-16s %16ld %16ld %12.2f\n\n", "all", static_cast<long>(total.num_params),
              static_cast<long>(total.num_active_params), Mib(total.num_bytes));
  for (const auto& [dtype, num_bytes] : summary.bytes_by_dtype) {
    std::printf("%-16s %12.2f MiB\n", std::string(DTypeName(dtype)).c_str(), Mib(num_bytes));
  }
  if (files.plan.num_skipped > 0) {
    std::printf("%-16s %12.2f MiB in %ld tensors (multi-token prediction and the like)\n", "not read",
                Mib(files.plan.skipped_bytes), static_cast<long>(files.plan.num_skipped));
  }
  std::printf("\nall weights in memory, by --expert-dtype\n");
  for (const ExpertDtype dtype : AllExpertDtypes()) {
    const std::optional<int64_t> bytes = BytesWith(dtype, files);
    const std::string name(ExpertDtypeName(dtype));
    std::printf("%-16s %12s MiB\n", name.c_str(), bytes ? absl::StrFormat("%.2f", Mib(*bytes)).c_str() : "-");
  }
  std::printf("\nmemory per rank in MiB, at least, with a cache of %ld tokens and steps of %ld\n",
              static_cast<long>(report.engine.cache_tokens_per_rank), static_cast<long>(report.engine.max_tokens()));
  if (files.model.has_states()) {
    std::printf("(of the cache %.2f MiB for each of %ld sequences, whatever their length)\n",
                Mib(KvCache::BytesPerState(Engine::CacheOptions(files.model, report.engine))),
                static_cast<long>(report.engine.max_sequences_per_rank));
  }
  const auto growth = [](const RankMemory& a, const RankMemory& b) { return a.exchange_growth < b.exchange_growth; };
  const RankMemory& most = *std::max_element(report.per_rank.begin(), report.per_rank.end(), growth);
  if (most.exchange_growth > 0) {
    std::printf("(up to %.2f MiB more for exchanges, if the router sends all tokens to one rank)\n",
                Mib(most.exchange_growth));
  }
  std::printf("%-6s %9s", "rank", "experts");
  for (const MemoryPart& part : kMemoryParts) std::printf(" %12s", part.name);
  std::printf(" %12s\n", "all");
  for (size_t r = 0; r < report.per_rank.size(); ++r) {
    const RankMemory& memory = report.per_rank[r];
    std::printf("%-6zu %9d", r, files.placement.num_local_slots(RankId(static_cast<int>(r))));
    for (const MemoryPart& part : kMemoryParts) std::printf(" %12.2f", Mib(memory.*part.bytes));
    std::printf(" %12.2f\n", Mib(memory.total()));
  }
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

void PrintJson(const ModelFiles& files, const ModelSummary& summary, const MemoryReport& report) {
  const PartSummary total = summary.Total();
  nlohmann::ordered_json json = {{"model_type", files.model.model_type},
                                 {"parameters", total.num_params},
                                 {"active_parameters", total.num_active_params},
                                 {"parameters_without_embeddings", total.num_params - EndParams(summary)},
                                 {"active_parameters_without_embeddings", total.num_active_params - EndParams(summary)},
                                 {"skipped_parameters", files.plan.num_skipped_params},
                                 {"bytes", total.num_bytes}};
  for (int p = 0; p < kNumModelParts; ++p) {
    const PartSummary& part = summary.parts[p];
    json["parts"][std::string(ModelPartName(static_cast<ModelPart>(p)))] = {
        {"parameters", part.num_params}, {"active_parameters", part.num_active_params}, {"bytes", part.num_bytes}};
  }
  for (const auto& [dtype, num_bytes] : summary.bytes_by_dtype)
    json["bytes_by_dtype"][std::string(DTypeName(dtype))] = num_bytes;
  if (files.generation.ok()) json["generation"] = GenerationJson(*files.generation);
  json["weights_there"] = files.checkpoint != nullptr;
  json["cache_tokens_per_rank"] = report.engine.cache_tokens_per_rank;
  json["state_bytes_per_sequence"] = KvCache::BytesPerState(Engine::CacheOptions(files.model, report.engine));
  for (const ExpertDtype dtype : AllExpertDtypes()) {
    const std::optional<int64_t> bytes = BytesWith(dtype, files);
    json["bytes_by_expert_dtype"][std::string(ExpertDtypeName(dtype))] =
        bytes ? nlohmann::ordered_json(*bytes) : nlohmann::ordered_json();
  }
  json["skipped_bytes"] = files.plan.skipped_bytes;
  json["unknown_tensors"] = files.plan.num_unknown;
  for (size_t r = 0; r < report.per_rank.size(); ++r) {
    const auto experts = files.placement.local_experts(RankId(static_cast<int>(r)));
    nlohmann::ordered_json rank = {{"experts", std::vector<int>(experts.begin(), experts.end())}};
    for (const MemoryPart& part : kMemoryParts) rank[part.key] = report.per_rank[r].*part.bytes;
    rank["exchange_growth_bytes"] = report.per_rank[r].exchange_growth;
    json["ranks"].push_back(std::move(rank));
  }
  std::printf("%s\n", FormatJson(json).c_str());
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
  const ModelSummary summary = SummarizeModel(files->plan.plan);
  MemoryReport report;
  report.engine = ServingEngine(context.flags, files->model, {flags_.max_num_seqs, flags_.max_model_len});
  report.per_rank =
      PlanMemory(files->plan.plan, files->placement, report.engine, context.topology, context.device.kind());
  (flags_.json ? PrintJson : PrintTables)(*files, summary, report);
  return absl::OkStatus();
}

}  // namespace tokenferry
