#include "tests/launch/cli/command_line_parse.h"

namespace tokenferry {
namespace {

TEST(Config, FillsWhatTheCommandLineDoesNotGive) {
  const ConfigFile file(
      "model: from-file\ncompute: f32\nexplain: true\ncomm-timeout: 7s\n"
      "generate:\n  max-tokens: 11\n  json: false\n  prompt: [one, two]\neval:\n  out: never\n");
  const auto line = Parse({"generate", "--config", file.path(), "--compute", "bf16"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->shared.model, "from-file");
  EXPECT_EQ(line->shared.engine.compute, Compute::kBF16);
  EXPECT_TRUE(line->shared.explain);
  EXPECT_EQ(line->shared.comm_timeout, absl::Seconds(7));
  EXPECT_EQ(FlagsOf<GenerateCommand>(line).max_tokens, 11);
  EXPECT_FALSE(FlagsOf<GenerateCommand>(line).json);
  EXPECT_THAT(FlagsOf<GenerateCommand>(line).prompts, ElementsAre("one", "two"));
  const auto with_prompt = Parse({"generate", "--config", file.path(), "--prompt", "mine"});
  ASSERT_TRUE(with_prompt.ok()) << with_prompt.status();
  EXPECT_THAT(FlagsOf<GenerateCommand>(with_prompt).prompts, ElementsAre("mine"));
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
      {"seed: [1, 2]\n", ":1:", "takes one value, but has 2"},
      {"explain: [true, false]\n", ":1:", "takes one value, but has 2"},
      {"a: b\n---\nc: d\n", "", "2 YAML documents"},
      {"*x\n", "", "not valid YAML"},
      {"a: \"\\q\"\n", "", "not valid YAML"},
      {std::string(100000, '['), "", "not valid YAML"},
      {std::string(1 << 20, '#') + "\n", "'", "longer than 1048576 bytes"},
      {std::string("m\0o\0d\0e\0l\0:\0", 12), "'", "UTF-16LE"},
      {"tokens: many\n", ":1:", "an integer"},  // a flag of others, with a value that none of them takes
      {"weather: fine\n", ":1:", "unknown key 'weather'"},
  };
  for (const auto& c : cases) {
    const ConfigFile file(c.text);
    EXPECT_THAT(ErrorOfAny(ParseGenerate({"--config", file.path()})),
                AllOf(HasSubstr(file.path() + c.place), HasSubstr(c.why)))
        << c.text.substr(0, 100);
  }
  const auto missing = ParseGenerate({"--config", "/nonexistent/x.yaml"});
  EXPECT_THAT(missing.status().message(), HasSubstr("'/nonexistent/x.yaml'"));
  for (const char* path : {"/", "/dev/zero", "/dev/null"}) {
    EXPECT_THAT(ErrorOfAny(ParseGenerate({"--config", path})), HasSubstr(path));
  }
}

TEST(Config, WhatStandsAtTheTopServesTheSubcommandsThatHaveIt) {
  const ConfigFile file("compute: f32\npath: [peer, allgather]\ntokens: 5\nthreads: 2\n");
  const auto bench = Parse({"bench", "alltoall", "--config", file.path()});
  ASSERT_TRUE(bench.ok()) << bench.status();
  EXPECT_THAT(FlagsOf<BenchAllToAllCommand>(bench).bench.tokens, ElementsAre(5));
  EXPECT_EQ(bench->shared.num_threads, 2);
  const auto serve = Parse({"bench", "serve", "--config", file.path()});
  EXPECT_TRUE(serve.ok()) << serve.status();
  EXPECT_THAT(ErrorOf(ParseGenerate({"--config", file.path()})), HasSubstr("'path' takes one value, but has 2"));
  // Of the same path: the file above is gone from here on.
  const ConfigFile of_engines("compute: f32\noverflow: capacity\nthreads: 2\n");
  const auto inspect = Parse({"inspect", "--model", "dir", "--config", of_engines.path()});
  ASSERT_TRUE(inspect.ok()) << inspect.status();
  EXPECT_EQ(inspect->shared.num_threads, 0);  // not used, so not set
  EXPECT_EQ(inspect->shared.engine.compute, Compute::kF32);
  EXPECT_EQ(inspect->shared.engine.moe.overflow.kind, Overflow::kDropless);  // nor this
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
  EXPECT_GE(num_files, 5);
}

}  // namespace
}  // namespace tokenferry
