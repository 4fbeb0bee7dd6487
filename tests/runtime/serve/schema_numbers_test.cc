// Which numbers JSON schemas allow: bounds and multiples, against arithmetic with integers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/serve/grammar/decimal_pieces.h"
#include "tests/runtime/serve/compile_form.h"

namespace tokenferry {
namespace {

TEST(ParseDecimal, IsExact) {
  const auto shown = [](absl::string_view text) {
    const Decimal decimal = ParseDecimal(text);
    return absl::StrCat(decimal.is_negative ? "-" : "", decimal.whole, ".", decimal.fraction);
  };
  EXPECT_EQ(shown("0"), "0.");
  EXPECT_EQ(shown("-0.0"), "0.");
  EXPECT_EQ(shown("-12.50"), "-12.5");
  EXPECT_EQ(shown("1e3"), "1000.");
  EXPECT_EQ(shown("1.25e+1"), "12.5");
  EXPECT_EQ(shown("1.25E1"), "12.5");
  EXPECT_EQ(shown("-1.5e-3"), "-0.0015");
  EXPECT_EQ(shown("100e-2"), "1.");
  EXPECT_EQ(shown("9223372036854775807"), "9223372036854775807.");
}

// A number of hundredths, as JSON has it: with none, one or two digits behind the point.
std::vector<std::string> Spellings(int64_t hundredths) {
  const std::string sign = hundredths < 0 ? "-" : "";
  const int64_t magnitude = std::abs(hundredths);
  const std::string whole = absl::StrCat(sign, magnitude / 100);
  std::vector<std::string> all;
  if (magnitude % 100 == 0) all.push_back(whole);
  if (magnitude % 10 == 0) all.push_back(absl::StrCat(whole, ".", magnitude / 10 % 10));
  all.push_back(absl::StrCat(whole, ".", magnitude / 10 % 10, magnitude % 10));
  return all;
}

// All in hundredths.
struct Limits {
  std::optional<int64_t> low, high, above, below, divisor;

  bool Allow(int64_t value) const {
    return (!low || value >= *low) && (!high || value <= *high) && (!above || value > *above) &&
           (!below || value < *below) && (!divisor || value % *divisor == 0);
  }
  std::string Schema(absl::string_view type) const {
    std::string schema = absl::StrCat(R"({"type":")", type, "\"");
    const auto add = [&](absl::string_view key, const std::optional<int64_t>& value) {
      if (value) absl::StrAppend(&schema, ",\"", key, "\":", Spellings(*value).back());
    };
    add("minimum", low), add("maximum", high), add("exclusiveMinimum", above), add("exclusiveMaximum", below);
    add("multipleOf", divisor);
    return schema + "}";
  }
};

// Around every bound and around zero, in every spelling.
void Check(const Limits& limits, absl::string_view type, const std::string& about) {
  const std::string schema = limits.Schema(type);
  const bool is_integer = type == "integer";
  std::vector<int64_t> values;
  for (const auto& around : {limits.low, limits.high, limits.above, limits.below, std::optional<int64_t>(0)}) {
    for (int64_t d = -130; around && d <= 130; ++d)
      values.push_back(*around + d), values.push_back((*around / 100 + d) * 100);
  }
  const auto fits = [&](int64_t value) { return limits.Allow(value) && (!is_integer || value % 100 == 0); };
  const auto automaton = CompileSchema(schema);
  if (!automaton.ok()) {
    EXPECT_THAT(std::string(automaton.status().message()), ::testing::HasSubstr("no number is within its limits"));
    for (const int64_t value : values) ASSERT_FALSE(fits(value)) << schema << " " << value << about;
    return;
  }
  for (const int64_t value : values) {
    const std::vector<std::string> spellings = Spellings(value);
    bool any = false;
    for (const std::string& text : spellings) {
      const bool accepted = Accepts(*automaton, text);
      any |= accepted;
      // Of integers only that without a point; of multiples those with as many digits as the divisor or fewer.
      const bool may_be_missing = text.find('.') != text.npos && (is_integer || limits.divisor);
      ASSERT_TRUE(accepted ? fits(value) : may_be_missing || !fits(value)) << schema << " " << text << about;
    }
    ASSERT_EQ(any, fits(value)) << schema << " " << value << " hundredths" << about;
  }
  for (const char* bad : {"", "-", ".", "00", "01", "1.", ".5", "-.5", "+1", "1e1", "-00"}) {
    EXPECT_FALSE(Accepts(*automaton, bad)) << schema << " " << bad;
  }
}

TEST(JsonSchema, LimitsOfNumbers) {
  const auto seed = std::random_device()();
  std::mt19937_64 random(seed);
  const std::string about = absl::StrCat(" seed ", seed);
  for (int i = 0; i < 60; ++i) {
    const auto any = [&] {
      const int64_t scales[] = {1, 10, 100, 10'000, 10'000'000, 1'000'000'000'000};  // a double has them all
      return static_cast<int64_t>(random() % 1000) * scales[random() % 6] - static_cast<int64_t>(random() % 50'000);
    };
    const auto maybe = [&](int64_t value) { return random() % 2 == 0 ? std::optional<int64_t>(value) : std::nullopt; };
    const int64_t a = any(), b = any();
    Limits limits{std::min(a, b), maybe(std::max(a, b)), maybe(std::min(a, b) - 1), maybe(std::max(a, b) + 50), {}};
    if (random() % 3 == 0) limits.low.reset(), limits.high = std::max(a, b);
    const int64_t divisors[] = {1, 5, 10, 25, 50, 100, 200, 300, 700, 1000, 1200, 12'500};
    if (random() % 2 == 0) limits.divisor = divisors[random() % 12];
    Check(limits, random() % 2 == 0 ? "integer" : "number", about);
  }
  for (const int64_t divisor : {1, 3, 7, 10, 20, 50, 100, 150, 250, 700, 6000, 100'000}) {
    Check({{}, {}, {}, {}, divisor}, "number", ""), Check({{}, {}, {}, {}, divisor}, "integer", "");
  }
}

TEST(JsonSchema, LimitsThatOthersWrite) {
  const auto accepts = [](const std::string& schema, const std::string& text) {
    const auto automaton = CompileSchema(schema);
    EXPECT_TRUE(automaton.ok()) << schema << automaton.status();
    return automaton.ok() && Accepts(*automaton, text);
  };
  // zod's int(), and int64.
  const std::string safe = R"({"type":"integer","minimum":-9007199254740991,"maximum":9007199254740991})";
  for (const char* good : {"0", "-9007199254740991", "9007199254740991"}) EXPECT_TRUE(accepts(safe, good));
  for (const char* bad : {"9007199254740992", "-9007199254740992", "-0", "1.0"}) EXPECT_FALSE(accepts(safe, bad));
  EXPECT_TRUE(accepts(R"({"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807})",
                      "-9999999999999999"));
  // pydantic's confloat(gt=0, lt=1), and a price.
  const std::string share = R"({"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1})";
  for (const char* good : {"0.5", "0.0000000000000001", "0.9999999999999999"}) EXPECT_TRUE(accepts(share, good));
  for (const char* bad : {"0", "0.0", "1", "1.0", "-0.5", "5e-1"}) EXPECT_FALSE(accepts(share, bad));
  const std::string price = R"({"type":"number","minimum":0,"multipleOf":0.01})";
  for (const char* good : {"0", "0.0", "19.9", "19.99", "7"}) EXPECT_TRUE(accepts(price, good));
  for (const char* bad : {"19.999", "-1", "-0"}) EXPECT_FALSE(accepts(price, bad));
  EXPECT_TRUE(accepts(R"({"type":["number","null"],"multipleOf":1e-7,"minimum":1e-7})", "0.0000001"));
  EXPECT_TRUE(accepts(R"({"type":"integer","multipleOf":999})", "998001"));
  EXPECT_FALSE(accepts(R"({"type":"integer","multipleOf":999})", "998002"));
}

}  // namespace
}  // namespace tokenferry
