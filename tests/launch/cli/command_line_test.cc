#include "tests/launch/cli/command_line_parse.h"

namespace tokenferry {
namespace {

TEST(Flags, DefaultsStayWhenNothingIsGiven) {
  const auto line = ParseGenerate({});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->shared.model, "dir");
  EXPECT_EQ(line->shared.engine.compute, Compute::kBF16);
  EXPECT_EQ(line->shared.transport, TransportChoice::kAuto);
  EXPECT_EQ(line->shared.placement, "linear");
  EXPECT_EQ(line->shared.engine.moe.overflow.kind, Overflow::kDropless);
  EXPECT_EQ(line->shared.comm_timeout, SharedFlags().comm_timeout);
  EXPECT_EQ(FlagsOf<GenerateCommand>(line).sampling.temperature, 0);
  EXPECT_FALSE(FlagsOf<GenerateCommand>(line).json);
  EXPECT_THAT(FlagsOf<GenerateCommand>(line).prompts, ElementsAre("hello"));
}

TEST(Flags, EverySharedFlagArrives) {
  const auto line = ParseGenerate({"--device",
                                   "cpu",
                                   "--share-gpus",
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
  EXPECT_TRUE(f.share_gpus);
  EXPECT_EQ(f.engine.compute, Compute::kF32);
  EXPECT_EQ(f.num_threads, 3);
  EXPECT_EQ(f.transport, TransportChoice::kLocal);
  EXPECT_EQ(f.num_ranks, 5);
  EXPECT_EQ(f.engine.moe.exchange.path, ExchangePath::kAllToAllV);
  EXPECT_EQ(f.engine.moe.exchange.reduction, Reduction::kNode);
  EXPECT_EQ(f.engine.overlap, Overlap::kShared);
  EXPECT_EQ(f.engine.moe.exchange_budget, 12345678901);
  EXPECT_EQ(f.placement, "p.json");
  EXPECT_EQ(f.engine.moe.overflow.kind, Overflow::kCapacity);
  EXPECT_EQ(f.engine.moe.overflow.capacity_factor, 1.5);
  EXPECT_EQ(f.engine.moe.overflow.drop_by, DropBy::kProbability);
  EXPECT_EQ(f.engine.moe.overflow.order, PositionOrder::kTokenMajor);
  EXPECT_EQ(f.engine.moe.overflow.renormalise, Renormalise::kYes);
  EXPECT_EQ(f.engine.moe.overflow.padding, Padding::kCapacity);
  EXPECT_EQ(f.engine.moe.dispatch_dtype, DType::kI8);
  EXPECT_EQ(f.engine.moe.exchange.output_dtype, DType::kBF16);
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
                                   "--prompt-file",
                                   "-",
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
                                   "--frequency-penalty",
                                   "0.25",
                                   "--seed",
                                   "18446744073709551615",
                                   "--stop",
                                   "a b",
                                   "--stop",
                                   "\n\n",
                                   "--json"});
  ASSERT_TRUE(line.ok()) << line.status();
  const GenerateFlags& f = FlagsOf<GenerateCommand>(line);
  EXPECT_THAT(f.prompts, ElementsAre("hello", "--looks like a flag"));
  EXPECT_THAT(f.prompt_files, ElementsAre("p.txt", "-"));
  EXPECT_EQ(f.max_tokens, 9);
  EXPECT_TRUE(f.ignore_eos);
  EXPECT_EQ(f.sampling.temperature, 0.7);
  EXPECT_EQ(f.sampling.top_p, 0.9);
  EXPECT_EQ(f.sampling.top_k, 40);
  EXPECT_EQ(f.sampling.min_p, 0.05);
  EXPECT_EQ(f.sampling.repetition_penalty, 1.1);
  EXPECT_EQ(f.sampling.presence_penalty, -0.5);
  EXPECT_EQ(f.sampling.frequency_penalty, 0.25);
  EXPECT_EQ(f.sampling.seed, ~uint64_t{0});
  EXPECT_THAT(f.given, ElementsAre("temperature", "top-k", "top-p", "min-p", "repetition-penalty", "presence-penalty",
                                   "frequency-penalty", "seed"));
  EXPECT_THAT(f.stop, ElementsAre("a b", "\n\n"));
  EXPECT_TRUE(f.json);
  const auto stats = ParseGenerate({"--stats"});
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_TRUE(FlagsOf<GenerateCommand>(stats).stats);
}

TEST(Flags, OtherSubcommandsArrive) {
  const auto eval = Parse({"eval", "--model=dir", "--ids=i.json", "--out=o.safetensors", "--json=j.json"});
  ASSERT_TRUE(eval.ok()) << eval.status();
  EXPECT_EQ(FlagsOf<EvalCommand>(eval).ids_file, "i.json");
  EXPECT_EQ(FlagsOf<EvalCommand>(eval).out_file, "o.safetensors");
  EXPECT_EQ(FlagsOf<EvalCommand>(eval).json_file, "j.json");
  EXPECT_EQ(FlagsOf<EvalCommand>(eval).trace, Wanted::kNo);
  const auto trace = Parse({"eval", "--model=dir", "--ids=i.json", "--out=o.safetensors", "--trace"});
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(FlagsOf<EvalCommand>(trace).trace, Wanted::kYes);
  const auto inspect = Parse({"inspect", "--json", "--model", "dir"});
  ASSERT_TRUE(inspect.ok()) << inspect.status();
  EXPECT_TRUE(FlagsOf<InspectCommand>(inspect).json);
  const auto sized = Parse({"inspect", "--model=dir", "--kv-cache-tokens=64", "--prefill-chunk=8",
                            "--expert-dtype=int4", "--path=alltoallv", "--max-num-seqs=3", "--max-model-len=99"});
  ASSERT_TRUE(sized.ok()) << sized.status();
  EXPECT_EQ(sized->shared.kv_cache_tokens, 64);
  EXPECT_EQ(sized->shared.expert_dtype, ExpertDtype::kInt4);
  EXPECT_EQ(FlagsOf<InspectCommand>(sized).max_num_seqs, 3);
  EXPECT_EQ(FlagsOf<InspectCommand>(sized).max_model_len, 99);
  const auto bench = Parse({"bench", "engine", "--model", "dir", "--repeats", "2", "--json", "b.json"});
  ASSERT_TRUE(bench.ok()) << bench.status();
  EXPECT_EQ(FlagsOf<BenchEngineCommand>(bench).num_repeats, 2);
  EXPECT_EQ(FlagsOf<BenchEngineCommand>(bench).json_file, "b.json");
}

TEST(Flags, UnknownNamesAreRefusedWithTheNearest) {
  EXPECT_THAT(ErrorOf(Parse({"generat"})), AllOf(HasSubstr("'generat'"), HasSubstr("nearest is 'generate'")));
  EXPECT_THAT(ErrorOf(Parse({"bench", "engin"})), HasSubstr("nearest is 'bench engine'"));
  EXPECT_THAT(ErrorOf(Parse({"benhc"})), HasSubstr("nearest is 'bench'"));
  EXPECT_THAT(ErrorOf(Parse({"bench"})), HasSubstr("needs one of engine, alltoall, moe"));
  EXPECT_THAT(ErrorOf(Parse({"bench", "--iters"})), HasSubstr("needs one of engine, alltoall, moe"));
  EXPECT_THAT(ErrorOf(Parse({})), HasSubstr("--help"));
  EXPECT_THAT(ErrorOf(Parse({"--model", "dir"})), HasSubstr("before the subcommand"));
  EXPECT_THAT(ErrorOf(ParseGenerate({"--max-token", "3"})),
              AllOf(HasSubstr("'--max-token'"), HasSubstr("'--max-tokens'")));
  EXPECT_THAT(ErrorOf(ParseGenerate({"--modle=x"})), HasSubstr("nearest is '--model'"));
  EXPECT_THAT(ErrorOf(ParseGenerate({"-t"})), HasSubstr("unknown flag '-t'"));
  EXPECT_THAT(ErrorOf(ParseGenerate({"stray"})), HasSubstr("unexpected argument 'stray'"));
}

TEST(Flags, WhatIsNotNearIsNoHint) {
  for (const auto& args : std::vector<std::vector<std::string>>{
           {"weather"}, {"bench", "weather"}, {"generate", "--weather"}, {"generate", "--overflow", "weather"}}) {
    EXPECT_THAT(ErrorOf(Parse(args)), AllOf(HasSubstr("weather"), Not(HasSubstr("nearest")))) << args[0];
  }
}

TEST(Flags, ASubcommandRefusesFlagsThatItDoesNotUse) {
  EXPECT_THAT(ErrorOf(Parse({"eval", "--prompt", "x"})),
              AllOf(HasSubstr("eval does not use --prompt"), HasSubstr("generate")));
  const struct {
    std::vector<std::string> command;
    std::vector<std::string> flags;
  } cases[] = {
      {{"bench", "alltoall"},
       {"--dispatch-dtype", "--overflow", "--explain", "--model", "--compute", "--prefill-chunk", "--kv-cache-tokens",
        "--overlap", "--exchange-budget", "--capacity-factor", "--padded"}},
      {{"bench", "moe"}, {"--dispatch-dtype", "--overflow", "--explain", "--model", "--traffic", "--placement"}},
      {{"bench", "serve"},
       {"--ranks", "--threads", "--transport", "--device", "--share-gpus", "--comm-timeout", "--instruction-set",
        "--log-level"}},
      {{"inspect"},
       {"--overflow", "--capacity-factor", "--prompt", "--temperature", "--host", "--threads", "--instruction-set"}},
  };
  for (const auto& c : cases) {
    const std::string name = c.command.back();
    std::vector<std::string> help_args = c.command;
    help_args.push_back("--help");
    const auto help = Parse(help_args);
    ASSERT_TRUE(help.ok()) << help.status();
    for (const std::string& flag : c.flags) {
      std::vector<std::string> args = c.command;
      args.push_back(flag + "=1");
      EXPECT_THAT(ErrorOf(Parse(args)), AllOf(HasSubstr(name + " does not use " + flag), HasSubstr("it is a flag of ")))
          << flag;
      EXPECT_THAT(help->text, Not(HasSubstr(flag + " "))) << flag;
    }
  }
  // A flag that means something of its own in one subcommand.
  const auto bench = Parse({"bench", "alltoall", "--path", "peer,allgather", "--placement", "linear,random:1"});
  ASSERT_TRUE(bench.ok()) << bench.status();
  EXPECT_THAT(FlagsOf<BenchAllToAllCommand>(bench).bench.paths,
              ElementsAre(ExchangePath::kPeer, ExchangePath::kAllGather));
  const auto moe = Parse({"bench", "moe", "--compute", "f32", "--tokens", "3"});
  ASSERT_TRUE(moe.ok()) << moe.status();
  EXPECT_EQ(FlagsOf<BenchMoeCommand>(moe).bench.compute, Compute::kF32);
  EXPECT_THAT(FlagsOf<BenchMoeCommand>(moe).bench.tokens, ElementsAre(3));
}

TEST(Flags, ASecondValueIsRefused) {
  for (const std::vector<std::string>& twice :
       std::vector<std::vector<std::string>>{{"--max-tokens", "3", "--max-tokens", "4"},
                                             {"--model", "other"},
                                             {"--json", "--json"},
                                             {"--seed", "1", "--seed", "1"},
                                             {"--temperature=1", "--temperature=2"},
                                             {"--compute=f32", "--compute=f32"},
                                             {"--comm-timeout", "1s", "--comm-timeout", "2s"},
                                             {"--record-routing", "a", "--record-routing", "b"}}) {
    EXPECT_THAT(ErrorOf(ParseGenerate(twice)), AllOf(HasSubstr("2 times"), HasSubstr("one value"))) << twice[0];
  }
  EXPECT_THAT(ErrorOf(ParseGenerate({"--prompt-file", "-", "--prompt-file", "-"})), HasSubstr("only once"));
}

TEST(Flags, PlannedSubcommandsSayNotYet) {
  for (const char* name : {"plan", "check"}) {
    const auto line = Parse({name, "--model", "dir"});
    EXPECT_EQ(line.status().code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(line.status().message(), AllOf(HasSubstr(name), HasSubstr("not in this version yet")));
  }
}

TEST(Flags, BadValuesAreRefusedWithTheNearest) {
  const struct {
    std::vector<std::string> args;
    std::string flag, nearest;
  } cases[] = {
      {{"--compute", "bf61"}, "--compute 'bf61'", "'bf16'"},
      {{"--transport", "gasnet"}, "--transport 'gasnet'", "local, mpi, nccl"},
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
      {{"--json", "--stats"}, "--stats", "document of --json"},
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
  EXPECT_THAT(ErrorOf(Parse({"generate", "--model", "x", "--conversation", "--chat", "y"})),
              HasSubstr("without --prompt"));
  EXPECT_THAT(ErrorOf(Parse({"generate", "--model", "x", "--conversation", "--json"})), HasSubstr("--json"));
  EXPECT_THAT(ErrorOf(Parse({"eval", "--model", "x"})), HasSubstr("--ids"));
  EXPECT_THAT(ErrorOf(Parse({"eval", "--model", "x", "--ids", "a", "--text", "b"})), HasSubstr("one of"));
  EXPECT_THAT(ErrorOf(Parse({"eval", "--model", "x", "--ids", "a", "--trace"})), HasSubstr("--out"));
}

TEST(Flags, HelpAndVersionAreText) {
  const auto help = Parse({"--help"});
  ASSERT_TRUE(help.ok());
  EXPECT_THAT(help->text,
              AllOf(HasSubstr("generate"), HasSubstr("eval"), HasSubstr("inspect"), HasSubstr("bench engine")));
  const auto of_generate = Parse({"generate", "--help"});
  ASSERT_TRUE(of_generate.ok());
  EXPECT_THAT(of_generate->text, AllOf(HasSubstr("--max-tokens"), HasSubstr("--comm-timeout"), HasSubstr("[128]")));
  for (const char* help_word : {"--help", "-h", "help"}) {
    const auto of_bench = Parse({"bench", help_word});
    ASSERT_TRUE(of_bench.ok());
    EXPECT_THAT(of_bench->text, AllOf(HasSubstr("bench engine"), HasSubstr("bench alltoall"), HasSubstr("bench moe"),
                                      Not(HasSubstr("inspect"))));
  }
  EXPECT_THAT(help->text, HasSubstr("Not in this version yet: plan"));
  const auto version = Parse({"--version"});
  ASSERT_TRUE(version.ok());
  EXPECT_THAT(version->text,
              testing::MatchesRegex("tokenferry [0-9.]+ .commit [0-9a-z-]+.\nMPI: .+\nCUDA toolkit: .+\n"));
}

}  // namespace
}  // namespace tokenferry
