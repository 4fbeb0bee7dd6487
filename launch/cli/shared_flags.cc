#include "launch/cli/shared_flags.h"

#include <iterator>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/host/isa.h"
#include "launch/cli/flag_set.h"

namespace tokenferry {
namespace {

void DeclareOverflow(FlagSet& set, OverflowPolicy* p) {
  set.Choice("overflow", &p->kind,
             {{"dropless", Overflow::kDropless},
              {"capacity", Overflow::kCapacity},
              {"rank_budget", Overflow::kRankBudget},
              {"reroute", Overflow::kReroute},
              {"trap", Overflow::kTrap}},
             "selections beyond an expert's capacity: none are; dropped; dropped beyond what a rank may receive; sent "
             "to a replica or the next-best expert with room, else dropped; an error");
  set.Real(
      "capacity-factor", &p->capacity_factor, {0, 1024, RealRange::Low::kExcluded},
      "F: an expert takes ceil(F * top-k * tokens of all ranks / experts) selections, a rank (rank_budget) ceil(F * "
      "top-k * tokens / ranks)");
  set.Choice("drop", &p->drop_by, {{"position", DropBy::kPosition}, {"probability", DropBy::kProbability}},
             "who has to go: the last ones, or those with the smallest weights");
  set.Choice("drop-order", &p->order, {{"slot", PositionOrder::kSlotMajor}, {"token", PositionOrder::kTokenMajor}},
             "order of positions: all first choices, then all second ones (GShard); or token by token");
  set.Switch("renormalise", &p->renormalise, Renormalise::kYes,
             "scale what is left of a token's weights to the sum they had");
  set.Switch("padded", &p->padding, Padding::kCapacity,
             "every expert computes as many rows as its capacity, zeros beyond: static shapes");
}

absl::Status CheckOverflow(const FlagSet& set, Overflow kind) {
  const bool has_room = kind == Overflow::kCapacity || kind == Overflow::kReroute;
  const bool drops = has_room || kind == Overflow::kRankBudget;
  const auto refuse = [&](const char* flag, bool allowed, const char* policies) -> absl::Status {
    if (allowed || !set.given(flag)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " is of --overflow ", policies, ", not chosen"));
  };
  TF_RETURN_IF_ERROR(refuse("capacity-factor", kind != Overflow::kDropless, "capacity, rank_budget, reroute and trap"));
  for (const char* flag : {"drop", "drop-order", "renormalise"}) {
    TF_RETURN_IF_ERROR(refuse(flag, drops, "capacity, rank_budget and reroute"));
  }
  return refuse("padded", has_room, "capacity and reroute");
}

}  // namespace

std::vector<std::pair<std::string, ExchangePath>> PathChoices() {
  std::vector<std::pair<std::string, ExchangePath>> choices;
  for (const PathName& entry : kPathNames) choices.emplace_back(entry.name, entry.path);
  return choices;
}

void DeclareJobFlags(FlagSet& set, SharedFlags* f) {
  set.Group("Ranks and messages");
  set.Choice("device", &f->device,
             {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}},
             "where kernels run");
  set.Switch("share-gpus", &f->share_gpus,
             "let several ranks take one GPU where there are fewer GPUs than ranks: slow");
  set.Choice("transport", &f->transport, {std::begin(kTransportNames), std::end(kTransportNames)},
             "what moves bytes between ranks; auto: mpi under mpirun or srun, else local; nccl: rows from GPU to GPU, "
             "and mpi for all else, which auto takes under mpirun when every rank has a GPU");
  set.Integer("ranks", &f->num_ranks, 0, 4096,
              "ranks; with the local transport, threads of this process; 0: as started");
  set.Duration("comm-timeout", &f->comm_timeout, "longest wait for another rank");
  DeclareConfigFlag(set, f);
  set.Choice("log-level", &f->log_level,
             {{"debug", LogLevel::kDebug},
              {"info", LogLevel::kInfo},
              {"warning", LogLevel::kWarning},
              {"error", LogLevel::kError},
              {"off", LogLevel::kOff}},
             "messages on stderr");
}

void DeclareConfigFlag(FlagSet& set, SharedFlags* f) {
  set.Text("config", &f->config_file, "YAML file with any of these flags; the command line wins");
}

void DeclareKernelFlags(FlagSet& set, SharedFlags* f) {
  set.Group("Kernels on CPUs");
  set.Integer("threads", &f->num_threads, 0, 4096, "kernel threads per rank; 0: its share of the cores");
  set.Text("instruction-set", &f->instruction_set, "kernels to use; without it, the best that all ranks have");
}

absl::Status CheckKernelFlags(const SharedFlags& f) {
  if (f.instruction_set.empty()) return absl::OkStatus();
  return Annotate(IsaFromName(f.instruction_set).status(), "--instruction-set");
}

void DeclareModelFlags(FlagSet& set, SharedFlags* f) {
  set.Group("Model");
  set.Text("model", &f->model,
           "directory of the checkpoint (config.json, *.safetensors, tokenizer.json), or a .gguf file");
  set.Require("model", "DIR, a directory with a checkpoint, or a .gguf file");
  set.Text("placement", &f->placement, "linear, or a JSON file: which rank holds which experts [linear]");
  set.Switch("explain", &f->explain, "print the placement, and the exchange plan of the first step, to stderr");
}

void DeclareComputeFlag(FlagSet& set, Compute* compute) {
  set.Choice("compute", compute, {{"bf16", Compute::kBF16}, {"f32", Compute::kF32}},
             "precision of the inputs of matrix products");
}

void DeclareMemoryFlags(FlagSet& set, SharedFlags* f) {
  MoeOptions* moe = &f->engine.moe;
  set.Group("Engine");
  DeclareComputeFlag(set, &f->engine.compute);
  set.Choice("expert-dtype", &f->expert_dtype,
             {{"stored", ExpertDtype::kStored},
              {"bf16", ExpertDtype::kBF16},
              {"fp8", ExpertDtype::kF8},
              {"int8", ExpertDtype::kInt8},
              {"int4", ExpertDtype::kInt4},
              {"int2", ExpertDtype::kInt2}},
             "routed experts in memory: as the files have them, or rounded while they are loaded, with a scale for 128 "
             "(fp8, int8) or 32 values of a row");
  set.Choice("path", &moe->exchange.path, PathChoices(),
             "path of the exchange; auto: peer when all ranks share a host's memory, else what measured links predict");
  set.Choice("reduction", &moe->exchange.reduction, {{"exact", Reduction::kExact}, {"node", Reduction::kNode}},
             "of --path two_level: outputs travel one by one, with the bits of every path, or are summed on each "
             "host first");
  set.Choice("dispatch-dtype", &moe->dispatch_dtype,
             {{"auto", std::nullopt},
              {"bf16", DType::kBF16},
              {"f32", DType::kF32},
              {"fp8", DType::kF8E4M3},
              {"int8", DType::kI8}},
             "rows sent to experts; fp8 (E4M3) and int8 with a scale per 128 values; auto: as --compute");
  set.Choice("combine-dtype", &moe->exchange.output_dtype, {{"f32", DType::kF32}, {"bf16", DType::kBF16}},
             "expert outputs sent back");
  set.Choice("overlap", &f->engine.overlap,
             {{"off", Overlap::kOff}, {"shared", Overlap::kShared}, {"two_batch", Overlap::kTwoBatch}},
             "what is computed while rows travel: the shared expert; or that and the other half of a step's tokens");
  set.Integer("exchange-budget", &moe->exchange_budget, 0, std::numeric_limits<int64_t>::max(),
              "most bytes of an exchange's buffers per rank, kept by several rounds; 0: no bound");
  set.Integer("prefill-chunk", &f->prefill_chunk, 0, kMaxTokensFlag,
              "most prompt tokens per rank and step; 0: as many as the longest sequence has");
  set.Integer("kv-cache-tokens", &f->kv_cache_tokens, 0, kMaxTokensFlag, "size of a rank's KV cache; 0: as needed");
}

void DeclareEngineFlags(FlagSet& set, SharedFlags* f) {
  DeclareMemoryFlags(set, f);
  DeclareOverflow(set, &f->engine.moe.overflow);
  DeclareKernelFlags(set, f);
}

void DeclareServingSize(FlagSet& set, int64_t* max_model_len, int* max_num_seqs) {
  set.Integer("max-model-len", max_model_len, 0, kMaxTokensFlag,
              "tokens of prompt and answer together; 0: the model's context");
  set.Integer("max-num-seqs", max_num_seqs, 1, 4096, "sequences that a rank works on at a time");
}

absl::Status CheckEngineFlags(const FlagSet& set, const SharedFlags& f) {
  const MoeOptions& moe = f.engine.moe;
  TF_RETURN_IF_ERROR(CheckOverflow(set, moe.overflow.kind));
  if (f.engine.overlap == Overlap::kTwoBatch && moe.overflow.kind != Overflow::kDropless) {
    return absl::InvalidArgumentError(
        "--overlap two_batch needs --overflow dropless: other policies look at all tokens of a step at once; the "
        "nearest is --overlap shared");
  }
  return absl::OkStatus();
}

}  // namespace tokenferry
