#include "tests/runtime/engine/engine_runner.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "comm/transport/collectives.h"
#include "comm/transport/local_transport.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/families/families.h"
#include "runtime/model/tensor_plan.h"

namespace tokenferry {
namespace {

// Rows [position, position + n) of each of `num_matrices` matrices: `rows` [matrices, n, cols] into [matrices, S,
// cols].
template <class T>
void Spread(const std::vector<T>& rows, int64_t num_matrices, int64_t cols, int64_t position, int64_t num_tokens,
            std::vector<T>& out) {
  if (rows.empty()) return;
  const int64_t n = static_cast<int64_t>(rows.size()) / (num_matrices * cols);
  out.resize(num_matrices * num_tokens * cols);
  for (int64_t m = 0; m < num_matrices; ++m) {
    std::copy_n(rows.begin() + m * n * cols, n * cols, out.begin() + (m * num_tokens + position) * cols);
  }
}

// Chunks come in order; logits rows are appended, [L, n, ..] is spread into [L, S, ..].
void AppendLayers(const SequenceUpdate& u, const ModelSpec& model, int64_t num_tokens, RunResult& r) {
  const int64_t L = model.num_moe_layers(u.stack), K = model.moe.router.top_k;
  const EntryResult& of = u.result;
  Spread(of.expert_idx, L, K, u.position, num_tokens, r.expert_idx);
  Spread(of.expert_weight, L, K, u.position, num_tokens, r.expert_weight);
  Spread(of.hidden_states, model.num_layers(u.stack) + 1, model.hidden_size, u.position, num_tokens, r.hidden_states);
  Spread(of.router_logits, L, model.moe.num_experts, u.position, num_tokens, r.router_logits);
  Spread(of.selected_keys, model.num_layers(u.stack), model.num_selected_keys(), u.position, num_tokens,
         r.selected_keys);
}

void Append(const SequenceUpdate& u, const ModelSpec& model, const Request& request, RunResult& r) {
  const auto num_prompt = static_cast<int64_t>(request.prompt.size());
  if (u.stack == Stack::kEncoder) {
    r.encoder.resize(1);
    return AppendLayers(u, model, num_prompt, r.encoder[0]);
  }
  if (u.has_token) r.tokens.push_back(u.token.token), r.logprobs.push_back(u.token.logprob);
  for (double logprob : u.result.logprobs) r.nll -= logprob;
  r.num_scored += static_cast<int64_t>(u.result.logprobs.size());
  r.num_top += static_cast<int64_t>(u.result.top_logprobs.size());
  r.logits.insert(r.logits.end(), u.result.logits.begin(), u.result.logits.end());
  if (u.has_token)
    r.token_experts.insert(r.token_experts.end(), u.result.expert_idx.begin(), u.result.expert_idx.end());
  if (u.has_token) return;
  AppendLayers(u, model, model.has_encoder() ? static_cast<int64_t>(request.decoder_input.size()) : num_prompt, r);
}

}  // namespace

std::string SourceDir() { return std::getenv("TF_SOURCE_DIR"); }

Placement RandomPlacement(int num_experts, int num_ranks, int64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<int>> table(num_ranks);
  for (int e = 0; e < num_experts; ++e) {
    auto& row = table[random() % num_ranks];
    row.insert(row.begin() + random() % (row.size() + 1), e);
  }
  return *Placement::FromTable(num_experts, table);
}

absl::StatusOr<std::unique_ptr<RankEngine>> StartEngine(Transport& transport, const RunSetup& setup) {
  auto rank = std::make_unique<RankEngine>();
  const std::string dir = setup.model_dir.empty() ? SourceDir() + "/models/ferry-tiny-v3" : setup.model_dir;
  CpuDeviceOptions device_options = setup.device;
  if (!setup.portable_isa && device_options.isa == Isa::kPortable) device_options.isa = BestIsa(SupportedIsas());
  if (setup.make_device) {
    TF_ASSIGN_OR_RETURN(rank->device, setup.make_device());
  } else {
    rank->device = CreateCpuDevice(device_options);
  }
  TF_ASSIGN_OR_RETURN(rank->model, LoadModelSpec(dir));
  TF_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(dir));
  TF_ASSIGN_OR_RETURN(CheckedPlan plan, CheckCheckpoint(rank->model, checkpoint));
  TF_RETURN_IF_ERROR(SetExpertDtype(setup.expert_dtype, plan.plan));
  const int E = static_cast<int>(rank->model.moe.num_experts), R = transport.num_ranks();
  const Placement placement =
      setup.placement_seed < 0 ? Placement::Linear(E, R) : RandomPlacement(E, R, setup.placement_seed);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, rank->device->CreateStream());
  LoadOptions load;
  load.placement = &placement;
  load.rank = transport.rank();
  TF_ASSIGN_OR_RETURN(rank->weights, LoadWeights(checkpoint, plan.plan, *stream, load));
  EngineOptions options = setup.engine;
  if (rank->model.has_encoder() && options.encoder_tokens_per_rank == 0) options.encoder_tokens_per_rank = 1024;
  TF_ASSIGN_OR_RETURN(rank->engine,
                      Engine::Create(transport, *rank->device, rank->model, rank->weights, placement, options));
  return rank;
}

absl::StatusOr<RunOutcome> RunRank(Transport& transport, const RunSetup& setup, const std::vector<Request>& requests) {
  TF_ASSIGN_OR_RETURN(const std::unique_ptr<RankEngine> rank, StartEngine(transport, setup));
  Engine* const engine = rank->engine.get();
  SchedulerOptions scheduler_options = engine->scheduler_options();
  scheduler_options.prefix_cache = setup.prefix_cache;
  Scheduler scheduler(scheduler_options);
  RunOutcome run;
  run.results.resize(requests.size());
  if (transport.rank() == RankId(0)) {
    for (const Request& r : requests) TF_RETURN_IF_ERROR(scheduler.Add(r).status());
  }
  TF_RETURN_IF_ERROR(engine->RunUntilIdle(&scheduler, [&](const SequenceUpdate& u) -> absl::Status {
    TF_RETURN_IF_ERROR(u.error);
    Append(u, rank->model, requests[u.seq], run.results[u.seq]);
    return absl::OkStatus();
  }));
  run.scheduler = scheduler.stats();
  return run;
}

std::vector<RunResult> RunLocally(const RunSetup& setup, const std::vector<Request>& requests) {
  return RunAndCount(setup, requests).results;
}

std::vector<absl::Status> RunRanks(int num_ranks, absl::Duration timeout,
                                   const std::function<absl::Status(Transport&)>& run) {
  auto transports = CreateLocalGroup(num_ranks, {.timeout = timeout});
  std::vector<absl::Status> ended(num_ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < num_ranks; ++r) {
    threads.emplace_back([&, r] {
      ended[r] = run(*transports[r]);
      if (!ended[r].ok()) transports[r]->Abort(ended[r]);
    });
  }
  for (auto& t : threads) t.join();
  return ended;
}

RunOutcome RunAndCount(const RunSetup& setup, const std::vector<Request>& requests) {
  RunOutcome outcome{std::vector<RunResult>(requests.size()), {}};
  const auto ended = RunRanks(setup.num_ranks, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(RunOutcome mine, RunRank(transport, setup, requests));
    if (transport.rank() == RankId(0)) outcome = std::move(mine);
    return absl::OkStatus();
  });
  for (int r = 0; r < setup.num_ranks; ++r) EXPECT_TRUE(ended[r].ok()) << "rank " << r << ": " << ended[r];
  return outcome;
}

Request WithDecoder(Request request, std::vector<int32_t> decoder_ids) {
  request.decoder_input = std::move(decoder_ids);
  return request;
}

Request LogitsRequest(std::vector<int32_t> ids) {
  Request r;
  r.prompt = std::move(ids);
  r.kind = RequestKind::kLogits;
  return r;
}

Request TraceRequest(std::vector<int32_t> ids) {
  Request r = LogitsRequest(std::move(ids));
  r.trace = Wanted::kYes;
  return r;
}

Request ScoreRequest(std::vector<int32_t> ids) {
  Request r = LogitsRequest(std::move(ids));
  r.kind = RequestKind::kScore;
  return r;
}

Request GenerateRequest(std::vector<int32_t> ids, int64_t max_new_tokens, SamplingParams sampling) {
  Request r;
  r.prompt = std::move(ids);
  r.max_new_tokens = max_new_tokens;
  r.sampling = sampling;
  return r;
}

std::vector<std::vector<int32_t>> ReadPrompts(const std::string& file) {
  std::ifstream in(SourceDir() + "/tests/data/" + file);
  const auto json = nlohmann::json::parse(in);
  std::vector<std::vector<int32_t>> prompts;
  for (const auto& p : json.at("prompts")) prompts.push_back(p.at("input_ids").get<std::vector<int32_t>>());
  return prompts;
}

}  // namespace tokenferry
