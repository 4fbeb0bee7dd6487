#include "launch/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/cli/config_file.h"
#include "launch/cli/flag_set.h"
#include "launch/cli/manual.h"
#include "launch/cli/nearest.h"
#include "launch/cli/version.h"

namespace tokenferry {
namespace {

using Table = absl::Span<const SubcommandInfo>;
using Args = absl::Span<const char* const>;

// The parser of one subcommand, filling its own CommandLine.
struct Parser {
  explicit Parser(const SubcommandInfo& info)
      : name(info.name), app(info.summary, absl::StrCat("tokenferry ", info.name)), flags(&app) {
    app.allow_extras();
    app.get_formatter()->column_width(34);
    line.subcommand = info.create();
    line.subcommand->Declare(flags, &line.shared);
    const Subcommand::Runs runs = line.subcommand->runs();
    if (runs == Subcommand::Runs::kRanks) DeclareJobFlags(flags, &line.shared);
    if (runs == Subcommand::Runs::kNoRanks) {
      flags.Group("Options");
      DeclareConfigFlag(flags, &line.shared);
    }
  }

  std::string name;
  CommandLine line;
  CLI::App app;
  FlagSet flags;
};

std::vector<std::unique_ptr<Parser>> AllParsers(Table table) {
  std::vector<std::unique_ptr<Parser>> parsers;
  for (const SubcommandInfo& info : table) {
    if (info.create != nullptr) parsers.push_back(std::make_unique<Parser>(info));
  }
  return parsers;
}

// "; the nearest is 'x'", or nothing when no candidate is near.
std::string Hint(absl::string_view word, const std::vector<std::string>& candidates, absl::string_view prefix = "") {
  const std::string nearest = Nearest(word, candidates);
  return nearest.empty() ? "" : absl::StrCat("; the nearest is '", prefix, nearest, "'");
}

absl::Status RefuseFlag(Table table, const Parser& parser, const std::string& extra) {
  const std::string flag = extra.substr(0, extra.find('='));
  const std::string bare = flag.substr(std::min(flag.find_first_not_of('-'), flag.size()));
  std::vector<std::string> others;
  for (const auto& other : AllParsers(table)) {
    if (other->flags.has(bare)) others.push_back(other->name);
  }
  if (!others.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(parser.name, " does not use --", bare, "; it is a flag of ", absl::StrJoin(others, ", ")));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag '", flag, "' of ", parser.name, Hint(bare, parser.flags.names(), "--")));
}

absl::Status ParseArgs(Table table, Parser& parser, Args args) {
  std::vector<std::string> reversed(args.rbegin(), args.rend());  // CLI11 takes them from the back
  try {
    parser.app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    parser.line.text = parser.app.help();
    return absl::OkStatus();
  } catch (const CLI::Error& e) {
    return absl::InvalidArgumentError(e.what());
  }
  for (const std::string& extra : parser.app.remaining()) {
    if (absl::StartsWith(extra, "-")) return RefuseFlag(table, parser, extra);
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", extra, "' of ", parser.name,
                                                   ": values follow a flag, and texts are quoted"));
  }
  return parser.flags.CheckRepeated();
}

absl::Status UnknownKey(const ConfigEntry& entry, const std::string& subcommand,
                        const std::vector<std::string>& names) {
  return absl::InvalidArgumentError(
      absl::StrCat(entry.place, ": unknown key '", entry.key, "' for ", subcommand, Hint(entry.key, names)));
}

absl::Status SetFromSection(Parser& parser, const ConfigEntry& entry) {
  if (!parser.flags.has(entry.key) || entry.key == "config") {
    return UnknownKey(entry, parser.name, parser.flags.names());
  }
  return Annotate(parser.flags.SetIfAbsent(entry.key, entry.values), entry.place);
}

// A key that this subcommand does not use must be a flag of some other, which would take the value.
absl::Status SetFromTop(Parser& parser, absl::Span<const std::unique_ptr<Parser>> all, const ConfigEntry& entry) {
  if (entry.key == "config") return UnknownKey(entry, parser.name, parser.flags.names());
  if (parser.flags.has(entry.key)) return SetFromSection(parser, entry);
  absl::Status refused;
  std::vector<std::string> names = parser.flags.names();
  for (const auto& other : all) {
    names.insert(names.end(), other->flags.names().begin(), other->flags.names().end());
    if (!other->flags.has(entry.key)) continue;
    const absl::Status set = SetFromSection(*other, entry);
    if (set.ok()) return set;
    refused = set;
  }
  return refused.ok() ? UnknownKey(entry, parser.name, names) : refused;
}

absl::Status ApplyConfigFile(Table table, Parser& parser) {
  std::vector<std::string> sections;
  const auto all = AllParsers(table);  // to check what stands there for the other subcommands
  for (const auto& other : all) sections.push_back(other->name);
  TF_ASSIGN_OR_RETURN(const std::vector<ConfigEntry> entries, ReadConfigFile(parser.line.shared.config_file, sections));
  // Sections first: what stands under a subcommand's name is closer to it than what stands at the top.
  for (const ConfigEntry& entry : entries) {
    if (entry.section.empty()) continue;
    for (const auto& other : all) {
      if (other->name == entry.section) TF_RETURN_IF_ERROR(SetFromSection(*other, entry));
    }
    if (parser.name == entry.section) TF_RETURN_IF_ERROR(SetFromSection(parser, entry));
  }
  for (const ConfigEntry& entry : entries) {
    if (entry.section.empty()) TF_RETURN_IF_ERROR(SetFromTop(parser, all, entry));
  }
  return absl::OkStatus();
}

std::vector<SubcommandDoc> Describe(Table table) {
  std::vector<SubcommandDoc> docs;
  for (const auto& parser : AllParsers(table)) {
    SubcommandDoc doc{parser->name, parser->app.get_description(), {}};
    for (const CLI::Option* option : parser->app.get_options()) {
      if (option == parser->app.get_help_ptr()) continue;
      doc.flags.push_back(
          {option->get_name(false, true), option->get_type_name(), option->get_description(), option->get_group()});
    }
    docs.push_back(std::move(doc));
  }
  return docs;
}

// The subcommands of `family`, or all if it is empty.
std::string HelpOf(Table table, const std::string& family) {
  std::string text = absl::StrCat("tokenferry ", VersionNumber());
  absl::StrAppend(&text, ": expert-parallel runtime for Mixture-of-Experts language models\n",
                  "\nUsage: [mpirun -n RANKS] tokenferry ", family, family.empty() ? "" : " ",
                  "SUBCOMMAND [--flag value ..]\n\nSubcommands:\n");
  std::vector<std::string> planned;
  for (const SubcommandInfo& info : table) {
    if (!family.empty() && !absl::StartsWith(info.name, family + " ")) continue;
    if (info.create == nullptr) {
      planned.push_back(absl::StrCat(info.name, " (", info.summary, ")"));
    } else {
      absl::StrAppend(&text, "  ", info.name, "\n      ", info.summary, "\n");
    }
  }
  if (!planned.empty()) absl::StrAppend(&text, "\nNot in this version yet: ", absl::StrJoin(planned, ", "), "\n");
  return absl::StrCat(text, "\n`tokenferry SUBCOMMAND --help` lists its flags", family.empty() ? "; `tokenferry " : "",
                      family.empty() ? "--version` says what this is.\n" : ".\n");
}

bool IsHelp(absl::string_view word) { return word == "--help" || word == "-h" || word == "help"; }

std::string FamilyOf(const SubcommandInfo& info) {
  const std::string name = info.name;
  const size_t space = name.find(' ');
  return space == std::string::npos ? "" : name.substr(0, space);
}

// Leaves in `args` what stands before the first "--", if there is one, and in `behind` what follows it.
bool SplitAtDashes(Args& args, Args& behind) {
  const auto dashes = std::find(args.begin(), args.end(), absl::string_view("--"));
  if (dashes == args.end()) return false;
  const auto at = static_cast<size_t>(dashes - args.begin());
  behind = args.subspan(at + 1);
  args = args.subspan(0, at);
  return true;
}

// Why the words that `args` begin with are no subcommand; `family` is the first of them if it is one.
absl::Status RefuseWords(Table table, Args args, const std::string& family) {
  const std::string word = args[0];
  if (absl::StartsWith(word, "-")) {
    return absl::InvalidArgumentError(absl::StrCat("'", word,
                                                   "' stands before the subcommand; write `tokenferry generate ", word,
                                                   " ..`, and see `tokenferry --help`"));
  }
  std::vector<std::string> names, members;
  for (const SubcommandInfo& info : table) {
    names.push_back(info.name);
    if (!family.empty() && FamilyOf(info) == family)
      members.push_back(std::string(info.name).substr(family.size() + 1));
    if (family.empty() && !FamilyOf(info).empty()) names.push_back(FamilyOf(info));
  }
  if (family.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown subcommand '", word, "'", Hint(word, names), "; see `tokenferry --help`"));
  }
  if (args.size() == 1 || absl::StartsWith(args[1], "-")) {
    return absl::InvalidArgumentError(absl::StrCat(family, " needs one of ", absl::StrJoin(members, ", "),
                                                   ", as `tokenferry ", family, " ", members.front(),
                                                   "`; see `tokenferry ", family, " --help`"));
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown subcommand '", word, " ", args[1], "'",
                                                 Hint(args[1], members, family + " "), "; see `tokenferry ", family,
                                                 " --help`"));
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(Table table, Args args) {
  CommandLine line;
  if (args.empty()) return absl::InvalidArgumentError("no subcommand given; see `tokenferry --help`");
  const std::string first = args[0];
  if (IsHelp(first)) {
    line.text = HelpOf(table, "");
    return line;
  }
  if (first == "--version") {
    line.text = VersionText();
    return line;
  }
  if (first == "--man") {
    line.text = ManPage(Describe(table));
    return line;
  }
  if (first == "--completion") {
    if (args.size() != 2 || args[1] != std::string("bash")) {
      return absl::InvalidArgumentError("--completion knows bash: `tokenferry --completion bash`");
    }
    line.text = BashCompletion(Describe(table));
    return line;
  }
  std::string family;
  const SubcommandInfo* found = nullptr;
  for (const SubcommandInfo& info : table) {
    if (FamilyOf(info) == first) family = first;
    if (info.name == first || (args.size() > 1 && info.name == absl::StrCat(first, " ", args[1]))) found = &info;
  }
  if (found == nullptr && !family.empty() && args.size() > 1 && IsHelp(args[1])) {
    line.text = HelpOf(table, family);
    return line;
  }
  if (found == nullptr) return RefuseWords(table, args, family);
  if (found->create == nullptr) {
    return absl::UnimplementedError(absl::StrCat("'", found->name, "' (", found->summary,
                                                 ") is planned, but not in this version yet; see `tokenferry --help`"));
  }
  Parser parser(*found);
  Args own = args.subspan(FamilyOf(*found).empty() ? 1 : 2), program;
  const bool has_program = parser.line.subcommand->runs() == Subcommand::Runs::kProgram && SplitAtDashes(own, program);
  TF_RETURN_IF_ERROR(ParseArgs(table, parser, own));
  if (!parser.line.text.empty()) {
    line.text = parser.line.text;
    return line;
  }
  if (!parser.line.shared.config_file.empty()) TF_RETURN_IF_ERROR(ApplyConfigFile(table, parser));
  if (has_program) TF_RETURN_IF_ERROR(parser.line.subcommand->TakeProgram(program));
  TF_RETURN_IF_ERROR(parser.flags.CheckRequired(found->name));
  TF_RETURN_IF_ERROR(CheckKernelFlags(parser.line.shared));
  TF_RETURN_IF_ERROR(parser.line.subcommand->Check(parser.flags, &parser.line.shared));
  return std::move(parser.line);
}

}  // namespace tokenferry
