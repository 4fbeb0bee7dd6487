// Sets of characters, and how a JSON text writes them.
#pragma once

#include <vector>

#include "runtime/serve/grammar/automaton_builder.h"

namespace tokenferry {

struct CodePointRange {
  char32_t first = 0, last = 0;  // both of them belong to it
};
// Of Unicode's scalar values: never halves of surrogate pairs, although a range may span them.
using CodePointSet = std::vector<CodePointRange>;

// All that are not in the set.
CodePointSet Complement(CodePointSet set);

// One character of the set within a JSON string, from node to node. It has one spelling: itself in UTF-8, but \" and
// \\, and for control characters \b, \f, \n, \r, \t, or \u00 and two digits in lower case.
void AppendCharacter(AutomatonBuilder::Node at, const CodePointSet& set, AutomatonBuilder::Node to,
                     AutomatonBuilder& builder);

}  // namespace tokenferry
