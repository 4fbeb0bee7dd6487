// What the front is started with: the flags of `tokenferry serve` that concern it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "runtime/serve/api/api_limits.h"
#include "runtime/serve/api/served_model.h"
#include "runtime/serve/http/http.h"

namespace tokenferry {

enum class MetricsCompat : uint8_t { kNone, kVllm };  // whose names /metrics has besides its own

struct FrontOptions {
  ServedModelOptions model;
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: any that is free
  std::string api_key_file;
  bool insecure = false;  // beyond this host without keys
  std::string version;    // of the program, for /version
  MetricsCompat metrics_compat = MetricsCompat::kNone;
  std::vector<std::string> allowed_hosts;
  HttpLimits http;
  ApiLimits api;
  absl::Duration drain_timeout = absl::Seconds(30);
  // Every rank answers at least once a second; after so long without a sign /health says that one does not.
  absl::Duration health_timeout = absl::Seconds(10);
};

}  // namespace tokenferry
