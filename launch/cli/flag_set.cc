#include "launch/cli/flag_set.h"

#include <CLI/CLI.hpp>
#include <cfloat>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "launch/cli/nearest.h"

namespace tokenferry {
namespace {

// The one wording of a refused value; ParseCommandLine passes it on as it is.
[[noreturn]] void Refuse(const std::string& flag, const std::string& value, absl::string_view why) {
  throw CLI::ValidationError(absl::StrCat("--", flag, " '", value, "': ", why));
}

std::string Number(double v) { return absl::StrCat(v); }

// Whether `text`, read as `v`, is a number that double cannot hold with all its digits: 1e-320, or 1e-400, which is
// read as 0. Nobody means these.
bool IsTooSmall(const std::string& text, double v) {
  const std::string mantissa = text.substr(0, text.find_first_of("eEpP"));
  return v == 0 ? mantissa.find_first_of("123456789") != std::string::npos : std::abs(v) < DBL_MIN;
}

int64_t ParseInteger(const std::string& flag, const std::string& text, int64_t low, int64_t high) {
  const std::string range = absl::StrCat("an integer from ", low, " to ", high);
  double real = 0;
  int64_t v = 0;
  if (!absl::SimpleAtod(text, &real) || std::isnan(real)) Refuse(flag, text, absl::StrCat("must be ", range));
  if (real < static_cast<double>(low)) Refuse(flag, text, absl::StrCat("must be ", range, "; the nearest is ", low));
  if (real > static_cast<double>(high)) Refuse(flag, text, absl::StrCat("must be ", range, "; the nearest is ", high));
  if (!absl::SimpleAtoi(text, &v) || v < low || v > high) {
    Refuse(flag, text, absl::StrCat("must be ", range, "; the nearest is ", std::llround(real)));
  }
  return v;
}

size_t ParseChoice(const std::string& flag, const std::string& text, const std::vector<std::string>& choices) {
  for (size_t i = 0; i < choices.size(); ++i) {
    if (choices[i] == text) return i;
  }
  const std::string nearest = Nearest(text, choices);
  Refuse(flag, text,
         absl::StrCat("must be one of ", absl::StrJoin(choices, ", "),
                      nearest.empty() ? "" : absl::StrCat("; the nearest is '", nearest, "'")));
}

}  // namespace

void FlagSet::Register(const std::string& name, CLI::Option* option, Takes takes) {
  option->group(group_);
  names_.push_back(name);
  options_[name] = {option, takes};
}

// CheckRepeated says in our words what is given twice, so CLI11 is told to let it pass.
void FlagSet::AddValue(const std::string& name, const std::string& type, const std::string& help, Parse parse,
                       char letter) {
  const std::string names = letter == 0 ? "--" + name : absl::StrCat("-", std::string(1, letter), ",--", name);
  CLI::Option* option = app_->add_option_function<std::string>(names, std::move(parse), help);
  Register(name, option->type_name(type)->take_last(), Takes::kOneValue);
}

void FlagSet::Switch(const std::string& name, bool* value, const std::string& help) {
  Register(name, app_->add_flag("--" + name, *value, help)->take_last(), Takes::kOneValue);
}

void FlagSet::AddSwitch(const std::string& name, const std::string& help, std::function<void()> set) {
  Register(name, app_->add_flag_callback("--" + name, std::move(set), help)->take_last(), Takes::kOneValue);
}

void FlagSet::Text(const std::string& name, std::string* value, const std::string& help) {
  AddValue(name, "TEXT", help, [name, value](const std::string& v) {
    if (v.empty()) Refuse(name, v, "must not be empty");
    *value = v;
  });
}

void FlagSet::Texts(const std::string& name, std::vector<std::string>* value, const std::string& help) {
  auto set = [name, value](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      if (text.empty()) Refuse(name, text, "must not be empty");
    }
    *value = texts;
  };
  CLI::Option* option = app_->add_option_function<std::vector<std::string>>("--" + name, set, help);
  Register(name, option->type_name("TEXT")->allow_extra_args(false), Takes::kMany);
}

void FlagSet::AddInteger(const std::string& name, int64_t low, int64_t high, const std::string& help, int64_t current,
                         std::function<void(int64_t)> set, char letter) {
  auto parse = [=](const std::string& text) { set(ParseInteger(name, text, low, high)); };
  AddValue(name, "N", absl::StrCat(help, " [", current, "]"), parse, letter);
}

void FlagSet::Seed(const std::string& name, uint64_t* value, const std::string& help) {
  AddValue(name, "N", absl::StrCat(help, " [", *value, "]"), [name, value](const std::string& text) {
    if (!absl::SimpleAtoi(text, value)) Refuse(name, text, "must be an integer from 0 to 2^64 - 1");
  });
}

void FlagSet::Real(const std::string& name, double* value, RealRange range, const std::string& help) {
  const bool open = range.low_end == RealRange::Low::kExcluded, or_zero = range.low_end == RealRange::Low::kOrZero;
  const std::string wanted = absl::StrCat("must be ", or_zero ? "0, or " : "", "a number ", open ? "above " : "from ",
                                          Number(range.low), " to ", Number(range.high));
  auto parse = [=](const std::string& text) {
    double v = 0;
    if (!absl::SimpleAtod(text, &v) || std::isnan(v) || IsTooSmall(text, v)) Refuse(name, text, wanted);
    if (or_zero && v == 0) {
      *value = 0;
      return;
    }
    if (v > range.high) Refuse(name, text, absl::StrCat(wanted, "; the nearest is ", Number(range.high)));
    if (v < range.low && !open) {
      const double nearest = or_zero && v < range.low / 2 ? 0 : range.low;
      Refuse(name, text, absl::StrCat(wanted, "; the nearest is ", Number(nearest)));
    }
    if (v < range.low || (open && v == range.low)) Refuse(name, text, wanted);
    *value = v;
  };
  AddValue(name, "X", absl::StrCat(help, " [", Number(*value), "]"), parse);
}

void FlagSet::Bytes(char letter, const std::string& name, int64_t* value, const std::string& help) {
  const auto parse = [name, value](const std::string& text) {
    constexpr absl::string_view kUnits = "KMG";
    const size_t unit = text.empty() ? kUnits.npos : kUnits.find(absl::ascii_toupper(text.back()));
    const std::string digits = unit == kUnits.npos ? text : text.substr(0, text.size() - 1);
    int64_t v = 0;
    if (!absl::SimpleAtoi(digits, &v) || v < 1 || v > int64_t{1} << 30) {
      Refuse(name, text, "must be a number of bytes, as 65536, 64K, 1M or 2G");
    }
    *value = unit == kUnits.npos ? v : v << (10 * (unit + 1));
  };
  CLI::Option* option =
      app_->add_option_function<std::string>(absl::StrCat("-", std::string(1, letter), ",--", name), parse, help);
  Register(name, option->type_name("BYTES")->take_last(), Takes::kOneValue);
}

void FlagSet::Duration(const std::string& name, absl::Duration* value, const std::string& help) {
  auto parse = [name, value](const std::string& text) {
    absl::Duration v;
    double seconds = 0;
    if (!absl::ParseDuration(text, &v)) {
      const std::string example = absl::SimpleAtod(text, &seconds) ? text + "s" : "5s or 500ms";
      Refuse(name, text, absl::StrCat("must be a duration with its unit, as ", example));
    }
    if (v <= absl::ZeroDuration()) Refuse(name, text, "must be longer than 0; the nearest is 1ms");
    if (v > absl::Hours(24)) Refuse(name, text, "must be at most a day; the nearest is 24h");
    *value = v;
  };
  AddValue(name, "DURATION", absl::StrCat(help, " [", absl::FormatDuration(*value), "]"), parse);
}

void FlagSet::AddChoice(const std::string& name, const std::vector<std::string>& choices, const std::string& current,
                        const std::string& help, std::function<void(size_t)> set) {
  auto parse = [=](const std::string& text) { set(ParseChoice(name, text, choices)); };
  AddValue(name, absl::StrJoin(choices, "|"), absl::StrCat(help, " [", current, "]"), parse);
}

void FlagSet::AddList(const std::string& name, const std::string& type, const std::string& help,
                      std::function<void(const std::vector<std::string>&)> parse) {
  auto set = [name, parse](const std::vector<std::string>& texts) {
    std::vector<std::string> items;
    for (const std::string& text : texts) {
      for (const absl::string_view item : absl::StrSplit(text, ',')) {
        if (item.empty()) Refuse(name, text, "has an empty item");
        items.emplace_back(item);
      }
    }
    parse(items);
  };
  CLI::Option* option = app_->add_option_function<std::vector<std::string>>("--" + name, set, help);
  Register(name, option->type_name(type)->allow_extra_args(false), Takes::kMany);
}

void FlagSet::Words(const std::string& name, std::vector<std::string>* value, const std::string& help) {
  AddList(name, "TEXT,..", absl::StrCat(help, " [", absl::StrJoin(*value, ","), "]"),
          [value](const std::vector<std::string>& items) { *value = items; });
}

void FlagSet::AddIntegers(const std::string& name, int64_t low, int64_t high, const std::string& help,
                          const std::vector<int64_t>& current, std::function<void(const std::vector<int64_t>&)> set) {
  auto parse = [=](const std::vector<std::string>& items) {
    std::vector<int64_t> values;
    for (const std::string& item : items) values.push_back(ParseInteger(name, item, low, high));
    set(values);
  };
  AddList(name, "N,..", current.empty() ? help : absl::StrCat(help, " [", absl::StrJoin(current, ","), "]"), parse);
}

void FlagSet::AddChoices(const std::string& name, const std::vector<std::string>& choices,
                         const std::vector<std::string>& current, const std::string& help,
                         std::function<void(const std::vector<size_t>&)> set) {
  auto parse = [=](const std::vector<std::string>& items) {
    std::vector<size_t> chosen;
    for (const std::string& item : items) chosen.push_back(ParseChoice(name, item, choices));
    set(chosen);
  };
  AddList(name, absl::StrCat(absl::StrJoin(choices, "|"), ",.."),
          absl::StrCat(help, " [", absl::StrJoin(current, ","), "]"), parse);
}

bool FlagSet::given(const std::string& name) const { return options_.at(name).option->count() > 0; }

absl::Status FlagSet::SetIfAbsent(const std::string& name, const std::vector<std::string>& values) {
  const auto& [option, takes] = options_.at(name);
  if (takes == Takes::kOneValue && values.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("'", name, "' takes one value, but has ", values.size()));
  }
  if (option->count() > 0) return absl::OkStatus();
  try {
    for (const std::string& value : values) option->add_result(value);
    option->run_callback();
  } catch (const CLI::Error& e) {
    return absl::InvalidArgumentError(e.what());
  }
  return absl::OkStatus();
}

absl::Status FlagSet::CheckRepeated() const {
  for (const std::string& name : names_) {
    const auto& [option, takes] = options_.at(name);
    if (takes == Takes::kMany || option->count() < 2) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--", name, " is given ", option->count(),
                     " times, but takes one value: ", absl::StrJoin(option->results(), ", ")));
  }
  return absl::OkStatus();
}

absl::Status FlagSet::CheckRequired(absl::string_view subcommand) const {
  for (const auto& [name, what] : required_) {
    if (!given(name)) return absl::InvalidArgumentError(absl::StrCat(subcommand, " needs --", name, " ", what));
  }
  return absl::OkStatus();
}

}  // namespace tokenferry
