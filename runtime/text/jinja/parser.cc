#include "runtime/text/jinja/parser.h"

#include <initializer_list>
#include <utility>

#include "core/io/foreign_text.h"
#include "runtime/text/jinja/expression_parser.h"

namespace tokenferry {
namespace {

using NodeKind = JinjaNode::Kind;
using Target = JinjaExpressionParser::AttributeTarget;
using Conditional = JinjaExpressionParser::Conditional;

constexpr int kMaxBlockNesting = 60;

class Parser {
 public:
  Parser(const JinjaSource& source, std::vector<JinjaToken> tokens) : in_(source, std::move(tokens)) {}

  absl::StatusOr<JinjaBody> Run() {
    TF_ASSIGN_OR_RETURN(JinjaBody body, Body({}));
    return body;
  }

 private:
  // Nodes up to `{% WORD`, one of `ends`, whose word is the next token; with no ends, to the end of the template.
  absl::StatusOr<JinjaBody> Body(std::initializer_list<absl::string_view> ends) {
    if (++nesting_ > kMaxBlockNesting) {
      return in_.Fail(in_.token(), absl::StrCat("blocks nested deeper than ", kMaxBlockNesting, " levels"));
    }
    JinjaBody body;
    while (true) {
      const JinjaToken& token = in_.token();
      switch (token.kind) {
        case JinjaTokenKind::kText: {
          JinjaNode& node = Add(body, NodeKind::kText);
          node.text = in_.Next().text;
          break;
        }
        case JinjaTokenKind::kPrintBegin: {
          JinjaNode& node = Add(body, NodeKind::kPrint);
          in_.Next();
          TF_ASSIGN_OR_RETURN(JinjaExprPtr value, in_.Tuple());
          node.exprs.push_back(std::move(value));
          TF_RETURN_IF_ERROR(in_.Expect(JinjaTokenKind::kPrintEnd, "'}}'"));
          break;
        }
        case JinjaTokenKind::kBlockBegin: {
          in_.Next();
          for (const absl::string_view end : ends) {
            if (!in_.IsName(end)) continue;
            --nesting_;
            return body;
          }
          TF_RETURN_IF_ERROR(Statement(body));
          break;
        }
        default:  // kEnd: other tokens are within those above
          if (ends.size() > 0) return in_.Unexpected(absl::StrCat("{% ", *(ends.end() - 1), " %}"));
          return body;
      }
    }
  }

  JinjaNode& Add(JinjaBody& body, NodeKind kind) {
    body.emplace_back();
    body.back().kind = kind;
    body.back().at = in_.token().at;
    return body.back();
  }

  absl::Status EndTag() { return in_.Expect(JinjaTokenKind::kBlockEnd, "'%}'"); }

  // A body, then `{% END %}`.
  absl::Status BodyTo(absl::string_view end, JinjaNode& node) {
    TF_RETURN_IF_ERROR(EndTag());
    TF_ASSIGN_OR_RETURN(JinjaBody body, Body({end}));
    node.bodies.push_back(std::move(body));
    in_.Next();
    return EndTag();
  }

  absl::Status Statement(JinjaBody& body) {
    const JinjaToken word = in_.token();
    if (word.kind != JinjaTokenKind::kName) return in_.Unexpected("a tag's name");
    static constexpr std::pair<absl::string_view, absl::Status (Parser::*)(JinjaBody&)> kStatements[] = {
        {"if", &Parser::If},
        {"for", &Parser::For},
        {"set", &Parser::Set},
        {"with", &Parser::With},
        {"macro", &Parser::Macro},
        {"call", &Parser::Call},
        {"filter", &Parser::Filter},
        {"break", &Parser::Break},
        {"continue", &Parser::Continue},
        {"generation", &Parser::Generation},
    };
    for (const auto& [name, parse] : kStatements) {
      if (word.text == name) return (this->*parse)(body);
    }
    for (const absl::string_view name :
         {"import", "from", "include", "extends", "block", "autoescape", "do", "trans"}) {
      if (word.text == name) return in_.Refuse(word, absl::StrCat("tag '", name, "'"));
    }
    return in_.Fail(word, absl::StrCat("unknown tag '", Excerpt(word.text), "'"));
  }

  absl::Status If(JinjaBody& body) {
    JinjaNode node{.kind = NodeKind::kIf, .at = in_.token().at};
    while (in_.TakeName("if") || in_.TakeName("elif")) {
      TF_ASSIGN_OR_RETURN(JinjaExprPtr condition, in_.Tuple(Conditional::kNo));
      node.exprs.push_back(std::move(condition));
      TF_RETURN_IF_ERROR(EndTag());
      TF_ASSIGN_OR_RETURN(JinjaBody branch, Body({"elif", "else", "endif"}));
      node.bodies.push_back(std::move(branch));
    }
    if (in_.TakeName("else")) {
      TF_RETURN_IF_ERROR(BodyTo("endif", node));
    } else {
      in_.Next();  // endif
      TF_RETURN_IF_ERROR(EndTag());
    }
    body.push_back(std::move(node));
    return absl::OkStatus();
  }

  absl::Status For(JinjaBody& body) {
    JinjaNode node{.kind = NodeKind::kFor, .at = in_.Next().at};
    TF_ASSIGN_OR_RETURN(JinjaExprPtr target, in_.Target(Target::kNo));
    if (!in_.TakeName("in")) return in_.Unexpected("'in'");
    TF_ASSIGN_OR_RETURN(JinjaExprPtr list, in_.Tuple(Conditional::kNo));
    JinjaExprPtr condition;
    if (in_.TakeName("if")) {
      TF_ASSIGN_OR_RETURN(condition, in_.Expression());
    }
    node.recursive = in_.TakeName("recursive");
    node.exprs.push_back(std::move(target));
    node.exprs.push_back(std::move(list));
    node.exprs.push_back(std::move(condition));
    TF_RETURN_IF_ERROR(EndTag());
    ++num_loops_;
    TF_ASSIGN_OR_RETURN(JinjaBody each, Body({"else", "endfor"}));
    --num_loops_;
    node.bodies.push_back(std::move(each));
    if (in_.TakeName("else")) {
      TF_RETURN_IF_ERROR(BodyTo("endfor", node));
    } else {
      node.bodies.emplace_back();
      in_.Next();  // endfor
      TF_RETURN_IF_ERROR(EndTag());
    }
    body.push_back(std::move(node));
    return absl::OkStatus();
  }

  absl::Status Set(JinjaBody& body) {
    JinjaNode node{.kind = NodeKind::kSet, .at = in_.Next().at};
    TF_ASSIGN_OR_RETURN(JinjaExprPtr target, in_.Target(Target::kYes));
    node.exprs.push_back(std::move(target));
    if (in_.TakeOperator("=")) {
      TF_ASSIGN_OR_RETURN(JinjaExprPtr value, in_.Tuple());
      node.exprs.push_back(std::move(value));
      TF_RETURN_IF_ERROR(EndTag());
    } else {
      node.kind = NodeKind::kSetBlock;
      JinjaExprPtr filter;
      if (in_.TakeOperator("|")) {
        TF_ASSIGN_OR_RETURN(filter, in_.Filters(EmptyText()));
      }
      node.exprs.push_back(std::move(filter));
      TF_RETURN_IF_ERROR(BodyTo("endset", node));
    }
    body.push_back(std::move(node));
    return absl::OkStatus();
  }

  absl::Status With(JinjaBody& body) {
    JinjaNode node{.kind = NodeKind::kWith, .at = in_.Next().at};
    while (in_.token().kind != JinjaTokenKind::kBlockEnd) {
      if (!node.exprs.empty()) TF_RETURN_IF_ERROR(in_.ExpectOperator(","));
      TF_ASSIGN_OR_RETURN(JinjaExprPtr target, in_.Target(Target::kNo));
      TF_RETURN_IF_ERROR(in_.ExpectOperator("="));
      TF_ASSIGN_OR_RETURN(JinjaExprPtr value, in_.Expression());
      node.exprs.push_back(std::move(target));
      node.exprs.push_back(std::move(value));
    }
    TF_RETURN_IF_ERROR(BodyTo("endwith", node));
    body.push_back(std::move(node));
    return absl::OkStatus();
  }

  // transformers' mark around what the assistant has written: a scope of its own, no more.
  absl::Status Generation(JinjaBody& body) {
    JinjaNode node{.kind = NodeKind::kWith, .at = in_.Next().at};
    TF_RETURN_IF_ERROR(BodyTo("endgeneration", node));
    body.push_back(std::move(node));
    return absl::OkStatus();
  }

  // Behind `(`, up to `)`.
  absl::Status Parameters(JinjaParameters& parameters) {
    while (!in_.TakeOperator(")")) {
      if (!parameters.names.empty()) {
        TF_RETURN_IF_ERROR(in_.ExpectOperator(","));
        if (in_.TakeOperator(")")) break;
      }
      TF_ASSIGN_OR_RETURN(std::string name, in_.ExpectName());
      parameters.names.push_back(std::move(name));
      if (in_.TakeOperator("=")) {
        TF_ASSIGN_OR_RETURN(JinjaExprPtr value, in_.Expression());
        parameters.defaults.push_back(std::move(value));
      } else if (!parameters.defaults.empty()) {
        return in_.Fail(in_.token(), "a parameter without a default behind one with a default");
      }
    }
    return absl::OkStatus();
  }

  // The body of a macro or call block, in which break and continue have no loop to end.
  absl::Status SeparateBody(absl::string_view end, JinjaNode& node) {
    const int num_loops = std::exchange(num_loops_, 0);
    TF_RETURN_IF_ERROR(BodyTo(end, node));
    num_loops_ = num_loops;
    return absl::OkStatus();
  }

  absl::Status Macro(JinjaBody& body) {
    JinjaNode node{.kind = NodeKind::kMacro, .at = in_.Next().at};
    TF_ASSIGN_OR_RETURN(node.text, in_.ExpectName());
    TF_RETURN_IF_ERROR(in_.ExpectOperator("("));
    TF_RETURN_IF_ERROR(Parameters(node.parameters));
    TF_RETURN_IF_ERROR(SeparateBody("endmacro", node));
    body.push_back(std::move(node));
    return absl::OkStatus();
  }

  absl::Status Call(JinjaBody& body) {
    JinjaNode node{.kind = NodeKind::kCall, .at = in_.Next().at};
    if (in_.TakeOperator("(")) TF_RETURN_IF_ERROR(Parameters(node.parameters));
    const JinjaToken callee = in_.token();
    TF_ASSIGN_OR_RETURN(JinjaExprPtr call, in_.Expression());
    if (call->kind != JinjaExpr::Kind::kCall) return in_.Fail(callee, "expected a call");
    node.exprs.push_back(std::move(call));
    TF_RETURN_IF_ERROR(SeparateBody("endcall", node));
    body.push_back(std::move(node));
    return absl::OkStatus();
  }

  absl::Status Filter(JinjaBody& body) {
    JinjaNode node{.kind = NodeKind::kFilter, .at = in_.Next().at};
    TF_ASSIGN_OR_RETURN(JinjaExprPtr filter, in_.Filters(EmptyText()));
    node.exprs.push_back(std::move(filter));
    TF_RETURN_IF_ERROR(BodyTo("endfilter", node));
    body.push_back(std::move(node));
    return absl::OkStatus();
  }

  absl::Status Break(JinjaBody& body) { return LoopControl(body, NodeKind::kBreak); }
  absl::Status Continue(JinjaBody& body) { return LoopControl(body, NodeKind::kContinue); }
  absl::Status LoopControl(JinjaBody& body, NodeKind kind) {
    if (num_loops_ == 0) return in_.Fail(in_.token(), absl::StrCat("'", in_.token().text, "' outside of a loop"));
    Add(body, kind);
    in_.Next();
    return EndTag();
  }

  JinjaExprPtr EmptyText() const {
    JinjaExprPtr text = MakeJinjaExpr(JinjaExpr::Kind::kConst, in_.token().at);
    text->constant = JinjaValue::Text("", TextOrigin::kModel);
    return text;
  }

  JinjaExpressionParser in_;
  int nesting_ = 0, num_loops_ = 0;
};

}  // namespace

absl::StatusOr<JinjaBody> ParseJinja(const JinjaSource& source) {
  TF_ASSIGN_OR_RETURN(std::vector<JinjaToken> tokens, TokenizeJinja(source));
  return Parser(source, std::move(tokens)).Run();
}

}  // namespace tokenferry
