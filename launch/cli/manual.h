// What packagers install beside the program, from the table of subcommands and their flags: nothing to keep in step.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"

namespace tokenferry {

struct FlagDoc {
  std::string names;  // "--path", "-b,--minbytes"
  std::string value;  // "N", "auto|peer"; empty: a switch
  std::string help;
  std::string group;  // heading in --help
};

struct SubcommandDoc {
  std::string name;  // "bench alltoall"
  std::string summary;
  std::vector<FlagDoc> flags;
};

// tokenferry(1) in man(7)'s roff, as `tokenferry --man` prints it.
std::string ManPage(absl::Span<const SubcommandDoc> subcommands);

// A completion script for bash, and for zsh after bashcompinit, as `tokenferry --completion bash` prints it: names of
// subcommands, their flags, and the values of flags that have a fixed list of them; else file names.
std::string BashCompletion(absl::Span<const SubcommandDoc> subcommands);

}  // namespace tokenferry
