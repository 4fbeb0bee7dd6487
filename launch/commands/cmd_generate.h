// tokenferry generate: text from prompts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/cli/subcommand.h"
#include "runtime/engine/sampling_params.h"

namespace tokenferry {

struct GenerateFlags {
  std::vector<std::string> prompts;       // one sequence each, none empty
  std::vector<std::string> prompt_files;  // one prompt each: the file's bytes; after `prompts`. "-": stdin
  std::vector<std::string> chats;         // one conversation each, JSON; after `prompt_files`. "-": stdin
  bool conversation = false;              // on the terminal, instead of all of these
  std::string
      chat_template;     // of `chats` or `conversation`: a file, or a name among the model's; empty: the model's own
  int max_tokens = 128;  // new tokens per sequence
  bool has_max_tokens = false;  // given; where it is not, an answer of `conversation` ends as the model ends it
  bool ignore_eos = false;
  SamplingParams sampling;
  std::vector<std::string> given;  // flags of `sampling` that are given; --chat takes the others from the model
  std::vector<std::string> stop;   // texts that end a sequence, none empty
  bool json = false;               // one JSON document on stdout instead of streamed text
  bool stats = false;              // the closing table; not with json
  std::string record_routing;  // file for the experts that every token chose (bench/alltoall/routing_trace.h), or empty
};

class GenerateCommand final : public Subcommand {
 public:
  void Declare(FlagSet& set, SharedFlags* shared) override;
  absl::Status Check(const FlagSet& set, SharedFlags* shared) override;
  absl::Status PrepareProcess(const SharedFlags& shared, const LauncherInfo& launcher, char* const* argv) override;
  absl::Status Run(RankContext& context) const override;
  const GenerateFlags& flags() const { return flags_; }

 private:
  bool HasPrompts() const;
  absl::Status CheckConversation() const;

  GenerateFlags flags_;
};

}  // namespace tokenferry
