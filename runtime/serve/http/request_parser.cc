#include "runtime/serve/http/request_parser.h"

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "runtime/serve/http/head_check.h"

namespace tokenferry {
namespace {

namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;

// Of a chunk's size line, with extensions; and of the trailer. Nobody needs either.
constexpr size_t kMaxFramingBytes = 256;

// `0 CR LF CR LF`: so many bytes Beast asserts to have when it comes back to a last chunk that is also the first.
constexpr size_t kLastChunkBytes = 5;

// Whether a line that has not ended may begin so. The parser itself waits for CR LF behind a bare LF.
bool IsBeginOfLine(absl::string_view text) {
  if (text.size() > kMaxFramingBytes) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n' && (i == 0 || text[i - 1] != '\r')) return false;
  }
  return true;
}

HttpError Malformed(absl::string_view what) {
  return {400, "malformed_request", absl::StrCat("malformed HTTP request: ", what), ""};
}

}  // namespace

struct RequestParser::Beast {
  Beast() { parser.on_chunk_header(on_chunk_header); }

  http::request_parser<http::string_body> parser;
  size_t num_fields = 0;
  // The parser keeps a reference.
  std::function<void(uint64_t, boost::beast::string_view, ErrorCode&)> on_chunk_header =
      [](uint64_t, boost::beast::string_view extensions, ErrorCode& error) {
        if (extensions.size() > kMaxFramingBytes) error = http::error::bad_chunk_extension;
      };
};

RequestParser::RequestParser(const HttpLimits& limits) : limits_(limits) {}
RequestParser::~RequestParser() = default;
RequestParser::RequestParser(RequestParser&&) noexcept = default;
RequestParser& RequestParser::operator=(RequestParser&&) noexcept = default;

RequestParser::State RequestParser::Refuse(HttpError error) {
  error_ = std::move(error);
  beast_.reset();
  return state_ = State::kRefused;
}

RequestParser::State RequestParser::Parse(std::string& input) {
  if (state_ == State::kIdle && !input.empty()) state_ = State::kHead;
  if (state_ == State::kHead) ParseHead(input);
  if (state_ == State::kBody) ParseBody(input);
  return state_;
}

RequestParser::State RequestParser::ParseHead(std::string& input) {
  const size_t end = input.find("\r\n\r\n");
  const absl::string_view head = absl::string_view(input).substr(0, end == std::string::npos ? end : end + 4);
  if (auto error = end == std::string::npos ? CheckPartialHead(head, limits_) : CheckHead(head, limits_)) {
    return Refuse(*std::move(error));
  }
  if (end == std::string::npos) return state_;
  beast_ = std::make_unique<Beast>();
  auto& parser = beast_->parser;
  parser.header_limit(static_cast<uint32_t>(limits_.max_header_bytes));
  parser.body_limit(static_cast<uint64_t>(limits_.max_body_bytes));
  ErrorCode error;
  const size_t used = parser.put(boost::asio::buffer(head.data(), head.size()), error);
  if (error == http::error::body_limit) {
    return Refuse(
        {413, "body_too_large",
         absl::StrCat("the request's body is larger than ", limits_.max_body_bytes, " bytes (--max-body-bytes)"), ""});
  }
  if (error || used != head.size() || !parser.is_header_done()) return Refuse(Malformed(error.message()));
  input.erase(0, used);
  parser.eager(true);
  expects_continue_ = parser.get().find(http::field::expect) != parser.get().end();
  beast_->num_fields = static_cast<size_t>(std::distance(parser.get().begin(), parser.get().end()));
  return state_ = parser.is_done() ? State::kDone : State::kBody;
}

RequestParser::State RequestParser::ParseBody(std::string& input) {
  auto& parser = beast_->parser;
  while (!input.empty() && !parser.is_done()) {
    if (parser.chunked() && input[0] == '0' && input.size() < kLastChunkBytes) break;  // more has to come
    ErrorCode error;
    const size_t used = parser.put(boost::asio::buffer(input), error);
    if (error == http::error::body_limit) {
      return Refuse(
          {413, "body_too_large",
           absl::StrCat("the request's body is larger than ", limits_.max_body_bytes, " bytes (--max-body-bytes)"),
           ""});
    }
    if (error && error != http::error::need_more) return Refuse(Malformed(error.message()));
    input.erase(0, used);
    if (used == 0 || error == http::error::need_more) {
      // What is left is an unfinished size line of a chunk, or trailer.
      if (parser.chunked() && !IsBeginOfLine(input)) return Refuse(Malformed("a chunk's head is too long or no line"));
      break;
    }
  }
  if (!parser.is_done()) return state_;
  if (static_cast<size_t>(std::distance(parser.get().begin(), parser.get().end())) != beast_->num_fields) {
    return Refuse(Malformed("fields behind a chunked body"));
  }
  return state_ = State::kDone;
}

bool RequestParser::TakeExpectation() { return state_ == State::kBody && std::exchange(expects_continue_, false); }

HttpRequest RequestParser::Take(bool* keep_alive) {
  auto& message = beast_->parser.get();
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  const size_t question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string::npos) request.query = target.substr(question + 1);
  for (const auto& field : message) {
    request.fields.emplace_back(absl::AsciiStrToLower(std::string(field.name_string())), std::string(field.value()));
  }
  request.minor_version = static_cast<int>(message.version() % 10);
  request.body = std::move(message.body());
  *keep_alive = message.keep_alive();
  beast_.reset();
  expects_continue_ = false;
  state_ = State::kIdle;
  return request;
}

}  // namespace tokenferry
