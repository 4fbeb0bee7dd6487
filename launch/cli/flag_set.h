// Declares flags on a CLI11 parser, one line each, with values checked and refused in one wording.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/status.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tokenferry {

struct RealRange {
  double low = 0;
  double high = 0;
  // kOrZero: 0 too, though it lies below.
  enum class Low : uint8_t { kIncluded, kExcluded, kOrZero } low_end = Low::kIncluded;
};

// The flags of one subcommand. The values pointed to must outlive the parser. A flag that is not given leaves its value
// alone. Names are without dashes.
class FlagSet {
 public:
  explicit FlagSet(CLI::App* app) : app_(app) {}

  // The heading, in --help, of the flags that are declared from here on.
  void Group(const std::string& heading) { group_ = heading; }

  void Switch(const std::string& name, bool* value, const std::string& help);
  // Of a choice between what `value` holds now and `on`.
  template <class Enum>
  void Switch(const std::string& name, Enum* value, Enum on, const std::string& help) {
    AddSwitch(name, help, [value, on] { *value = on; });
  }
  void Text(const std::string& name, std::string* value, const std::string& help);                // not empty
  void Texts(const std::string& name, std::vector<std::string>* value, const std::string& help);  // repeatable
  void Real(const std::string& name, double* value, RealRange range, const std::string& help);
  void Seed(const std::string& name, uint64_t* value, const std::string& help);
  // In bytes, "64K", "1M", "2G" (powers of 1024) or a plain number, from 1. `letter`: the short name, "-b".
  void Bytes(char letter, const std::string& name, int64_t* value, const std::string& help);
  void Duration(const std::string& name, absl::Duration* value, const std::string& help);  // > 0, finite

  template <class Int>
  void Integer(const std::string& name, Int* value, int64_t low, int64_t high, const std::string& help) {
    AddInteger(name, low, high, help, *value, [value](int64_t v) { *value = static_cast<Int>(v); });
  }

  // With a short name, "-n", too.
  template <class Int>
  void Integer(char letter, const std::string& name, Int* value, int64_t low, int64_t high, const std::string& help) {
    AddInteger(
        name, low, high, help, *value, [value](int64_t v) { *value = static_cast<Int>(v); }, letter);
  }

  template <class Enum>
  void Choice(const std::string& name, Enum* value, const std::vector<std::pair<std::string, Enum>>& choices,
              const std::string& help) {
    std::vector<std::string> names;
    std::string current;
    for (const auto& [choice, e] : choices) {
      names.push_back(choice);
      if (e == *value) current = choice;
    }
    AddChoice(name, names, current, help, [value, choices](size_t i) { *value = choices[i].second; });
  }

  // Lists: "1,8,64", or the flag several times, which adds up.
  template <class Int>
  void Integers(const std::string& name, std::vector<Int>* value, int64_t low, int64_t high, const std::string& help) {
    AddIntegers(name, low, high, help, {value->begin(), value->end()},
                [value](const std::vector<int64_t>& v) { value->assign(v.begin(), v.end()); });
  }
  void Words(const std::string& name, std::vector<std::string>* value, const std::string& help);  // none empty
  template <class Enum>
  void Choices(const std::string& name, std::vector<Enum>* value,
               const std::vector<std::pair<std::string, Enum>>& choices, const std::string& help) {
    std::vector<std::string> names, current;
    for (const auto& [choice, e] : choices) {
      names.push_back(choice);
      for (const Enum& v : *value) {
        if (v == e) current.push_back(choice);
      }
    }
    AddChoices(name, names, current, help, [value, choices](const std::vector<size_t>& chosen) {
      value->clear();
      for (const size_t i : chosen) value->push_back(choices[i].second);
    });
  }

  // `name` must be given, here or in the file of --config; `what` follows its name in the error: "DIR, a directory".
  void Require(const std::string& name, const std::string& what) { required_.emplace_back(name, what); }

  // All names, in order of declaration.
  const std::vector<std::string>& names() const { return names_; }
  bool has(const std::string& name) const { return options_.count(name) > 0; }

  // Whether the command line or SetIfAbsent has given it.
  bool given(const std::string& name) const;

  // Gives flag `name` these values as the command line would, unless the command line has given it. InvalidArgument for
  // several values of a flag that takes one.
  absl::Status SetIfAbsent(const std::string& name, const std::vector<std::string>& values);

  // InvalidArgument when the command line gives a flag twice that takes one value: which one is meant?
  absl::Status CheckRepeated() const;
  absl::Status CheckRequired(absl::string_view subcommand) const;

 private:
  using Parse = std::function<void(const std::string&)>;  // throws CLI::ValidationError
  void AddSwitch(const std::string& name, const std::string& help, std::function<void()> set);
  void AddInteger(const std::string& name, int64_t low, int64_t high, const std::string& help, int64_t current,
                  std::function<void(int64_t)> set, char letter = 0);
  void AddChoice(const std::string& name, const std::vector<std::string>& choices, const std::string& current,
                 const std::string& help, std::function<void(size_t)> set);
  void AddIntegers(const std::string& name, int64_t low, int64_t high, const std::string& help,
                   const std::vector<int64_t>& current, std::function<void(const std::vector<int64_t>&)> set);
  void AddChoices(const std::string& name, const std::vector<std::string>& choices,
                  const std::vector<std::string>& current, const std::string& help,
                  std::function<void(const std::vector<size_t>&)> set);
  void AddList(const std::string& name, const std::string& type, const std::string& help,
               std::function<void(const std::vector<std::string>&)> parse);
  void AddValue(const std::string& name, const std::string& type, const std::string& help, Parse parse,
                char letter = 0);

  enum class Takes : uint8_t { kOneValue, kMany };
  void Register(const std::string& name, CLI::Option* option, Takes takes);

  CLI::App* app_;
  std::string group_ = "Options";
  std::vector<std::string> names_;
  std::vector<std::pair<std::string, std::string>> required_;
  struct Flag {
    CLI::Option* option = nullptr;
    Takes takes = Takes::kOneValue;
  };
  std::map<std::string, Flag> options_;
};

}  // namespace tokenferry
