#include "runtime/serve/http/http_server.h"

#include <gtest/gtest.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <optional>

namespace tokenferry {
namespace {

using boost::asio::ip::tcp;
using ErrorCode = boost::system::error_code;

// A server and a client on one thread. The handler keeps the exchange of the last request.
class HttpServerTest : public ::testing::Test {
 protected:
  void Listen(const HttpLimits& limits) {
    server_ = std::make_unique<HttpServer>(
        io_, limits, [this](HttpRequest, std::shared_ptr<HttpExchange> exchange) { exchange_ = std::move(exchange); });
    ASSERT_TRUE(server_->Listen("127.0.0.1", 0).ok());
  }
  // A request is on its way to the handler, which gets it.
  void Ask() {
    client_.connect({boost::asio::ip::make_address("127.0.0.1"), static_cast<uint16_t>(server_->port())});
    boost::asio::write(client_, boost::asio::buffer("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 35));
    RunUntil([this] { return exchange_ != nullptr; });
  }
  // The stream of an answer, of which 1,024 bytes may stay unread.
  void StartStream() {
    HttpLimits limits;
    limits.max_unread_bytes = 1024;
    Listen(limits);
    Ask();
    exchange_->OnGone([this] { gone_ = true; });
    exchange_->StartStream({});
  }
  template <class Condition>
  void RunUntil(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);  // far more than it takes
    while (!condition()) {
      io_.run_one_until(end);
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "what is awaited does not happen";
    }
  }

  boost::asio::io_context io_;
  std::unique_ptr<HttpServer> server_;
  std::shared_ptr<HttpExchange> exchange_;
  bool gone_ = false;  // the client of StartStream
  tcp::socket client_{io_};
};

TEST_F(HttpServerTest, AClientThatHasGoneIsToldToWhoAsksLate) {
  Listen({});
  Ask();
  client_.close();
  RunUntil([this] { return server_->idle(); });
  EXPECT_EQ(server_->stats().num_cut, 1);
  bool gone = false;
  exchange_->OnGone([&gone] { gone = true; });
  EXPECT_FALSE(gone);  // it comes from the loop
  RunUntil([&gone] { return gone; });
}

TEST_F(HttpServerTest, OneEventMayBeLargerThanWhatMayStayUnread) {
  StartStream();
  RunUntil([this] { return client_.available() > 0; });  // the head has been written
  const std::string event(size_t{8} << 20, 'x');
  exchange_->Write(event);
  exchange_->EndStream();
  std::string got;
  std::optional<ErrorCode> read;
  boost::asio::async_read_until(client_, boost::asio::dynamic_buffer(got), "\r\n0\r\n\r\n",
                                [&read](ErrorCode error, size_t) { read = error; });
  RunUntil([&read] { return read.has_value(); });
  ASSERT_TRUE(read);
  EXPECT_FALSE(*read) << read->message();
  EXPECT_FALSE(gone_);
  EXPECT_GT(got.size(), event.size());
}

TEST_F(HttpServerTest, AClientThatDoesNotReadIsCut) {
  StartStream();
  for (int i = 0; !gone_ && i < 100; ++i) {  // more than the system's buffers take
    exchange_->Write(std::string(size_t{1} << 20, 'x'));
    io_.poll();
  }
  EXPECT_TRUE(gone_);
}

TEST_F(HttpServerTest, AnExchangeThatOutlivesItsServerDoesNothing) {
  Listen({});
  Ask();
  bool gone = false;
  exchange_->OnGone([&gone] { gone = true; });
  server_.reset();
  EXPECT_TRUE(gone);
  exchange_->Respond({});
  exchange_.reset();
  io_.poll();
}

}  // namespace
}  // namespace tokenferry
