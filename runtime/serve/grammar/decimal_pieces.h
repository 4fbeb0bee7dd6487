// Decimal numbers between bounds, and multiples of others, as pieces of an automaton.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/serve/grammar/automaton_builder.h"

namespace tokenferry {

// A number as it is written, exactly: "-12.5" is {true, "12", "5"}.
struct Decimal {
  bool is_negative = false;  // never of zero
  std::string whole;         // at least one digit, no zero before others
  std::string fraction;      // without zeros at its end

  bool is_zero() const { return whole == "0" && fraction.empty(); }
};

// `number` is one of JSON.
Decimal ParseDecimal(absl::string_view number);

struct DecimalLimits {
  struct Bound {
    Decimal at;
    bool is_inclusive = true;
  };
  std::optional<Bound> low, high;
  std::optional<Decimal> multiple_of;  // above zero
  int max_fraction = 0;                // digits behind the point; 0: integers
};

inline constexpr int kMaxWholeDigits = 16, kMaxFractionDigits = 16;

// Appends a number within the limits, of at most kMaxWholeDigits before the point and no more digits behind it than
// `multiple_of` has, without an exponent. InvalidArgument where there is none, and where remainders of `multiple_of`
// would need more than kMaxAutomatonStates.
absl::StatusOr<AutomatonBuilder::Node> AppendDecimal(AutomatonBuilder::Node at, const DecimalLimits& limits,
                                                     AutomatonBuilder& builder);

}  // namespace tokenferry
