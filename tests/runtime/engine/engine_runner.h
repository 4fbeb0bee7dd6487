// Runs a checkpoint on ranks that are threads of this process, or on the ranks of a given transport, and collects what
// rank 0 sees. For tests of the whole engine.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/transport/transport.h"
#include "core/device/cpu_device.h"
#include "runtime/engine/engine.h"
#include "runtime/model/expert_dtype.h"

namespace tokenferry {

struct RunSetup {
  std::string model_dir;  // empty: models/ferry-tiny-v3
  int num_ranks = 1;
  EngineOptions engine = {.compute = Compute::kF32, .prefill_chunk = 1024};
  int64_t placement_seed = -1;  // -1: linear; else a random placement of that seed
  CpuDeviceOptions device;      // isa kPortable stands for the best this machine has
  std::function<absl::StatusOr<std::unique_ptr<Device>>()> make_device;  // another device, instead
  bool portable_isa = false;                                             // really kPortable
  ExpertDtype expert_dtype = ExpertDtype::kStored;
  PrefixCache prefix_cache = PrefixCache::kOn;
};

struct RunResult {
  std::vector<int32_t> tokens;         // kGenerate
  std::vector<float> logprobs;         // of them
  std::vector<int32_t> token_experts;  // Request::routing: [tokens, L, K]
  std::vector<float> logits;           // kLogits: [S, V]
  std::vector<int32_t> expert_idx;     // kLogits: [L, S, K]
  std::vector<float> expert_weight;    // kLogits: [L, S, K]
  std::vector<float> hidden_states;    // Request::trace: [all layers + 1, S, H]
  std::vector<float> router_logits;    // Request::trace: [L, S, E]
  std::vector<int32_t> selected_keys;  // Request::trace: [all layers, S, num_selected_keys]
  std::vector<RunResult> encoder;      // one, of a model with an encoder: the same of its layers and its input
  double nll = 0;                      // kScore, kLogits
  int64_t num_scored = 0;
  int64_t num_top = 0;  // likeliest tokens of the prompt
};

struct RunOutcome {
  std::vector<RunResult> results;  // by request
  SchedulerStats scheduler;
};

std::string SourceDir();

// What a rank needs to take part in steps.
struct RankEngine {
  std::unique_ptr<Device> device;
  ModelSpec model;
  ModelWeights weights;
  std::unique_ptr<Engine> engine;
};
absl::StatusOr<std::unique_ptr<RankEngine>> StartEngine(Transport& transport, const RunSetup& setup);

// `run` on ranks that are threads; how each has ended. A rank that ends with an error ends the group.
std::vector<absl::Status> RunRanks(int num_ranks, absl::Duration timeout,
                                   const std::function<absl::Status(Transport&)>& run);

// By request. Fails the calling test when a rank fails.
std::vector<RunResult> RunLocally(const RunSetup& setup, const std::vector<Request>& requests);

// The same, with what the scheduler counted.
RunOutcome RunAndCount(const RunSetup& setup, const std::vector<Request>& requests);

// One rank's part; results on rank 0.
absl::StatusOr<RunOutcome> RunRank(Transport& transport, const RunSetup& setup, const std::vector<Request>& requests);

// Random, not uniform, some ranks possibly without experts.
Placement RandomPlacement(int num_experts, int num_ranks, int64_t seed);

// Of a model with an encoder: `decoder_ids` are scored.
Request WithDecoder(Request request, std::vector<int32_t> decoder_ids);
Request LogitsRequest(std::vector<int32_t> ids);
Request TraceRequest(std::vector<int32_t> ids);  // logits, hidden states and router logits
Request ScoreRequest(std::vector<int32_t> ids);
Request GenerateRequest(std::vector<int32_t> ids, int64_t max_new_tokens, SamplingParams sampling = {});

// {"prompts": [{"input_ids": [..]}, ..]} under tests/data.
std::vector<std::vector<int32_t>> ReadPrompts(const std::string& file);

}  // namespace tokenferry
