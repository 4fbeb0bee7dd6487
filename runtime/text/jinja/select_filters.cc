// map, select, reject, selectattr, rejectattr: filters that take another filter or a test by its name.
#include <utility>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/lookup.h"
#include "runtime/text/jinja/tests.h"

namespace tokenferry {
namespace {

using View = absl::string_view;
using Result = absl::StatusOr<JinjaValue>;
using Items = std::vector<JinjaValue>;

// map(attribute='a.b', default=x): an attribute of each.
Result MapAttribute(JinjaRuntime& runtime, const Items& items, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, JinjaArguments({{}, arguments.kwargs}).Bind("map", {"attribute", "default"}, 1));
  Items mapped;
  for (const JinjaValue& item : items) {
    TF_ASSIGN_OR_RETURN(JinjaValue value, GetJinjaPath(runtime, item, args[0], args[1]));
    mapped.push_back(std::move(value));
  }
  return runtime.List(std::move(mapped), JinjaSequenceKind::kGenerator);
}

Result Map(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  if (arguments.args.empty()) return MapAttribute(runtime, items, arguments);
  TF_ASSIGN_OR_RETURN(const TaggedText* name, ExpectText(arguments.args[0], "map: the filter's name"));
  const JinjaMethod filter = FindJinjaFilter(name->text());
  if (filter == nullptr) return absl::UnimplementedError(absl::StrCat("map: there is no filter '", name->text(), "'"));
  const JinjaArguments rest{{arguments.args.begin() + 1, arguments.args.end()}, arguments.kwargs};
  Items mapped;
  for (const JinjaValue& item : items) {
    TF_RETURN_IF_ERROR(runtime.budget().Steps(1));
    TF_ASSIGN_OR_RETURN(JinjaValue result, CallJinjaMethod(runtime, filter, item, rest));
    mapped.push_back(std::move(result));
  }
  return runtime.List(std::move(mapped), JinjaSequenceKind::kGenerator);
}

enum class Of : uint8_t { kElement, kAttribute };  // what the test looks at
enum class Keep : uint8_t { kPassing, kFailing };

template <Of kOf, Keep kKeep>
Result Select(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  size_t num_used = 0;
  JinjaValue attribute;
  if (kOf == Of::kAttribute) {
    if (arguments.args.empty()) return absl::InvalidArgumentError("selectattr lacks the name of the attribute");
    attribute = arguments.args[num_used++];
  }
  JinjaTest test = nullptr;  // null: Python's truth
  if (arguments.args.size() > num_used) {
    TF_ASSIGN_OR_RETURN(const TaggedText* name, ExpectText(arguments.args[num_used++], "select: the test's name"));
    test = FindJinjaTest(name->text());
    if (test == nullptr) return absl::UnimplementedError(absl::StrCat("select: there is no test '", name->text(), "'"));
  }
  const JinjaArguments rest{{arguments.args.begin() + static_cast<ptrdiff_t>(num_used), arguments.args.end()},
                            arguments.kwargs};
  Items kept;
  for (const JinjaValue& item : items) {
    TF_RETURN_IF_ERROR(runtime.budget().Steps(1));
    JinjaValue tested = item;
    if (kOf == Of::kAttribute) {
      TF_ASSIGN_OR_RETURN(tested, GetJinjaPath(runtime, item, attribute));
    }
    bool passes = tested.Truthy();
    if (test != nullptr) {
      TF_ASSIGN_OR_RETURN(passes, test(runtime, tested, rest));
    }
    if (passes == (kKeep == Keep::kPassing)) kept.push_back(item);
  }
  return runtime.List(std::move(kept), JinjaSequenceKind::kGenerator);
}

constexpr std::pair<View, JinjaMethod> kFilters[] = {
    {"map", Map},
    {"reject", Select<Of::kElement, Keep::kFailing>},
    {"rejectattr", Select<Of::kAttribute, Keep::kFailing>},
    {"select", Select<Of::kElement, Keep::kPassing>},
    {"selectattr", Select<Of::kAttribute, Keep::kPassing>},
};

}  // namespace

JinjaMethod FindSelectFilter(View name) {
  for (const auto& [known, filter] : kFilters) {
    if (name == known) return filter;
  }
  return nullptr;
}

}  // namespace tokenferry
