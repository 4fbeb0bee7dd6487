// HTTP/1.1 requests, many at a time on one thread: a connection each, bodies handed on as they come.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
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

// A target whose host has been looked up.
struct ResolvedTarget {
  ServeTarget target;
  boost::asio::ip::tcp::resolver::results_type endpoints;  // never empty; tried in this order
};

// Blocks until the host has been looked up, `timeout` at most. Unavailable when nobody knows it, DeadlineExceeded when
// nobody answers in time: the lookup then goes on in a thread of its own, since the system's cannot be interrupted.
absl::StatusOr<ResolvedTarget> Resolve(const ServeTarget& target, absl::Duration timeout);

struct HttpCall {
  std::string method, path, body;  // the path without the target's prefix
};

struct HttpHead {
  int status = 0;
  std::string content_type;
};

// Sees a piece of the answer's body, as soon as it is there. An error ends the call, which returns it.
using BodySink = std::function<absl::Status(const HttpHead& head, absl::string_view piece)>;

// Called once, when all of the answer's body has been handed on, or with the error that has ended the call.
using FetchDone = std::function<void(const absl::StatusOr<HttpHead>& head)>;

// Starts one request; `sink` and `done` are called on the thread that runs `io`. Unavailable when there is no
// connection or it ends early, DeadlineExceeded when all of it has taken longer than `timeout`.
void Fetch(boost::asio::io_context& io, const ResolvedTarget& target, HttpCall call, absl::Duration timeout,
           BodySink sink, FetchDone done);

}  // namespace tokenferry
