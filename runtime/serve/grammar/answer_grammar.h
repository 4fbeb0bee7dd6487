// The automaton of all answers that a request allows.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "runtime/serve/tools/output_parser.h"
#include "runtime/text/tokenizer.h"

namespace tokenferry {

struct CallableTool {
  std::string name;
  nlohmann::ordered_json parameters;  // a schema
  std::string place;                  // of the schema in the request, for errors
};

// An answer is the model's reasoning, where it reasons, and one of what is set here: a JSON value, or calls.
struct AnswerForm {
  Thinking thinking = Thinking::kNever;
  std::optional<nlohmann::ordered_json> schema;  // of the value
  std::string schema_place;
  const ToolFormat* format = nullptr;  // not null where there are tools
  std::vector<CallableTool> tools;
  CallCount calls = CallCount::kAny;  // kAny: at least one
};

// An encoded ByteAutomaton whose bytes are those that the format writes. InvalidArgument that names the place in the
// request, the place in the schema and the keyword, or the limit (kMaxSchemaBytes, kMaxSchemaDepth,
// kMaxAutomatonStates, kMaxCompileSteps).
absl::StatusOr<std::string> CompileAnswer(const AnswerForm& form, const Tokenizer& tokenizer);

}  // namespace tokenferry
