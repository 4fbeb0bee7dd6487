// The flags that several subcommands have, as plain values, and the groups in which they declare them. docs/design.md,
// "Command line", says what the flags mean to a user.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "comm/exchange/path/paths.h"
#include "core/log.h"
#include "core/status.h"
#include "runtime/engine/engine_options.h"
#include "runtime/model/expert_dtype.h"

namespace tokenferry {

class FlagSet;

enum class DeviceChoice : uint8_t { kAuto, kCpu, kCuda };
enum class TransportChoice : uint8_t { kAuto, kLocal, kMpi, kNccl };
// The names of --transport. PlanRanks and RunRanks (launch/ranks/bootstrap.cc) say what each of them starts.
inline constexpr std::pair<const char*, TransportChoice> kTransportNames[] = {{"auto", TransportChoice::kAuto},
                                                                              {"local", TransportChoice::kLocal},
                                                                              {"mpi", TransportChoice::kMpi},
                                                                              {"nccl", TransportChoice::kNccl}};

// A subcommand that does not declare a group leaves its values at their defaults.
struct SharedFlags {
  std::string model;  // directory of the checkpoint
  DeviceChoice device = DeviceChoice::kAuto;
  bool share_gpus = false;  // several ranks may take one GPU
  int num_threads = 0;      // kernel threads of a rank; 0: this rank's share of the cores it may use
  TransportChoice transport = TransportChoice::kAuto;
  int num_ranks = 0;  // 0: what mpirun started, else one. With the local transport: ranks as threads of this process
  std::string placement = "linear";  // or a JSON file, see Placement::FromFile
  EngineOptions engine;              // but for sizes, which follow from the requests and the next two
  ExpertDtype expert_dtype = ExpertDtype::kStored;
  int prefill_chunk = 256;      // most prompt tokens per rank and step; 0: as many as the longest sequence has
  int64_t kv_cache_tokens = 0;  // of this rank, over all its sequences; 0: what the requests need
  absl::Duration comm_timeout = absl::Seconds(60);
  std::string instruction_set;  // a name of core/host/isa.h; empty: the best that all ranks have
  std::string config_file;      // already read into the flags
  bool explain = false;         // print the placement and the exchange plan of the first step
  LogLevel log_level = LogLevel::kInfo;
};

// What every subcommand that runs ranks declares: how they start, and --config.
void DeclareJobFlags(FlagSet& set, SharedFlags* f);
void DeclareConfigFlag(FlagSet& set, SharedFlags* f);

// What computes on CPUs.
void DeclareKernelFlags(FlagSet& set, SharedFlags* f);
absl::Status CheckKernelFlags(const SharedFlags& f);

// A checkpoint, and which rank holds which experts. --model is required.
void DeclareModelFlags(FlagSet& set, SharedFlags* f);

void DeclareComputeFlag(FlagSet& set, Compute* compute);

// What of DeclareEngineFlags decides how much memory a rank needs.
void DeclareMemoryFlags(FlagSet& set, SharedFlags* f);
// How a model runs on the ranks: exchange, overflow, overlap, steps and cache, and DeclareKernelFlags.
void DeclareEngineFlags(FlagSet& set, SharedFlags* f);
// Refuses what contradicts itself, and a flag that the overflow policy has no use for: it would promise something.
absl::Status CheckEngineFlags(const FlagSet& set, const SharedFlags& f);

// How many sequences a rank serves at a time, and how long they may be.
void DeclareServingSize(FlagSet& set, int64_t* max_model_len, int* max_num_seqs);

// The names of --path.
std::vector<std::pair<std::string, ExchangePath>> PathChoices();

inline constexpr int64_t kMaxTokensFlag = int64_t{1} << 30;  // the largest value of a flag that counts tokens

}  // namespace tokenferry
