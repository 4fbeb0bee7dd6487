#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <tuple>

#include "core/io/archive.h"
#include "runtime/serve/protocol/codec.h"

namespace tokenferry {

// Values of a struct's fields. The bindings see to it that a new field that is forgotten here does not compile.
static auto Values(const ReportedToken& t) {
  const auto& [token, logprob] = t;
  return std::tie(token, logprob);
}
static auto Values(const LogitBias& b) {
  const auto& [token, bias] = b;
  return std::tie(token, bias);
}
static auto Values(const SamplingParams& p) {
  const auto& [temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, seed,
               logit_bias, stop_token_ids, min_tokens, num_top_logprobs, grammar] = p;
  return std::tie(temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, seed,
                  logit_bias, stop_token_ids, min_tokens, num_top_logprobs, grammar);
}
static auto Values(const Hello& m) {
  const auto& [version] = m;
  return std::tie(version);
}
static auto Values(const LoadingProgress& m) {
  const auto& [bytes_done, bytes_total, seconds_left] = m;
  return std::tie(bytes_done, bytes_total, seconds_left);
}
static auto Values(const Ready& m) {
  const auto& [host_per_rank, setup, max_sequences_per_rank] = m;
  return std::tie(host_per_rank, setup, max_sequences_per_rank);
}
static auto Values(const AddRequest& m) {
  const auto& [id, prompt, output, max_new_tokens, sampling, prompt_scores, routing, cache_scope] = m;
  return std::tie(id, prompt, output, max_new_tokens, sampling, prompt_scores, routing, cache_scope);
}
static auto Values(const CancelRequest& m) {
  const auto& [id] = m;
  return std::tie(id);
}
static auto Values(const Drain&) { return std::tuple<>(); }
static auto Values(const TokenUpdate& m) {
  const auto& [id, sampled, top, expert_idx, num_cached_tokens, end] = m;
  return std::tie(id, sampled, top, expert_idx, num_cached_tokens, end);
}
static auto Values(const TokenBatch& m) {
  const auto& [updates] = m;
  return std::tie(updates);
}
static auto Values(const PromptScores& m) {
  const auto& [id, logprobs, top, end] = m;
  return std::tie(id, logprobs, top, end);
}
static auto Values(const RequestFailed& m) {
  const auto& [id, kind, message] = m;
  return std::tie(id, kind, message);
}
static auto Values(const Heartbeat& m) {
  const auto& [num_steps] = m;
  return std::tie(num_steps);
}
static auto Values(const JobStats& m) {
  const auto& [num_steps, prefill_tokens, decode_tokens, num_running, num_waiting, cache_blocks_total,
               cache_blocks_used, prefix_query_tokens, prefix_hit_tokens, num_preemptions, num_replays, step_seconds,
               exchange_seconds, wait_seconds, bytes_sent, expert_rows, rank_rows, dropped, rerouted] = m;
  return std::tie(num_steps, prefill_tokens, decode_tokens, num_running, num_waiting, cache_blocks_total,
                  cache_blocks_used, prefix_query_tokens, prefix_hit_tokens, num_preemptions, num_replays, step_seconds,
                  exchange_seconds, wait_seconds, bytes_sent, expert_rows, rank_rows, dropped, rerouted);
}
static auto Values(const Goodbye& m) {
  const auto& [reason] = m;
  return std::tie(reason);
}
template <class T>
requires requires(const T& m) { Values(m); }
static bool operator==(const T& a, const T& b) { return Values(a) == Values(b); }

namespace {

using ::testing::HasSubstr;

// One of each type, with no field at its default, so that a field that does not travel shows.
std::vector<Message> OneOfEach() {
  AddRequest add{7, {1, 2, 3}, {4, 5}, 11, {}, WantPromptScores::kYes, WantRouting::kYes, "scope"};
  add.sampling.temperature = 0.5;
  add.sampling.top_k = 4;
  add.sampling.top_p = 0.25;
  add.sampling.min_p = 0.125;
  add.sampling.repetition_penalty = 1.5;
  add.sampling.presence_penalty = -1;
  add.sampling.frequency_penalty = 0.75;
  add.sampling.seed = 0xfedcba9876543210;
  add.sampling.logit_bias = {{5, -2.5}, {9, 1}};
  add.sampling.stop_token_ids = {2, 3};
  add.sampling.min_tokens = 6;
  add.sampling.num_top_logprobs = 8;
  add.sampling.grammar = std::string("a\0b", 3);
  JobStats stats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1.5};
  stats.exchange_seconds = {0.5, 1};
  stats.wait_seconds = {0, 1, 2, 0.25};
  stats.bytes_sent = {1, 2, 3, 4, 5, 6};
  stats.expert_rows = {1, 2, 3, 4};
  stats.rank_rows = {3, 7};
  stats.dropped = {1};
  stats.rerouted = {2};
  return {Hello{3},
          LoadingProgress{1, 2, 3.5},
          Ready{{"a", "b", "a"}, "3 ranks", 32},
          add,
          CancelRequest{9},
          Drain{},
          TokenBatch{{{7, {42, -0.5F}, {{42, -0.5F}, {1, -2}}, {3, 1, 2}, 64, OutputEnd::kStop}, {8, {1, -3}}}},
          PromptScores{7, {-1, -2}, {{{1, -1}}, {{3, -0.25F}}}, OutputEnd::kLength},
          RequestFailed{7, FailureKind::kInvalid, "too long"},
          Heartbeat{12},
          stats,
          Goodbye{"rank 2 is gone"}};
}

absl::StatusOr<std::vector<Message>> ReadAll(absl::string_view bytes, size_t piece) {
  FrameReader reader;
  std::vector<Message> messages;
  while (!bytes.empty()) {
    reader.Append(bytes.substr(0, piece));
    bytes.remove_prefix(std::min(piece, bytes.size()));
    while (true) {
      TF_ASSIGN_OR_RETURN(std::optional<Message> message, reader.Take());
      if (!message) break;
      messages.push_back(*std::move(message));
    }
  }
  if (reader.has_rest()) return absl::DataLossError("the stream ends within a frame");
  return messages;
}

TEST(ProtocolTest, EveryMessageComesBackHoweverTheStreamIsCut) {
  const std::vector<Message> sent = OneOfEach();
  ASSERT_EQ(sent.size(), std::variant_size_v<Message>);
  std::string stream;
  for (size_t i = 0; i < sent.size(); ++i) {
    ASSERT_EQ(sent[i].index(), i);
    stream += EncodeFrame(sent[i]);
  }
  for (const size_t piece : {size_t{1}, size_t{2}, size_t{7}, size_t{64}, stream.size()}) {
    const auto got = ReadAll(stream, piece);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(got->size(), sent.size());
    for (size_t i = 0; i < sent.size(); ++i) {
      EXPECT_TRUE((*got)[i] == sent[i]) << "message type " << i << " in pieces of " << piece;
    }
  }
}

TEST(ProtocolTest, EveryFrameThatIsCutShortOrTooLongIsRefused) {
  for (const Message& message : OneOfEach()) {
    const std::string frame = EncodeFrame(message);
    const size_t payload = frame.size() - 5;
    const auto with_length = [&](size_t length) {
      std::string changed = frame + "x";
      const auto size = static_cast<uint32_t>(length);
      std::memcpy(changed.data(), &size, sizeof(size));
      changed.resize(5 + length);
      return changed;
    };
    EXPECT_TRUE(ReadAll(with_length(payload), 1 << 20).ok());
    for (size_t length = 0; length < payload; ++length) {
      EXPECT_EQ(ReadAll(with_length(length), 1 << 20).status().code(), absl::StatusCode::kDataLoss)
          << "type " << message.index() << " cut to " << length << " of " << payload;
    }
    EXPECT_EQ(ReadAll(with_length(payload + 1), 1 << 20).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(ProtocolTest, RefusesTypesSizesAndEnumerationsThatDoNotExist) {
  std::string frame = EncodeFrame(Drain{});
  frame[4] = static_cast<char>(std::variant_size_v<Message>);
  EXPECT_THAT(std::string(ReadAll(frame, 64).status().message()), HasSubstr("not a tokenferry of this version"));
  frame = EncodeFrame(Drain{});
  frame[3] = 0x7f;  // two gigabytes
  EXPECT_EQ(ReadAll(frame, 64).status().code(), absl::StatusCode::kDataLoss);
  for (const Message& message : {Message(RequestFailed{1, static_cast<FailureKind>(9), "x"}),
                                 Message(TokenBatch{{{.id = 1, .end = static_cast<OutputEnd>(3)}}}),
                                 Message(PromptScores{.end = static_cast<OutputEnd>(200)}),
                                 Message(AddRequest{.prompt_scores = static_cast<WantPromptScores>(2)}),
                                 Message(AddRequest{.routing = static_cast<WantRouting>(2)})}) {
    EXPECT_EQ(ReadAll(EncodeFrame(message), 64).status().code(), absl::StatusCode::kDataLoss) << message.index();
  }
  FrameReader reader;
  reader.Append("abc");
  EXPECT_EQ(*reader.Take(), std::nullopt);
  EXPECT_TRUE(reader.has_rest());
}

TEST(ProtocolTest, RandomBytesNeverReadBeyondTheirEnd) {
  const uint32_t seed = 20261128;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::vector<Message> messages = OneOfEach();
  for (int round = 0; round < 2000; ++round) {
    std::string frame = EncodeFrame(messages[random() % messages.size()]);
    for (int change = 0; change < 3; ++change) frame[random() % frame.size()] = static_cast<char>(random());
    FrameReader reader;
    reader.Append(frame);
    const auto message = reader.Take();  // the sanitizers see to the rest
    if (message.ok() && *message) {
      EXPECT_LT((*message)->index(), messages.size());
    }
  }
}

TEST(ProtocolTest, AnotherVersionIsNamed) {
  EXPECT_TRUE(CheckVersion(Hello{}).ok());
  const absl::Status status = CheckVersion(Hello{kProtocolVersion + 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("version ", kProtocolVersion + 1)));
}

}  // namespace
}  // namespace tokenferry
