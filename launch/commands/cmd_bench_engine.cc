#include "launch/commands/cmd_bench_engine.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_format.h"
#include "comm/transport/collectives.h"
#include "core/host/machine.h"
#include "core/io/json_writer.h"
#include "launch/cli/flag_set.h"
#include "launch/commands/result_file.h"
#include "launch/commands/run_requests.h"

namespace tokenferry {
namespace {

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// The same prompts on every machine; any token but the special ones' low numbers.
std::vector<Request> MakeRequests(const BenchEngineFlags& flags, int64_t vocab_size) {
  std::mt19937_64 random(20260101);
  std::vector<Request> requests(flags.num_sequences);
  for (Request& r : requests) {
    for (int i = 0; i < flags.prompt_tokens; ++i) r.prompt.push_back(static_cast<int32_t>(random() % vocab_size));
    r.max_new_tokens = flags.decode_tokens;
  }
  return requests;
}

struct Round {
  double prefill_per_second = 0, decode_per_second = 0;
  std::vector<std::vector<int32_t>> tokens;  // by sequence
  RunReport report;                          // of this round and those before it
};

absl::StatusOr<Round> RunRound(RankContext& context, ModelSession& session, const std::vector<Request>& requests) {
  const EngineStats before = session.engine->stats();
  Round round;
  round.tokens.resize(requests.size());
  TF_ASSIGN_OR_RETURN(round.report, RunRequests(context, session, requests, [&](const SequenceUpdate& u) {
                        round.tokens[u.seq].push_back(u.token.token);
                        return Proceed::kGoOn;
                      }));
  const EngineStats& after = session.engine->stats();
  const auto rate = [](int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  };
  round.prefill_per_second =
      rate(after.prefill_tokens - before.prefill_tokens, after.prefill_seconds - before.prefill_seconds);
  round.decode_per_second =
      rate(after.decode_tokens - before.decode_tokens, after.decode_seconds - before.decode_seconds);
  return round;
}

void PrintTable(const BenchEngineFlags& flags, const RunReport& report, double prefill, double decode) {
  std::printf("%d sequences of %d + %d tokens on %zu ranks (%s), median of %d rounds\n", flags.num_sequences,
              flags.prompt_tokens, flags.decode_tokens, report.ranks.size(), report.instruction_set.c_str(),
              flags.num_repeats);
  std::printf("prefill %10.1f tokens/s\ndecode  %10.1f tokens/s\nbalancedness %.3f\n\n", prefill, decode,
              report.balancedness());
  std::fputs(report.MemoryTable().c_str(), stdout);
}

std::string JsonText(const BenchEngineFlags& flags, const SharedFlags& shared, const RunReport& report,
                     const std::vector<Round>& rounds) {
  nlohmann::ordered_json json = {{"benchmark", "engine"},
                                 {"machine", MachineDescription()},
                                 {"model", shared.model},
                                 {"compute", shared.engine.compute == Compute::kF32 ? "f32" : "bf16"},
                                 {"num_ranks", report.ranks.size()},
                                 {"num_sequences", flags.num_sequences},
                                 {"prompt_tokens", flags.prompt_tokens},
                                 {"decode_tokens", flags.decode_tokens}};
  for (const Round& round : rounds) {
    json["rounds"].push_back({{"prefill_tokens_per_second", round.prefill_per_second},
                              {"decode_tokens_per_second", round.decode_per_second}});
  }
  json["report"] = report.Json();
  return FormatJson(json) + "\n";
}

}  // namespace

void BenchEngineCommand::Declare(FlagSet& set, SharedFlags* shared) {
  set.Integer("prompt-tokens", &flags_.prompt_tokens, 1, kMaxTokensFlag, "prompt tokens per sequence");
  set.Integer("decode-tokens", &flags_.decode_tokens, 1, kMaxTokensFlag, "generated tokens per sequence");
  set.Integer("sequences", &flags_.num_sequences, 1, 1 << 20, "sequences at a time");
  set.Integer("repeats", &flags_.num_repeats, 1, 1 << 20, "measured runs, after one to warm up");
  set.Text("json", &flags_.json_file, "JSON file to write");
  DeclareModelFlags(set, shared);
  DeclareEngineFlags(set, shared);
}

absl::Status BenchEngineCommand::Check(const FlagSet& set, SharedFlags* shared) {
  return CheckEngineFlags(set, *shared);
}

absl::Status BenchEngineCommand::Run(RankContext& context) const {
  const BenchEngineFlags& flags = flags_;
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelFiles> files, OpenModel(context, TokenizerUse::kNone));
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {"bench input"},
                                   CheckContext("a sequence", flags.prompt_tokens, flags.decode_tokens, files->model)));
  TF_ASSIGN_OR_RETURN(const auto json_file, OpenResultFile(context, "--json", flags.json_file));
  const std::vector<Request> requests = MakeRequests(flags, files->model.vocab_size);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelSession> session, StartSession(context, std::move(files), requests));
  // The first round warms up and says what every other one must generate.
  TF_ASSIGN_OR_RETURN(const Round first, RunRound(context, *session, requests));
  std::vector<Round> rounds;
  std::vector<double> prefill, decode;
  for (int i = 0; i < flags.num_repeats; ++i) {
    TF_ASSIGN_OR_RETURN(Round round, RunRound(context, *session, requests));
    if (round.tokens != first.tokens)
      return absl::InternalError(absl::StrCat("round ", i, " generated other tokens than the warm-up"));
    prefill.push_back(round.prefill_per_second);
    decode.push_back(round.decode_per_second);
    rounds.push_back(std::move(round));
  }
  const RunReport& report = rounds.back().report;
  if (context.rank() != RankId(0)) return absl::OkStatus();
  PrintTable(flags, report, Median(prefill), Median(decode));
  std::fflush(stdout);
  return json_file ? json_file->Commit(JsonText(flags, context.flags, report, rounds)) : absl::OkStatus();
}

}  // namespace tokenferry
