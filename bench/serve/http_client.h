// HTTP/1.1 requests as coroutines on one thread: a connection each, bodies handed on as they come.
#pragma once

// clang-format off: Boost 1.74's awaitable.hpp uses std::exchange without including it.
#include <utility>
// clang-format on

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/status.h"

namespace tokenferry {

// Where an OpenAI endpoint is.
struct ServeTarget {
  std::string host = "127.0.0.1";  // a name or an address, IPv6 without brackets
  std::string port = "8000";
  std::string prefix;   // of paths: "" or "/openai"
  std::string api_key;  // empty: none
};

// Of "http://HOST[:PORT][/PREFIX][/v1]". InvalidArgument for anything else; TLS is not spoken.
absl::StatusOr<ServeTarget> ParseBaseUrl(absl::string_view url);

struct HttpCall {
  std::string method, path, body;  // the path without the target's prefix
};

struct HttpHead {
  int status = 0;
  std::string content_type;
};

// Sees a piece of the answer's body, as soon as it is there. An error ends the call, which returns it.
using BodySink = std::function<absl::Status(const HttpHead& head, absl::string_view piece)>;

// One request and its answer, to the end of the body. Unavailable when there is no connection or it ends early,
// DeadlineExceeded when all of it has taken longer than `timeout`. Called on the thread of the io_context; the
// arguments are the coroutine's own, but for what `sink` captures.
boost::asio::awaitable<absl::StatusOr<HttpHead>> Fetch(ServeTarget target, HttpCall call, absl::Duration timeout,
                                                       BodySink sink);

}  // namespace tokenferry
