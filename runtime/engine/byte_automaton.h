// Which bytes may follow each other: a deterministic automaton with a stack, for texts that have to be of a form.
// Compiled by the front (runtime/serve/grammar), run by the rank that owns the sequence.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

inline constexpr int kMaxAutomatonStates = 20'000, kMaxAutomatonEdges = 400'000;
inline constexpr size_t kMaxAutomatonDepth = 32;  // of the stack

struct ByteAutomaton {
  // Taken at one of the bytes [first, last]. Where `then` is a state the byte is left to the part that begins at
  // `target`, and the automaton goes on in `then` when that part has ended; -1: it has been read.
  struct Edge {
    uint8_t first = 0, last = 0;
    int32_t target = 0;
    int32_t then = -1;
  };
  // State s has edges[edge_offsets[s] .. edge_offsets[s + 1]), by first byte, no byte twice. Begins in state 0.
  std::vector<int32_t> edge_offsets;  // [num_states + 1]
  std::vector<Edge> edges;
  std::vector<uint8_t> is_end;  // [num_states] 1: what has begun may end here
  // Special tokens that count as their texts. No other special token is ever allowed, but for those that end the
  // sequence, where the text may end.
  std::vector<int32_t> spoken_tokens;

  int num_states() const { return static_cast<int>(is_end.size()); }
  // Of state `state` at `byte`; null: there is none.
  const Edge* Find(int32_t state, uint8_t byte) const;
};

std::string Encode(const ByteAutomaton& automaton);
// InvalidArgument for bytes that are no automaton within the limits above.
absl::StatusOr<ByteAutomaton> DecodeAutomaton(absl::string_view bytes);

// Where a text stands. Cheap to copy while the stack is small.
struct AutomatonPosition {
  int32_t state = 0;
  std::vector<int32_t> stack;  // where to go on, the innermost last

  friend bool operator==(const AutomatonPosition&, const AutomatonPosition&) = default;
  template <class H>
  friend H AbslHashValue(H h, const AutomatonPosition& p) {
    return H::combine(std::move(h), p.state, p.stack);
  }
};

// Takes one byte. A byte belongs to the innermost part that can have it; a part ends only where it cannot go on. False:
// the byte may not come here, or would exceed kMaxAutomatonDepth; the position is of no use then. `Stack` is as
// std::vector<int32_t>.
template <class Stack>
bool Advance(const ByteAutomaton& automaton, uint8_t byte, int32_t& state, Stack& stack) {
  // Each part begins and ends at most once for a byte where an automaton is sound; one that is not must not loop.
  for (size_t moves = 0; moves < 4 * kMaxAutomatonDepth; ++moves) {
    const ByteAutomaton::Edge* const edge = automaton.Find(state, byte);
    if (edge == nullptr) {
      if (automaton.is_end[state] == 0 || stack.empty()) return false;
      state = stack.back();
      stack.pop_back();
      continue;
    }
    state = edge->target;
    if (edge->then < 0) return true;
    if (stack.size() == kMaxAutomatonDepth) return false;
    stack.push_back(edge->then);
  }
  return false;
}
inline bool Advance(const ByteAutomaton& automaton, uint8_t byte, AutomatonPosition& position) {
  return Advance(automaton, byte, position.state, position.stack);
}
// Whether the text may end here.
bool MayEnd(const ByteAutomaton& automaton, const AutomatonPosition& position);

}  // namespace tokenferry
