#include "runtime/serve/http/head_check.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

int StatusOf(absl::string_view head, const HttpLimits& limits = {}) {
  const auto error = CheckHead(head, limits);
  return error ? error->status : 200;
}

std::string Get(absl::string_view fields) { return absl::StrCat("GET / HTTP/1.1\r\nHost: x\r\n", fields, "\r\n"); }

TEST(HeadCheckTest, TakesWhatClientsSend) {
  EXPECT_EQ(StatusOf(Get("")), 200);
  EXPECT_EQ(StatusOf(Get("Accept: */*\r\nX-Empty:\r\nX-Text: a, \"b\"; c=d\r\n")), 200);
  EXPECT_EQ(StatusOf(Get("X-Text: gr\xc3\xbc\xc3\x9f\r\n")), 200);
  EXPECT_EQ(StatusOf("POST /v1/x?a=b HTTP/1.1\r\nhost: x:8000\r\nContent-Length: 12\r\n\r\n"), 200);
  EXPECT_EQ(StatusOf("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"), 200);
  EXPECT_EQ(StatusOf("GET / HTTP/1.0\r\nHost: x\r\n\r\n"), 200);
  EXPECT_EQ(StatusOf(Get("Expect: 100-continue\r\n")), 200);
}

TEST(HeadCheckTest, RefusesWhatTwoReadersCouldReadDifferently) {
  // Framing.
  EXPECT_EQ(StatusOf(Get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Content-Length: 1\r\nContent-Length: 1\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Content-Length: 1\r\ncontent-length: 2\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Content-Length: +1\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Content-Length: 1, 1\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Content-Length: 0x10\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Content-Length:\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Content-Length: 9999999999999999\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Transfer-Encoding: gzip, chunked\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Transfer-Encoding: chunked, identity\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Transfer-Encoding: identity\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Transfer-Encoding: xchunked\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")), 400);
  EXPECT_EQ(StatusOf("POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
  // Hosts.
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(Get("Host: y\r\n")), 400);
  // Lines and fields.
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\nHost: x\n\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(Get("X: a\rb\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("X: a\r\n b\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("X: a\r\n\tb\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("X : a\r\n")), 400);
  EXPECT_EQ(StatusOf(Get(": a\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("no colon\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("X(y): a\r\n")), 400);
  EXPECT_EQ(StatusOf(Get(absl::string_view("X: a\0b\r\n", 8))), 400);
  EXPECT_EQ(StatusOf(Get("X: \x01\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("X: \xff\xfe\r\n")), 400);
  EXPECT_EQ(StatusOf(Get("X: \xc3\r\n")), 400);
  // Request lines.
  EXPECT_EQ(StatusOf("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET  / HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET / HTTP/1.11\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("G(T / HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET /\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET /\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(Get("Expect: 200-ok\r\n")), 417);
}

TEST(HeadCheckTest, CountsFieldsAndBytes) {
  HttpLimits limits;
  limits.max_header_fields = 3;
  EXPECT_EQ(StatusOf(Get("A: 1\r\nB: 2\r\n"), limits), 200);
  EXPECT_EQ(StatusOf(Get("A: 1\r\nB: 2\r\nC: 3\r\n"), limits), 431);
  limits = {};
  const std::string head = Get(absl::StrCat("A: ", std::string(100, 'a'), "\r\n"));
  limits.max_header_bytes = static_cast<int64_t>(head.size());
  EXPECT_EQ(StatusOf(head, limits), 200);
  limits.max_header_bytes -= 1;
  EXPECT_EQ(StatusOf(head, limits), 431);
}

TEST(HeadCheckTest, DoesNotWaitForTheEndOfWhatIsWrongAlready) {
  EXPECT_FALSE(CheckPartialHead("GET / HT", {}));
  EXPECT_FALSE(CheckPartialHead("GET / HTTP/1.1\r", {}));
  EXPECT_EQ(CheckPartialHead("GET / HTTP/1.1\nHost", {})->status, 400);
  EXPECT_EQ(CheckPartialHead(std::string(20000, 'a'), {})->status, 431);
}

}  // namespace
}  // namespace tokenferry
