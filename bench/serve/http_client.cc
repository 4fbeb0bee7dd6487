#include "bench/serve/http_client.h"

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <limits>
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

absl::Status ToStatus(absl::string_view what, const ServeTarget& target, const ErrorCode& error) {
  const std::string text = absl::StrCat(what, " ", target.host, " port ", target.port, ": ", error.message());
  if (error == beast::error::timeout) return absl::DeadlineExceededError(text);
  return absl::UnavailableError(text);
}

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

asio::awaitable<absl::StatusOr<HttpHead>> Fetch(ServeTarget target, HttpCall call, absl::Duration timeout,
                                                BodySink sink) {
  const auto executor = co_await asio::this_coro::executor;
  ErrorCode error;
  const auto token = [&error] { return asio::redirect_error(asio::use_awaitable, error); };
  asio::ip::tcp::resolver resolver(executor);
  const auto endpoints = co_await resolver.async_resolve(target.host, target.port, token());
  if (error) co_return ToStatus("looking up", target, error);
  beast::tcp_stream stream(executor);
  stream.expires_after(absl::ToChronoNanoseconds(timeout));
  co_await stream.async_connect(endpoints, token());
  if (error) co_return ToStatus("connecting to", target, error);
  stream.socket().set_option(asio::ip::tcp::no_delay(true), error);
  const auto request = MakeRequest(target, std::move(call));
  co_await http::async_write(stream, request, token());
  if (error) co_return ToStatus("sending to", target, error);
  beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(std::numeric_limits<uint64_t>::max());  // Beast 1.74 takes boost::none for no body at all
  co_await http::async_read_header(stream, buffer, parser, token());
  if (error) co_return ToStatus("awaiting an answer of", target, error);
  const auto type = parser.get()[http::field::content_type];
  const HttpHead head{static_cast<int>(parser.get().result_int()), std::string(type.data(), type.size())};
  std::array<char, 16384> piece;
  while (!parser.is_done()) {
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    co_await http::async_read_some(stream, buffer, parser, token());
    if (error == http::error::need_buffer) error = {};
    if (error) co_return ToStatus("reading an answer of", target, error);
    const absl::string_view got(piece.data(), piece.size() - parser.get().body().size);
    if (got.empty()) continue;
    if (const absl::Status seen = sink(head, got); !seen.ok()) co_return seen;
  }
  co_return head;
}

}  // namespace tokenferry
