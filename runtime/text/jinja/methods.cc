#include "runtime/text/jinja/methods.h"

#include <utility>

#include "runtime/text/jinja/operators.h"

namespace tokenferry {
namespace {

using View = absl::string_view;
using Result = absl::StatusOr<JinjaValue>;

Result Get(JinjaRuntime&, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("get", {"key", "default"}, 1));
  const JinjaValue* member = self.dict()->Find(args[0]);
  if (member != nullptr) return *member;
  return args[1].is_undefined() ? JinjaValue::None() : args[1];
}

Result Keys(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("keys", {}, 0).status());
  TF_ASSIGN_OR_RETURN(std::vector<JinjaValue> keys, runtime.Iterate(self));
  return runtime.List(std::move(keys));
}

Result Values(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("values", {}, 0).status());
  std::vector<JinjaValue> values;
  for (const auto& [key, value] : self.dict()->members()) values.push_back(value);
  return runtime.List(std::move(values));
}

Result Items(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("items", {}, 0).status());
  std::vector<JinjaValue> items;
  for (const auto& [key, value] : self.dict()->members()) {
    TF_ASSIGN_OR_RETURN(JinjaValue item, runtime.List({key, value}, JinjaSequenceKind::kTuple));
    items.push_back(std::move(item));
  }
  return runtime.List(std::move(items));
}

Result Copy(JinjaRuntime&, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("copy", {}, 0).status());
  return self;
}

Result Index(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("index", {"value"}, 1));
  const std::vector<JinjaValue>& items = self.sequence()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    TF_ASSIGN_OR_RETURN(const bool equal, JinjaEqual(items[i], args[0], runtime.budget()));
    if (equal) return JinjaValue::Int(static_cast<int64_t>(i));
  }
  return absl::InvalidArgumentError("index: the value is not in the list");
}

Result Count(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("count", {"value"}, 1));
  int64_t count = 0;
  for (const JinjaValue& item : self.sequence()->items) {
    TF_ASSIGN_OR_RETURN(const bool equal, JinjaEqual(item, args[0], runtime.budget()));
    count += equal ? 1 : 0;
  }
  return JinjaValue::Int(count);
}

Result Changes(JinjaRuntime&, const JinjaValue& self, const JinjaArguments&) {
  return absl::InvalidArgumentError(
      absl::StrCat("a method that changes a ", self.TypeName(), " is not safe, and transformers refuses it too"));
}

struct Entry {
  View name;
  JinjaMethod method;
};

constexpr Entry kDictMethods[] = {
    {"get", Get},     {"keys", Keys},     {"values", Values},  {"items", Items},        {"copy", Copy},
    {"pop", Changes}, {"clear", Changes}, {"update", Changes}, {"setdefault", Changes}, {"popitem", Changes},
};
constexpr Entry kListMethods[] = {
    {"index", Index},    {"count", Count},     {"copy", Copy},      {"append", Changes},
    {"extend", Changes}, {"insert", Changes},  {"remove", Changes}, {"pop", Changes},
    {"clear", Changes},  {"reverse", Changes}, {"sort", Changes},
};

template <size_t kSize>
JinjaMethod Find(const Entry (&entries)[kSize], View name) {
  for (const Entry& entry : entries) {
    if (entry.name == name) return entry.method;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<JinjaValue> CallJinjaMethod(JinjaRuntime& runtime, JinjaMethod method, const JinjaValue& self,
                                           const JinjaArguments& arguments) {
  if (self.text() != nullptr)
    TF_RETURN_IF_ERROR(runtime.budget().Steps(static_cast<int64_t>(self.text()->size()) / 64));
  return method(runtime, self, arguments);
}

JinjaMethod FindJinjaMethod(const JinjaValue& self, View name) {
  if (self.text() != nullptr) return FindTextMethod(name);
  if (self.dict() != nullptr) return Find(kDictMethods, name);
  if (self.sequence() == nullptr) return nullptr;
  const bool is_tuple = self.sequence()->kind == JinjaSequenceKind::kTuple;
  if (is_tuple && name != "index" && name != "count") return nullptr;
  return self.sequence()->kind == JinjaSequenceKind::kGenerator ? nullptr : Find(kListMethods, name);
}

}  // namespace tokenferry
