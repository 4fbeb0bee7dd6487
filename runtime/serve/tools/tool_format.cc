#include "runtime/serve/tools/tool_format.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kSeparator = "<｜tool▁sep｜>";

ToolFormat DeepSeek() {
  ToolFormat format;
  format.calls_begin = "<｜tool▁calls▁begin｜>";
  format.calls_end = "<｜tool▁calls▁end｜>";
  format.call_begin = "<｜tool▁call▁begin｜>";
  format.call_end = "<｜tool▁call▁end｜>";
  return format;
}

}  // namespace

const ToolFormat& HermesFormat() {
  static const auto* format = [] {
    auto* f = new ToolFormat;
    f->call_begin = "<tool_call>";
    f->call_end = "</tool_call>";
    f->before_name = {"{", "\"name\"", ":", "\""};
    f->before_arguments = {"\"", ",", "\"arguments\"", ":"};
    f->after_arguments = {"}"};
    f->written_before_name = "\n{\"name\": \"";
    f->written_before_arguments = "\", \"arguments\": ";
    f->written_after_arguments = "}\n";
    f->written_between = "\n";
    f->body_is_json = true;
    return f;
  }();
  return *format;
}

const ToolFormat& DeepSeekV3Format() {
  static const auto* format = [] {
    auto* f = new ToolFormat(DeepSeek());
    f->before_name = {"function", kSeparator};
    f->before_arguments = {"```json"};
    f->after_arguments = {"```"};
    f->written_before_name = "function<｜tool▁sep｜>";
    f->written_before_arguments = "\n```json\n";
    f->written_after_arguments = "\n```";
    f->written_between = "\n";
    return f;
  }();
  return *format;
}

const ToolFormat& DeepSeekV31Format() {
  static const auto* format = [] {
    auto* f = new ToolFormat(DeepSeek());
    f->before_arguments = {kSeparator};
    f->written_before_arguments = kSeparator;
    return f;
  }();
  return *format;
}

const ToolFormat* ToolFormatOf(const ChatTemplate& chat_template) {
  const auto has = [&](absl::string_view text) { return chat_template.Mentions(text); };
  if (has(DeepSeekV3Format().call_begin)) return has("```json") ? &DeepSeekV3Format() : &DeepSeekV31Format();
  // Qwen3-Coder and GLM write XML between the same tags.
  if (has("<tool_call>") && !has("<function=") && !has("<arg_key>")) return &HermesFormat();
  return nullptr;
}

}  // namespace tokenferry
