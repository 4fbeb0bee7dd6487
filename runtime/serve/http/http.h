// HTTP/1.1 as the API sees it: whole requests, and answers that are whole or a stream. No socket in sight; the server
// that moves the bytes is http_server.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace tokenferry {

// What a client may take of the server. Each is a flag of `tokenferry serve`.
struct HttpLimits {
  int64_t max_header_bytes = 16 << 10;                // request line and fields; beyond: 431
  int max_header_fields = 100;                        // beyond: 431
  absl::Duration header_timeout = absl::Seconds(10);  // from the first byte of a request to the last of its head: 408
  int64_t max_body_bytes = 8 << 20;                   // beyond: 413
  absl::Duration body_timeout = absl::Seconds(30);    // 408
  int max_connections = 4096;                         // the next one gets a 503 and is closed
  int64_t max_unread_bytes = 1 << 20;                 // of a stream that the client does not read: cut by what follows
  absl::Duration write_timeout = absl::Seconds(30);   // nothing of an answer is taken for so long: cut
  absl::Duration idle_timeout = absl::Seconds(60);    // between requests of a connection: closed
};

using HttpFields = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // without the query
  std::string query;   // what follows '?'
  HttpFields fields;   // names in lower case, in the order in which they came
  std::string body;
  int minor_version = 1;  // of HTTP/1.x

  // The first field of that name (lower case), or empty.
  absl::string_view Field(absl::string_view name) const;
  bool HasField(absl::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  HttpFields fields;
  std::string body;
};

// The phrase of a status code.
absl::string_view HttpPhrase(int status);

// The answer to one request. Used on the server's thread alone. Either Respond, once; or StartStream, any number of
// Write, EndStream. Calls after the client has gone do nothing. An answer that is dropped without an end closes the
// connection.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual void Respond(HttpResponse response) = 0;
  // The body is what Write brings, until EndStream. `head.body` is written first.
  virtual void StartStream(HttpResponse head) = 0;
  virtual void Write(absl::string_view data) = 0;
  virtual void EndStream() = 0;
  // Called at most once, from the server's loop, when the client has gone or was cut before the answer's end; soon, if
  // that has happened already.
  virtual void OnGone(std::function<void()> gone) = 0;
};

using HttpHandler = std::function<void(HttpRequest request, std::shared_ptr<HttpExchange> exchange)>;

}  // namespace tokenferry
