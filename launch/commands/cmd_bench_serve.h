// tokenferry bench serve: a load of requests on an OpenAI endpoint, this program's or another's. bench/README.md
// defines every number.
#pragma once

#include <string>
#include <vector>

#include "bench/serve/serve_report.h"
#include "launch/cli/subcommand.h"

namespace tokenferry {

struct BenchServeFlags {
  std::string base_url = "http://127.0.0.1:8000";
  std::string api_key_file, tokenizer_dir, json_file, plot_file;
  std::vector<std::string> goodput_limits;
  std::vector<int> percentiles;
  int num_warmups = 1;
  ServeTarget target;  // base_url and the key
  ServeLoadOptions load;
  PromptOptions prompts;
  Goodput goodput;
};

// No rank: a client process of its own.
class BenchServeCommand final : public Subcommand {
 public:
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  Runs runs() const override { return Runs::kNoRanks; }
  std::optional<int> RunInsteadOfRanks(const SharedFlags& shared) override;
  const BenchServeFlags& flags() const { return flags_; }

 private:
  absl::Status Bench();

  BenchServeFlags flags_;
};

}  // namespace tokenferry
