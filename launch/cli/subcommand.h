// What a subcommand is to the program. launch/commands/commands.cc has the table of all of them.
#pragma once

#include <memory>
#include <optional>

#include "absl/types/span.h"
#include "core/status.h"

namespace tokenferry {

class FlagSet;
struct LauncherInfo;
struct RankContext;
struct SharedFlags;

// One run of a subcommand: it holds the values of its own flags.
class Subcommand {
 public:
  virtual ~Subcommand() = default;

  enum class Runs : uint8_t {
    kRanks,
    kNoRanks,  // all that it does is RunInsteadOfRanks
    kProgram,  // this program again, with the command line that follows "--" on its own
  };
  virtual Runs runs() const { return Runs::kRanks; }

  // Declares the flags that it uses: its own, and the groups of launch/cli/shared_flags.h that have an effect on it.
  // The flags of how ranks start are those of all that run ranks, and --config is of those that run none too: they are
  // declared for it. Any other flag is refused.
  virtual void Declare(FlagSet& set, SharedFlags* shared) = 0;

  // kProgram: what follows "--", before Check. InvalidArgument when that is no command line to be run.
  virtual absl::Status TakeProgram(absl::Span<const char* const> /*words*/) { return absl::OkStatus(); }

  // Once all values are known: InvalidArgument for what contradicts itself, in one line that names the flags; fills in
  // what one flag's value means for others.
  virtual absl::Status Check(const FlagSet& set, SharedFlags* shared) = 0;

  // First of all in a process whose command line is fine: what it does instead of running ranks, and its exit status.
  // None: it runs ranks.
  virtual std::optional<int> RunInsteadOfRanks(const SharedFlags& /*shared*/) { return std::nullopt; }

  // In every process that runs ranks, before MPI starts and before there is any thread; `argv` is the process's. An
  // error ends the job as one of the command line does.
  virtual absl::Status PrepareProcess(const SharedFlags& /*shared*/, const LauncherInfo& /*launcher*/,
                                      char* const* /*argv*/) {
    return absl::OkStatus();
  }

  // kRanks: on every rank. Only rank 0 prints results, on stdout. An error that one rank alone can meet (a file it
  // reads) goes through AgreeOnStatus, so that all ranks end with it and it is printed once.
  virtual absl::Status Run(RankContext& /*context*/) const { return absl::InternalError("it runs no ranks"); }
};

struct SubcommandInfo {
  const char* name;  // one word, or two of which the first is a family's: "bench engine"
  const char* summary;
  std::unique_ptr<Subcommand> (*create)();  // null: planned, and refused until it is there
};

template <class T>
std::unique_ptr<Subcommand> CreateSubcommand() {
  return std::make_unique<T>();
}

}  // namespace tokenferry
