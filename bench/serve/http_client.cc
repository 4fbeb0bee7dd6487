#include "bench/serve/http_client.h"

#include <array>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <future>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace tokenferry {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using ErrorCode = boost::system::error_code;

http::request<http::string_body> MakeRequest(const ServeTarget& target, HttpCall call) {
  http::request<http::string_body> request(http::string_to_verb(call.method), target.prefix + call.path, 11);
  const bool is_ipv6 = target.host.find(':') != std::string::npos;
  request.set(http::field::host, absl::StrCat(is_ipv6 ? "[" : "", target.host, is_ipv6 ? "]:" : ":", target.port));
  request.set(http::field::connection, "close");
  request.set(http::field::accept, "text/event-stream, application/json");
  if (!target.api_key.empty()) request.set(http::field::authorization, absl::StrCat("Bearer ", target.api_key));
  if (!call.body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = std::move(call.body);
  request.prepare_payload();
  return request;
}

std::string HostAndPort(const ServeTarget& target) { return absl::StrCat(target.host, " port ", target.port); }

// A lookup under way, which may outlive who waits for it.
struct Lookup {
  ServeTarget target;
  std::promise<void> done;
  // Set when done.
  ErrorCode error;
  asio::ip::tcp::resolver::results_type endpoints;

  void Run() {
    asio::io_context io;
    endpoints = asio::ip::tcp::resolver(io).resolve(target.host, target.port, error);
    done.set_value();
  }
};

// A call under way. It is held by the handler of the operation that it waits for, and ends with the last one.
class Call : public std::enable_shared_from_this<Call> {
 public:
  Call(asio::io_context& io, const ResolvedTarget& target, HttpCall call, BodySink sink, FetchDone done)
      : target_(target),
        request_(MakeRequest(target.target, std::move(call))),
        sink_(std::move(sink)),
        done_(std::move(done)),
        stream_(io) {
    parser_.body_limit(std::numeric_limits<uint64_t>::max());  // Beast 1.74 takes boost::none for no body at all
  }

  void Start(absl::Duration timeout) {
    stream_.expires_after(absl::ToChronoNanoseconds(timeout));
    stream_.async_connect(target_.endpoints, [self = shared_from_this()](ErrorCode error, const auto&) {
      if (error) return self->Fail("connecting to", error);
      self->Send();
    });
  }

 private:
  void Send() {
    ErrorCode ignored;
    stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    http::async_write(stream_, request_, [self = shared_from_this()](ErrorCode error, size_t) {
      if (error) return self->Fail("sending to", error);
      self->ReadHead();
    });
  }

  void ReadHead() {
    http::async_read_header(stream_, buffer_, parser_, [self = shared_from_this()](ErrorCode error, size_t) {
      if (error) return self->Fail("awaiting an answer of", error);
      const auto type = self->parser_.get()[http::field::content_type];
      self->head_ = {static_cast<int>(self->parser_.get().result_int()), std::string(type.data(), type.size())};
      self->ReadBody();
    });
  }

  void ReadBody() {
    if (parser_.is_done()) return done_(head_);
    parser_.get().body().data = piece_.data();
    parser_.get().body().size = piece_.size();
    http::async_read_some(stream_, buffer_, parser_, [self = shared_from_this()](ErrorCode error, size_t) {
      if (error && error != http::error::need_buffer) return self->Fail("reading an answer of", error);
      self->TakePiece();
    });
  }

  void TakePiece() {
    const absl::string_view piece(piece_.data(), piece_.size() - parser_.get().body().size);
    if (!piece.empty()) {
      if (const absl::Status seen = sink_(head_, piece); !seen.ok()) return done_(seen);
    }
    ReadBody();
  }

  void Fail(absl::string_view what, const ErrorCode& error) {
    const std::string text = absl::StrCat(what, " ", HostAndPort(target_.target), ": ", error.message());
    done_(error == beast::error::timeout ? absl::DeadlineExceededError(text) : absl::UnavailableError(text));
  }

  const ResolvedTarget target_;
  const http::request<http::string_body> request_;
  const BodySink sink_;
  const FetchDone done_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  http::response_parser<http::buffer_body> parser_;
  HttpHead head_;
  std::array<char, 16384> piece_;
};

}  // namespace

absl::StatusOr<ServeTarget> ParseBaseUrl(absl::string_view url) {
  const auto refuse = [url](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("'", url, "' ", why, "; give http://HOST:PORT"));
  };
  absl::string_view rest = url;
  if (absl::StartsWith(rest, "https:")) return refuse("is encrypted, which this client does not speak");
  if (!absl::ConsumePrefix(&rest, "http://")) return refuse("does not begin with http://");
  ServeTarget target;
  target.port = "80";
  const size_t slash = std::min(rest.find('/'), rest.size());
  absl::string_view authority = rest.substr(0, slash), path = rest.substr(slash);
  while (absl::ConsumeSuffix(&path, "/")) {
  }
  absl::ConsumeSuffix(&path, "/v1");
  target.prefix = std::string(path);
  absl::string_view port;
  if (absl::ConsumePrefix(&authority, "[")) {
    const size_t end = authority.find(']');
    if (end == authority.npos) return refuse("has no ']'");
    target.host = std::string(authority.substr(0, end));
    port = authority.substr(end + 1);
  } else {
    const size_t colon = std::min(authority.find(':'), authority.size());
    target.host = std::string(authority.substr(0, colon));
    port = authority.substr(colon);
  }
  if (!port.empty()) {
    int number = 0;
    if (!absl::ConsumePrefix(&port, ":") || !absl::SimpleAtoi(port, &number) || number < 1 || number > 65535) {
      return refuse("has no port from 1 to 65535");
    }
    target.port = absl::StrCat(number);
  }
  if (target.host.empty()) return refuse("has no host");
  for (const char c : absl::StrCat(target.host, target.prefix)) {
    if (!absl::ascii_isgraph(c) || c == '@' || c == '?' || c == '#') return refuse("has characters that mean more");
  }
  return target;
}

absl::StatusOr<ResolvedTarget> Resolve(const ServeTarget& target, absl::Duration timeout) {
  const auto lookup = std::make_shared<Lookup>(Lookup{.target = target});
  std::future<void> done = lookup->done.get_future();
  std::thread([lookup] { lookup->Run(); }).detach();
  const std::string what = absl::StrCat("looking up ", HostAndPort(target), ": ");
  if (done.wait_for(absl::ToChronoNanoseconds(timeout)) != std::future_status::ready) {
    return absl::DeadlineExceededError(absl::StrCat(what, "no answer within ", absl::FormatDuration(timeout),
                                                    "; give an address, or see to the names"));
  }
  if (lookup->error) return absl::UnavailableError(absl::StrCat(what, lookup->error.message()));
  return ResolvedTarget{target, lookup->endpoints};
}

void Fetch(asio::io_context& io, const ResolvedTarget& target, HttpCall call, absl::Duration timeout, BodySink sink,
           FetchDone done) {
  std::make_shared<Call>(io, target, std::move(call), std::move(sink), std::move(done))->Start(timeout);
}

}  // namespace tokenferry
