#include "launch/session/serve_loop.h"

#include <algorithm>
#include <utility>

#include "runtime/engine/serving_loop.h"

namespace tokenferry {
namespace {

AddCommand CommandOf(AddRequest add) {
  Request request;
  request.kind = add.max_new_tokens > 0 ? RequestKind::kGenerate : RequestKind::kScore;
  request.prompt = std::move(add.prompt);
  request.output = std::move(add.output);
  request.sampling = std::move(add.sampling);
  request.max_new_tokens = add.max_new_tokens;
  request.cache_scope = std::move(add.cache_scope);
  if (add.prompt_scores == WantPromptScores::kYes) request.prompt_scores = Wanted::kYes;
  if (add.routing == WantRouting::kYes) request.routing = Wanted::kYes;
  return {add.id, std::move(request)};
}

// The front's messages as commands. It ends when the front does; a front that was drained is no error.
CommandSource CommandsFrom(RankLink& link) {
  return [&link](absl::Duration wait) -> absl::StatusOr<std::vector<Command>> {
    std::vector<Command> commands;
    for (Message& message : link.Take(wait)) {
      if (auto* add = std::get_if<AddRequest>(&message)) {
        commands.emplace_back(CommandOf(std::move(*add)));
      } else if (const auto* cancel = std::get_if<CancelRequest>(&message)) {
        commands.emplace_back(CancelCommand{cancel->id});
      }
    }
    const absl::Status ended = link.ended();
    if (!ended.ok() && !absl::IsCancelled(ended)) return ended;
    if (!ended.ok()) commands.emplace_back(DrainCommand{});
    return commands;
  };
}

OutputEnd EndOf(const SequenceUpdate& update) {
  if (update.end == SequenceEnd::kStopToken) return OutputEnd::kStop;
  return update.end == SequenceEnd::kLength ? OutputEnd::kLength : OutputEnd::kNone;
}

std::vector<ReportedToken> Reported(absl::Span<const TokenLogprob> tokens) {
  std::vector<ReportedToken> reported;
  for (const TokenLogprob& t : tokens) reported.push_back({t.token, t.logprob});
  return reported;
}

TokenUpdate TokenOf(uint64_t id, const SequenceUpdate& update) {
  TokenUpdate token;
  token.id = id;
  token.sampled = {update.token.token, update.token.logprob};
  token.top = Reported(update.token.top);
  token.expert_idx = update.result.expert_idx;
  token.num_cached_tokens = update.num_cached_tokens;
  token.end = EndOf(update);
  return token;
}

PromptScores ScoresOf(uint64_t id, const SequenceUpdate& update) {
  PromptScores scores;
  scores.id = id;
  const EntryResult& result = update.result;
  for (const double logprob : result.logprobs) scores.logprobs.push_back(static_cast<float>(logprob));
  const size_t num_top = result.logprobs.empty() ? 0 : result.top_logprobs.size() / result.logprobs.size();
  for (size_t i = 0; num_top > 0 && i < result.logprobs.size(); ++i) {
    scores.top.push_back(Reported(absl::MakeConstSpan(result.top_logprobs).subspan(i * num_top, num_top)));
  }
  scores.end = update.has_token ? OutputEnd::kNone : EndOf(update);
  return scores;
}

RequestFailed FailureOf(uint64_t id, const absl::Status& error) {
  // FailedPrecondition: the request's grammar and biases have left no token.
  const bool invalid =
      absl::IsInvalidArgument(error) || absl::IsResourceExhausted(error) || absl::IsFailedPrecondition(error);
  const FailureKind kind = invalid                      ? FailureKind::kInvalid
                           : absl::IsUnavailable(error) ? FailureKind::kOverloaded
                                                        : FailureKind::kInternal;
  return {id, kind, std::string(error.message())};
}

// What a step has brought, its tokens in one message.
void SendUpdates(const std::vector<RequestUpdate>& updates, RankLink& link) {
  TokenBatch batch;
  for (const auto& [id, update] : updates) {
    if (update.end == SequenceEnd::kError) {
      link.Send(FailureOf(id, update.error));
      continue;
    }
    if (!update.result.logprobs.empty() || !update.has_token) link.Send(ScoresOf(id, update));
    if (update.has_token) batch.updates.push_back(TokenOf(id, update));
  }
  if (!batch.updates.empty()) link.Send(batch);
}

void Add(const std::vector<int64_t>& from, std::vector<int64_t>& to) {
  to.resize(std::max(to.size(), from.size()));
  for (size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

// Rank `rank`'s counters as its part of the job's.
void AddRank(int rank, const RankStats& counted, const Placement& placement, const Topology& topology,
             JobStats& stats) {
  const auto R = static_cast<size_t>(placement.num_ranks()), E = static_cast<size_t>(placement.num_experts());
  const auto experts = placement.local_experts(RankId(rank));  // [slots]
  const size_t num_layers = experts.empty() ? 0 : counted.rows_per_slot.size() / experts.size();
  stats.expert_rows.resize(std::max(stats.expert_rows.size(), num_layers * E));
  stats.rank_rows.resize(std::max(stats.rank_rows.size(), num_layers * R));
  for (size_t i = 0; i < num_layers * experts.size(); ++i) {
    const size_t layer = i / experts.size();
    stats.expert_rows[layer * E + experts[i % experts.size()]] += counted.rows_per_slot[i];
    stats.rank_rows[layer * R + rank] += counted.rows_per_slot[i];
  }
  const std::vector<int>& hosts = topology.host_idx_per_rank;
  const size_t begin = stats.bytes_sent.size();
  stats.bytes_sent.resize(begin + 3);
  for (size_t r = 0; r < counted.bytes_sent_per_rank.size(); ++r) {
    const size_t link = static_cast<int>(r) == rank ? 0 : hosts[r] == hosts[rank] ? 1 : 2;
    stats.bytes_sent[begin + link] += counted.bytes_sent_per_rank[r];
  }
  stats.wait_seconds.insert(stats.wait_seconds.end(), counted.wait_seconds_per_rank.begin(),
                            counted.wait_seconds_per_rank.end());
  stats.exchange_seconds.push_back(counted.exchange_seconds);
  Add(counted.dropped, stats.dropped);
  Add(counted.rerouted, stats.rerouted);
}

JobStats StatsOf(const RankContext& context, const ModelSession& session, const StepReport& report) {
  const EngineStats& engine = session.engine->stats();
  JobStats stats;
  stats.num_steps = engine.num_steps;
  stats.prefill_tokens = engine.prefill_tokens;
  stats.decode_tokens = engine.decode_tokens;
  stats.step_seconds = engine.prefill_seconds + engine.decode_seconds;
  stats.num_running = report.scheduler.num_running;
  stats.num_waiting = report.scheduler.num_waiting;
  stats.cache_blocks_total = report.scheduler.num_blocks;
  stats.cache_blocks_used = report.scheduler.num_held_blocks;
  stats.prefix_query_tokens = report.scheduler.prefix_query_tokens;
  stats.prefix_hit_tokens = report.scheduler.prefix_hit_tokens;
  stats.num_preemptions = report.scheduler.num_preemptions;
  stats.num_replays = report.scheduler.num_replays;
  for (size_t r = 0; r < report.rank_stats.size(); ++r) {
    AddRank(static_cast<int>(r), report.rank_stats[r], session.files->placement, context.topology, stats);
  }
  return stats;
}

Ready ReadyOf(const RankContext& context, const ModelSession& session) {
  Ready ready;
  for (const int host : context.topology.host_idx_per_rank) {
    ready.host_per_rank.push_back(context.topology.hosts[host].name);
  }
  ready.setup = context.topology.ToString();
  ready.max_sequences_per_rank = session.engine->scheduler_options().max_sequences_per_rank;
  return ready;
}

std::unique_ptr<const Vocabulary> VocabularyOf(const Tokenizer& tokenizer, int64_t vocab_size) {
  std::vector<std::string> bytes(vocab_size);
  std::vector<int32_t> special;
  for (int32_t id = 0; id < vocab_size; ++id) {
    bytes[id] = std::string(tokenizer.TokenBytes(id));
    if (tokenizer.IsSpecial(id)) special.push_back(id);
  }
  return std::make_unique<Vocabulary>(std::move(bytes), std::move(special));
}

}  // namespace

absl::Status RunServing(RankContext& context, ModelSession& session, absl::Duration step_target, RankLink* link) {
  ModelFiles& files = *session.files;
  session.engine->SetVocabulary(VocabularyOf(*files.tokenizer, files.model.vocab_size));
  files.tokenizer.reset();  // the rest of it is the front's
  const ServingOptions options{.step_target = step_target};
  if (link == nullptr) return RunServingLoop(*session.engine, {}, options, {});
  link->Send(ReadyOf(context, session));
  return RunServingLoop(*session.engine, CommandsFrom(*link), options, [&](const StepReport& report) {
    SendUpdates(report.updates, *link);
    link->Send(Heartbeat{report.num_steps});
    if (!report.rank_stats.empty()) link->Send(StatsOf(context, session, report));
    return absl::OkStatus();
  });
}

}  // namespace tokenferry
