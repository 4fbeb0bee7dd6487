#include "runtime/text/jinja/globals.h"

#include <ctime>

#include "absl/strings/str_replace.h"
#include "runtime/text/jinja/value_text.h"

namespace tokenferry {
namespace {

using Result = absl::StatusOr<JinjaValue>;
using Function = Result (*)(JinjaRuntime& runtime, const JinjaArguments& arguments);

class GlobalFunction final : public JinjaObject {
 public:
  explicit GlobalFunction(Function function) : function_(function) {}
  const char* type_name() const override { return "function"; }
  bool is_callable() const override { return true; }
  Result Call(JinjaRuntime& runtime, const JinjaArguments& arguments) override { return function_(runtime, arguments); }

 private:
  Function function_;
};

Result Range(JinjaRuntime& runtime, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("range", {"start", "stop", "step"}, 1));
  int64_t start = 0, stop = 0, step = 1;
  TF_ASSIGN_OR_RETURN(stop, ExpectInt(args[0], "range: its argument"));
  if (!args[1].is_undefined()) {
    start = stop;
    TF_ASSIGN_OR_RETURN(stop, ExpectInt(args[1], "range: stop"));
  }
  if (!args[2].is_undefined()) {
    TF_ASSIGN_OR_RETURN(step, ExpectInt(args[2], "range: step"));
  }
  if (step == 0) return absl::InvalidArgumentError("range: step must not be zero");
  constexpr size_t kMaxRange = 100'000;  // as in Jinja's sandbox
  std::vector<JinjaValue> items;
  for (absl::int128 i = start; step > 0 ? i < stop : i > stop; i += step) {
    if (items.size() == kMaxRange) {
      return absl::InvalidArgumentError(absl::StrCat("range: more than ", kMaxRange, " elements"));
    }
    items.push_back(JinjaValue::Int(i));
  }
  return runtime.List(std::move(items));
}

// The members of an argument that is a dict, or a list of pairs, and those given by name.
absl::StatusOr<JinjaDict> Members(const JinjaArguments& arguments) {
  JinjaDict dict;
  if (arguments.args.size() > 1) return absl::InvalidArgumentError("dict takes at most 1 argument without a name");
  if (!arguments.args.empty()) {
    const JinjaValue& given = arguments.args[0];
    if (given.dict() == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("dict needs a mapping, not a value of type ", given.TypeName()));
    }
    dict = *given.dict();
  }
  for (const auto& [name, value] : arguments.kwargs) dict.Set(name, value);
  return dict;
}

Result Dict(JinjaRuntime& runtime, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(JinjaDict dict, Members(arguments));
  return runtime.Dict(std::move(dict));
}

Result Namespace(JinjaRuntime& runtime, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const JinjaDict members, Members(arguments));
  TF_ASSIGN_OR_RETURN(JinjaNamespace * result, runtime.New<JinjaNamespace>());
  for (const auto& [name, value] : members.members()) {
    TF_ASSIGN_OR_RETURN(const TaggedText* text, ExpectText(name, "namespace: a name"));
    result->Set(text->text(), value);
  }
  return JinjaValue::Object(result);
}

Result RaiseException(JinjaRuntime& runtime, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("raise_exception", {"message"}, 1));
  TF_ASSIGN_OR_RETURN(const TaggedText message, ToText(args[0], runtime.budget()));
  return absl::InvalidArgumentError(message.text());
}

Result StrftimeNow(JinjaRuntime& runtime, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("strftime_now", {"format"}, 1));
  TF_ASSIGN_OR_RETURN(const TaggedText* format, ExpectText(args[0], "strftime_now: format"));
  const absl::CivilSecond now = runtime.now();
  std::tm time = {};
  time.tm_year = static_cast<int>(now.year() - 1900);
  time.tm_mon = now.month() - 1;
  time.tm_mday = now.day();
  time.tm_hour = now.hour();
  time.tm_min = now.minute();
  time.tm_sec = now.second();
  time.tm_wday = (static_cast<int>(absl::GetWeekday(now)) + 1) % 7;  // absl's Monday is 0, C's is 1
  time.tm_yday = absl::GetYearDay(absl::CivilDay(now)) - 1;
  // What Python says of a time without a zone, and of its microseconds.
  const std::string c_format =
      absl::StrReplaceAll(format->text(), {{"%%", "%%"}, {"%z", ""}, {"%Z", ""}, {"%f", "000000"}});
  constexpr size_t kMaxFormat = 1024, kMaxPerByte = 64;
  if (c_format.size() > kMaxFormat) return absl::InvalidArgumentError("strftime_now: the format is too long");
  std::string out(kMaxFormat * kMaxPerByte, '\0');
  out.resize(std::strftime(out.data(), out.size(), c_format.c_str(), &time));
  return runtime.Text(TaggedText(out, format->Mixed()));
}

}  // namespace

JinjaValue JinjaNamespace::Attribute(absl::string_view name) {
  const JinjaValue* member = members_.Find(name);
  return member == nullptr ? JinjaObject::Attribute(name) : *member;
}

void JinjaNamespace::Set(absl::string_view name, JinjaValue value) { members_.Set(name, std::move(value)); }

absl::StatusOr<std::vector<std::pair<std::string, JinjaValue>>> JinjaGlobals(JinjaRuntime& runtime) {
  static constexpr std::pair<const char*, Function> kFunctions[] = {
      {"dict", Dict},   {"namespace", Namespace},      {"raise_exception", RaiseException},
      {"range", Range}, {"strftime_now", StrftimeNow},
  };
  std::vector<std::pair<std::string, JinjaValue>> globals;
  for (const auto& [name, function] : kFunctions) {
    TF_ASSIGN_OR_RETURN(GlobalFunction * object, runtime.New<GlobalFunction>(function));
    globals.emplace_back(name, JinjaValue::Object(object));
  }
  return globals;
}

}  // namespace tokenferry
