#include "runtime/engine/byte_automaton.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/io/archive.h"

namespace tokenferry {

// Found by argument-dependent lookup, which does not look into unnamed namespaces: hence static.
template <class Archive>
static void Fields(Archive& a, ByteAutomaton::Edge& e) {
  auto& [first, last, target, then] = e;
  a(first), a(last), a(target), a(then);
}
template <class Archive>
static void Fields(Archive& a, ByteAutomaton& automaton) {
  auto& [edge_offsets, edges, is_end, spoken_tokens] = automaton;
  a(edge_offsets), a(edges), a(is_end), a(spoken_tokens);
}

namespace {

bool IsSound(const ByteAutomaton& a) {
  const auto num_states = static_cast<int64_t>(a.is_end.size()), num_edges = static_cast<int64_t>(a.edges.size());
  if (num_states < 1 || num_states > kMaxAutomatonStates || num_edges > kMaxAutomatonEdges) return false;
  if (static_cast<int64_t>(a.edge_offsets.size()) != num_states + 1) return false;
  if (a.edge_offsets.front() != 0 || a.edge_offsets.back() != num_edges) return false;
  if (!std::is_sorted(a.edge_offsets.begin(), a.edge_offsets.end())) return false;
  for (int64_t s = 0; s < num_states; ++s) {
    int before = -1;
    for (int32_t i = a.edge_offsets[s]; i < a.edge_offsets[s + 1]; ++i) {
      const ByteAutomaton::Edge& e = a.edges[i];
      if (e.first <= before || e.last < e.first) return false;
      if (e.target < 0 || e.target >= num_states || e.then < -1 || e.then >= num_states) return false;
      before = e.last;
    }
  }
  return true;
}

}  // namespace

const ByteAutomaton::Edge* ByteAutomaton::Find(int32_t state, uint8_t byte) const {
  const Edge* const begin = edges.data() + edge_offsets[state];
  const Edge* const end = edges.data() + edge_offsets[state + 1];
  const Edge* const found =
      std::lower_bound(begin, end, byte, [](const Edge& edge, uint8_t wanted) { return edge.last < wanted; });
  return found != end && found->first <= byte ? found : nullptr;
}

std::string Encode(const ByteAutomaton& automaton) {
  ArchiveWriter writer;
  Fields(writer, const_cast<ByteAutomaton&>(automaton));
  return writer.Take();
}

absl::StatusOr<ByteAutomaton> DecodeAutomaton(absl::string_view bytes) {
  ByteAutomaton automaton;
  ArchiveReader reader(bytes);
  Fields(reader, automaton);
  if (reader.complete() && IsSound(automaton)) return automaton;
  return absl::InvalidArgumentError(absl::StrCat("a grammar of ", bytes.size(), " bytes is no automaton"));
}

bool MayEnd(const ByteAutomaton& automaton, const AutomatonPosition& position) {
  if (automaton.is_end[position.state] == 0) return false;
  return std::all_of(position.stack.begin(), position.stack.end(),
                     [&](int32_t state) { return automaton.is_end[state] != 0; });
}

}  // namespace tokenferry
