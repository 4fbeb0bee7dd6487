// From the bytes of a connection to whole requests.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "runtime/serve/http/http.h"
#include "runtime/serve/http/http_error.h"

namespace tokenferry {

// One request after the other. Boost.Beast parses; what it lets pass and must not is refused before (head_check.h) or
// counted here: chunk extensions and trailers are as good as none.
class RequestParser {
 public:
  explicit RequestParser(const HttpLimits& limits);
  ~RequestParser();
  RequestParser(RequestParser&&) noexcept;
  RequestParser& operator=(RequestParser&&) noexcept;

  enum class State : uint8_t {
    kIdle,     // nothing of a request has come
    kHead,     // a part of its head
    kBody,     // its head, and a part of its body
    kDone,     // Take it
    kRefused,  // error(); the connection is of no use any more
  };

  // Takes from the front of `input` what it can use.
  State Parse(std::string& input);
  State state() const { return state_; }

  // kRefused: what to answer.
  const HttpError& error() const { return error_; }
  // kBody: whether the client waits for "100 Continue" before it sends the body. Once per request.
  bool TakeExpectation();
  // kDone: the request; the parser starts anew. `keep_alive`: whether the connection may be used again.
  HttpRequest Take(bool* keep_alive);

 private:
  State Refuse(HttpError error);
  State ParseHead(std::string& input);
  State ParseBody(std::string& input);

  struct Beast;
  HttpLimits limits_;
  std::unique_ptr<Beast> beast_;
  State state_ = State::kIdle;
  HttpError error_;
  bool expects_continue_ = false;
};

}  // namespace tokenferry
