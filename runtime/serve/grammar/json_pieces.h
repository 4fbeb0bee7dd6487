// Pieces of JSON for an AutomatonBuilder: what a model may write where a value of some kind is wanted.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "runtime/serve/grammar/automaton_builder.h"

namespace tokenferry {

// Of numbers: at most 16 digits before the point and behind it, and 2 in the exponent. Of strings: valid UTF-8; escapes
// but for halves of surrogate pairs.
class JsonPieces {
 public:
  using Node = AutomatonBuilder::Node;

  explicit JsonPieces(AutomatonBuilder& builder) : builder_(builder) {}

  Node String(Node at);
  // Of so many characters; no `most`: any number from `least` on.
  Node String(Node at, int64_t least, std::optional<int64_t> most);
  Node Integer(Node at);
  Node Number(Node at);
  Node Boolean(Node at);
  Node Null(Node at) { return builder_.Text(at, "null"); }
  // Nothing, a space, or a new line and up to 16 spaces and tabs.
  Node Space(Node at);

  // Of free form: containers nest as deep as the automaton's stack is.
  Node Object(Node at);
  Node Array(Node at);
  Node Value(Node at);

  // One character of a string, escaped where it has to be.
  Node Character(Node at);

 private:
  Node Digits(Node at, int most);
  Node Hex(Node at);
  Node Escape(Node at);
  void AppendAscii(Node at, Node to);
  void AppendEscapesAndUtf8(Node at, Node to);
  Node CountedCharacter(Node at);

  AutomatonBuilder& builder_;
  std::optional<AutomatonBuilder::Rule> object_, array_, character_;
};

}  // namespace tokenferry
