// Filters of lists.
#include <algorithm>
#include <optional>
#include <utility>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/lookup.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text_ops.h"
#include "runtime/text/jinja/value_text.h"

namespace tokenferry {
namespace {

using View = absl::string_view;
using Result = absl::StatusOr<JinjaValue>;
using Items = std::vector<JinjaValue>;

bool Given(const JinjaValue& value) { return !value.is_undefined() && !value.is_none(); }

// What elements are compared by: an attribute, and texts without their case unless it matters.
absl::StatusOr<Items> SortKeys(JinjaRuntime& runtime, const Items& items, const JinjaValue& attribute,
                               bool case_sensitive, const JinjaValue& fallback = {}) {
  Items keys;
  for (const JinjaValue& item : items) {
    JinjaValue key = item;
    if (Given(attribute)) {
      TF_ASSIGN_OR_RETURN(key, GetJinjaPath(runtime, item, attribute, fallback));
    }
    if (key.text() != nullptr && !case_sensitive) {
      TF_ASSIGN_OR_RETURN(key, runtime.Text(ChangeCase(*key.text(), CaseRule::kLower)));
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

// The order of elements with these keys; stable. The first error of a comparison is the result.
absl::StatusOr<std::vector<size_t>> SortedOrder(JinjaRuntime& runtime, const Items& keys, bool reverse) {
  // A merge sort by hand: std::sort must not be given a comparison that fails halfway.
  std::vector<size_t> order(keys.size()), merged(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (size_t width = 1; width < order.size(); width *= 2) {
    for (size_t begin = 0; begin < order.size(); begin += 2 * width) {
      size_t left = begin, right = std::min(begin + width, order.size());
      const size_t middle = right, end = std::min(begin + 2 * width, order.size());
      for (size_t out = begin; out < end; ++out) {
        bool take_right = left == middle;
        if (left < middle && right < end) {
          const JinjaValue& low = reverse ? keys[order[left]] : keys[order[right]];
          const JinjaValue& high = reverse ? keys[order[right]] : keys[order[left]];
          TF_ASSIGN_OR_RETURN(take_right, JinjaLess(low, high, runtime.budget()));
        }
        merged[out] = order[take_right ? right++ : left++];
      }
    }
    order.swap(merged);
  }
  return order;
}

absl::StatusOr<Items> Sorted(JinjaRuntime& runtime, const Items& items, const Items& keys, bool reverse) {
  TF_ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(runtime, keys, reverse));
  Items sorted;
  for (const size_t i : order) sorted.push_back(items[i]);
  return sorted;
}

Result List(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("list", {}, 0).status());
  TF_ASSIGN_OR_RETURN(Items items, runtime.Iterate(value));
  return runtime.List(std::move(items));
}

Result First(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("first", {}, 0).status());
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  return items.empty() ? JinjaValue::Undefined("No first item, sequence was empty.") : items.front();
}

Result Last(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("last", {}, 0).status());
  if (value.sequence() != nullptr && value.sequence()->kind == JinjaSequenceKind::kGenerator) {
    return absl::InvalidArgumentError("last: 'generator' object is not reversible");
  }
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  return items.empty() ? JinjaValue::Undefined("No last item, sequence was empty.") : items.back();
}

Result Join(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("join", {"d", "attribute"}, 0));
  TF_ASSIGN_OR_RETURN(const TaggedText separator, ToText(args[0], runtime.budget()));
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  std::vector<TaggedText> parts;
  int64_t size = 0;
  for (JinjaValue item : items) {
    if (Given(args[1])) {
      TF_ASSIGN_OR_RETURN(item, GetJinjaPath(runtime, item, args[1]));
    }
    TF_ASSIGN_OR_RETURN(TaggedText part, ToText(item, runtime.budget()));
    size += static_cast<int64_t>(part.size() + separator.size());
    TF_RETURN_IF_ERROR(runtime.budget().Grown(size));
    parts.push_back(std::move(part));
  }
  return runtime.Text(JoinTexts(parts, separator));
}

Result Reverse(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("reverse", {}, 0).status());
  TF_ASSIGN_OR_RETURN(Items items, runtime.Iterate(value));
  std::reverse(items.begin(), items.end());
  if (value.text() == nullptr) return runtime.List(std::move(items), JinjaSequenceKind::kGenerator);
  TaggedText text;
  for (const JinjaValue& item : items) text.Append(*item.text());
  return runtime.Text(std::move(text));
}

Result Sort(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("sort", {"reverse", "case_sensitive", "attribute"}, 0));
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  TF_ASSIGN_OR_RETURN(const Items keys, SortKeys(runtime, items, args[2], args[1].Truthy()));
  TF_ASSIGN_OR_RETURN(Items sorted, Sorted(runtime, items, keys, args[0].Truthy()));
  return runtime.List(std::move(sorted));
}

Result DictSort(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("dictsort", {"case_sensitive", "by", "reverse"}, 0));
  if (value.dict() == nullptr) return absl::InvalidArgumentError("dictsort: the value is no mapping");
  const bool by_value = args[1].text() != nullptr && args[1].text()->text() == "value";
  TF_ASSIGN_OR_RETURN(const JinjaValue items, FindJinjaMethod(value, "items")(runtime, value, {}));
  TF_ASSIGN_OR_RETURN(const Items keys,
                      SortKeys(runtime, items.sequence()->items, JinjaValue::Int(by_value ? 1 : 0), args[0].Truthy()));
  TF_ASSIGN_OR_RETURN(Items sorted, Sorted(runtime, items.sequence()->items, keys, args[2].Truthy()));
  return runtime.List(std::move(sorted));
}

// For each element, the index of the first one with an equal key.
absl::StatusOr<std::vector<size_t>> FirstEquals(JinjaRuntime& runtime, const Items& keys) {
  std::vector<size_t> first(keys.size());
  JinjaDict seen;
  for (size_t i = 0; i < keys.size(); ++i) {
    TF_RETURN_IF_ERROR(runtime.budget().Steps(1));
    if (const JinjaValue* at = seen.Find(keys[i]); at != nullptr) {
      first[i] = static_cast<size_t>(*at->integer());
    } else if (seen.Set(keys[i], JinjaValue::Int(static_cast<int64_t>(i)))) {
      first[i] = i;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("unhashable type: '", keys[i].TypeName(), "'"));
    }
  }
  return first;
}

Result Unique(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("unique", {"case_sensitive", "attribute"}, 0));
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  TF_ASSIGN_OR_RETURN(const Items keys, SortKeys(runtime, items, args[1], args[0].Truthy()));
  TF_ASSIGN_OR_RETURN(const std::vector<size_t> first, FirstEquals(runtime, keys));
  Items unique;
  for (size_t i = 0; i < items.size(); ++i) {
    if (first[i] == i) unique.push_back(items[i]);
  }
  return runtime.List(std::move(unique), JinjaSequenceKind::kGenerator);
}

// [(key, [elements])], by rising key.
Result GroupBy(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("groupby", {"attribute", "default", "case_sensitive"}, 1));
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  TF_ASSIGN_OR_RETURN(const Items keys, SortKeys(runtime, items, args[0], args[2].Truthy(), args[1]));
  TF_ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(runtime, keys, /*reverse=*/false));
  Items groups, members;
  for (size_t i = 0; i < order.size(); ++i) {
    members.push_back(items[order[i]]);
    bool last = i + 1 == order.size();
    if (!last) {
      TF_ASSIGN_OR_RETURN(const bool equal, JinjaEqual(keys[order[i]], keys[order[i + 1]], runtime.budget()));
      last = !equal;
    }
    if (!last) continue;
    TF_ASSIGN_OR_RETURN(JinjaValue key, GetJinjaPath(runtime, members.front(), args[0], args[1]));
    TF_ASSIGN_OR_RETURN(JinjaValue list, runtime.List(std::exchange(members, {})));
    TF_ASSIGN_OR_RETURN(JinjaValue group, runtime.List({key, list}, JinjaSequenceKind::kTuple));
    groups.push_back(std::move(group));
  }
  return runtime.List(std::move(groups));
}

Result Sum(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("sum", {"attribute", "start"}, 0));
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  JinjaValue sum = args[1].is_undefined() ? JinjaValue::Int(0) : args[1];
  for (JinjaValue item : items) {
    if (Given(args[0])) {
      TF_ASSIGN_OR_RETURN(item, GetJinjaPath(runtime, item, args[0]));
    }
    TF_ASSIGN_OR_RETURN(sum, JinjaArithmetic(JinjaOp::kAdd, sum, item, runtime));
  }
  return sum;
}

enum class Extreme : uint8_t { kMin, kMax };

template <Extreme kExtreme>
Result FindExtreme(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("min and max", {"case_sensitive", "attribute"}, 0));
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  if (items.empty()) return JinjaValue::Undefined("No aggregated item, sequence was empty.");
  TF_ASSIGN_OR_RETURN(const Items keys, SortKeys(runtime, items, args[1], args[0].Truthy()));
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i) {
    const bool is_max = kExtreme == Extreme::kMax;
    TF_ASSIGN_OR_RETURN(const bool better,
                        JinjaLess(is_max ? keys[best] : keys[i], is_max ? keys[i] : keys[best], runtime.budget()));
    if (better) best = i;
  }
  return items[best];
}

// Lists of `count` elements, the last one filled up if there is something to fill with.
Result Batch(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("batch", {"linecount", "fill_with"}, 1));
  TF_ASSIGN_OR_RETURN(const int64_t count, ExpectInt(args[0], "batch: linecount"));
  if (count < 1) return absl::InvalidArgumentError("batch: linecount must be positive");
  TF_ASSIGN_OR_RETURN(const Items items, runtime.Iterate(value));
  Items batches, batch;
  for (size_t i = 0; i < items.size(); ++i) {
    batch.push_back(items[i]);
    const bool last = i + 1 == items.size();
    while (last && Given(args[1]) && static_cast<int64_t>(batch.size()) < count) {
      TF_RETURN_IF_ERROR(runtime.budget().Steps(1));
      batch.push_back(args[1]);
    }
    if (!last && static_cast<int64_t>(batch.size()) < count) continue;
    TF_ASSIGN_OR_RETURN(JinjaValue list, runtime.List(std::exchange(batch, {})));
    batches.push_back(std::move(list));
  }
  return runtime.List(std::move(batches), JinjaSequenceKind::kGenerator);
}

constexpr std::pair<View, JinjaMethod> kFilters[] = {
    {"batch", Batch},     {"dictsort", DictSort},
    {"first", First},     {"groupby", GroupBy},
    {"join", Join},       {"last", Last},
    {"list", List},       {"max", FindExtreme<Extreme::kMax>},
    {"reverse", Reverse}, {"min", FindExtreme<Extreme::kMin>},
    {"sort", Sort},       {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

JinjaMethod FindListFilter(View name) {
  for (const auto& [known, filter] : kFilters) {
    if (name == known) return filter;
  }
  return nullptr;
}

}  // namespace tokenferry
