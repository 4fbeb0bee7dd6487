// The client's side of bench serve without a server: events out of bytes, arrivals, and what is made of the times.
// tests/launch/serve/bench_test.py has it against servers.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>

#include <atomic>
#include <cmath>
#include <numeric>

#include "absl/synchronization/notification.h"
#include "bench/serve/answer_reader.h"
#include "bench/serve/event_stream.h"
#include "bench/serve/http_client.h"
#include "bench/serve/serve_report.h"
#include "tests/support/status_matchers.h"

namespace {

std::atomic<int> num_lookups{0};  // of 127.0.0.1
absl::Notification& SilentServerAnswers() {
  static auto* const answers = new absl::Notification;  // a lookup may outlive main
  return *answers;
}

}  // namespace

// In place of the C library's, which it calls for other names: of unknown.invalid nobody knows, and silent.invalid is
// answered only when the test says so. No test asks a server of names.
extern "C" int getaddrinfo(const char* host, const char* port, const addrinfo* hints, addrinfo** found) {
  const std::string name = host == nullptr ? "" : host;
  if (name == "127.0.0.1") num_lookups += 1;
  if (name == "silent.invalid") SilentServerAnswers().WaitForNotification();
  if (name.find(".invalid") != name.npos) return EAI_NONAME;
  static const auto real = reinterpret_cast<decltype(&getaddrinfo)>(dlsym(RTLD_NEXT, "getaddrinfo"));
  return real(host, port, hints, found);
}

namespace tokenferry {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> EventsOf(const std::string& bytes, size_t piece) {
  EventStream stream;
  std::vector<std::string> events;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    const absl::Status fed = stream.Feed(bytes.substr(at, piece), [&](absl::string_view data) {
      events.emplace_back(data);
      return absl::OkStatus();
    });
    EXPECT_TRUE(fed.ok()) << fed;
  }
  return events;
}

TEST(EventStream, EveryKindOfLineInPiecesOfAnySize) {
  const std::string bytes =
      ": comment\n\ndata: one\n\nevent: x\nid: 7\ndata:two\ndata:  2\r\n\r\ndata: three\r\rdatax: no\n\ndata\n\ndata: "
      "open\n";
  for (const size_t piece : {1, 2, 3, 7, 1000}) {
    EXPECT_THAT(EventsOf(bytes, piece), ElementsAre("one", "two\n 2", "three", ""));
  }
}

TEST(EventStream, StopsAtAnErrorAndAtAnEventThatNeverEnds) {
  EventStream stream;
  int num_events = 0;
  const auto refuse = [&](absl::string_view) { return ++num_events, absl::InternalError("no"); };
  EXPECT_ERROR(stream.Feed("data: a\n\ndata: b\n\n", refuse), absl::StatusCode::kInternal, "no");
  EXPECT_EQ(num_events, 1);
  const std::string line = "data: " + std::string(1 << 20, 'x') + "\n";
  EventStream endless;
  absl::Status fed;
  for (int i = 0; i < 17 && fed.ok(); ++i) fed = endless.Feed(line, refuse);
  EXPECT_ERROR(fed, absl::StatusCode::kResourceExhausted, "more than 16777216 bytes");
}

TEST(ArrivalTimes, AreAtOnceEvenOrPoisson) {
  EXPECT_THAT(ArrivalTimes(3, 0, Arrivals::kPoisson, 1), ElementsAre(0, 0, 0));
  EXPECT_THAT(ArrivalTimes(3, 4, Arrivals::kFixed, 1), ElementsAre(0, 0.25, 0.5));
  constexpr int kCount = 40'001;
  const std::vector<double> times = ArrivalTimes(kCount, 10, Arrivals::kPoisson, 20261128);
  EXPECT_EQ(times, ArrivalTimes(kCount, 10, Arrivals::kPoisson, 20261128));
  EXPECT_NE(times, ArrivalTimes(kCount, 10, Arrivals::kPoisson, 1));
  // Exponential gaps: mean and standard deviation are 1 / rate. Of n = 40,000 gaps the mean's own deviation is
  // 0.1 / 200, that of the mean square is sqrt(20) 0.01 / 200 (E x^4 = 24 / rate^4): five of them are allowed.
  double squares = 0;
  for (int i = 1; i < kCount; ++i) {
    ASSERT_GE(times[i], times[i - 1]);
    squares += (times[i] - times[i - 1]) * (times[i] - times[i - 1]);
  }
  EXPECT_NEAR(times.back() / (kCount - 1), 0.1, 5 * 0.1 / 200);
  EXPECT_NEAR(squares / (kCount - 1), 0.02, 5 * std::sqrt(20.0) * 0.01 / 200);
}

TEST(ParseBaseUrl, HostPortAndPrefix) {
  const auto parsed = [](const char* url) {
    const auto target = ParseBaseUrl(url);
    EXPECT_TRUE(target.ok()) << target.status();
    return std::vector<std::string>{target->host, target->port, target->prefix};
  };
  EXPECT_THAT(parsed("http://a.b:81/v1"), ElementsAre("a.b", "81", ""));
  EXPECT_THAT(parsed("http://a"), ElementsAre("a", "80", ""));
  EXPECT_THAT(parsed("http://[::1]:8000/openai/v1/"), ElementsAre("::1", "8000", "/openai"));
  for (const char* bad : {"", "https://a", "a:1", "http://", "http://:1", "http://[::1", "http://a:0", "http://a:x",
                          "http://u@a", "http://a/v1?x=1", "http://a b"}) {
    EXPECT_ERROR(ParseBaseUrl(bad), absl::StatusCode::kInvalidArgument, "http://HOST:PORT");
  }
}

TEST(Resolve, OncePerLoadAndNotForEver) {
  if (SilentServerAnswers().HasBeenNotified()) GTEST_SKIP() << "the silent server is silent once";
  const int lookups_before = num_lookups;
  ServeTarget silent{.host = "silent.invalid"};
  EXPECT_ERROR(Resolve(silent, absl::Milliseconds(10)), absl::StatusCode::kDeadlineExceeded,
               "looking up silent.invalid port 8000: no answer within 10ms");
  SilentServerAnswers().Notify();
  EXPECT_ERROR(Resolve({.host = "unknown.invalid"}, absl::Minutes(2)), absl::StatusCode::kUnavailable,
               "looking up unknown.invalid port 8000: ");
  // Nobody listens on port 1: all requests fail, after looking for the server in vain but not for its address.
  const auto target = Resolve({.host = "127.0.0.1", .port = "1"}, absl::Minutes(2));
  ASSERT_OK(target);
  EXPECT_FALSE(target->endpoints.empty());
  EXPECT_EQ(num_lookups, lookups_before + 1);
  ServeLoadOptions options{.model = "m"};
  const ServeLoadResult load = RunLoad(*target, options, std::vector<BenchPrompt>(3, BenchPrompt{"a", 1, 1}));
  ASSERT_EQ(load.outcomes.size(), 3u);
  for (const RequestOutcome& outcome : load.outcomes) {
    EXPECT_ERROR(outcome.status, absl::StatusCode::kUnavailable, "connecting to 127.0.0.1 port 1: ");
  }
  EXPECT_EQ(num_lookups, lookups_before + 1);
}

std::string Token(const std::string& text) {
  return "data: {\"choices\": [{\"text\": \"" + text + "\", \"finish_reason\": null}]}\n\n";
}

TEST(AnswerReader, TimesAreThoseOfEventsWithTokens) {
  constexpr int64_t kSecond = 1'000'000'000, kSent = 7 * kSecond;
  AnswerReader reader(ServeApi::kCompletions, kSent);
  const std::string second = Token(" two");
  ASSERT_OK(reader.OnPiece(": a comment\n\n", kSent + kSecond / 4));
  ASSERT_OK(reader.OnPiece(Token("one"), kSent + kSecond / 2));
  ASSERT_OK(reader.OnPiece(second.substr(0, 9), kSent + kSecond));  // a token is there when all of its event is
  ASSERT_OK(reader.OnPiece(second.substr(9), kSent + 2 * kSecond));
  ASSERT_OK(reader.OnPiece(Token(" three") + Token(" four"), kSent + 4 * kSecond));
  ASSERT_OK(reader.OnPiece("data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 7, \"completion_tokens\": 6}}\n\n",
                           kSent + 8 * kSecond));
  ASSERT_OK(reader.OnPiece("data: [DONE]\n\n", kSent + 9 * kSecond));
  ASSERT_OK(reader.Finish());
  const RequestOutcome& outcome = reader.outcome();
  EXPECT_EQ(outcome.ttft_seconds, 0.5);
  EXPECT_THAT(outcome.itl_seconds, ElementsAre(1.5, 2, 0));
  EXPECT_EQ(outcome.latency_seconds, 4);
  EXPECT_EQ(outcome.text, "one two three four");
  EXPECT_EQ(outcome.output_tokens, 6);
  // (latency - ttft) / (output tokens - 1), by the server's count of tokens.
  ServeLoadResult load;
  load.outcomes = {outcome};
  load.duration_seconds = 10;
  const ServeReport report = MakeReport(load, {}, {});
  EXPECT_THAT(report.latencies[1], (std::pair<std::string, std::vector<double>>("tpot", {0.7})));
}

// numpy.percentile's values for this list.
TEST(SummarizeLatency, IsNumpys) {
  const LatencySummary s = SummarizeLatency({0.004, 0.001, 0.010, 0.002}, {25, 50, 99});
  EXPECT_DOUBLE_EQ(s.mean, 4.25);
  EXPECT_DOUBLE_EQ(s.median, 3);
  EXPECT_DOUBLE_EQ(s.std, std::sqrt(12.1875));
  ASSERT_EQ(s.percentiles.size(), 3u);
  EXPECT_DOUBLE_EQ(s.percentiles[0].second, 1.75);
  EXPECT_DOUBLE_EQ(s.percentiles[1].second, 3);
  EXPECT_DOUBLE_EQ(s.percentiles[2].second, 9.82);
  EXPECT_EQ(SummarizeLatency({}, {50}).percentiles[0].second, 0);
}

RequestOutcome Outcome(double start, double ttft, std::vector<double> itl, int64_t output_tokens) {
  RequestOutcome o{.start_seconds = start, .ttft_seconds = ttft, .itl_seconds = std::move(itl), .input_tokens = 10};
  o.latency_seconds = std::accumulate(o.itl_seconds.begin(), o.itl_seconds.end(), ttft);
  o.output_tokens = output_tokens;
  return o;
}

TEST(ServeReport, CountsWhatIsCompletedAndGood) {
  ServeLoadResult load;
  load.duration_seconds = 4;
  load.most_concurrent = 2;
  load.outcomes = {Outcome(0, 0.5, {0.25, 0.25}, 5), Outcome(0.75, 0.5, {}, 1), Outcome(0, 0.1, {0.1}, 2),
                   Outcome(1, 0.5, {}, 1)};
  load.outcomes[2].status = absl::DataLossError("cut");
  load.outcomes[3].status = absl::DataLossError("cut");
  const auto goodput = ParseGoodput({"ttft:600", "tpot:124"});
  ASSERT_OK(goodput);
  const ServeReport report = MakeReport(load, *goodput, {99});
  EXPECT_EQ(report.completed, 2);
  EXPECT_EQ(report.failed, 2);
  EXPECT_EQ(report.total_input_tokens, 20);
  EXPECT_EQ(report.total_output_tokens, 6);
  EXPECT_DOUBLE_EQ(report.request_throughput, 0.5);
  EXPECT_DOUBLE_EQ(report.output_throughput, 1.5);
  EXPECT_DOUBLE_EQ(report.total_token_throughput, 6.5);
  // The first has 0.5 s for the four tokens after its first: 125 ms each.
  EXPECT_DOUBLE_EQ(*report.request_goodput, 0.25);
  // Events at 0.5, 0.75, 1.0 and 1.25 s.
  EXPECT_DOUBLE_EQ(report.max_output_tokens_per_s, 2);
  EXPECT_THAT(report.errors, ElementsAre(std::pair<std::string, int>("cut", 2)));
  EXPECT_THAT(report.latencies[1], (std::pair<std::string, std::vector<double>>("tpot", {0.125})));
  EXPECT_FALSE(MakeReport(load, {}, {}).request_goodput.has_value());
  for (const char* bad : {"ttft", "ttft:0", "itl:5", "ttft:x", "ttft:inf", "ttft:1:2"}) {
    EXPECT_ERROR(ParseGoodput({bad}), absl::StatusCode::kInvalidArgument, bad);
  }
}

}  // namespace
}  // namespace tokenferry
