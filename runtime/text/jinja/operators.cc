#include "runtime/text/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/text_ops.h"

namespace tokenferry {
namespace {

absl::int128 AsInteger(const JinjaValue& value) {
  return value.boolean() != nullptr ? absl::int128(*value.boolean() ? 1 : 0) : *value.integer();
}

double AsReal(const JinjaValue& value) {
  return value.real() != nullptr ? *value.real() : static_cast<double>(AsInteger(value));
}

absl::string_view OperatorSymbol(JinjaOp op) {
  static constexpr absl::string_view kSymbols[] = {
      "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "-", "+"};
  return kSymbols[static_cast<size_t>(op)];
}

absl::Status Unsupported(JinjaOp op, const JinjaValue& a, const JinjaValue& b) {
  TF_RETURN_IF_ERROR(CheckDefined(a));
  TF_RETURN_IF_ERROR(CheckDefined(b));
  return absl::InvalidArgumentError(
      absl::StrCat("cannot use ", OperatorSymbol(op), " on ", a.TypeName(), " and ", b.TypeName()));
}

absl::StatusOr<JinjaValue> IntegerArithmetic(JinjaOp op, absl::int128 a, absl::int128 b) {
  // Operands of 64 bits cannot overflow 128.
  constexpr absl::int128 kMax = std::numeric_limits<int64_t>::max();
  if (a > kMax || a < -kMax || b > kMax || b < -kMax) {
    return absl::InvalidArgumentError(absl::StrCat(OperatorSymbol(op), ": an integer of more than 64 bits"));
  }
  if ((op == JinjaOp::kFloorDiv || op == JinjaOp::kMod) && b == 0) {
    return absl::InvalidArgumentError("division by zero");
  }
  switch (op) {
    case JinjaOp::kAdd:
      return JinjaValue::Int(a + b);
    case JinjaOp::kSub:
      return JinjaValue::Int(a - b);
    case JinjaOp::kMul:
      return JinjaValue::Int(a * b);
    case JinjaOp::kFloorDiv: {
      const absl::int128 quotient = a / b;
      return JinjaValue::Int(a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient);
    }
    case JinjaOp::kMod: {
      const absl::int128 rest = a % b;
      return JinjaValue::Int(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
    }
    default: {  // kPow
      if (b < 0) return JinjaValue::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
      absl::int128 result = 1;
      for (absl::int128 i = 0; i < b && result != 0 && (result != 1 || a != 1); ++i) {
        if (result > kMax || result < -kMax) {
          return absl::InvalidArgumentError("**: an integer of more than 64 bits");
        }
        result *= a;
        if (a == -1 && i == 0) return JinjaValue::Int(b % 2 == 0 ? 1 : -1);
      }
      return JinjaValue::Int(result);
    }
  }
}

absl::StatusOr<JinjaValue> RealArithmetic(JinjaOp op, double a, double b) {
  if ((op == JinjaOp::kDiv || op == JinjaOp::kFloorDiv || op == JinjaOp::kMod) && b == 0) {
    return absl::InvalidArgumentError("division by zero");
  }
  switch (op) {
    case JinjaOp::kAdd:
      return JinjaValue::Float(a + b);
    case JinjaOp::kSub:
      return JinjaValue::Float(a - b);
    case JinjaOp::kMul:
      return JinjaValue::Float(a * b);
    case JinjaOp::kDiv:
      return JinjaValue::Float(a / b);
    case JinjaOp::kFloorDiv:
      return JinjaValue::Float(std::floor(a / b));
    case JinjaOp::kMod: {
      const double rest = std::fmod(a, b);
      return JinjaValue::Float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
    }
    default:
      return JinjaValue::Float(std::pow(a, b));
  }
}

absl::StatusOr<JinjaValue> Repeat(const JinjaValue& value, int64_t count, JinjaRuntime& runtime) {
  count = std::max<int64_t>(count, 0);
  if (const TaggedText* text = value.text()) {
    const int64_t limit = runtime.budget().limits().max_output_bytes;
    if (text->empty()) return value;
    TF_RETURN_IF_ERROR(runtime.budget().Text(std::min(count, limit + 1) * static_cast<int64_t>(text->size())));
    TaggedText out;
    for (int64_t i = 0; i < count; ++i) out.Append(*text);
    return JinjaValue::Text(std::move(out));
  }
  const std::vector<JinjaValue>& items = value.sequence()->items;
  std::vector<JinjaValue> out;
  for (int64_t i = 0; i < count && !items.empty(); ++i) {
    TF_RETURN_IF_ERROR(runtime.budget().Steps(static_cast<int64_t>(items.size())));
    out.insert(out.end(), items.begin(), items.end());
  }
  return runtime.List(std::move(out), value.sequence()->kind);
}

bool IsFixedSequence(const JinjaValue& value) {
  return value.sequence() != nullptr && value.sequence()->kind != JinjaSequenceKind::kGenerator;
}

absl::StatusOr<JinjaValue> Add(const JinjaValue& a, const JinjaValue& b, JinjaRuntime& runtime) {
  if (a.text() != nullptr && b.text() != nullptr) {
    TF_RETURN_IF_ERROR(runtime.budget().Text(static_cast<int64_t>(a.text()->size() + b.text()->size())));
    TaggedText out = *a.text();
    out.Append(*b.text());
    return JinjaValue::Text(std::move(out));
  }
  if (IsFixedSequence(a) && IsFixedSequence(b) && a.sequence()->kind == b.sequence()->kind) {
    std::vector<JinjaValue> out = a.sequence()->items;
    out.insert(out.end(), b.sequence()->items.begin(), b.sequence()->items.end());
    return runtime.List(std::move(out), a.sequence()->kind);
  }
  return Unsupported(JinjaOp::kAdd, a, b);
}

// Start, stop and step as Python resolves them for a sequence of `size`.
struct Slice {
  int64_t start, stop, step;
};

absl::StatusOr<Slice> ResolveSlice(const JinjaValue& start, const JinjaValue& stop, const JinjaValue& step,
                                   int64_t size) {
  const auto absent = [](const JinjaValue& part) { return part.is_undefined() || part.is_none(); };
  Slice slice{0, 0, 1};
  if (!absent(step)) {
    TF_ASSIGN_OR_RETURN(slice.step, ExpectInt(step, "a slice's step"));
    if (slice.step == 0) return absl::InvalidArgumentError("slice step cannot be zero");
    slice.step = std::clamp<int64_t>(slice.step, -size - 1, size + 1);
  }
  const int64_t lowest = slice.step < 0 ? -1 : 0;
  const int64_t highest = slice.step < 0 ? size - 1 : size;
  slice.start = slice.step < 0 ? highest : lowest;
  slice.stop = slice.step < 0 ? lowest : highest;
  if (!absent(start)) {
    TF_ASSIGN_OR_RETURN(slice.start, ExpectInt(start, "a slice's start"));
    if (slice.start < 0) slice.start += size;
    slice.start = std::clamp(slice.start, lowest, highest);
  }
  if (!absent(stop)) {
    TF_ASSIGN_OR_RETURN(slice.stop, ExpectInt(stop, "a slice's end"));
    if (slice.stop < 0) slice.stop += size;
    slice.stop = std::clamp(slice.stop, lowest, highest);
  }
  return slice;
}

}  // namespace

absl::StatusOr<bool> JinjaEqual(const JinjaValue& a, const JinjaValue& b, JinjaBudget& budget) {
  TF_RETURN_IF_ERROR(budget.Steps(1));
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_number() && b.is_number()) {
    if (a.real() != nullptr || b.real() != nullptr) return AsReal(a) == AsReal(b);
    return AsInteger(a) == AsInteger(b);
  }
  if (a.text() != nullptr && b.text() != nullptr) {
    if (a.text()->size() == b.text()->size()) {
      TF_RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(a.text()->size()) / 64));
    }
    return a.text()->text() == b.text()->text();
  }
  if (a.sequence() != nullptr && b.sequence() != nullptr) {
    const auto& left = a.sequence()->items;
    const auto& right = b.sequence()->items;
    if (a.sequence()->kind != b.sequence()->kind || left.size() != right.size()) return false;
    for (size_t i = 0; i < left.size(); ++i) {
      TF_ASSIGN_OR_RETURN(const bool equal, JinjaEqual(left[i], right[i], budget));
      if (!equal) return false;
    }
    return true;
  }
  if (a.dict() != nullptr && b.dict() != nullptr) {
    if (a.dict()->members().size() != b.dict()->members().size()) return false;
    for (const auto& [key, value] : a.dict()->members()) {
      const JinjaValue* other = b.dict()->Find(key);
      if (other == nullptr) return false;
      TF_ASSIGN_OR_RETURN(const bool equal, JinjaEqual(value, *other, budget));
      if (!equal) return false;
    }
    return true;
  }
  return a.object() != nullptr && a.object() == b.object();
}

absl::StatusOr<bool> JinjaLess(const JinjaValue& a, const JinjaValue& b, JinjaBudget& budget) {
  TF_RETURN_IF_ERROR(budget.Steps(1));
  if (a.is_number() && b.is_number()) {
    if (a.real() != nullptr || b.real() != nullptr) return AsReal(a) < AsReal(b);
    return AsInteger(a) < AsInteger(b);
  }
  // UTF-8 sorts as its code points do.
  if (a.text() != nullptr && b.text() != nullptr) {
    TF_RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(std::min(a.text()->size(), b.text()->size())) / 64));
    return a.text()->text() < b.text()->text();
  }
  if (IsFixedSequence(a) && IsFixedSequence(b)) {
    const auto& left = a.sequence()->items;
    const auto& right = b.sequence()->items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      TF_ASSIGN_OR_RETURN(const bool equal, JinjaEqual(left[i], right[i], budget));
      if (!equal) return JinjaLess(left[i], right[i], budget);
    }
    return left.size() < right.size();
  }
  return Unsupported(JinjaOp::kLt, a, b);
}

absl::StatusOr<bool> JinjaContains(const JinjaValue& container, const JinjaValue& value, JinjaRuntime& runtime) {
  if (const TaggedText* text = container.text()) {
    TF_ASSIGN_OR_RETURN(const TaggedText* part, ExpectText(value, "what is looked for in a text"));
    TF_RETURN_IF_ERROR(runtime.budget().Search(text->size(), part->size()));
    return absl::StrContains(text->text(), part->text());
  }
  if (container.dict() != nullptr) {
    return container.dict()->Find(value) != nullptr;
  }
  TF_ASSIGN_OR_RETURN(const std::vector<JinjaValue> items, runtime.Iterate(container));
  for (const JinjaValue& item : items) {
    TF_ASSIGN_OR_RETURN(const bool equal, JinjaEqual(item, value, runtime.budget()));
    if (equal) return true;
  }
  return false;
}

absl::StatusOr<bool> JinjaCompare(JinjaOp op, const JinjaValue& a, const JinjaValue& b, JinjaRuntime& runtime) {
  JinjaBudget& budget = runtime.budget();
  const auto negated = [](absl::StatusOr<bool> result) {
    if (result.ok()) *result = !*result;
    return result;
  };
  switch (op) {
    case JinjaOp::kEq:
      return JinjaEqual(a, b, budget);
    case JinjaOp::kNe:
      return negated(JinjaEqual(a, b, budget));
    case JinjaOp::kIn:
      return JinjaContains(b, a, runtime);
    case JinjaOp::kNotIn:
      return negated(JinjaContains(b, a, runtime));
    case JinjaOp::kLt:
      return JinjaLess(a, b, budget);
    case JinjaOp::kGt:
      return JinjaLess(b, a, budget);
    default: {  // kLe, kGe: not the negation of the other, for NaN
      const JinjaValue& low = op == JinjaOp::kLe ? a : b;
      const JinjaValue& high = op == JinjaOp::kLe ? b : a;
      TF_ASSIGN_OR_RETURN(const bool less, JinjaLess(low, high, budget));
      if (less) return true;
      return JinjaEqual(low, high, budget);
    }
  }
}

absl::StatusOr<JinjaValue> JinjaArithmetic(JinjaOp op, const JinjaValue& a, const JinjaValue& b,
                                           JinjaRuntime& runtime) {
  if (a.is_number() && b.is_number()) {
    if (a.real() != nullptr || b.real() != nullptr || op == JinjaOp::kDiv) {
      return RealArithmetic(op, AsReal(a), AsReal(b));
    }
    return IntegerArithmetic(op, AsInteger(a), AsInteger(b));
  }
  if (op == JinjaOp::kAdd) return Add(a, b, runtime);
  if (op == JinjaOp::kMul) {
    for (const auto& [value, count] : {std::make_pair(&a, &b), std::make_pair(&b, &a)}) {
      if ((value->text() == nullptr && !IsFixedSequence(*value)) || !count->is_number() || count->real()) continue;
      TF_ASSIGN_OR_RETURN(const int64_t times, ExpectInt(*count, "*"));
      return Repeat(*value, times, runtime);
    }
  }
  if (op == JinjaOp::kMod && a.text() != nullptr) return FormatPercent(*a.text(), b, runtime);
  return Unsupported(op, a, b);
}

absl::StatusOr<JinjaValue> JinjaNegative(const JinjaValue& value) {
  TF_RETURN_IF_ERROR(CheckDefined(value));
  if (value.real() != nullptr) return JinjaValue::Float(-*value.real());
  if (value.is_number()) return IntegerArithmetic(JinjaOp::kSub, 0, AsInteger(value));
  return absl::InvalidArgumentError(absl::StrCat("cannot use - on ", value.TypeName()));
}

absl::StatusOr<JinjaValue> JinjaItem(const JinjaValue& value, const JinjaValue& index, JinjaBudget& budget) {
  TF_RETURN_IF_ERROR(CheckDefined(value));
  const auto missing = [&] {
    const std::string shown = index.text() != nullptr ? PythonRepr(index.text()->text()) : "that index";
    return JinjaValue::Undefined(absl::StrCat("'", value.TypeName(), " object' has no element ", shown));
  };
  if (const JinjaDict* dict = value.dict()) {
    const JinjaValue* member = dict->Find(index);
    if (member != nullptr) return *member;
    if (index.text() == nullptr) return missing();
    return JinjaValue::Undefined(absl::StrCat("'dict object' has no attribute ", PythonRepr(index.text()->text())));
  }
  if (!index.is_number() || index.real() != nullptr) return missing();
  TF_ASSIGN_OR_RETURN(int64_t i, ExpectInt(index, "an index"));
  if (IsFixedSequence(value)) {
    const auto size = static_cast<int64_t>(value.sequence()->items.size());
    if (i < 0) i += size;
    return i < 0 || i >= size ? missing() : value.sequence()->items[static_cast<size_t>(i)];
  }
  if (const TaggedText* text = value.text()) {
    TF_RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(text->size()) / 64));
    const int64_t size = NumCharacters(text->text());
    if (i < 0) i += size;
    return i < 0 || i >= size ? missing() : JinjaValue::Text(SliceText(*text, i, i + 1, 1));
  }
  return missing();
}

absl::StatusOr<JinjaValue> JinjaSlice(const JinjaValue& value, const JinjaValue& start, const JinjaValue& stop,
                                      const JinjaValue& step, JinjaRuntime& runtime) {
  TF_RETURN_IF_ERROR(CheckDefined(value));
  if (!IsFixedSequence(value) && value.text() == nullptr) {
    return JinjaValue::Undefined(absl::StrCat("'", value.TypeName(), "' object cannot be sliced"));
  }
  TF_ASSIGN_OR_RETURN(const int64_t size, JinjaLength(value));
  TF_ASSIGN_OR_RETURN(const Slice slice, ResolveSlice(start, stop, step, size));
  if (const TaggedText* text = value.text()) {
    TF_RETURN_IF_ERROR(runtime.budget().Steps(slice.step == 1 ? 1 : size));
    return runtime.Text(SliceText(*text, slice.start, slice.stop, slice.step));
  }
  std::vector<JinjaValue> items;
  for (int64_t i = slice.start; slice.step > 0 ? i < slice.stop : i > slice.stop; i += slice.step) {
    items.push_back(value.sequence()->items[static_cast<size_t>(i)]);
  }
  return runtime.List(std::move(items), value.sequence()->kind);
}

absl::StatusOr<int64_t> JinjaLength(const JinjaValue& value) {
  if (value.is_undefined()) return 0;
  if (const TaggedText* text = value.text()) return NumCharacters(text->text());
  if (IsFixedSequence(value)) return static_cast<int64_t>(value.sequence()->items.size());
  if (value.dict() != nullptr) return static_cast<int64_t>(value.dict()->members().size());
  return absl::InvalidArgumentError(absl::StrCat("object of type '", value.TypeName(), "' has no len()"));
}

}  // namespace tokenferry
