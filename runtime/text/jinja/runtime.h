// What the parts of a rendering share: its budget, what it owns, and the hour.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"
#include "core/status.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace tokenferry {

// Of a call. A method or filter gets the value that it works on apart from them.
struct JinjaArguments {
  std::vector<JinjaValue> args;
  std::vector<std::pair<std::string, JinjaValue>> kwargs;

  // The arguments in the order of `names`; undefined where one is not given. InvalidArgument, naming `callee`, for one
  // too many, an unknown name, one given twice, and fewer than `num_required`.
  absl::StatusOr<std::vector<JinjaValue>> Bind(absl::string_view callee, const std::vector<absl::string_view>& names,
                                               size_t num_required) const;
};

class JinjaRuntime {
 public:
  JinjaRuntime(const JinjaLimits& limits, absl::CivilSecond now) : budget_(limits), now_(now) {}
  JinjaRuntime(const JinjaRuntime&) = delete;
  JinjaRuntime& operator=(const JinjaRuntime&) = delete;

  JinjaBudget& budget() { return budget_; }
  absl::CivilSecond now() const { return now_; }

  // An object that lives as long as the rendering.
  template <class T, class... Args>
  absl::StatusOr<T*> New(Args&&... args) {
    constexpr int64_t kStepsPerObject = 32;  // so that its budget bounds the memory that a rendering keeps
    TF_RETURN_IF_ERROR(budget_.Steps(kStepsPerObject));
    auto object = std::make_unique<T>(std::forward<Args>(args)...);
    T* raw = object.get();
    objects_.push_back(std::move(object));
    return raw;
  }

  // Values made of others, checked for their depth and paid for.
  absl::StatusOr<JinjaValue> List(std::vector<JinjaValue> items, JinjaSequenceKind kind = JinjaSequenceKind::kList);
  absl::StatusOr<JinjaValue> Dict(JinjaDict dict);
  absl::StatusOr<JinjaValue> Text(TaggedText text);

  // What a for loop walks: elements, keys, characters. InvalidArgument where there is nothing to walk.
  absl::StatusOr<std::vector<JinjaValue>> Iterate(const JinjaValue& value);

 private:
  JinjaBudget budget_;
  const absl::CivilSecond now_;
  std::vector<std::unique_ptr<JinjaObject>> objects_;
};

// "'x' is undefined" and the like, where `value` is undefined; else OK.
absl::Status CheckDefined(const JinjaValue& value);
// InvalidArgument: WHAT must be of the type, not a TYPE.
absl::StatusOr<const TaggedText*> ExpectText(const JinjaValue& value, absl::string_view what);
absl::StatusOr<int64_t> ExpectInt(const JinjaValue& value, absl::string_view what);

}  // namespace tokenferry
