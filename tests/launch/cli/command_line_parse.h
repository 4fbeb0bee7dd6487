// Command lines in tests, parsed as the program does.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "launch/cli/command_line.h"
#include "launch/commands/cmd_bench_alltoall.h"
#include "launch/commands/cmd_bench_engine.h"
#include "launch/commands/cmd_bench_moe.h"
#include "launch/commands/cmd_eval.h"
#include "launch/commands/cmd_generate.h"
#include "launch/commands/cmd_inspect.h"
#include "launch/commands/commands.h"

namespace tokenferry {
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

inline absl::StatusOr<CommandLine> Parse(std::vector<std::string> args) {
  std::vector<const char*> pointers;
  for (const std::string& arg : args) pointers.push_back(arg.c_str());
  return ParseCommandLine(Subcommands(), pointers);
}

// The flags of the subcommand, which must be a `Command`.
template <class Command>
const auto& FlagsOf(const absl::StatusOr<CommandLine>& line) {
  return dynamic_cast<const Command&>(*line->subcommand).flags();
}

inline absl::StatusOr<CommandLine> ParseGenerate(std::vector<std::string> more) {
  std::vector<std::string> args = {"generate", "--model", "dir", "--prompt", "hello"};
  args.insert(args.end(), more.begin(), more.end());
  return Parse(args);
}

inline std::string ErrorOf(const absl::StatusOr<CommandLine>& line) {
  if (line.ok()) return "no error";
  EXPECT_EQ(line.status().code(), absl::StatusCode::kInvalidArgument) << line.status();
  const std::string message(line.status().message());
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message;
}

inline std::string ErrorOfAny(const absl::StatusOr<CommandLine>& line) {
  return line.ok() ? "no error" : std::string(line.status().message());
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    path_ =
        (std::filesystem::temp_directory_path() / ("tokenferry-flags-" + std::to_string(getpid()) + ".yaml")).string();
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tokenferry
