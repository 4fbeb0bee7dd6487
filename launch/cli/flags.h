// The command line of `tokenferry` as plain values, one struct per group. docs/design.md, "Command line", says what the
// flags mean to a user; ParseCommandLine fills these from the arguments and from the file of --config.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/exchange/exchange.h"
#include "core/formats/dtype.h"
#include "core/log.h"
#include "core/status.h"
#include "experts/overflow/overflow.h"
#include "launch/cli/bench_flags.h"
#include "runtime/engine/overlap.h"

namespace tokenferry {

enum class DeviceChoice : uint8_t { kAuto, kCpu, kCuda };
enum class TransportChoice : uint8_t { kAuto, kLocal, kMpi };

// Of every subcommand.
struct SharedFlags {
  std::string model;  // directory of the checkpoint
  DeviceChoice device = DeviceChoice::kAuto;
  Compute compute = Compute::kBF16;
  int num_threads = 0;  // kernel threads of a rank; 0: this rank's share of the cores it may use
  TransportChoice transport = TransportChoice::kAuto;
  int num_ranks = 0;  // 0: what mpirun started, else one. With the local transport: ranks as threads of this process
  ExchangePath path = ExchangePath::kAuto;
  Reduction reduction = Reduction::kExact;
  std::string placement = "linear";  // or a JSON file, see Placement::FromFile
  OverflowPolicy overflow;
  std::optional<DType> dispatch_dtype;  // of rows sent to experts; none: as `compute`
  DType combine_dtype = DType::kF32;    // of expert outputs sent back
  Overlap overlap = Overlap::kOff;
  int64_t exchange_budget = 0;  // bytes, MoeOptions
  absl::Duration comm_timeout = absl::Seconds(60);
  int prefill_chunk = 256;      // prompt tokens of one sequence per step; 0: the whole prompt
  int64_t kv_cache_tokens = 0;  // of this rank, over all its sequences; 0: what the requests need
  std::string instruction_set;  // a name of core/host/isa.h; empty: the best that all ranks have
  std::string config_file;      // already read into the flags
  bool explain = false;         // print the placement and the exchange plan of the first step
  LogLevel log_level = LogLevel::kInfo;
};

struct GenerateFlags {
  std::vector<std::string> prompts;  // one sequence each, none empty
  std::string prompt_file;           // one prompt: the file's bytes; after `prompts`
  int max_tokens = 128;              // new tokens per sequence
  bool ignore_eos = false;
  double temperature = 0;  // 0: greedy
  double top_p = 1;
  int top_k = 0;  // 0: all tokens
  double min_p = 0;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::string> stop;  // texts that end a sequence, none empty
  bool json = false;              // one JSON document on stdout instead of streamed text
  bool stats = false;             // the closing table
  std::string
      record_routing;  // file for the experts that every token chose, see bench/alltoall/routing_trace.h; empty: none
};

// Exactly one of ids_file and text_file is set.
struct EvalFlags {
  std::string ids_file;   // JSON: {"prompts": [{"input_ids": [..]}, ..]}
  std::string text_file;  // one prompt: the file's bytes, tokenized
  std::string out_file;   // safetensors: logits.i, expert_idx.i, expert_weight.i; empty: none
  std::string json_file;  // perplexities; empty: none
};

struct InspectFlags {
  bool json = false;
};

// Of `bench engine`.
struct BenchFlags {
  int prompt_tokens = 128;  // per sequence
  int decode_tokens = 64;   // per sequence
  int num_sequences = 1;
  int num_repeats = 3;
  std::string json_file;  // empty: none
};

enum class Command : uint8_t { kGenerate, kEval, kInspect, kBenchEngine, kBenchAllToAll, kBenchMoe };

struct CommandLine {
  Command command = Command::kGenerate;
  SharedFlags shared;
  GenerateFlags generate;
  EvalFlags eval;
  InspectFlags inspect;
  BenchFlags bench;
  BenchAllToAllFlags bench_alltoall;
  BenchMoeFlags bench_moe;
  std::string text;  // not empty: --help or --version was asked for; print this and do nothing else
};

// `args` without the program's name. InvalidArgument, in one line that names the flag (or the file and line of
// --config), the value and the nearest valid one. Reads the file of --config: a YAML map from flag names (without the
// dashes) to values; the flags of one subcommand may stand in a map under its name ("bench engine" for that one). What
// the command line gives wins over the file.
absl::StatusOr<CommandLine> ParseCommandLine(absl::Span<const char* const> args);

}  // namespace tokenferry
