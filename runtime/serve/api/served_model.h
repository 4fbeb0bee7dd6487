// What the front knows of the model: enough to turn requests into tokens and tokens into text. Immutable.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/status.h"
#include "runtime/model/generation_config.h"
#include "runtime/model/model_spec.h"
#include "runtime/serve/tools/tool_format.h"
#include "runtime/text/chat/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace tokenferry {

struct ServedModel {
  std::string name;           // as /v1/models says
  int64_t max_model_len = 0;  // the context: ModelSpec::answer_room
  ModelSpec spec;
  GenerationConfig generation;  // defaults of requests, and the end tokens
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;  // none: the model has none, and cannot chat
  const ToolFormat* tool_format = nullptr;    // how the template has tools called; null: in none of the ways known
  bool thinks = false;                        // the template knows reasoning between <think> and </think>
};

struct ServedModelOptions {
  std::string dir;            // config.json, generation_config.json, the tokenizer and the chat template are read
  std::string name;           // empty: the folder's name
  std::string chat_template;  // a file, or the name of one of the model's templates; empty: the model's default
  int64_t max_model_len = 0;  // 0: the model's context; InvalidArgument when it is larger than that
};
absl::StatusOr<std::shared_ptr<const ServedModel>> LoadServedModel(const ServedModelOptions& options);

}  // namespace tokenferry
