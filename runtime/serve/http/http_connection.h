// One connection of HttpServer: reads a request, hands it to the handler, writes its answer, and so on.
#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>

#include "runtime/serve/http/http_server.h"
#include "runtime/serve/http/request_parser.h"

namespace tokenferry {

// A read is pending all the time, also while an answer is written: that is how a client shows that it has gone.
class HttpConnection final : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(boost::asio::ip::tcp::socket socket, HttpServer& server);
  void Start();
  // Closes it now if it has no request, else after the answer.
  void Drain();
  // In place of Start: answers with the error, whatever is asked, and closes.
  void Turn(const HttpError& error);
  // Closes it at once; the exchange under way learns that its client has gone.
  void Close();

 private:
  friend class ConnectionExchange;
  using ErrorCode = boost::system::error_code;

  enum class Phase : uint8_t {
    kReading,    // a request, or nothing yet
    kAnswering,  // the handler has it
    kClosing,    // the last answer is being written, then what the client still sends is read and dropped
    kClosed,
  };
  enum class BodyFraming : uint8_t { kLength, kChunked, kUntilClose };

  void Read();
  void OnRead(ErrorCode error, size_t num_bytes);
  void Advance();
  void Hand();
  void Refuse(const HttpError& error);
  // From the exchange, which names its request by number: a late one has nothing to say any more.
  void Respond(int64_t request, HttpResponse response);
  void StartStream(int64_t request, HttpResponse head);
  void WriteStream(int64_t request, absl::string_view data);
  void EndStream(int64_t request);
  void Abandon(int64_t request);
  void OnGone(int64_t request, std::function<void()> gone);
  bool Answers(int64_t request) const { return phase_ == Phase::kAnswering && request == request_idx_; }

  void Send(absl::string_view bytes);
  void WriteSome();
  void OnWritten(ErrorCode error, size_t num_bytes);
  void EndAnswer();
  void LingerAndClose();
  void ArmReadTimer(absl::Duration timeout);
  void OnReadTimer();
  std::string Head(const HttpResponse& response) const;

  HttpServer& server_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer read_timer_, write_timer_;
  RequestParser parser_;
  Phase phase_ = Phase::kReading;
  std::array<char, 4096> chunk_;
  std::string input_;              // read and not parsed yet
  std::string writing_, waiting_;  // the bytes under way, of which num_written_ are gone; those behind them
  size_t num_written_ = 0;
  bool reading_ = false, writes_pending_ = false;
  bool end_of_input_ = false;  // the client sends nothing more
  bool keep_alive_ = true, lingering_ = false, head_only_ = false;
  int minor_version_ = 1;
  RequestParser::State timed_state_ = RequestParser::State::kRefused;  // that the read timer was set for
  BodyFraming framing_ = BodyFraming::kLength;
  int64_t request_idx_ = 0;
  std::function<void()> on_gone_;
};

}  // namespace tokenferry
