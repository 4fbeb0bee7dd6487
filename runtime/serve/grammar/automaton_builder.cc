#include "runtime/serve/grammar/automaton_builder.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <map>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace tokenferry {

using Bytes = std::bitset<256>;

// Of one builder.
class SubsetConstruction {
 public:
  using Node = AutomatonBuilder::Node;
  using Rule = AutomatonBuilder::Rule;
  using Nodes = std::vector<Node>;  // sorted

  explicit SubsetConstruction(AutomatonBuilder& from)
      : from_(from), firsts_(from.rules_.size()), marks_(from.nodes_.size()) {}

  absl::StatusOr<ByteAutomaton> Run() {
    for (size_t rule = 0; rule < from_.rules_.size(); ++rule) {
      TF_RETURN_IF_ERROR(FindFirst(static_cast<Rule>(rule)));
    }
    // Rule 0 begins in state 0.
    for (const auto& rule : from_.rules_) StateOf({rule.begin});
    for (size_t state = 0; state < sets_.size(); ++state) {
      if (sets_.size() > kMaxAutomatonStates || edges_.size() > kMaxAutomatonEdges) {
        return absl::InvalidArgumentError(absl::StrCat("has more than ", kMaxAutomatonStates, " states"));
      }
      TF_RETURN_IF_ERROR(AddEdges(static_cast<int32_t>(state)));
      TF_RETURN_IF_ERROR(from_.Spend(std::exchange(num_steps_, 0)));
    }
    ByteAutomaton automaton = Take();
    TF_RETURN_IF_ERROR(DropDeadEnds(automaton));
    return automaton;
  }

 private:
  // Where one can be without another byte.
  Nodes Closure(Nodes open) {
    ++mark_;
    Nodes all;
    while (!open.empty()) {
      const Node node = open.back();
      open.pop_back();
      ++num_steps_;
      if (std::exchange(marks_[node], mark_) == mark_) continue;
      all.push_back(node);
      const auto& joined = from_.nodes_[node].joined;
      open.insert(open.end(), joined.begin(), joined.end());
    }
    std::sort(all.begin(), all.end());
    return all;
  }

  int32_t StateOf(const Nodes& nodes) {
    const auto [found, is_new] = states_.emplace(Closure(nodes), static_cast<int32_t>(sets_.size()));
    if (is_new) sets_.push_back(found->first);
    return found->second;
  }

  // With which bytes a rule begins.
  absl::Status FindFirst(Rule rule) {
    if (firsts_[rule]) return absl::OkStatus();
    if (std::find(finding_.begin(), finding_.end(), rule) != finding_.end()) {
      return absl::InvalidArgumentError("has a part that begins with itself");
    }
    finding_.push_back(rule);
    Bytes first;
    for (const Node node : Closure({from_.rules_[rule].begin})) {
      for (const auto& edge : from_.nodes_[node].bytes) {
        for (int byte = edge.first; byte <= edge.last; ++byte) first.set(byte);
      }
      for (const auto& call : from_.nodes_[node].calls) {
        TF_RETURN_IF_ERROR(FindFirst(call.rule));
        first |= *firsts_[call.rule];
      }
    }
    finding_.pop_back();
    firsts_[rule] = first;
    return absl::OkStatus();
  }

  absl::Status AddEdges(int32_t state) {
    const Nodes nodes = sets_[state];
    num_steps_ += 256 + static_cast<int64_t>(nodes.size());
    std::array<Nodes, 256> by_byte;
    std::map<Rule, Nodes> by_rule;
    bool ends = false;
    for (const Node node : nodes) {
      for (const auto& edge : from_.nodes_[node].bytes) {
        num_steps_ += edge.last - edge.first + 1;
        for (int byte = edge.first; byte <= edge.last; ++byte) by_byte[byte].push_back(edge.to);
      }
      for (const auto& call : from_.nodes_[node].calls) by_rule[call.rule].push_back(call.to);
      ends |= from_.nodes_[node].ends_rule;
    }
    std::array<ByteAutomaton::Edge, 256> edges;
    Bytes taken;
    for (int byte = 0; byte < 256; ++byte) {
      if (by_byte[byte].empty()) continue;
      const bool same = byte > 0 && by_byte[byte] == by_byte[byte - 1];
      edges[byte].target = same ? edges[byte - 1].target : StateOf(by_byte[byte]);
      taken.set(byte);
    }
    for (const auto& [rule, then] : by_rule) {
      if ((taken & *firsts_[rule]).any()) {
        return absl::InvalidArgumentError("has alternatives that begin alike, one of them of free form or recursive");
      }
      const int32_t then_state = StateOf(then), target = StateOf({from_.rules_[rule].begin});
      for (int byte = 0; byte < 256; ++byte) {
        if ((*firsts_[rule])[byte]) edges[byte].target = target, edges[byte].then = then_state;
      }
      taken |= *firsts_[rule];
    }
    AppendRanges(edges, taken);
    is_end_.push_back(ends ? 1 : 0);
    return absl::OkStatus();
  }

  // Neighbouring bytes with the same edge become one.
  void AppendRanges(const std::array<ByteAutomaton::Edge, 256>& edges, const Bytes& taken) {
    offsets_.push_back(static_cast<int32_t>(edges_.size()));
    for (int byte = 0; byte < 256; ++byte) {
      if (!taken[byte]) continue;
      const auto& edge = edges[byte];
      const bool goes_on =
          byte > 0 && taken[byte - 1] && edges[byte - 1].target == edge.target && edges[byte - 1].then == edge.then;
      if (!goes_on) edges_.push_back({static_cast<uint8_t>(byte), 0, edge.target, edge.then});
      edges_.back().last = static_cast<uint8_t>(byte);
    }
  }

  // Removes the edges behind which no end can be reached. InvalidArgument where there is no other way from the start.
  absl::Status DropDeadEnds(ByteAutomaton& automaton) {
    std::vector<uint8_t> ends = automaton.is_end;  // by state: whether the end of its part can be reached
    const auto leads_on = [&](const ByteAutomaton::Edge& e) { return ends[e.target] && (e.then < 0 || ends[e.then]); };
    for (bool changed = true; changed;) {
      TF_RETURN_IF_ERROR(from_.Spend(static_cast<int64_t>(automaton.edges.size())));
      changed = false;
      for (int s = automaton.num_states() - 1; s >= 0; --s) {  // a state's number is less than most it leads to
        const auto* const edges = automaton.edges.data();
        const bool end =
            std::any_of(edges + automaton.edge_offsets[s], edges + automaton.edge_offsets[s + 1], leads_on);
        changed |= end && !ends[s];
        ends[s] |= end;
      }
    }
    size_t kept = 0, next = 0;
    for (int s = 0; s < automaton.num_states(); ++s) {
      for (const auto end = static_cast<size_t>(automaton.edge_offsets[s + 1]); next < end; ++next) {
        if (leads_on(automaton.edges[next])) automaton.edges[kept++] = automaton.edges[next];
      }
      automaton.edge_offsets[s + 1] = static_cast<int32_t>(kept);
    }
    automaton.edges.resize(kept);
    if (ends[0] != 0) return absl::OkStatus();
    return absl::InvalidArgumentError("has no end: what it asks for contains itself for ever, or matches nothing");
  }

  ByteAutomaton Take() {
    offsets_.push_back(static_cast<int32_t>(edges_.size()));
    return {std::move(offsets_), std::move(edges_), std::move(is_end_), {}};
  }

  AutomatonBuilder& from_;
  int64_t num_steps_ = 0;                     // not counted in from_ yet
  std::vector<std::optional<Bytes>> firsts_;  // by rule
  std::vector<Rule> finding_;
  std::vector<int32_t> marks_;  // by node
  int32_t mark_ = 0;
  absl::flat_hash_map<Nodes, int32_t> states_;
  std::vector<Nodes> sets_;  // by state
  std::vector<int32_t> offsets_;
  std::vector<ByteAutomaton::Edge> edges_;
  std::vector<uint8_t> is_end_;
};

AutomatonBuilder::AutomatonBuilder() { NewRule(); }

AutomatonBuilder::Node AutomatonBuilder::NewNode() {
  if (too_large()) return 0;
  nodes_.emplace_back();
  return static_cast<Node>(nodes_.size()) - 1;
}

void AutomatonBuilder::Join(Node from, Node to) { nodes_[from].joined.push_back(to); }

AutomatonBuilder::Node AutomatonBuilder::Byte(Node at, uint8_t first, uint8_t last) {
  const Node to = NewNode();
  Byte(at, first, last, to);
  return to;
}

void AutomatonBuilder::Byte(Node at, uint8_t first, uint8_t last, Node to) {
  if (!too_large()) nodes_[at].bytes.push_back({first, last, to});
}

AutomatonBuilder::Node AutomatonBuilder::Text(Node at, absl::string_view text) {
  for (const char c : text) at = Byte(at, static_cast<uint8_t>(c), static_cast<uint8_t>(c));
  return at;
}

AutomatonBuilder::Node AutomatonBuilder::Until(Node at, absl::string_view word) {
  // Knuth, Morris and Pratt's automaton: node n has seen the first n bytes of the word.
  std::vector<Node> seen;
  for (size_t n = 0; n <= word.size(); ++n) seen.push_back(NewNode());
  Join(at, seen[0]);
  for (size_t n = 0; n < word.size(); ++n) {
    for (int byte = 0; byte < 256; ++byte) {
      const std::string text = absl::StrCat(word.substr(0, n), std::string(1, static_cast<char>(byte)));
      size_t known = std::min(text.size(), word.size());
      while (absl::string_view(text).substr(text.size() - known) != word.substr(0, known)) --known;
      Byte(seen[n], static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), seen[known]);
    }
  }
  return seen.back();
}

AutomatonBuilder::Rule AutomatonBuilder::NewRule() {
  const Node begin = NewNode(), end = NewNode();
  nodes_[end].ends_rule = true;
  rules_.push_back({begin, end});
  return static_cast<Rule>(rules_.size()) - 1;
}

AutomatonBuilder::Node AutomatonBuilder::Call(Node at, Rule rule) {
  const Node to = NewNode();
  Call(at, rule, to);
  return to;
}

void AutomatonBuilder::Call(Node at, Rule rule, Node to) {
  if (!too_large()) nodes_[at].calls.push_back({rule, to});
}

absl::Status AutomatonBuilder::Spend(int64_t num_steps) {
  num_steps_ += num_steps;
  if (num_steps_ <= kMaxCompileSteps) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("takes more than ", kMaxCompileSteps, " steps to compile"));
}

absl::StatusOr<ByteAutomaton> AutomatonBuilder::Build() {
  if (too_large()) return absl::InvalidArgumentError(absl::StrCat("has more than ", kMaxAutomatonStates, " states"));
  return SubsetConstruction(*this).Run();
}

}  // namespace tokenferry
