// A parsed template. Each node says where it stands (`at`: byte in JinjaSource::text()).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja/value.h"

namespace tokenferry {

struct JinjaExpr;
using JinjaExprPtr = std::unique_ptr<JinjaExpr>;

enum class JinjaOp : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,  // of two operands
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn,  // of comparisons
  kNeg,
  kPos,  // of one operand
};

struct JinjaExpr {
  enum class Kind : uint8_t {
    kConst,    // constant
    kName,     // name
    kList,     // args
    kTuple,    // args
    kDict,     // args: key, value, key, value, ..
    kUnary,    // ops[0], args[0]
    kBinary,   // ops[0], args[0], args[1]
    kCompare,  // args[0] ops[0] args[1] ops[1] args[2] ..
    kConcat,   // args: ~
    kAnd,      // args[0], args[1]
    kOr,       // args[0], args[1]
    kNot,      // args[0]
    kIf,       // args: condition, value, other value (null: undefined)
    kAttr,     // args[0], name
    kItem,     // args[0], args[1]
    kSlice,    // args[0], then start, stop, step, each may be null
    kCall,     // args[0] is called with args[1..], kwargs
    kFilter,   // args[0] | name(args[1..], kwargs)
    kTest,     // args[0] is name(args[1..], kwargs)
  };

  Kind kind;
  uint32_t at;
  int depth = 1;  // of the tree from here
  std::string name;
  std::vector<JinjaOp> ops;
  JinjaValue constant;
  std::vector<JinjaExprPtr> args;
  std::vector<std::pair<std::string, JinjaExprPtr>> kwargs;
};

template <class... Args>
JinjaExprPtr MakeJinjaExpr(JinjaExpr::Kind kind, uint32_t at, Args&&... args) {
  auto expr = std::make_unique<JinjaExpr>();
  expr->kind = kind;
  expr->at = at;
  (expr->args.push_back(std::forward<Args>(args)), ...);
  return expr;
}

struct JinjaNode;
using JinjaBody = std::vector<JinjaNode>;

// What a macro or a call block takes.
struct JinjaParameters {
  std::vector<std::string> names;
  std::vector<JinjaExprPtr> defaults;  // of the last of `names`
};

struct JinjaNode {
  enum class Kind : uint8_t {
    kText,      // text
    kPrint,     // exprs[0]
    kIf,        // exprs[i]: bodies[i]; one body more than conditions: else
    kFor,       // exprs: target, list, condition (null: none); bodies: each, else (may be empty); recursive
    kSet,       // exprs: target, value
    kSetBlock,  // exprs[0]: target; exprs[1]: a filter, or null; bodies[0]
    kWith,      // exprs: target, value, target, value, ..; bodies[0]
    kMacro,     // name, parameters, bodies[0]
    kCall,      // exprs[0]: a call; parameters; bodies[0]
    kFilter,    // exprs[0]: a filter of an empty text, which stands for bodies[0]
    kBreak,
    kContinue,
  };

  Kind kind;
  uint32_t at;
  std::string text;  // or the name of a macro
  bool recursive = false;
  std::vector<JinjaExprPtr> exprs;
  std::vector<JinjaBody> bodies;
  JinjaParameters parameters;
};

}  // namespace tokenferry
