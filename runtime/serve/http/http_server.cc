#include "runtime/serve/http/http_server.h"

#include <fcntl.h>

#include <boost/asio/ip/address.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/http/http_connection.h"
#include "runtime/serve/http/http_error.h"

namespace tokenferry {
namespace {

using boost::asio::ip::tcp;
using ErrorCode = boost::system::error_code;

// After an accept that failed: usually all file descriptors are taken.
constexpr auto kAcceptPause = std::chrono::milliseconds(100);
// Connections beyond the limit that are told so; the next ones are closed without a word.
constexpr int kMaxTurnedAway = 256;

}  // namespace

HttpServer::HttpServer(boost::asio::io_context& io, const HttpLimits& limits, HttpHandler handler)
    : limits_(limits), handler_(std::move(handler)), acceptor_(io), retry_(io) {}

HttpServer::~HttpServer() {
  for (const auto& connection : Open()) connection->Close();
}

absl::Status HttpServer::Listen(const std::string& host, int port) {
  ErrorCode error;
  const auto address = boost::asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat("--host '", host, "' is not an IP address or 'localhost'"));
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(port));
  acceptor_.open(endpoint.protocol(), error);
  if (!error) fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(tcp::acceptor::max_listen_connections, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", host, " port ", port, ": ", error.message(),
                                               "; choose others with --host and --port"));
  }
  Accept();
  return absl::OkStatus();
}

int HttpServer::port() const {
  ErrorCode ignored;
  return acceptor_.local_endpoint(ignored).port();
}

void HttpServer::Accept() {
  acceptor_.async_accept([this, here = std::weak_ptr(here_)](ErrorCode error, tcp::socket socket) {
    if (here.expired() || !acceptor_.is_open()) return;
    if (!error) {
      Admit(std::move(socket));
      return Accept();
    }
    retry_.expires_after(kAcceptPause);
    retry_.async_wait([this, here](ErrorCode stopped) {
      if (!here.expired() && !stopped && acceptor_.is_open()) Accept();
    });
  });
}

void HttpServer::Admit(tcp::socket socket) {
  fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
  const auto num_open = static_cast<int>(connections_.size());
  if (num_open >= limits_.max_connections + kMaxTurnedAway) {
    stats_.num_refused += 1;
    return;  // closes it
  }
  const auto connection = std::make_shared<HttpConnection>(std::move(socket), *this);
  connections_.insert(connection);
  stats_.num_connections = static_cast<int64_t>(connections_.size());
  if (num_open >= limits_.max_connections) {
    stats_.num_refused += 1;
    connection->Turn({503, "too_many_connections",
                      absl::StrCat("the server has ", limits_.max_connections, " connections (--max-connections)"),
                      ""});
    return;
  }
  stats_.num_accepted += 1;
  connection->Start();
}

void HttpServer::Forget(const std::shared_ptr<HttpConnection>& connection) {
  connections_.erase(connection);
  stats_.num_connections = static_cast<int64_t>(connections_.size());
}

void HttpServer::Drain() {
  ErrorCode ignored;
  acceptor_.close(ignored);
  retry_.cancel();
  for (const auto& connection : Open()) connection->Drain();
}

std::vector<std::shared_ptr<HttpConnection>> HttpServer::Open() const {
  return {connections_.begin(), connections_.end()};
}

}  // namespace tokenferry
