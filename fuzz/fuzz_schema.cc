// The input is a JSON schema. It is refused, or compiles to an automaton from whose every reachable state there is a
// way on.
#include <nlohmann/json.hpp>
#include <string>

#include "core/check.h"
#include "core/io/json.h"
#include "runtime/engine/byte_automaton.h"
#include "runtime/serve/grammar/json_schema.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tokenferry;
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (size > kMaxSchemaBytes || !JsonDocument::Parse(text, "schema").ok()) return 0;
  const auto schema = nlohmann::ordered_json::parse(text);
  AutomatonBuilder builder;
  JsonPieces pieces(builder);
  const Deadline deadline = Deadline::After(absl::Milliseconds(100));
  const auto end = JsonSchema(schema, deadline, builder, pieces).Append(builder.RuleBegin(0));
  if (!end.ok()) return 0;
  builder.EndRule(0, *end);
  const auto automaton = builder.Build(deadline);
  if (!automaton.ok()) return 0;
  TF_CHECK(DecodeAutomaton(Encode(*automaton)).ok());
  for (int state = 0; state < automaton->num_states(); ++state) {
    TF_CHECK(automaton->is_end[state] == 1 || automaton->edge_offsets[state] < automaton->edge_offsets[state + 1]);
  }
  return 0;
}
