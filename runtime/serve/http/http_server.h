// The server: accepts connections, reads requests within limits, writes answers. One thread, that of the io_context.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/status.h"
#include "runtime/serve/http/http.h"

namespace tokenferry {

class HttpConnection;

struct HttpServerStats {
  int64_t num_connections = 0;  // now
  int64_t num_accepted = 0;     // connections
  int64_t num_refused = 0;      // connections, beyond the limit
  int64_t num_cut = 0;          // connections that have ended before their answer has: the client has gone or was cut
};

class HttpServer {
 public:
  // `handler` is called on the io_context's thread for every request that is well-formed and within `limits`; the
  // others are answered here. It must not throw.
  HttpServer(boost::asio::io_context& io, const HttpLimits& limits, HttpHandler handler);
  // Closes all connections: exchanges that outlive the server do nothing.
  ~HttpServer();

  // Binds and listens. `host`: an address or "localhost"; port 0: any. The error names host and port and what to do.
  absl::Status Listen(const std::string& host, int port);
  int port() const;  // the one that Listen has got

  // No new connections, and none is kept alive beyond its answer; those that are idle are closed.
  void Drain();
  bool idle() const { return connections_.empty(); }
  const HttpServerStats& stats() const { return stats_; }

 private:
  friend class HttpConnection;
  void Accept();
  void Admit(boost::asio::ip::tcp::socket socket);
  void Forget(const std::shared_ptr<HttpConnection>& connection);
  // A copy: connections that close leave the set.
  std::vector<std::shared_ptr<HttpConnection>> Open() const;

  const HttpLimits limits_;
  const HttpHandler handler_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer retry_;
  const std::shared_ptr<const bool> here_ = std::make_shared<bool>(true);  // handlers ask whether the server still is
  std::set<std::shared_ptr<HttpConnection>> connections_;
  HttpServerStats stats_;
};

}  // namespace tokenferry
