#include "launch/session/model_session.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "comm/transport/collectives.h"
#include "comm/wait/wait.h"
#include "core/host/clock.h"
#include "core/host/memory_info.h"
#include "core/io/gguf.h"
#include "core/log.h"
#include "core/mib.h"
#include "launch/session/memory_check.h"
#include "runtime/families/families.h"

namespace tokenferry {
namespace {

bool HasWeights(const std::string& dir) {
  if (IsGgufPath(dir)) return true;
  std::error_code error;  // what cannot be looked at is for Checkpoint::Open to tell
  for (const absl::string_view name : {kSingleCheckpointFile, kCheckpointIndexFile}) {
    if (std::filesystem::exists(std::filesystem::path(dir) / std::string(name), error) || error) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<ModelFiles>> OpenLocally(RankContext& context, TokenizerUse use, WeightsUse weights) {
  const SharedFlags& flags = context.flags;
  const int num_ranks = context.transport.num_ranks();
  auto files = std::make_unique<ModelFiles>();
  TF_ASSIGN_OR_RETURN(files->model, LoadModelSpec(flags.model));
  files->generation = LoadGenerationConfig(flags.model, files->model);
  if (weights == WeightsUse::kNeeded || HasWeights(flags.model)) {
    TF_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(flags.model));
    files->checkpoint = std::make_unique<Checkpoint>(std::move(checkpoint));
    TF_ASSIGN_OR_RETURN(files->plan, CheckCheckpoint(files->model, *files->checkpoint));
  } else {
    auto plan = PlanTensors(files->model);
    if (!plan.ok()) return Annotate(plan.status(), absl::StrCat(flags.model, "/config.json"));
    files->plan.plan = *std::move(plan);
  }
  TF_RETURN_IF_ERROR(SetExpertDtype(flags.expert_dtype, files->plan.plan));
  const int num_experts = static_cast<int>(files->model.moe.num_experts);
  if (flags.placement == "linear") {
    files->placement = Placement::Linear(num_experts, num_ranks);
  } else {
    TF_ASSIGN_OR_RETURN(files->placement, Placement::FromFile(flags.placement, num_experts, num_ranks));
  }
  files->placement.SetHosts(Topology::Of(context.transport).host_idx_per_rank);
  if (use == TokenizerUse::kNone) return files;
  TF_ASSIGN_OR_RETURN(files->tokenizer, Tokenizer::Load(flags.model));
  if (files->tokenizer->max_id() >= files->model.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(flags.model, ": the largest token of its tokenizer is ",
                                                   files->tokenizer->max_id(), ", but its vocab_size is ",
                                                   files->model.vocab_size));
  }
  return files;
}

// Loading seen from rank 0: on a terminal one line that is rewritten, elsewhere a line every few seconds.
class LoadProgress {
 public:
  explicit LoadProgress(RankId rank) : shown_(rank == RankId(0)), terminal_(isatty(STDERR_FILENO) == 1) {}
  void operator()(int64_t done, int64_t total) {
    const absl::Duration pause = terminal_ ? absl::Milliseconds(100) : absl::Seconds(5);
    if (!shown_ || since_last_line_.elapsed() < pause) return;
    since_last_line_ = Stopwatch();
    const double seconds = since_start_.seconds(), share = static_cast<double>(done) / static_cast<double>(total);
    const std::string line = absl::StrFormat("rank 0 has read %.1f of %.1f MiB of its weights, %.0f s to go", Mib(done),
                                             Mib(total), share > 0 ? seconds / share * (1 - share) : 0.0);
    if (terminal_) {
      absl::FPrintF(stderr, "\r\033[K%s", line);
      wrote_ = true;
    } else {
      LogInfo(line);
    }
  }
  void Done() {
    if (wrote_) absl::FPrintF(stderr, "\r\033[K");
  }

 private:
  bool shown_, terminal_, wrote_ = false;
  const Stopwatch since_start_;
  Stopwatch since_last_line_;
};

int64_t WholeBlocks(int64_t tokens) { return CacheBlocks(tokens) * kCacheBlockTokens; }

// Rank 0's requests, on every rank: the tokens of each, prompt and output.
absl::StatusOr<std::vector<int64_t>> AgreeOnLengths(RankContext& context, absl::Span<const Request> requests) {
  const int64_t asked = context.flags.kv_cache_tokens;
  const bool first = context.rank() == RankId(0);
  std::vector<int64_t> lengths;
  absl::Status fits = absl::OkStatus();
  for (size_t i = 0; first && i < requests.size(); ++i) {
    lengths.push_back(static_cast<int64_t>(requests[i].prompt.size() + requests[i].decoder_input.size()) +
                      requests[i].max_new_tokens);
    if (asked == 0 || !fits.ok() || lengths[i] <= WholeBlocks(asked)) continue;
    fits = absl::InvalidArgumentError(absl::StrCat("prompt ", i, " needs room for ", lengths[i],
                                                   " tokens with what is to be generated, but --kv-cache-tokens ",
                                                   asked, " gives a rank ", WholeBlocks(asked)));
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {"prompt lengths"}, fits));
  const absl::string_view mine(reinterpret_cast<const char*>(lengths.data()), lengths.size() * sizeof(int64_t));
  TF_ASSIGN_OR_RETURN(const std::string bytes, Broadcast(context.transport, {"prompt lengths"}, RankId(0), mine));
  std::vector<int64_t> all(bytes.size() / sizeof(int64_t));
  std::memcpy(all.data(), bytes.data(), all.size() * sizeof(int64_t));
  return all;
}

// The engine that the flags ask for, with room for sequences of these lengths, spread evenly over the ranks.
EngineOptions SizedFor(absl::Span<const int64_t> lengths, const SharedFlags& flags, const ModelSpec& model,
                       int num_ranks) {
  EngineOptions engine = flags.engine;
  int64_t longest = 0, blocks = 0;
  for (const int64_t n : lengths) {
    longest = std::max(longest, CacheBlocks(n));
    blocks += CacheBlocks(n);
  }
  // An even share, and the longest sequence on top, since a sequence is on one rank. A rank that would need more,
  // because the scheduler has sent it more (to the beginnings that it has), lets some wait.
  engine.cache_tokens_per_rank = std::min(blocks, blocks / num_ranks + longest) * kCacheBlockTokens;
  if (flags.kv_cache_tokens > 0) engine.cache_tokens_per_rank = WholeBlocks(flags.kv_cache_tokens);
  engine.max_sequences_per_rank =
      std::clamp<int64_t>((static_cast<int64_t>(lengths.size()) + num_ranks - 1) / num_ranks, 1, 256);
  const int64_t whole = longest * kCacheBlockTokens;
  engine.prefill_chunk =
      flags.prefill_chunk > 0 ? std::min<int64_t>(flags.prefill_chunk, std::max<int64_t>(whole, 1)) : whole;
  if (model.has_encoder()) engine.encoder_tokens_per_rank = whole;  // what it reads passes in one step
  return engine;
}

// --explain writes to stderr: stdout is for results.
void Explain(const Placement& placement) {
  std::string text = absl::StrCat("placement of ", placement.num_experts(), " experts in every MoE layer\n");
  for (int r = 0; r < placement.num_ranks(); ++r) {
    const auto experts = placement.local_experts(RankId(r));
    absl::StrAppend(&text, "  rank ", r, ": ", experts.size(), " experts", experts.empty() ? "" : ": ");
    absl::StrAppend(&text, absl::StrJoin(experts, " "), "\n");
  }
  absl::FPrintF(stderr, "%s", text);
}

std::function<void(const CallSite&, const ExchangePlan&)> ExplainFirstPlan(RankId rank) {
  return [explained = rank != RankId(0)](const CallSite& site, const ExchangePlan& plan) mutable {
    if (!explained) absl::FPrintF(stderr, "%s: %s", ToString(site), plan.ToString());
    explained = true;
  };
}

constexpr CallSite kLoadSite{"load weights"};

// The ranks meet at every 64th of their own loading: a slow disk delays the others by one share, which the deadline
// must cover, and not by its whole time; and a rank that finds broken weights stops the others early.
class LoadPace {
 public:
  explicit LoadPace(Transport& transport) : transport_(transport) {}
  absl::Status Keep(int64_t done, int64_t total) {
    for (; next_ <= kShares && done >= total / kShares * next_ + total % kShares * next_ / kShares; ++next_) {
      const absl::Status stop = StopRequested() ? absl::CancelledError("asked to stop") : absl::OkStatus();
      TF_RETURN_IF_ERROR(AgreeOnStatus(transport_, kLoadSite, stop));
    }
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kShares = 64;
  Transport& transport_;
  int64_t next_ = 1;
};

absl::StatusOr<ModelWeights> LoadLocally(RankContext& context, const ModelFiles& files, const LoadOptions& options) {
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, context.device.CreateStream());
  return LoadWeights(*files.checkpoint, files.plan.plan, *stream, options);
}

// Path peer, which --path auto takes on one host, has buffers from its start, on GPUs for the most that can come. Who
// did not ask for it gets along without, where these are too much.
absl::Status FitMemory(RankContext& context, const ModelFiles& files, EngineOptions& engine) {
  const auto check = [&] {
    return CheckMemory(context,
                       PlanMemory(files.plan.plan, files.placement, engine, context.topology, context.device.kind()),
                       engine.moe.exchange.path);
  };
  const absl::Status fits = check();
  ExchangePath& path = engine.moe.exchange.path;
  if (fits.ok() || path != ExchangePath::kAuto || context.topology.num_hosts() > 1) return fits;
  path = ExchangePath::kAllToAllV;
  if (!check().ok()) return fits;
  if (context.rank() == RankId(0)) LogWarning(absl::StrCat("not taking path peer: ", fits.message()));
  return absl::OkStatus();
}

// Reads this rank's weights and creates the engine.
absl::StatusOr<std::unique_ptr<ModelSession>> StartEngine(
    RankContext& context, std::unique_ptr<ModelFiles> files, EngineOptions engine,
    const std::function<void(int64_t done, int64_t total)>& on_progress) {
  auto session = std::make_unique<ModelSession>();
  session->files = std::move(files);
  const ModelFiles& f = *session->files;
  TF_RETURN_IF_ERROR(FitMemory(context, f, engine));
  if (auto memory = ReadProcessMemory(); memory.ok()) session->resident_before_load = memory->resident_bytes;
  const Stopwatch load_watch;
  LoadProgress progress(context.transport.rank());
  LoadOptions load;
  load.placement = &f.placement;
  load.rank = context.transport.rank();
  load.converter = {.num_threads = context.num_threads, .cpus = context.cpus, .isa = context.isa};
  LoadPace pace(context.transport);
  int64_t num_bytes = 0;
  load.progress = [&](int64_t done, int64_t total) {
    num_bytes = total;
    progress(done, total);
    if (on_progress) on_progress(done, total);
    return pace.Keep(done, total);
  };
  auto weights = LoadLocally(context, f, load);
  progress.Done();
  if (!weights.ok() && IsAgreedOn(weights.status())) return weights.status();
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kLoadSite, weights.status()));
  session->weights = *std::move(weights);
  session->load_seconds = load_watch.seconds();
  if (on_progress) on_progress(num_bytes, num_bytes);

  if (context.flags.explain) {
    // On all ranks: to see plans is to choose a path that makes them on the host.
    engine.moe.on_plan = ExplainFirstPlan(context.rank());
    engine.moe.exchange.on_choice = [](const std::string& why) { absl::FPrintF(stderr, "%s", why); };
  }
  auto created = Engine::Create(context.transport, context.device, f.model, session->weights, f.placement, engine);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {"create engine"}, created.status()));
  session->engine = *std::move(created);
  if (on_progress) on_progress(num_bytes, num_bytes);
  return session;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFiles>> OpenModel(RankContext& context, TokenizerUse tokenizer,
                                                      WeightsUse weights) {
  auto files = OpenLocally(context, tokenizer, weights);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {"open model"}, files.status()));
  if (context.flags.explain && context.rank() == RankId(0)) Explain((*files)->placement);
  const CheckedPlan& plan = (*files)->plan;
  if (context.transport.rank() == RankId(0)) {
    for (const std::string& warning : plan.warnings) LogWarning(warning);
  }
  if (plan.num_unknown > 0 && context.transport.rank() == RankId(0)) {
    std::string names;
    for (const std::string& name : plan.unknown_names) absl::StrAppend(&names, names.empty() ? "" : ", ", name);
    LogWarning(absl::StrCat("the checkpoint has ", plan.num_unknown, " tensors that the model does not use: ", names,
                            plan.num_unknown > static_cast<int64_t>(plan.unknown_names.size()) ? ", .." : ""));
  }
  return files;
}

absl::StatusOr<std::unique_ptr<ModelSession>> StartSession(RankContext& context, std::unique_ptr<ModelFiles> files,
                                                           absl::Span<const Request> requests) {
  TF_ASSIGN_OR_RETURN(const std::vector<int64_t> lengths, AgreeOnLengths(context, requests));
  const EngineOptions engine = SizedFor(lengths, context.flags, files->model, context.num_ranks());
  return StartEngine(context, std::move(files), engine, nullptr);
}

EngineOptions ServingEngine(const SharedFlags& flags, const ModelSpec& model, const ServingSize& size) {
  const int64_t longest = size.max_sequence_tokens > 0 ? size.max_sequence_tokens : model.max_position_embeddings;
  EngineOptions engine = flags.engine;
  engine.max_sequences_per_rank = size.max_sequences_per_rank;
  engine.cache_tokens_per_rank =
      WholeBlocks(flags.kv_cache_tokens > 0 ? flags.kv_cache_tokens : std::max(kServingCacheTokens, longest));
  engine.prefill_chunk = flags.prefill_chunk > 0 ? flags.prefill_chunk : WholeBlocks(longest);
  if (model.has_encoder()) engine.encoder_tokens_per_rank = WholeBlocks(longest);
  return engine;
}

absl::StatusOr<std::unique_ptr<ModelSession>> StartServingSession(
    RankContext& context, std::unique_ptr<ModelFiles> files, const ServingSize& size,
    const std::function<void(int64_t done, int64_t total)>& on_progress) {
  EngineOptions engine = ServingEngine(context.flags, files->model, size);
  return StartEngine(context, std::move(files), std::move(engine), on_progress);
}

absl::Status CheckContext(absl::string_view what, int64_t prompt_tokens, int64_t new_tokens, const ModelSpec& model) {
  if (prompt_tokens == 0) return absl::InvalidArgumentError(absl::StrCat(what, " is empty: give at least one token"));
  if (new_tokens <= model.answer_room(prompt_tokens, model.max_position_embeddings)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " has ", prompt_tokens, " tokens and ", new_tokens,
                                                 " are to be generated, but the model's context is ",
                                                 model.max_position_embeddings, " tokens"));
}

}  // namespace tokenferry
