#include "runtime/serve/http/http_connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <chrono>

#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

namespace asio = boost::asio;

// Pipelined requests beyond this wait in the client's socket.
constexpr size_t kMaxAheadBytes = 64 << 10;
// How long a client that is being refused may go on sending before it is cut: closing a socket with bytes unread would
// make its system throw the answer away.
constexpr absl::Duration kLinger = absl::Seconds(2);

bool IsDue(const asio::steady_timer& timer, boost::system::error_code error) {
  return !error && timer.expiry() <= asio::steady_timer::clock_type::now();
}

}  // namespace

// Given to the handler. Outlives neither its answer's meaning nor its connection's: both are looked up by number.
class ConnectionExchange final : public HttpExchange {
 public:
  ConnectionExchange(std::shared_ptr<HttpConnection> connection, int64_t request)
      : connection_(std::move(connection)), request_(request) {}
  ~ConnectionExchange() override { connection_->Abandon(request_); }

  void Respond(HttpResponse response) override { connection_->Respond(request_, std::move(response)); }
  void StartStream(HttpResponse head) override { connection_->StartStream(request_, std::move(head)); }
  void Write(absl::string_view data) override { connection_->WriteStream(request_, data); }
  void EndStream() override { connection_->EndStream(request_); }
  void OnGone(std::function<void()> gone) override { connection_->OnGone(request_, std::move(gone)); }

 private:
  const std::shared_ptr<HttpConnection> connection_;
  const int64_t request_;
};

HttpConnection::HttpConnection(asio::ip::tcp::socket socket, HttpServer& server)
    : server_(server),
      socket_(std::move(socket)),
      read_timer_(socket_.get_executor()),
      write_timer_(socket_.get_executor()),
      parser_(server.limits_) {
  ErrorCode ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
}

void HttpConnection::Start() {
  Read();
  Advance();
}

void HttpConnection::Turn(const HttpError& error) {
  Read();
  Refuse(error);
}

void HttpConnection::Drain() {
  keep_alive_ = false;
  if (phase_ == Phase::kReading && parser_.state() == RequestParser::State::kIdle && !writes_pending_) Close();
}

void HttpConnection::Close() {
  if (phase_ == Phase::kClosed) return;
  const auto self = shared_from_this();
  if (phase_ == Phase::kAnswering) server_.stats_.num_cut += 1;
  phase_ = Phase::kClosed;
  read_timer_.cancel();
  write_timer_.cancel();
  ErrorCode ignored;
  socket_.close(ignored);
  server_.Forget(self);
  if (const auto gone = std::exchange(on_gone_, nullptr)) gone();
}

void HttpConnection::Read() {
  if (reading_ || end_of_input_ || phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kAnswering && input_.size() > kMaxAheadBytes) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(chunk_), [self = shared_from_this()](ErrorCode error, size_t num_bytes) {
    self->OnRead(error, num_bytes);
  });
}

void HttpConnection::OnRead(ErrorCode error, size_t num_bytes) {
  reading_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error) {
    end_of_input_ = true;
    // Who is waiting for an answer and closes has gone; who has got one may close while it is still being written.
    if (phase_ == Phase::kAnswering || lingering_ || !writes_pending_) Close();
    return;
  }
  if (phase_ != Phase::kClosing) {
    input_.append(chunk_.data(), num_bytes);
    Advance();
  }
  Read();
}

void HttpConnection::Advance() {
  if (phase_ != Phase::kReading || writes_pending_) return;
  using State = RequestParser::State;
  const State state = parser_.Parse(input_);
  if (state == State::kRefused) return Refuse(parser_.error());
  if (state == State::kDone) return Hand();
  if (end_of_input_ || (state == State::kIdle && !keep_alive_)) return Close();
  if (parser_.TakeExpectation() && input_.empty()) Send("HTTP/1.1 100 Continue\r\n\r\n");
  if (state == timed_state_) return;  // a byte now and then does not win time
  timed_state_ = state;
  const HttpLimits& limits = server_.limits_;
  ArmReadTimer(state == State::kIdle   ? limits.idle_timeout
               : state == State::kHead ? limits.header_timeout
                                       : limits.body_timeout);
}

void HttpConnection::Hand() {
  read_timer_.cancel();
  timed_state_ = RequestParser::State::kRefused;
  ++request_idx_;
  phase_ = Phase::kAnswering;
  bool keep_alive = false;
  HttpRequest request = parser_.Take(&keep_alive);
  keep_alive_ = keep_alive_ && keep_alive;
  head_only_ = request.method == "HEAD";
  minor_version_ = request.minor_version;
  server_.handler_(std::move(request), std::make_shared<ConnectionExchange>(shared_from_this(), request_idx_));
}

void HttpConnection::Refuse(const HttpError& error) {
  read_timer_.cancel();
  input_.clear();
  keep_alive_ = false;
  phase_ = Phase::kAnswering;
  Respond(++request_idx_, error.Response());
}

std::string HttpConnection::Head(const HttpResponse& response) const {
  std::string head = absl::StrCat("HTTP/1.1 ", response.status, " ", HttpPhrase(response.status), "\r\n");
  if (!response.content_type.empty()) absl::StrAppend(&head, "Content-Type: ", response.content_type, "\r\n");
  for (const auto& [name, value] : response.fields) absl::StrAppend(&head, name, ": ", value, "\r\n");
  switch (framing_) {
    case BodyFraming::kLength:
      absl::StrAppend(&head, "Content-Length: ", response.body.size(), "\r\n");
      break;
    case BodyFraming::kChunked:
      absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
      break;
    case BodyFraming::kUntilClose:
      break;
  }
  if (!keep_alive_) {
    absl::StrAppend(&head, "Connection: close\r\n");
  } else if (minor_version_ == 0) {
    absl::StrAppend(&head, "Connection: keep-alive\r\n");
  }
  return head + "\r\n";
}

void HttpConnection::Respond(int64_t request, HttpResponse response) {
  if (!Answers(request)) return;
  framing_ = BodyFraming::kLength;
  Send(head_only_ ? Head(response) : Head(response) + response.body);
  EndAnswer();
}

void HttpConnection::StartStream(int64_t request, HttpResponse head) {
  if (!Answers(request)) return;
  framing_ = minor_version_ == 0 ? BodyFraming::kUntilClose : BodyFraming::kChunked;
  if (framing_ == BodyFraming::kUntilClose) keep_alive_ = false;
  Send(Head(head));
  WriteStream(request, head.body);
}

void HttpConnection::WriteStream(int64_t request, absl::string_view data) {
  if (!Answers(request) || data.empty()) return;
  // What has just come does not count: one event alone may be larger, and its client reads it.
  const size_t unread = waiting_.size() + writing_.size() - num_written_;
  if (static_cast<int64_t>(unread) > server_.limits_.max_unread_bytes) return Close();
  if (framing_ == BodyFraming::kChunked) {
    Send(absl::StrCat(absl::Hex(data.size()), "\r\n", data, "\r\n"));
  } else {
    Send(data);
  }
}

void HttpConnection::EndStream(int64_t request) {
  if (!Answers(request)) return;
  if (framing_ == BodyFraming::kChunked) Send("0\r\n\r\n");
  EndAnswer();
}

void HttpConnection::Abandon(int64_t request) {
  if (Answers(request)) Close();
}

void HttpConnection::OnGone(int64_t request, std::function<void()> gone) {
  if (Answers(request)) {
    on_gone_ = std::move(gone);
  } else if (phase_ == Phase::kClosed && request == request_idx_) {  // gone before anybody has asked
    asio::post(socket_.get_executor(), std::move(gone));
  }
}

void HttpConnection::EndAnswer() {
  on_gone_ = nullptr;
  if (!keep_alive_) {
    phase_ = Phase::kClosing;
    if (!writes_pending_) LingerAndClose();
    return;
  }
  phase_ = Phase::kReading;
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->Advance();
    self->Read();
  });
}

void HttpConnection::Send(absl::string_view bytes) {
  waiting_.append(bytes.data(), bytes.size());
  if (!writes_pending_) WriteSome();
}

void HttpConnection::WriteSome() {
  if (num_written_ == writing_.size()) {
    writing_ = std::exchange(waiting_, {});
    num_written_ = 0;
  }
  writes_pending_ = !writing_.empty();
  if (!writes_pending_) {
    write_timer_.cancel();
    if (phase_ == Phase::kClosing) return LingerAndClose();
    return Advance();
  }
  write_timer_.expires_after(absl::ToChronoMilliseconds(server_.limits_.write_timeout));
  write_timer_.async_wait([self = shared_from_this()](ErrorCode error) {
    if (IsDue(self->write_timer_, error)) self->Close();
  });
  socket_.async_write_some(
      asio::buffer(writing_.data() + num_written_, writing_.size() - num_written_),
      [self = shared_from_this()](ErrorCode error, size_t num_bytes) { self->OnWritten(error, num_bytes); });
}

void HttpConnection::OnWritten(ErrorCode error, size_t num_bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  num_written_ += num_bytes;
  WriteSome();
}

void HttpConnection::LingerAndClose() {
  ErrorCode error;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
  if (error || end_of_input_) return Close();
  lingering_ = true;
  ArmReadTimer(kLinger);
  Read();
}

void HttpConnection::ArmReadTimer(absl::Duration timeout) {
  read_timer_.expires_after(absl::ToChronoMilliseconds(timeout));
  read_timer_.async_wait([self = shared_from_this()](ErrorCode error) {
    if (IsDue(self->read_timer_, error)) self->OnReadTimer();
  });
}

void HttpConnection::OnReadTimer() {
  if (lingering_) return Close();
  if (phase_ != Phase::kReading) return;
  if (parser_.state() == RequestParser::State::kIdle) return Close();
  const HttpLimits& limits = server_.limits_;
  const bool head = parser_.state() == RequestParser::State::kHead;
  Refuse({408, "request_timeout",
          absl::StrCat("the request's ", head ? "head" : "body", " did not come within ",
                       absl::FormatDuration(head ? limits.header_timeout : limits.body_timeout), " (--",
                       head ? "header" : "body", "-timeout)"),
          ""});
}

}  // namespace tokenferry
