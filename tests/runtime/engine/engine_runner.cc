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

// Chunks come in order; logits rows are appended, routing [L, n, K] is spread into [L, S, K].
void Append(const SequenceUpdate& u, const ModelSpec& model, int64_t num_tokens, RunResult& r) {
  if (u.has_token) r.tokens.push_back(u.token.token), r.logprobs.push_back(u.token.logprob);
  for (double logprob : u.result.logprobs) r.nll -= logprob;
  r.num_scored += static_cast<int64_t>(u.result.logprobs.size());
  r.num_top += static_cast<int64_t>(u.result.top_logprobs.size());
  r.logits.insert(r.logits.end(), u.result.logits.begin(), u.result.logits.end());
  if (u.has_token)
    r.token_experts.insert(r.token_experts.end(), u.result.expert_idx.begin(), u.result.expert_idx.end());
  if (u.has_token || u.result.expert_idx.empty()) return;
  const int64_t L = model.num_moe_layers(), K = model.moe.router.top_k;
  const int64_t n = static_cast<int64_t>(u.result.expert_idx.size()) / (L * K);
  r.expert_idx.resize(L * num_tokens * K);
  r.expert_weight.resize(L * num_tokens * K);
  for (int64_t l = 0; l < L; ++l) {
    const int64_t to = (l * num_tokens + u.position) * K;
    std::copy_n(u.result.expert_idx.begin() + l * n * K, n * K, r.expert_idx.begin() + to);
    std::copy_n(u.result.expert_weight.begin() + l * n * K, n * K, r.expert_weight.begin() + to);
  }
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

absl::StatusOr<RunOutcome> RunRank(Transport& transport, const RunSetup& setup, const std::vector<Request>& requests) {
  const std::string dir = setup.model_dir.empty() ? SourceDir() + "/models/ferry-tiny-v3" : setup.model_dir;
  CpuDeviceOptions device_options = setup.device;
  if (!setup.portable_isa && device_options.isa == Isa::kPortable) device_options.isa = BestIsa(SupportedIsas());
  const std::unique_ptr<Device> device = CreateCpuDevice(device_options);
  TF_ASSIGN_OR_RETURN(const ModelSpec model, LoadModelSpec(dir));
  TF_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(dir));
  TF_ASSIGN_OR_RETURN(const CheckedPlan plan, CheckCheckpoint(model, checkpoint));
  const int E = static_cast<int>(model.moe.num_experts), R = transport.num_ranks();
  const Placement placement =
      setup.placement_seed < 0 ? Placement::Linear(E, R) : RandomPlacement(E, R, setup.placement_seed);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device->CreateStream());
  LoadOptions load;
  load.placement = &placement;
  load.rank = transport.rank();
  TF_ASSIGN_OR_RETURN(const ModelWeights weights, LoadWeights(checkpoint, plan.plan, *stream, load));
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                      Engine::Create(transport, *device, model, weights, placement, setup.engine));
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
    Append(u, model, static_cast<int64_t>(requests[u.seq].prompt.size()), run.results[u.seq]);
    return absl::OkStatus();
  }));
  run.scheduler = scheduler.stats();
  return run;
}

std::vector<RunResult> RunLocally(const RunSetup& setup, const std::vector<Request>& requests) {
  return RunAndCount(setup, requests).results;
}

RunOutcome RunAndCount(const RunSetup& setup, const std::vector<Request>& requests) {
  auto transports = CreateLocalGroup(setup.num_ranks, {.timeout = absl::Seconds(60)});
  std::vector<absl::StatusOr<RunOutcome>> results(setup.num_ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < setup.num_ranks; ++r) {
    threads.emplace_back([&, r] {
      results[r] = RunRank(*transports[r], setup, requests);
      if (!results[r].ok()) transports[r]->Abort(results[r].status());
    });
  }
  for (auto& t : threads) t.join();
  for (int r = 0; r < setup.num_ranks; ++r) EXPECT_TRUE(results[r].ok()) << "rank " << r << ": " << results[r].status();
  return results[0].ok() ? *results[0] : RunOutcome{std::vector<RunResult>(requests.size()), {}};
}

Request LogitsRequest(std::vector<int32_t> ids) {
  Request r;
  r.prompt = std::move(ids);
  r.kind = RequestKind::kLogits;
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
