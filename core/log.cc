#include "core/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>

#include "absl/strings/str_replace.h"

namespace tokenferry {
namespace {

thread_local int log_rank = -1;

spdlog::logger& Logger() {
  static std::shared_ptr<spdlog::logger> logger = [] {
    auto l = std::make_shared<spdlog::logger>("tokenferry", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    l->set_pattern("%L %H:%M:%S.%e %v");
    l->flush_on(spdlog::level::debug);
    return l;
  }();
  return *logger;
}

void Write(spdlog::level::level_enum level, absl::string_view message) {
  if (!Logger().should_log(level)) return;
  // One line per message, whatever a file or a peer put into it.
  const std::string text = absl::StrReplaceAll(message, {{"\n", "\\n"}, {"\r", "\\r"}});
  if (log_rank < 0) {
    Logger().log(level, "{}", text);
  } else {
    Logger().log(level, "[rank {}] {}", log_rank, text);
  }
}

}  // namespace

void SetLogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      Logger().set_level(spdlog::level::debug);
      break;
    case LogLevel::kInfo:
      Logger().set_level(spdlog::level::info);
      break;
    case LogLevel::kWarning:
      Logger().set_level(spdlog::level::warn);
      break;
    case LogLevel::kError:
      Logger().set_level(spdlog::level::err);
      break;
    case LogLevel::kOff:
      Logger().set_level(spdlog::level::off);
      break;
  }
}

void SetLogRank(int rank) { log_rank = rank; }
int LogRank() { return log_rank; }

void LogDebug(absl::string_view message) { Write(spdlog::level::debug, message); }
void LogInfo(absl::string_view message) { Write(spdlog::level::info, message); }
void LogWarning(absl::string_view message) { Write(spdlog::level::warn, message); }
void LogError(absl::string_view message) { Write(spdlog::level::err, message); }

}  // namespace tokenferry
