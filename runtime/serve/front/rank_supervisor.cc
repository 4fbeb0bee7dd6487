#include "runtime/serve/front/rank_supervisor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/log.h"

namespace tokenferry {
namespace {

using ErrorCode = boost::system::error_code;

// Ranks that end by themselves say why on their way.
constexpr absl::Duration kEndsItself = absl::Milliseconds(200);
// Ranks that were drained leave together.
constexpr absl::Duration kLeavesInOrder = absl::Seconds(5);
// Ranks that were ready for less have failed to start: what ends them at once will end the next ones too.
constexpr absl::Duration kLasting = absl::Seconds(10);
constexpr int kMostFailures = 5;
constexpr absl::Duration kLongestPause = absl::Seconds(10);
constexpr absl::Duration kWatchPeriod = absl::Seconds(1);

// Before the next start after so many failures in a row: none, 1 s, 2 s, 4 s, ..
absl::Duration PauseAfter(int num_failures) {
  if (num_failures <= 1) return absl::ZeroDuration();
  return std::min(kLongestPause, absl::Seconds(1 << (num_failures - 2)));
}

}  // namespace

RankSupervisor::RankSupervisor(boost::asio::io_context& io, OwnedFd socket, Handlers handlers)
    : io_(io),
      handlers_(std::move(handlers)),
      client_(std::make_shared<EngineClient>(io, std::move(socket), ClientHandlers())),
      restart_timer_(io),
      watch_timer_(io) {}

RankSupervisor::RankSupervisor(boost::asio::io_context& io, RankJobOptions options, Handlers handlers)
    : io_(io),
      options_(std::move(options)),
      handlers_(std::move(handlers)),
      job_(std::make_unique<RankJob>(io, options_.command,
                                     RankJob::Handlers{[this](OwnedFd fd) { OnConnected(std::move(fd)); },
                                                       [this](const std::string& how) { OnJobEnded(how); }})),
      restart_timer_(io),
      watch_timer_(io) {}

EngineClient::Handlers RankSupervisor::ClientHandlers() {
  return {[this](Message message) { OnMessage(std::move(message)); },
          [this](const std::string& reason) { OnDisconnected(reason); }};
}

absl::Status RankSupervisor::Start() {
  if (job_ == nullptr) {
    client_->Start();
    client_->Send(Hello{});
    return absl::OkStatus();
  }
  Watch();
  return job_->Start();
}

void RankSupervisor::Send(const Message& message) {
  if (client_ != nullptr) client_->Send(message);
}

void RankSupervisor::SayGoodbye(const std::string& reason) {
  state_ = State::kEnded;
  restart_timer_.cancel();
  watch_timer_.cancel();
  if (client_ != nullptr) client_->SayGoodbye(reason);
  if (job_ != nullptr) job_->Stop(client_ != nullptr ? kLeavesInOrder : absl::ZeroDuration());
}

bool RankSupervisor::idle() const {
  return (client_ == nullptr || client_->idle()) && (job_ == nullptr || !job_->running());
}

void RankSupervisor::OnConnected(OwnedFd socket) {
  if (state_ != State::kStarting) return;
  silence_ = absl::ZeroDuration();
  client_ = std::make_shared<EngineClient>(io_, std::move(socket), ClientHandlers());
  client_->Start();
  client_->Send(Hello{});
}

void RankSupervisor::OnMessage(Message message) {
  silence_ = absl::ZeroDuration();
  if (std::holds_alternative<Ready>(message)) {
    state_ = State::kReady;
    since_ready_ = Stopwatch();
  }
  handlers_.on_message(std::move(message));
}

void RankSupervisor::OnDisconnected(const std::string& reason) {
  if (state_ == State::kLost || state_ == State::kEnded) return;
  if (client_ != nullptr) client_->Close();
  client_ = nullptr;
  const bool was_ready = std::exchange(state_, State::kLost) == State::kReady;
  silence_ = absl::ZeroDuration();
  if (job_ == nullptr || options_.restart == RestartPolicy::kNever) return End(reason);
  num_failures_ = was_ready && since_ready_.elapsed() >= kLasting ? 1 : num_failures_ + 1;
  // What has never been ready will not be the next time.
  if (!was_ready && (num_restarts_ == 0 || num_failures_ > kMostFailures)) return End(reason);
  LogError(absl::StrCat("serve: the ranks have ended (", reason, ") and are started again"));
  if (was_ready) handlers_.on_lost(reason);
  if (!job_->running()) return StartAgain();
  job_->Stop(kEndsItself);
}

void RankSupervisor::OnJobEnded(const std::string& how) {
  if (state_ == State::kLost) return StartAgain();
  // A connection that is still there has its end, and perhaps a reason, on its way.
  if (client_ == nullptr) OnDisconnected(how);
}

void RankSupervisor::StartAgain() {
  restart_timer_.expires_after(absl::ToChronoMilliseconds(PauseAfter(num_failures_)));
  restart_timer_.async_wait([this](ErrorCode error) {
    if (error || state_ != State::kLost) return;
    state_ = State::kStarting;
    num_restarts_ += 1;
    silence_ = absl::ZeroDuration();
    if (const absl::Status status = job_->Start(); !status.ok()) End(std::string(status.message()));
  });
}

void RankSupervisor::Watch() {
  watch_timer_.expires_after(absl::ToChronoMilliseconds(kWatchPeriod));
  watch_timer_.async_wait([this](ErrorCode error) {
    if (error || state_ == State::kEnded) return;
    silence_ += kWatchPeriod;
    if (state_ == State::kReady && silence_ > options_.most_silence) {
      OnDisconnected(absl::StrCat("no sign of them for ", absl::FormatDuration(silence_)));
    } else if (state_ == State::kStarting && silence_ > options_.most_silence_at_start) {
      OnDisconnected(absl::StrCat("no sign of them for ", absl::FormatDuration(silence_), " while they started, ",
                                  client_ == nullptr ? "not even a connection: does mpirun reach its hosts?"
                                                     : "the last one before they were ready"));
    } else if (state_ == State::kLost && job_->running() && silence_ > options_.most_silence) {
      End(absl::StrCat("they were lost, and their processes do not end for ", absl::FormatDuration(silence_)));
    }
    Watch();
  });
}

void RankSupervisor::End(const std::string& reason) {
  if (std::exchange(state_, State::kEnded) == State::kEnded) return;
  watch_timer_.cancel();
  if (job_ != nullptr) job_->Stop(kEndsItself);
  handlers_.on_end(reason);
}

}  // namespace tokenferry
