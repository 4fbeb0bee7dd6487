// The values of the template language: Python's, as far as templates see them. Text knows where each byte came from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/numeric/int128.h"
#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/text/tagged_text.h"

namespace tokenferry {

class JinjaDict;
class JinjaObject;
class JinjaValue;
struct JinjaSequence;

struct JinjaUndefined {
  std::shared_ptr<const std::string> what;  // what an error says: "'x' is undefined"; null: nothing is known
};
struct JinjaNone {};

// How a sequence behaves. A generator is what Jinja's map, select and the like give: always true, without a length, and
// empty after it has been walked once.
enum class JinjaSequenceKind : uint8_t { kList, kTuple, kGenerator };

// A handle: copies share their contents, which never change (but for a generator that is walked). JinjaObjects belong
// to the rendering that made them, and so do the values that hold them; all other values stand on their own.
class JinjaValue {
 public:
  JinjaValue() = default;  // undefined
  static JinjaValue Undefined(std::string what);
  static JinjaValue None() { return JinjaValue(JinjaNone()); }
  static JinjaValue Bool(bool value) { return JinjaValue(value); }
  static JinjaValue Int(absl::int128 value) { return JinjaValue(value); }
  static JinjaValue Float(double value) { return JinjaValue(value); }
  static JinjaValue Text(TaggedText text);
  static JinjaValue Text(absl::string_view text, TextOrigin origin) { return Text(TaggedText(text, origin)); }
  static JinjaValue List(std::vector<JinjaValue> items) { return Sequence(std::move(items), JinjaSequenceKind::kList); }
  static JinjaValue Sequence(std::vector<JinjaValue> items, JinjaSequenceKind kind);
  static JinjaValue Dict(JinjaDict dict);
  static JinjaValue Object(JinjaObject* object) { return JinjaValue(object); }  // not null

  bool is_undefined() const { return std::holds_alternative<JinjaUndefined>(value_); }
  bool is_none() const { return std::holds_alternative<JinjaNone>(value_); }
  bool is_number() const { return boolean() != nullptr || integer() != nullptr || real() != nullptr; }

  // Null where the value is of another type.
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const absl::int128* integer() const { return std::get_if<absl::int128>(&value_); }
  const double* real() const { return std::get_if<double>(&value_); }
  const TaggedText* text() const { return Pointee<TaggedText>(); }
  const JinjaSequence* sequence() const { return Pointee<JinjaSequence>(); }
  const JinjaDict* dict() const { return Pointee<JinjaDict>(); }
  JinjaObject* object() const;
  const JinjaUndefined* undefined() const { return std::get_if<JinjaUndefined>(&value_); }

  // Python's truth: false are undefined, None, False, zeros, and what is empty.
  bool Truthy() const;
  // The member of a dict; undefined where there is none, or where this is no dict.
  JinjaValue Get(absl::string_view key) const;
  // Lists and dicts around the innermost value; 0 for what holds no other values.
  int depth() const;
  const char* TypeName() const;  // as Python says: "str", "dict"

 private:
  using Storage = std::variant<JinjaUndefined, JinjaNone, bool, absl::int128, double, std::shared_ptr<const TaggedText>,
                               std::shared_ptr<const JinjaSequence>, std::shared_ptr<const JinjaDict>, JinjaObject*>;
  explicit JinjaValue(Storage value) : value_(std::move(value)) {}

  template <class T>
  const T* Pointee() const {
    const auto* held = std::get_if<std::shared_ptr<const T>>(&value_);
    return held == nullptr ? nullptr : held->get();
  }

  Storage value_;
};

struct JinjaSequence {
  std::vector<JinjaValue> items;
  JinjaSequenceKind kind;
  int depth;
  mutable bool walked = false;  // of a generator
};

// A dict in the order of insertion. Keys are texts, numbers, booleans and None; 1, 1.0 and True are one key.
class JinjaDict {
 public:
  // False: the key cannot be one (a list, a dict), and nothing is done. An old member gets the new value.
  bool Set(const JinjaValue& key, JinjaValue value);
  void Set(absl::string_view key, JinjaValue value) {
    Set(JinjaValue::Text(key, TextOrigin::kModel), std::move(value));
  }
  const JinjaValue* Find(const JinjaValue& key) const;  // null: none
  const JinjaValue* Find(absl::string_view key) const;
  const std::vector<std::pair<JinjaValue, JinjaValue>>& members() const { return members_; }
  int depth() const { return depth_; }

 private:
  std::vector<std::pair<JinjaValue, JinjaValue>> members_;
  absl::flat_hash_map<std::string, size_t> index_;  // by Canonical key
  int depth_ = 1;
};

class JinjaRuntime;
struct JinjaArguments;

// What is no plain value: namespaces, loops, macros, functions and methods. Owned by a rendering.
class JinjaObject {
 public:
  virtual ~JinjaObject() = default;
  virtual const char* type_name() const = 0;
  virtual JinjaValue Attribute(absl::string_view name);  // undefined, but for those that have any
  virtual bool is_callable() const { return false; }
  virtual absl::StatusOr<JinjaValue> Call(JinjaRuntime& runtime, const JinjaArguments& arguments);
};

}  // namespace tokenferry
