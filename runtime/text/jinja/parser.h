// Tokens to a tree.
#pragma once

#include "core/status.h"
#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/lexer.h"

namespace tokenferry {

// InvalidArgument: a syntax error. Unimplemented, by name: what Jinja has and this does not (import, include, extends,
// block, *args in calls, a filter or test that is not there). Errors say file, line and column.
absl::StatusOr<JinjaBody> ParseJinja(const JinjaSource& source);

}  // namespace tokenferry
