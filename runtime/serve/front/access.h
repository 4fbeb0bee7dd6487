// Who may ask: API keys, or, without any, only programs and pages of this host.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "runtime/serve/http/http.h"
#include "runtime/serve/http/http_error.h"

namespace tokenferry {

class Access {
 public:
  // `keys`: empty when nobody needs one. `allowed_hosts`: names that Host and Origin may have besides this host's own.
  Access(std::vector<std::string> keys, std::vector<std::string> allowed_hosts);

  enum class Needs : uint8_t { kNothing, kKey };

  // The error to answer with, or none. `client`: what its requests are counted under, the same for the same key.
  // Without keys a Host or Origin that is not this host's is refused with 403: a page of another site, whose name was
  // made to point here, must not be able to ask (DNS rebinding). With keys, 401 for a request that `needs` one and has
  // none of them as "Authorization: Bearer KEY" or "x-api-key: KEY".
  std::optional<HttpError> Check(const HttpRequest& request, Needs needs, std::string* client) const;

 private:
  std::optional<HttpError> CheckHost(const HttpRequest& request) const;

  std::vector<std::string> keys_, allowed_hosts_;
};

// The keys of a file: one per line, at least 8 characters; empty lines and those that begin with '#' are passed over.
// Errors name the file and the line, never a key.
absl::StatusOr<std::vector<std::string>> ReadApiKeys(const std::string& path);

// Whether two texts are the same, in a time that depends on the length of `secret` alone.
bool EqualInConstantTime(absl::string_view secret, absl::string_view given);

}  // namespace tokenferry
