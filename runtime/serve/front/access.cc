#include "runtime/serve/front/access.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace tokenferry {
namespace {

constexpr size_t kMinKeyBytes = 8, kMaxKeyBytes = 512;

// "[::1]:8000" -> "[::1]", "localhost:8000" -> "localhost"
std::string WithoutPort(absl::string_view host) {
  const size_t bracket = host.rfind(']'), colon = host.rfind(':');
  if (colon != absl::string_view::npos && (bracket == absl::string_view::npos || colon > bracket)) {
    host = host.substr(0, colon);
  }
  return absl::AsciiStrToLower(std::string(host));
}

// 127.0.0.0/8 as four numbers: "127.evil.example" is a name.
bool IsLoopback(absl::string_view host) {
  if (host == "localhost" || host == "[::1]") return true;
  if (!absl::ConsumePrefix(&host, "127.")) return false;
  const auto is_address_char = [](char c) { return absl::ascii_isdigit(c) || c == '.'; };
  return !host.empty() && std::all_of(host.begin(), host.end(), is_address_char);
}

}  // namespace

bool EqualInConstantTime(absl::string_view secret, absl::string_view given) {
  unsigned difference = secret.size() == given.size() ? 0 : 1;
  for (size_t i = 0; i < secret.size(); ++i) {
    const auto other = static_cast<unsigned char>(given.empty() ? 0 : given[i % given.size()]);
    difference |= static_cast<unsigned char>(secret[i]) ^ other;
  }
  return difference == 0;
}

Access::Access(std::vector<std::string> keys, std::vector<std::string> allowed_hosts)
    : keys_(std::move(keys)), allowed_hosts_(std::move(allowed_hosts)) {
  for (std::string& host : allowed_hosts_) host = absl::AsciiStrToLower(host);
}

std::optional<HttpError> Access::CheckHost(const HttpRequest& request) const {
  const auto allowed = [this](absl::string_view host) {
    const std::string name = WithoutPort(host);
    return IsLoopback(name) || std::find(allowed_hosts_.begin(), allowed_hosts_.end(), name) != allowed_hosts_.end();
  };
  if (!allowed(request.Field("host"))) {
    return HttpError{403, "host_not_allowed",
                     "this Host is not one of this server's names: add it with --allowed-host, or use --api-key-file",
                     ""};
  }
  if (!request.HasField("origin")) return std::nullopt;
  absl::string_view origin = request.Field("origin");
  const bool web = absl::ConsumePrefix(&origin, "http://") || absl::ConsumePrefix(&origin, "https://");
  if (web && allowed(origin)) return std::nullopt;
  return HttpError{403, "origin_not_allowed",
                   "pages of this Origin may not use this server: add its host with --allowed-host", ""};
}

std::optional<HttpError> Access::Check(const HttpRequest& request, Needs needs, std::string* client) const {
  client->clear();
  if (keys_.empty()) return CheckHost(request);
  absl::string_view given = request.Field("x-api-key");
  absl::string_view bearer = request.Field("authorization");
  if (given.empty() && absl::StartsWithIgnoreCase(bearer, "bearer ")) {
    given = absl::StripAsciiWhitespace(bearer.substr(7));
  }
  // All keys are looked at, whichever fits.
  size_t found = keys_.size();
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (EqualInConstantTime(keys_[i], given)) found = i;
  }
  if (found < keys_.size()) *client = absl::StrCat("key ", found);
  if (found < keys_.size() || needs == Needs::kNothing) return std::nullopt;
  return HttpError{401, "invalid_api_key",
                   given.empty() ? "an API key is needed: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
                                 : "this API key is not known",
                   ""};
}

absl::StatusOr<std::vector<std::string>> ReadApiKeys(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("--api-key-file '", path, "' cannot be read"));
  std::vector<std::string> keys;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const absl::string_view key = absl::StripAsciiWhitespace(line);
    if (key.empty() || key[0] == '#') continue;
    if (key.size() < kMinKeyBytes || key.size() > kMaxKeyBytes ||
        !std::all_of(key.begin(), key.end(), absl::ascii_isgraph)) {
      return absl::InvalidArgumentError(absl::StrCat("--api-key-file '", path, "' line ", number, ": a key has ",
                                                     kMinKeyBytes, " to ", kMaxKeyBytes, " printable characters"));
    }
    keys.emplace_back(key);
  }
  if (keys.empty()) return absl::InvalidArgumentError(absl::StrCat("--api-key-file '", path, "' has no key"));
  return keys;
}

}  // namespace tokenferry
