#include "runtime/text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

int DepthAround(int depth, const JinjaValue& inner) { return std::max(depth, 1 + inner.depth()); }

std::string TextKey(absl::string_view text) { return absl::StrCat("s", text); }

std::string IntegerKey(absl::int128 value) {
  return absl::StrCat("i", absl::Hex(absl::Int128High64(value)), ":", absl::Hex(absl::Int128Low64(value)));
}

// One text for all keys that are equal; empty: the value cannot be a key.
std::string Canonical(const JinjaValue& key) {
  if (const TaggedText* text = key.text()) return TextKey(text->text());
  if (const bool* flag = key.boolean()) return IntegerKey(*flag ? 1 : 0);
  if (const absl::int128* integer = key.integer()) return IntegerKey(*integer);
  if (const double* real = key.real()) {
    constexpr double kExact = 9007199254740992.0;  // 2^53
    if (std::trunc(*real) == *real && std::abs(*real) <= kExact) return IntegerKey(static_cast<int64_t>(*real));
    return absl::StrCat("f", absl::Hex(*reinterpret_cast<const uint64_t*>(real)));
  }
  return key.is_none() ? "n" : "";
}

}  // namespace

JinjaValue JinjaValue::Undefined(std::string what) {
  return JinjaValue(JinjaUndefined{std::make_shared<const std::string>(std::move(what))});
}

JinjaValue JinjaValue::Text(TaggedText text) { return JinjaValue(std::make_shared<const TaggedText>(std::move(text))); }

JinjaValue JinjaValue::Sequence(std::vector<JinjaValue> items, JinjaSequenceKind kind) {
  int depth = 1;
  for (const JinjaValue& item : items) depth = DepthAround(depth, item);
  return JinjaValue(std::make_shared<const JinjaSequence>(JinjaSequence{std::move(items), kind, depth}));
}

JinjaValue JinjaValue::Dict(JinjaDict dict) { return JinjaValue(std::make_shared<const JinjaDict>(std::move(dict))); }

JinjaObject* JinjaValue::object() const {
  JinjaObject* const* held = std::get_if<JinjaObject*>(&value_);
  return held == nullptr ? nullptr : *held;
}

bool JinjaValue::Truthy() const {
  if (is_undefined() || is_none()) return false;
  if (const bool* flag = boolean()) return *flag;
  if (const absl::int128* value = integer()) return *value != 0;
  if (const double* value = real()) return *value != 0;
  if (text() != nullptr) return !text()->empty();
  if (const JinjaSequence* list = sequence())
    return list->kind == JinjaSequenceKind::kGenerator || !list->items.empty();
  if (dict() != nullptr) return !dict()->members().empty();
  return true;
}

JinjaValue JinjaValue::Get(absl::string_view key) const {
  const JinjaValue* member = dict() == nullptr ? nullptr : dict()->Find(key);
  return member == nullptr ? JinjaValue() : *member;
}

int JinjaValue::depth() const {
  if (sequence() != nullptr) return sequence()->depth;
  if (dict() != nullptr) return dict()->depth();
  return 0;
}

const char* JinjaValue::TypeName() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (boolean() != nullptr) return "bool";
  if (integer() != nullptr) return "int";
  if (real() != nullptr) return "float";
  if (text() != nullptr) return "str";
  if (dict() != nullptr) return "dict";
  if (object() != nullptr) return object()->type_name();
  switch (sequence()->kind) {
    case JinjaSequenceKind::kList:
      return "list";
    case JinjaSequenceKind::kTuple:
      return "tuple";
    case JinjaSequenceKind::kGenerator:
      return "generator";
  }
  return "list";
}

bool JinjaDict::Set(const JinjaValue& key, JinjaValue value) {
  std::string canonical = Canonical(key);
  if (canonical.empty()) return false;
  depth_ = DepthAround(depth_, value);
  const auto [it, is_new] = index_.try_emplace(std::move(canonical), members_.size());
  if (is_new) {
    members_.emplace_back(key, std::move(value));
  } else {
    members_[it->second].second = std::move(value);
  }
  return true;
}

const JinjaValue* JinjaDict::Find(const JinjaValue& key) const {
  const auto it = index_.find(Canonical(key));
  return it == index_.end() ? nullptr : &members_[it->second].second;
}

const JinjaValue* JinjaDict::Find(absl::string_view key) const {
  const auto it = index_.find(TextKey(key));
  return it == index_.end() ? nullptr : &members_[it->second].second;
}

JinjaValue JinjaObject::Attribute(absl::string_view name) {
  return JinjaValue::Undefined(absl::StrCat("'", type_name(), " object' has no attribute '", name, "'"));
}

absl::StatusOr<JinjaValue> JinjaObject::Call(JinjaRuntime&, const JinjaArguments&) {
  return absl::InvalidArgumentError(absl::StrCat("'", type_name(), "' object is not callable"));
}

}  // namespace tokenferry
