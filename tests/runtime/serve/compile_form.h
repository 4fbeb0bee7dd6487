// Automata of answers, for tests.
#pragma once

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/engine/byte_automaton.h"
#include "runtime/serve/grammar/answer_grammar.h"

namespace tokenferry {

inline const Tokenizer& FerryTokenizer() {
  static const Tokenizer* const tokenizer = [] {
    const char* source = std::getenv("TF_SOURCE_DIR");
    const std::string dir = absl::StrCat(source == nullptr ? "." : source, "/models/ferry-tiny-v3");
    return new Tokenizer(*Tokenizer::Load(dir));
  }();
  return *tokenizer;
}

inline absl::StatusOr<ByteAutomaton> Compile(const AnswerForm& form) {
  const absl::StatusOr<std::string> bytes = CompileAnswer(form, FerryTokenizer());
  if (!bytes.ok()) return bytes.status();
  return DecodeAutomaton(*bytes);
}

inline absl::StatusOr<ByteAutomaton> CompileSchema(const std::string& schema) {
  AnswerForm form;
  form.schema = nlohmann::ordered_json::parse(schema);
  form.schema_place = "schema";
  return Compile(form);
}

inline bool Accepts(const ByteAutomaton& automaton, absl::string_view text) {
  AutomatonPosition position;
  for (const char c : text) {
    if (!Advance(automaton, static_cast<uint8_t>(c), position)) return false;
  }
  return MayEnd(automaton, position);
}

}  // namespace tokenferry
