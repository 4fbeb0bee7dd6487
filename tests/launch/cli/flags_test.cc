#include "launch/cli/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<CommandLine> Parse(std::vector<std::string> args) {
  std::vector<const char*> pointers;
  for (const std::string& arg : args) pointers.push_back(arg.c_str());
  return ParseCommandLine(pointers);
}

absl::StatusOr<CommandLine> ParseGenerate(std::vector<std::string> more) {
  std::vector<std::string> args = {"generate", "--model", "dir", "--prompt", "hello"};
  args.insert(args.end(), more.begin(), more.end());
  return Parse(args);
}

std::string ErrorOf(const absl::StatusOr<CommandLine>& line) {
  if (line.ok()) return "no error";
  EXPECT_EQ(line.status().code(), absl::StatusCode::kInvalidArgument) << line.status();
  const std::string message(line.status().message());
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message;
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    path_ =
        (std::filesystem::temp_directory_path() / ("tokenferry-flags-" + std::to_string(getpid()) + ".yaml")).string();
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Flags, DefaultsStayWhenNothingIsGiven) {
  const auto line = ParseGenerate({});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->command, Command::kGenerate);
  EXPECT_EQ(line->shared.model, "dir");
  EXPECT_EQ(line->shared.compute, Compute::kBF16);
  EXPECT_EQ(line->shared.transport, TransportChoice::kAuto);
  EXPECT_EQ(line->shared.placement, "linear");
  EXPECT_EQ(line->shared.overflow.kind, Overflow::kDropless);
  EXPECT_EQ(line->shared.comm_timeout, SharedFlags().comm_timeout);
  EXPECT_EQ(line->generate.temperature, 0);
  EXPECT_FALSE(line->generate.json);
  EXPECT_THAT(line->generate.prompts, ElementsAre("hello"));
}

TEST(Flags, EverySharedFlagArrives) {
  const auto line = ParseGenerate({"--device",
                                   "cpu",
                                   "--compute",
                                   "f32",
                                   "--threads",
                                   "3",
                                   "--transport",
                                   "local",
                                   "--ranks",
                                   "5",
                                   "--path",
                                   "alltoallv",
                                   "--reduction",
                                   "node",
                                   "--placement",
                                   "p.json",
                                   "--overflow",
                                   "capacity",
                                   "--capacity-factor",
                                   "1.5",
                                   "--drop",
                                   "probability",
                                   "--drop-order",
                                   "token",
                                   "--renormalise",
                                   "--padded",
                                   "--dispatch-dtype",
                                   "int8",
                                   "--combine-dtype",
                                   "bf16",
                                   "--overlap",
                                   "shared",
                                   "--exchange-budget",
                                   "12345678901",
                                   "--comm-timeout",
                                   "500ms",
                                   "--prefill-chunk",
                                   "7",
                                   "--kv-cache-tokens",
                                   "4096",
                                   "--instruction-set",
                                   "avx2",
                                   "--explain",
                                   "--log-level",
                                   "error"});
  ASSERT_TRUE(line.ok()) << line.status();
  const SharedFlags& f = line->shared;
  EXPECT_EQ(f.device, DeviceChoice::kCpu);
  EXPECT_EQ(f.compute, Compute::kF32);
  EXPECT_EQ(f.num_threads, 3);
  EXPECT_EQ(f.transport, TransportChoice::kLocal);
  EXPECT_EQ(f.num_ranks, 5);
  EXPECT_EQ(f.path, ExchangePath::kAllToAllV);
  EXPECT_EQ(f.reduction, Reduction::kNode);
  EXPECT_EQ(f.overlap, Overlap::kShared);
  EXPECT_EQ(f.exchange_budget, 12345678901);
  EXPECT_EQ(f.placement, "p.json");
  EXPECT_EQ(f.overflow.kind, Overflow::kCapacity);
  EXPECT_EQ(f.overflow.capacity_factor, 1.5);
  EXPECT_EQ(f.overflow.drop_by, DropBy::kProbability);
  EXPECT_EQ(f.overflow.order, PositionOrder::kTokenMajor);
  EXPECT_EQ(f.overflow.renormalise, Renormalise::kYes);
  EXPECT_EQ(f.overflow.padding, Padding::kCapacity);
  EXPECT_EQ(f.dispatch_dtype, DType::kI8);
  EXPECT_EQ(f.combine_dtype, DType::kBF16);
  EXPECT_EQ(f.comm_timeout, absl::Milliseconds(500));
  EXPECT_EQ(f.prefill_chunk, 7);
  EXPECT_EQ(f.kv_cache_tokens, 4096);
  EXPECT_EQ(f.instruction_set, "avx2");
  EXPECT_TRUE(f.explain);
  EXPECT_EQ(f.log_level, LogLevel::kError);
}

TEST(Flags, EveryGenerateFlagArrives) {
  const auto line = ParseGenerate({"--prompt",
                                   "--looks like a flag",
                                   "--prompt-file",
                                   "p.txt",
                                   "--max-tokens",
                                   "9",
                                   "--ignore-eos",
                                   "--temperature",
                                   "0.7",
                                   "--top-p",
                                   "0.9",
                                   "--top-k",
                                   "40",
                                   "--min-p",
                                   "0.05",
                                   "--repetition-penalty",
                                   "1.1",
                                   "--presence-penalty",
                                   "-0.5",
                                   "--seed",
                                   "18446744073709551615",
                                   "--stop",
                                   "a b",
                                   "--stop",
                                   "\n\n",
                                   "--json",
                                   "--stats"});
  ASSERT_TRUE(line.ok()) << line.status();
  const GenerateFlags& f = line->generate;
  EXPECT_THAT(f.prompts, ElementsAre("hello", "--looks like a flag"));
  EXPECT_EQ(f.prompt_file, "p.txt");
  EXPECT_EQ(f.max_tokens, 9);
  EXPECT_TRUE(f.ignore_eos);
  EXPECT_EQ(f.temperature, 0.7);
  EXPECT_EQ(f.top_p, 0.9);
  EXPECT_EQ(f.top_k, 40);
  EXPECT_EQ(f.min_p, 0.05);
  EXPECT_EQ(f.repetition_penalty, 1.1);
  EXPECT_EQ(f.presence_penalty, -0.5);
  EXPECT_EQ(f.seed, ~uint64_t{0});
  EXPECT_THAT(f.stop, ElementsAre("a b", "\n\n"));
  EXPECT_TRUE(f.json);
  EXPECT_TRUE(f.stats);
}

TEST(Flags, OtherSubcommandsArrive) {
  const auto eval = Parse({"eval", "--model=dir", "--ids=i.json", "--out=o.safetensors", "--json=j.json"});
  ASSERT_TRUE(eval.ok()) << eval.status();
  EXPECT_EQ(eval->command, Command::kEval);
  EXPECT_EQ(eval->eval.ids_file, "i.json");
  EXPECT_EQ(eval->eval.out_file, "o.safetensors");
  EXPECT_EQ(eval->eval.json_file, "j.json");
  const auto inspect = Parse({"inspect", "--json", "--model", "dir"});
  ASSERT_TRUE(inspect.ok()) << inspect.status();
  EXPECT_TRUE(inspect->inspect.json);
  const auto bench = Parse({"bench", "engine", "--model", "dir", "--repeats", "2", "--json", "b.json"});
  ASSERT_TRUE(bench.ok()) << bench.status();
  EXPECT_EQ(bench->command, Command::kBenchEngine);
  EXPECT_EQ(bench->bench.num_repeats, 2);
  EXPECT_EQ(bench->bench.json_file, "b.json");
}

TEST(Flags, UnknownNamesAreRefusedWithTheNearest) {
  EXPECT_THAT(ErrorOf(Parse({"generat"})), AllOf(HasSubstr("'generat'"), HasSubstr("nearest is 'generate'")));
  EXPECT_THAT(ErrorOf(Parse({"bench", "engin"})), HasSubstr("nearest is 'bench engine'"));
  EXPECT_THAT(ErrorOf(Parse({"bench"})), HasSubstr("nearest is 'bench engine'"));
  EXPECT_THAT(ErrorOf(Parse({})), HasSubstr("--help"));
  EXPECT_THAT(ErrorOf(Parse({"--model", "dir"})), HasSubstr("before the subcommand"));
  EXPECT_THAT(ErrorOf(ParseGenerate({"--max-token", "3"})),
              AllOf(HasSubstr("'--max-token'"), HasSubstr("'--max-tokens'")));
  EXPECT_THAT(ErrorOf(ParseGenerate({"--modle=x"})), HasSubstr("nearest is '--model'"));
  EXPECT_THAT(ErrorOf(ParseGenerate({"-t"})), HasSubstr("unknown flag '-t'"));
  EXPECT_THAT(ErrorOf(ParseGenerate({"stray"})), HasSubstr("unexpected argument 'stray'"));
  EXPECT_THAT(ErrorOf(Parse({"eval", "--prompt", "x"})), HasSubstr("unknown flag '--prompt' of eval"));
}

TEST(Flags, BadValuesAreRefusedWithTheNearest) {
  const struct {
    std::vector<std::string> args;
    std::string flag, nearest;
  } cases[] = {
      {{"--compute", "bf61"}, "--compute 'bf61'", "'bf16'"},
      {{"--transport", "nccl"}, "--transport 'nccl'", "local, mpi"},
      {{"--log-level", "warn"}, "--log-level 'warn'", "'warning'"},
      {{"--max-tokens", "0"}, "--max-tokens '0'", "nearest is 1"},
      {{"--max-tokens", "many"}, "--max-tokens 'many'", "an integer"},
      {{"--max-tokens", "1.6"}, "--max-tokens '1.6'", "nearest is 2"},
      {{"--max-tokens", "99999999999999999999"}, "--max-tokens", "nearest is 1073741824"},
      {{"--threads", "-1"}, "--threads '-1'", "nearest is 0"},
      {{"--temperature", "-0.1"}, "--temperature '-0.1'", "nearest is 0"},
      {{"--temperature", "nan"}, "--temperature 'nan'", "must be 0, or a number from 1e-05 to 100"},
      {{"--temperature", "inf"}, "--temperature 'inf'", "nearest is 100"},
      {{"--temperature", "1e-308"}, "--temperature '1e-308'", "must be 0, or a number"},
      {{"--temperature", "9e-6"}, "--temperature '9e-6'", "nearest is 1e-05"},
      {{"--temperature", "1e-400"}, "--temperature '1e-400'", "must be 0, or"},  // no double but 0 is so small
      {{"--repetition-penalty", "1e-320"}, "--repetition-penalty '1e-320'", "from 0.01 to 100"},
      {{"--repetition-penalty", "0"}, "--repetition-penalty '0'", "nearest is 0.01"},
      {{"--presence-penalty", "-1e-310"}, "--presence-penalty '-1e-310'", "from -100 to 100"},
      {{"--min-p", "1e-315"}, "--min-p '1e-315'", "from 0 to 1"},
      {{"--overflow", "capacity", "--capacity-factor", "1e-320"}, "--capacity-factor '1e-320'", "above 0"},
      {{"--top-p", "0"}, "--top-p '0'", "nearest is 1e-09"},
      {{"--top-p", "1.5"}, "--top-p '1.5'", "nearest is 1"},
      {{"--seed", "-3"}, "--seed '-3'", "2^64 - 1"},
      {{"--comm-timeout", "5"}, "--comm-timeout '5'", "as 5s"},
      {{"--comm-timeout", "soon"}, "--comm-timeout 'soon'", "5s or 500ms"},
      {{"--comm-timeout", "0s"}, "--comm-timeout '0s'", "1ms"},
      {{"--comm-timeout", "inf"}, "--comm-timeout 'inf'", "24h"},
      {{"--capacity-factor", "2"}, "--capacity-factor", "--overflow capacity"},
      {{"--overflow", "rerute"}, "--overflow 'rerute'", "'reroute'"},
      {{"--overflow", "trap", "--drop", "position"}, "--drop", "reroute"},
      {{"--overflow", "rank_budget", "--padded"}, "--padded", "capacity and reroute"},
      {{"--instruction-set", "avx9"}, "--instruction-set", "avx2"},
      {{"--stop", ""}, "--stop", "empty"},
      {{"--prompt", ""}, "--prompt", "empty"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ErrorOf(ParseGenerate(c.args)), AllOf(HasSubstr(c.flag), HasSubstr(c.nearest)));
  }
  EXPECT_THAT(ErrorOf(ParseGenerate({"--seed"})), HasSubstr("--seed"));
}

TEST(Flags, WhatIsMissingIsNamed) {
  EXPECT_THAT(ErrorOf(Parse({"generate", "--prompt", "x"})), HasSubstr("--model"));
  EXPECT_THAT(ErrorOf(Parse({"generate", "--model", "x"})), HasSubstr("--prompt"));
  EXPECT_THAT(ErrorOf(Parse({"eval", "--model", "x"})), HasSubstr("--ids"));
  EXPECT_THAT(ErrorOf(Parse({"eval", "--model", "x", "--ids", "a", "--text", "b"})), HasSubstr("one of"));
}

TEST(Flags, HelpAndVersionAreText) {
  const auto help = Parse({"--help"});
  ASSERT_TRUE(help.ok());
  EXPECT_THAT(help->text,
              AllOf(HasSubstr("generate"), HasSubstr("eval"), HasSubstr("inspect"), HasSubstr("bench engine")));
  const auto of_generate = Parse({"generate", "--help"});
  ASSERT_TRUE(of_generate.ok());
  EXPECT_THAT(of_generate->text, AllOf(HasSubstr("--max-tokens"), HasSubstr("--comm-timeout"), HasSubstr("[128]")));
  const auto version = Parse({"--version"});
  ASSERT_TRUE(version.ok());
  EXPECT_THAT(version->text, HasSubstr("tokenferry "));
}

TEST(Config, FillsWhatTheCommandLineDoesNotGive) {
  const ConfigFile file(
      "model: from-file\ncompute: f32\nexplain: true\ncomm-timeout: 7s\n"
      "generate:\n  max-tokens: 11\n  json: false\n  prompt: [one, two]\neval:\n  out: never\n");
  const auto line = Parse({"generate", "--config", file.path(), "--compute", "bf16"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->shared.model, "from-file");
  EXPECT_EQ(line->shared.compute, Compute::kBF16);
  EXPECT_TRUE(line->shared.explain);
  EXPECT_EQ(line->shared.comm_timeout, absl::Seconds(7));
  EXPECT_EQ(line->generate.max_tokens, 11);
  EXPECT_FALSE(line->generate.json);
  EXPECT_THAT(line->generate.prompts, ElementsAre("one", "two"));
  const auto with_prompt = Parse({"generate", "--config", file.path(), "--prompt", "mine"});
  ASSERT_TRUE(with_prompt.ok()) << with_prompt.status();
  EXPECT_THAT(with_prompt->generate.prompts, ElementsAre("mine"));
}

TEST(Config, RefusesWithFileAndLine) {
  const struct {
    std::string text, place, why;
  } cases[] = {
      {"compute: f32\nmodle: x\n", ":2:", "nearest is 'model'"},
      {"compute: f33\n", ":1:", "'f32'"},
      {"explain: perhaps\n", ":1:", "explain"},
      {"config: other.yaml\n", ":1:", "unknown key 'config'"},
      {"compute: f32\ncompute: bf16\n", ":2:", "stands twice"},
      {"eval:\n  prompt: x\n", ":2:", "unknown key 'prompt' for eval"},
      {"bench engine:\n  repeats: 0\n", ":2:", "nearest is 1"},
      {"generate: 3\n", ":1:", "must be a map"},
      {"threads: {a: 1}\n", ":1:", "must have a value"},
      {"threads:\n", ":1:", "must have a value"},
      {"prompt: [a, [b]]\n", ":1:", "plain values"},
      {"- a\n", "", "must be a map"},
      {"a: [\n", "", "not valid YAML"},
      {"", "", "must be a map"},
  };
  for (const auto& c : cases) {
    const ConfigFile file(c.text);
    EXPECT_THAT(ErrorOf(ParseGenerate({"--config", file.path()})),
                AllOf(HasSubstr(file.path() + c.place), HasSubstr(c.why)))
        << c.text;
  }
  const auto missing = ParseGenerate({"--config", "/nonexistent/x.yaml"});
  EXPECT_THAT(missing.status().message(), HasSubstr("'/nonexistent/x.yaml'"));
}

TEST(Config, ClusterConfigsAreValid) {
  const char* root = std::getenv("TF_SOURCE_DIR");
  ASSERT_NE(root, nullptr);
  int num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(root) / "cluster-configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++num_files;
    for (const char* command : {"generate", "eval", "inspect", "bench"}) {
      std::vector<std::string> args = {command};
      if (args[0] == "bench") args.push_back("engine");
      args.insert(args.end(), {"--model", "dir", "--config", entry.path().string()});
      if (args[0] == "generate") args.insert(args.end(), {"--prompt", "x"});
      if (args[0] == "eval") args.insert(args.end(), {"--ids", "x"});
      const auto line = Parse(args);
      EXPECT_TRUE(line.ok()) << entry.path() << ": " << line.status();
    }
  }
  EXPECT_GE(num_files, 2);
}

}  // namespace
}  // namespace tokenferry
