// Logging to stderr, one line per message, prefixed with the level and the rank of the calling thread.
// Thread-safe. Never call on a hot path. Results for the user go to stdout and not through here.
#pragma once

#include "absl/strings/string_view.h"

namespace tokenferry {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// Messages below `level` are dropped. The default is kInfo.
void SetLogLevel(LogLevel level);

// The rank shown by messages of this thread (ranks may be threads of one process); -1 shows none.
// A thread pool hands its owner's rank to its workers.
void SetLogRank(int rank);
int LogRank();

void LogDebug(absl::string_view message);
void LogInfo(absl::string_view message);
void LogWarning(absl::string_view message);
void LogError(absl::string_view message);

}  // namespace tokenferry
