#include "launch/cli/manual.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "launch/cli/version.h"

namespace tokenferry {
namespace {

// Text as roff shows it: a backslash and a dash have a meaning of their own, as have a period and a quote that begin a
// line.
std::string Roff(absl::string_view text) {
  std::string out = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}, {"\n", " "}});
  if (absl::StartsWith(out, ".") || absl::StartsWith(out, "'")) out.insert(0, "\\&");
  return out;
}

void AppendFlag(const FlagDoc& flag, std::string& page) {
  absl::StrAppend(&page, ".TP\n\\fB", absl::StrReplaceAll(Roff(flag.names), {{",", "\\fR, \\fB"}}), "\\fR");
  if (!flag.value.empty()) absl::StrAppend(&page, " \\fI", Roff(flag.value), "\\fR");
  absl::StrAppend(&page, "\n", Roff(flag.help), "\n");
}

constexpr char kFiles[] = R"(.SH EXIT STATUS
0: done. 1: the run failed; one line on stderr says why. 2: the command line was refused.
.SH EXAMPLES
.nf
mpirun \-\-bind\-to none \-n 4 tokenferry generate \-\-model DIR \-\-prompt "Once" \-\-max\-tokens 64 \-\-stats
tokenferry inspect \-\-model DIR
.fi
.SH SEE ALSO
.BR mpirun (1)
)";

// The words of a list of values, "bf16|f32,.." or nothing for "N" and "TEXT".
std::vector<std::string> Choices(const FlagDoc& flag) {
  if (!absl::StrContains(flag.value, '|')) return {};
  return absl::StrSplit(absl::StrReplaceAll(flag.value, {{",..", ""}}), '|');
}

}  // namespace

std::string ManPage(absl::Span<const SubcommandDoc> subcommands) {
  std::string page =
      absl::StrCat(".TH TOKENFERRY 1 \"\" \"", Roff(VersionNumber()), "\" \"User Commands\"\n.SH NAME\n",
                   "tokenferry \\- expert\\-parallel runtime for Mixture\\-of\\-Experts language models\n",
                   ".SH SYNOPSIS\n[\\fBmpirun \\-n\\fR \\fIRANKS\\fR] \\fBtokenferry\\fR \\fISUBCOMMAND\\fR ",
                   "[\\fI\\-\\-flag value\\fR ...]\n.SH DESCRIPTION\n",
                   "Every subcommand runs alone or with any number of ranks under \\fBmpirun\\fR(1), each of "
                   "which owns a shard of the experts. Results go to standard output by rank 0, all else to "
                   "standard error.\n");
  for (const SubcommandDoc& subcommand : subcommands) {
    absl::StrAppend(&page, ".SH \"TOKENFERRY ", absl::StrReplaceAll(Roff(subcommand.name), {{"\"", "\\(dq"}}), "\"\n",
                    Roff(subcommand.summary), ".\n");
    std::string group;
    for (const FlagDoc& flag : subcommand.flags) {
      if (flag.group != group) absl::StrAppend(&page, ".SS \"", Roff(flag.group), "\"\n");
      group = flag.group;
      AppendFlag(flag, page);
    }
  }
  return absl::StrCat(page, kFiles);
}

std::string BashCompletion(absl::Span<const SubcommandDoc> subcommands) {
  std::vector<std::string> first, families;
  std::string flags, values, members;
  for (const SubcommandDoc& subcommand : subcommands) {
    const std::vector<std::string> words = absl::StrSplit(subcommand.name, ' ');
    if (std::find(first.begin(), first.end(), words[0]) == first.end()) first.push_back(words[0]);
    if (words.size() == 2) absl::StrAppend(&members, members.empty() ? "" : " ", words[1]);
    if (words.size() == 2 && std::find(families.begin(), families.end(), words[0]) == families.end()) {
      families.push_back(words[0]);
    }
    std::vector<std::string> names = {"--help"};
    for (const FlagDoc& flag : subcommand.flags) {
      const std::string name = flag.names.substr(flag.names.find("--"));
      names.push_back(name);
      const std::vector<std::string> choices = Choices(flag);
      if (choices.empty()) continue;
      absl::StrAppend(&values, "    \"", subcommand.name, " ", name, "\") words='", absl::StrJoin(choices, " "),
                      "' ;;\n");
    }
    absl::StrAppend(&flags, "    \"", subcommand.name, "\") words='", absl::StrJoin(names, " "), "' ;;\n");
  }
  return absl::StrCat(R"(# bash completion for tokenferry; zsh: autoload -U bashcompinit && bashcompinit first
_tokenferry() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words= i=0 command=
  # Behind mpirun and its own flags the program is not the first word.
  while ((i < COMP_CWORD)) && [[ ${COMP_WORDS[i]##*/} != tokenferry ]]; do ((i++)); done
  command=${COMP_WORDS[i+1]}
  if ((COMP_CWORD == i + 1)); then
    COMPREPLY=($(compgen -W ')",
                      absl::StrJoin(first, " "), R"( --help --version' -- "$cur"))
    return
  fi
  case $command in
    )",
                      absl::StrJoin(families, "|"), R"()
      if ((COMP_CWORD == i + 2)); then COMPREPLY=($(compgen -W ')",
                      members, R"( --help' -- "$cur")); return; fi
      command="$command ${COMP_WORDS[i+2]}" ;;
  esac
  case "$command $prev" in
)",
                      values, R"(    *) [[ $cur == -* ]] && case $command in
)",
                      flags, R"(    esac ;;
  esac
  [[ -z $words && $cur == -* ]] && return
  if [[ -n $words ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); else COMPREPLY=($(compgen -f -- "$cur")); fi
}
complete -o filenames -F _tokenferry tokenferry
)");
}

}  // namespace tokenferry
