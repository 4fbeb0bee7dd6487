// A conversation on a terminal, for generate.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "launch/session/model_session.h"
#include "runtime/engine/sampling_params.h"
#include "runtime/text/text_stream.h"

namespace tokenferry {

enum class ReportAnswers : uint8_t { kNo, kYes };  // a line on stderr after each

struct TerminalChatOptions {
  SamplingParams sampling;
  StopRules stop;
  std::string chat_template;  // a file, or a name among the model's; empty: the model's own
  int64_t answer_tokens = 0;  // most new tokens of an answer; 0: what the context has room for
  ReportAnswers report = ReportAnswers::kNo;
};

// Collective. Rank 0 prints ">>> " and takes each line of stdin as a message of the user, which all ranks answer; the
// answer is printed as it comes and becomes part of the conversation, whose beginning is found in the cache. SIGINT
// ends an answer, which stays as far as it has come; the end of stdin ends the conversation. A message that cannot be
// taken (the template refuses it, the context is full) is passed over with a warning. The context is --kv-cache-tokens,
// or the model's up to kServingCacheTokens. An error is one of the model, the template's file or a rank, the same on
// all ranks.
absl::Status ChatOnTerminal(RankContext& context, std::unique_ptr<ModelFiles> files,
                            const TerminalChatOptions& options);

}  // namespace tokenferry
