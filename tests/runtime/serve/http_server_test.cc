#include "runtime/serve/http/http_server.h"

#include <gtest/gtest.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>

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
  template <class Condition>
  void RunUntil(const Condition& condition) {
    while (!condition()) {
      ASSERT_GT(io_.run_one_for(std::chrono::seconds(20)), 0U) << "nothing happens any more";
    }
  }

  boost::asio::io_context io_;
  std::unique_ptr<HttpServer> server_;
  std::shared_ptr<HttpExchange> exchange_;
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
  HttpLimits limits;
  limits.max_unread_bytes = 1024;
  Listen(limits);
  Ask();
  bool gone = false;
  exchange_->OnGone([&gone] { gone = true; });
  exchange_->StartStream({});
  RunUntil([this] { return client_.available() > 0; });  // the head has been written
  const std::string event(size_t{8} << 20, 'x');
  exchange_->Write(event);
  exchange_->EndStream();
  std::string got;
  std::string chunk(size_t{1} << 16, 0);
  client_.non_blocking(true);
  while (!gone && got.find("\r\n0\r\n\r\n") == std::string::npos) {
    ErrorCode error;
    const size_t size = client_.read_some(boost::asio::buffer(chunk), error);
    got.append(chunk, 0, size);
    io_.poll();
  }
  EXPECT_FALSE(gone);
  EXPECT_GT(got.size(), event.size());
}

TEST_F(HttpServerTest, AClientThatDoesNotReadIsCut) {
  HttpLimits limits;
  limits.max_unread_bytes = 1024;
  Listen(limits);
  Ask();
  bool gone = false;
  exchange_->OnGone([&gone] { gone = true; });
  exchange_->StartStream({});
  for (int i = 0; !gone && i < 100; ++i) {  // more than the system's buffers take
    exchange_->Write(std::string(size_t{1} << 20, 'x'));
    io_.poll();
  }
  EXPECT_TRUE(gone);
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
