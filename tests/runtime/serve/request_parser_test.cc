#include "runtime/serve/http/request_parser.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

using State = RequestParser::State;

// Feeds `bytes` in pieces; the parser's last state, and what is left.
State Feed(RequestParser& parser, absl::string_view bytes, size_t piece, std::string* rest) {
  rest->clear();
  State state = parser.state();
  while (!bytes.empty() && state != State::kDone && state != State::kRefused) {
    rest->append(bytes.data(), std::min(piece, bytes.size()));
    bytes.remove_prefix(std::min(piece, bytes.size()));
    state = parser.Parse(*rest);
  }
  rest->append(bytes.data(), bytes.size());
  return state;
}

TEST(RequestParserTest, ReadsBodiesOfBothFramings) {
  const std::string length = "POST /v1/x?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
  const std::string chunked =
      "POST /v1/x?q=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
  for (const std::string& bytes : {length, chunked}) {
    for (const size_t piece : {size_t{1}, size_t{3}, size_t{1000}}) {
      RequestParser parser(HttpLimits{});
      std::string rest;
      ASSERT_EQ(Feed(parser, bytes, piece, &rest), State::kDone) << parser.error().message;
      EXPECT_EQ(rest, "");
      bool keep_alive = false;
      const HttpRequest request = parser.Take(&keep_alive);
      EXPECT_EQ(request.method, "POST");
      EXPECT_EQ(request.path, "/v1/x");
      EXPECT_EQ(request.query, "q=1");
      EXPECT_EQ(request.Field("host"), "x");
      EXPECT_EQ(request.body, "hello");
      EXPECT_TRUE(keep_alive);
      EXPECT_EQ(parser.state(), State::kIdle);
    }
  }
}

TEST(RequestParserTest, LeavesTheNextRequest) {
  RequestParser parser(HttpLimits{});
  std::string input = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  bool keep_alive = false;
  ASSERT_EQ(parser.Parse(input), State::kDone);
  EXPECT_EQ(parser.Take(&keep_alive).path, "/a");
  EXPECT_TRUE(keep_alive);
  ASSERT_EQ(parser.Parse(input), State::kDone);
  EXPECT_EQ(parser.Take(&keep_alive).path, "/b");
  EXPECT_FALSE(keep_alive);
  EXPECT_EQ(parser.Parse(input), State::kIdle);
}

TEST(RequestParserTest, RefusesLargeBodiesBeforeTheyCome) {
  HttpLimits limits;
  limits.max_body_bytes = 10;
  RequestParser by_length(limits);
  std::string input = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n";
  EXPECT_EQ(by_length.Parse(input), State::kRefused);
  EXPECT_EQ(by_length.error().status, 413);
  RequestParser by_chunks(limits);
  std::string rest;
  EXPECT_EQ(
      Feed(by_chunks,
           "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n", 7,
           &rest),
      State::kRefused);
  EXPECT_EQ(by_chunks.error().status, 413);
  RequestParser just(limits);
  EXPECT_EQ(Feed(just, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789", 7, &rest), State::kDone);
}

TEST(RequestParserTest, RefusesStrangeChunks) {
  const std::string head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string extension = absl::StrCat("1;a=", std::string(60 << 10, 'x'), "\r\na\r\n0\r\n\r\n");
  for (const std::string& body :
       {extension, std::string("xyz\r\n"), std::string("1\nA\n0\n\n"), std::string("-1\r\na\r\n0\r\n\r\n"),
        std::string("ffffffffffffffffff\r\n"), std::string("0\r\nX-Trailer: 1\r\n\r\n"),
        absl::StrCat("0\r\nX: ", std::string(1000, 'a'))}) {
    for (const size_t piece : {size_t{1}, size_t{4096}, size_t{1 << 20}}) {
      RequestParser parser(HttpLimits{});
      std::string rest;
      EXPECT_EQ(Feed(parser, head + body, piece, &rest), State::kRefused) << body.substr(0, 40) << " by " << piece;
      EXPECT_EQ(parser.error().status, 400) << body.substr(0, 40);
    }
  }
}

TEST(RequestParserTest, ExpectationIsTakenOnce) {
  RequestParser parser(HttpLimits{});
  std::string input = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
  EXPECT_EQ(parser.Parse(input), State::kBody);
  EXPECT_TRUE(parser.TakeExpectation());
  EXPECT_FALSE(parser.TakeExpectation());
  input = "ab";
  EXPECT_EQ(parser.Parse(input), State::kDone);
}

}  // namespace
}  // namespace tokenferry
