// tokenferry eval: perplexity, and on request logits and routing decisions, of given tokens.
#pragma once

#include <string>

#include "launch/cli/subcommand.h"
#include "runtime/engine/request.h"

namespace tokenferry {

// Exactly one of ids_file and text_file is set; "-" is stdin.
struct EvalFlags {
  std::string ids_file;        // JSON: {"prompts": [{"input_ids": [..]}, ..]}
  std::string text_file;       // one prompt: the file's bytes, tokenized
  std::string out_file;        // safetensors: logits.i, expert_idx.i, expert_weight.i; empty: none
  Wanted trace = Wanted::kNo;  // hidden_states.i and router_logits.i in out_file too
  std::string json_file;       // perplexities; empty: none
  // A model folder, or "unquantised": this model with experts as they are stored; empty: no comparison.
  std::string compare_to;
};

class EvalCommand final : public Subcommand {
 public:
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  absl::Status Run(RankContext& context) const override;
  const EvalFlags& flags() const { return flags_; }

 private:
  EvalFlags flags_;
};

}  // namespace tokenferry
