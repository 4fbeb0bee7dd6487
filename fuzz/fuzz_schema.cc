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
  const auto end = JsonSchema(schema, builder, pieces).Append(builder.RuleBegin(0));
  if (!end.ok()) return 0;
  builder.EndRule(0, *end);
  const auto automaton = builder.Build();
  if (!automaton.ok()) return 0;
  TF_CHECK(DecodeAutomaton(Encode(*automaton)).ok());
  const auto goes_on = [&](int32_t state) {
    return automaton->is_end[state] == 1 || automaton->edge_offsets[state] < automaton->edge_offsets[state + 1];
  };
  TF_CHECK(goes_on(0));
  for (const ByteAutomaton::Edge& edge : automaton->edges) {
    TF_CHECK(goes_on(edge.target));
    TF_CHECK(edge.then < 0 || goes_on(edge.then));
  }
  return 0;
}
