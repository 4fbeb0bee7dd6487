#include "runtime/serve/grammar/answer_grammar.h"

#include "absl/strings/str_cat.h"
#include "runtime/engine/byte_automaton.h"
#include "runtime/serve/grammar/json_schema.h"

namespace tokenferry {
namespace {

using Node = AutomatonBuilder::Node;
using Json = nlohmann::ordered_json;

class AnswerGrammar {
 public:
  explicit AnswerGrammar(const AnswerForm& form) : form_(form), pieces_(builder_) {}

  absl::StatusOr<ByteAutomaton> Compile() {
    const Node begin = Reasoning(builder_.RuleBegin(0));
    if (form_.schema) {
      // Some tokenizers begin every text with a space.
      const Node at = builder_.NewNode();
      builder_.Join(begin, at);
      builder_.Byte(begin, ' ', ' ', at);
      TF_ASSIGN_OR_RETURN(const Node end, Schema(at, *form_.schema, form_.schema_place));
      builder_.EndRule(0, end);
    }
    if (!form_.tools.empty()) {
      TF_ASSIGN_OR_RETURN(const Node end, Calls(begin));
      builder_.EndRule(0, end);
    }
    return builder_.Build();
  }

 private:
  // What may stand before the answer proper.
  Node Reasoning(Node at) {
    if (form_.thinking == Thinking::kNever) return at;
    const Node begin = builder_.NewNode(), end = builder_.NewNode();
    if (form_.thinking == Thinking::kMayBegin) {
      builder_.Join(at, end);
      builder_.Join(builder_.Text(at, "<think>"), begin);
    } else {
      builder_.Join(at, begin);
    }
    const Node thought = builder_.Until(begin, "</think>");
    const Node line = builder_.Byte(thought, '\n', '\n');
    for (const Node node : {thought, line, builder_.Byte(line, '\n', '\n')}) builder_.Join(node, end);
    return end;
  }

  absl::StatusOr<Node> Schema(Node at, const Json& schema, absl::string_view place) {
    if (schema.dump(-1, ' ', false, Json::error_handler_t::replace).size() > kMaxSchemaBytes) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": has more than ", kMaxSchemaBytes, " bytes"));
    }
    const absl::StatusOr<Node> end = JsonSchema(schema, builder_, pieces_).Append(at);
    return end.ok()
               ? *end
               : absl::StatusOr<Node>(absl::InvalidArgumentError(absl::StrCat(place, ": ", end.status().message())));
  }

  absl::StatusOr<Node> Calls(Node at) {
    const ToolFormat& format = *form_.format;
    const Node begin = builder_.NewNode(), end = builder_.NewNode();
    builder_.Join(builder_.Text(at, format.calls_begin), begin);
    const Node head = builder_.Text(begin, absl::StrCat(format.call_begin, format.written_before_name));
    const Node tail = builder_.NewNode();
    for (const CallableTool& tool : form_.tools) {
      const Node name = builder_.Text(head, absl::StrCat(tool.name, format.written_before_arguments));
      TF_ASSIGN_OR_RETURN(const Node arguments, Schema(name, tool.parameters, tool.place));
      builder_.Join(arguments, tail);
    }
    const Node call_end = builder_.Text(tail, absl::StrCat(format.written_after_arguments, format.call_end));
    if (form_.calls == CallCount::kAny) builder_.Join(builder_.Text(call_end, format.written_between), begin);
    builder_.Join(builder_.Text(call_end, format.calls_end), end);
    return end;
  }

  const AnswerForm& form_;
  AutomatonBuilder builder_;
  JsonPieces pieces_;
};

}  // namespace

absl::StatusOr<std::string> CompileAnswer(const AnswerForm& form, const Tokenizer& tokenizer) {
  TF_ASSIGN_OR_RETURN(ByteAutomaton automaton, AnswerGrammar(form).Compile());
  const OutputRules rules{form.tools.empty() ? nullptr : form.format, form.thinking, form.calls};
  for (const std::string& sign : rules.Signs()) {
    const std::vector<int32_t> ids = tokenizer.Encode(sign);
    if (ids.size() == 1 && tokenizer.IsSpecial(ids[0])) automaton.spoken_tokens.push_back(ids[0]);
  }
  return Encode(automaton);
}

}  // namespace tokenferry
