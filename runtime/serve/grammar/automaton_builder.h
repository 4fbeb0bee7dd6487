// From parts that may follow each other to the one automaton that knows them all: Thompson's construction, then
// subsets, once for each rule.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/engine/byte_automaton.h"

namespace tokenferry {

// A step is a node, an edge or a byte of an edge that is looked at: about 5 ns. Counted and not timed, so that a
// grammar is taken or refused whatever else the machine does.
inline constexpr int64_t kMaxCompileSteps = 20'000'000;

// Describes texts piece by piece: every function appends a piece behind a node and returns the node behind that. Nodes
// are numbers; two pieces behind the same node are alternatives. Too many nodes are an error of Build.
class AutomatonBuilder {
 public:
  using Node = int32_t;
  using Rule = int32_t;

  AutomatonBuilder();

  Node NewNode();
  // What may stand at `from` may stand at `to` too.
  void Join(Node from, Node to);

  Node Byte(Node at, uint8_t first, uint8_t last);
  void Byte(Node at, uint8_t first, uint8_t last, Node to);
  Node Text(Node at, absl::string_view text);
  // Any bytes up to the first `word`, which is taken too.
  Node Until(Node at, absl::string_view word);

  // A part that can contain itself. Of rule 0, which is there from the start, are whole texts.
  Rule NewRule();
  Node RuleBegin(Rule rule) const { return rules_[rule].begin; }
  void EndRule(Rule rule, Node at) { Join(at, rules_[rule].end); }
  Node Call(Node at, Rule rule);
  void Call(Node at, Rule rule, Node to);

  bool too_large() const { return nodes_.size() > kMaxNodes; }
  // Counts steps, also those of whoever describes the texts. InvalidArgument beyond kMaxCompileSteps.
  absl::Status Spend(int64_t num_steps);

  // Parts are told apart by their next byte alone. InvalidArgument, in words for whoever wrote the grammar, where that
  // is not enough, and where there are more than kMaxAutomatonStates or kMaxCompileSteps.
  absl::StatusOr<ByteAutomaton> Build();

 private:
  static constexpr size_t kMaxNodes = 100'000;
  struct Edge {
    uint8_t first, last;
    Node to;
  };
  struct CallEdge {
    Rule rule;
    Node to;
  };
  struct NodeEdges {
    std::vector<Edge> bytes;
    std::vector<CallEdge> calls;
    std::vector<Node> joined;
    bool ends_rule = false;
  };
  struct RuleNodes {
    Node begin, end;
  };
  friend class SubsetConstruction;

  std::vector<NodeEdges> nodes_;
  std::vector<RuleNodes> rules_;
  int64_t num_steps_ = 0;
};

}  // namespace tokenferry
