#include "runtime/serve/grammar/decimal_pieces.h"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace tokenferry {
namespace {

using Node = AutomatonBuilder::Node;
using Bound = DecimalLimits::Bound;

// Whether the digits that have been read are those of a multiple: a deterministic automaton over digits, which begins
// in state 0. Its states are the remainders, as far as what follows can tell them apart.
struct DigitAutomaton {
  std::vector<std::array<int32_t, 10>> next{{}};
  std::vector<bool> accepts{true};
};

// Of multiples of `divisor`. Remainders are told apart by what one more digit tells, again and again (Moore).
absl::StatusOr<DigitAutomaton> MultiplesOf(int64_t divisor, AutomatonBuilder& builder) {
  std::vector<int32_t> class_of(divisor, 1);
  class_of[0] = 0;
  for (size_t num_classes = 0;;) {
    TF_RETURN_IF_ERROR(builder.Spend(100 * divisor));
    std::map<std::array<int32_t, 11>, int32_t> classes;
    std::vector<int32_t> finer(divisor);
    for (int64_t remainder = 0; remainder < divisor; ++remainder) {
      std::array<int32_t, 11> signature;
      for (int digit = 0; digit < 10; ++digit) signature[digit] = class_of[(10 * remainder + digit) % divisor];
      signature[10] = class_of[remainder];
      finer[remainder] = classes.emplace(signature, static_cast<int32_t>(classes.size())).first->second;
    }
    class_of = std::move(finer);
    if (std::exchange(num_classes, classes.size()) == classes.size()) break;
  }
  DigitAutomaton automaton;
  const int32_t num_states = *std::max_element(class_of.begin(), class_of.end()) + 1;
  automaton.next.resize(num_states);
  automaton.accepts.assign(num_states, false);
  automaton.accepts[class_of[0]] = true;
  for (int64_t remainder = 0; remainder < divisor; ++remainder) {
    for (int digit = 0; digit < 10; ++digit) {
      automaton.next[class_of[remainder]][digit] = class_of[(10 * remainder + digit) % divisor];
    }
  }
  return automaton;
}

// Where one is among the digits of a number without its sign.
struct DigitState {
  int num_whole = 0;      // digits before the point
  int num_fraction = -1;  // behind it; -1: no point yet
  bool is_zero = false;   // the digit before the point, behind which no other may come
  int low = 0, high = 0;  // the digits so far, against as many of the bound's: less, equal or greater
  int32_t remainder = 0;

  auto Key() const { return std::tie(num_whole, num_fraction, is_zero, low, high, remainder); }
  bool operator<(const DigitState& other) const { return Key() < other.Key(); }
};

// Magnitudes between two bounds that are not negative: the product of what the bounds and the divisor say of each
// digit.
class MagnitudePieces {
 public:
  MagnitudePieces(std::optional<Bound> low, std::optional<Bound> high, const DigitAutomaton& multiples, int scale,
                  int max_fraction, AutomatonBuilder& builder)
      : low_(std::move(low)),
        high_(std::move(high)),
        multiples_(multiples),
        scale_(scale),
        max_fraction_(max_fraction),
        builder_(builder) {}

  // False: there is no such number.
  absl::StatusOr<bool> Append(Node begin, Node end) {
    builder_.Join(begin, NodeOf({}));
    bool any = false;
    while (!open_.empty() && !builder_.too_large()) {
      const DigitState state = open_.back();
      open_.pop_back();
      const Node node = NodeOf(state);
      TF_RETURN_IF_ERROR(builder_.Spend(20));
      if (MayEndHere(state)) {
        builder_.Join(node, end);
        any = true;
      }
      const bool in_fraction = state.num_fraction >= 0;
      const bool full = in_fraction ? state.num_fraction == max_fraction_ : state.num_whole == kMaxWholeDigits;
      for (int digit = 0; digit < 10 && !full && !state.is_zero; ++digit)
        AddEdge(node, '0' + digit, Next(state, digit));
      if (in_fraction || state.num_whole == 0) continue;
      if (max_fraction_ > 0) AddEdge(node, '.', BehindPoint(state));
    }
    return any;
  }

 private:
  void AddEdge(Node from, int byte, const DigitState& to) {
    // No digit brings it below the upper bound again.
    if (to.high > 0 && (to.num_fraction >= 0 || to.num_whole >= WholeDigits(high_))) return;
    builder_.Byte(from, static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), NodeOf(to));
  }

  DigitState Next(const DigitState& state, int digit) const {
    DigitState next = state;
    const bool in_fraction = state.num_fraction >= 0;
    const int place = in_fraction ? state.num_fraction : state.num_whole;
    (in_fraction ? next.num_fraction : next.num_whole) += 1;
    next.is_zero = !in_fraction && place == 0 && digit == 0;
    next.low = Compare(state.low, digit, low_, in_fraction, place);
    next.high = Compare(state.high, digit, high_, in_fraction, place);
    next.remainder = multiples_.next[state.remainder][digit];
    return next;
  }

  // One digit more: the first that differs decides, and a number with more digits before the point is greater.
  static int Compare(int so_far, int digit, const std::optional<Bound>& bound, bool in_fraction, int place) {
    if (!bound) return 0;
    const std::string& digits = in_fraction ? bound->at.fraction : bound->at.whole;
    const bool is_there = place < static_cast<int>(digits.size());
    if (!in_fraction && !is_there) return 1;
    if (so_far != 0) return so_far;
    const int theirs = is_there ? digits[place] - '0' : 0;
    return digit < theirs ? -1 : static_cast<int>(digit > theirs);
  }

  static int WholeDigits(const std::optional<Bound>& bound) {
    return bound ? static_cast<int>(bound->at.whole.size()) : kMaxWholeDigits + 1;
  }

  // Fewer digits before the point are a lesser number.
  static int CompareWhole(const DigitState& state, int so_far, const std::optional<Bound>& bound) {
    return bound && state.num_whole < WholeDigits(bound) ? -1 : so_far;
  }

  DigitState BehindPoint(const DigitState& state) const {
    DigitState next = state;
    next.num_fraction = 0;
    next.is_zero = false;
    next.low = CompareWhole(state, state.low, low_);
    next.high = CompareWhole(state, state.high, high_);
    next.num_whole = 1;  // how many they were decides nothing any more
    return next;
  }

  bool MayEndHere(const DigitState& state) const {
    if (state.num_whole == 0 || state.num_fraction == 0) return false;
    const DigitState at_end = state.num_fraction < 0 ? BehindPoint(state) : state;
    // What is left of a bound's fraction is more than nothing.
    const auto compare = [&](int so_far, const std::optional<Bound>& bound) {
      const bool rest = bound && at_end.num_fraction < static_cast<int>(bound->at.fraction.size());
      return so_far == 0 && rest ? -1 : so_far;
    };
    const int low = compare(at_end.low, low_), high = compare(at_end.high, high_);
    if (low_ && (low < 0 || (low == 0 && !low_->is_inclusive))) return false;
    if (high_ && (high > 0 || (high == 0 && !high_->is_inclusive))) return false;
    int32_t remainder = at_end.remainder;
    for (int i = at_end.num_fraction; i < scale_; ++i) remainder = multiples_.next[remainder][0];
    return multiples_.accepts[remainder];
  }

  Node NodeOf(const DigitState& state) {
    const auto [found, is_new] = nodes_.emplace(state, 0);
    if (is_new) {
      found->second = builder_.NewNode();
      open_.push_back(state);
    }
    return found->second;
  }

  const std::optional<Bound> low_, high_;
  const DigitAutomaton& multiples_;
  const int scale_;  // how many digits behind the point the divisor has
  const int max_fraction_;
  AutomatonBuilder& builder_;
  std::map<DigitState, Node> nodes_;
  std::vector<DigitState> open_;
};

bool IsNegative(const std::optional<Bound>& bound) { return bound && bound->at.is_negative; }

std::optional<Bound> Magnitude(std::optional<Bound> bound) {
  if (bound) bound->at.is_negative = false;
  return bound;
}

}  // namespace

Decimal ParseDecimal(absl::string_view number) {
  Decimal decimal;
  decimal.is_negative = !number.empty() && number[0] == '-';
  if (decimal.is_negative) number.remove_prefix(1);
  const size_t e = number.find_first_of("eE");
  int exponent = 0;
  if (e != number.npos) TF_CHECK(absl::SimpleAtoi(number.substr(e + 1), &exponent));
  number = number.substr(0, e);
  const size_t point = number.find('.');
  std::string digits(number.substr(0, point));
  int num_whole = static_cast<int>(digits.size()) + exponent;
  if (point != number.npos) absl::StrAppend(&digits, number.substr(point + 1));
  if (num_whole < 0) digits.insert(0, static_cast<size_t>(-std::exchange(num_whole, 0)), '0');
  const auto size = static_cast<size_t>(num_whole);
  if (digits.size() < size) digits.resize(size, '0');
  decimal.whole = digits.substr(0, size);
  decimal.fraction = digits.substr(size);
  decimal.whole.erase(0, decimal.whole.find_first_not_of('0'));
  if (decimal.whole.empty()) decimal.whole = "0";
  decimal.fraction.erase(decimal.fraction.find_last_not_of('0') + 1);
  if (decimal.is_zero()) decimal.is_negative = false;
  return decimal;
}

absl::StatusOr<Node> AppendDecimal(Node at, const DecimalLimits& limits, AutomatonBuilder& builder) {
  DigitAutomaton multiples;
  int scale = 0, max_fraction = limits.max_fraction;
  if (limits.multiple_of) {
    const Decimal& divisor = *limits.multiple_of;
    int64_t scaled = 0;
    const std::string digits = absl::StrCat(divisor.whole, divisor.fraction);
    if (!absl::SimpleAtoi(digits, &scaled) || scaled > kMaxAutomatonStates) {
      return absl::InvalidArgumentError(
          absl::StrCat("'multipleOf' takes more than ", kMaxAutomatonStates, " remainders"));
    }
    TF_CHECK(scaled > 0);
    TF_ASSIGN_OR_RETURN(multiples, MultiplesOf(scaled, builder));
    scale = static_cast<int>(divisor.fraction.size());
    max_fraction = std::min(max_fraction, scale);
  }
  const Node end = builder.NewNode();
  const auto append = [&](Node begin, const std::optional<Bound>& low, const std::optional<Bound>& high) {
    return MagnitudePieces(low, high, multiples, scale, max_fraction, builder).Append(begin, end);
  };
  bool any = false;
  if (!limits.low && !limits.high) {
    const Node magnitude = builder.NewNode();
    builder.Join(at, magnitude);
    builder.Byte(at, '-', '-', magnitude);
    TF_RETURN_IF_ERROR(append(magnitude, std::nullopt, std::nullopt).status());
    return end;
  }
  if (!IsNegative(limits.high)) {
    TF_ASSIGN_OR_RETURN(any, append(at, IsNegative(limits.low) ? std::nullopt : limits.low, limits.high));
  }
  if (!limits.low || limits.low->at.is_negative) {
    // Zero is written without a sign.
    const Bound above_zero{{.whole = "0"}, false};
    const std::optional<Bound> least = IsNegative(limits.high) ? Magnitude(limits.high) : above_zero;
    TF_ASSIGN_OR_RETURN(const bool any_negative, append(builder.Byte(at, '-', '-'), least, Magnitude(limits.low)));
    any |= any_negative;
  }
  if (any || builder.too_large()) return end;
  return absl::InvalidArgumentError("no number is within its limits");
}

}  // namespace tokenferry
