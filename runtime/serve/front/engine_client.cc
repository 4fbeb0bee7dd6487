#include "runtime/serve/front/engine_client.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <utility>

namespace tokenferry {

using ErrorCode = boost::system::error_code;

EngineClient::EngineClient(boost::asio::io_context& io, OwnedFd socket, Handlers handlers)
    : socket_(io, boost::asio::local::stream_protocol(), socket.Release()), handlers_(std::move(handlers)) {}

void EngineClient::Start() { Read(); }

void EngineClient::Close() {
  ended_ = true;
  ErrorCode ignored;
  socket_.close(ignored);
}

void EngineClient::Send(const Message& message) {
  if (ended_) return;
  waiting_ += EncodeFrame(message);
  if (writing_.empty()) Write();
}

void EngineClient::SayGoodbye(const std::string& reason) {
  if (ended_) return;
  ended_ = true;
  waiting_ += EncodeFrame(Goodbye{reason});
  if (writing_.empty()) Write();
}

void EngineClient::Write() {
  writing_ = std::exchange(waiting_, {});
  if (writing_.empty()) return;
  boost::asio::async_write(socket_, boost::asio::buffer(writing_),
                           [self = shared_from_this()](ErrorCode error, size_t) {
                             self->writing_.clear();
                             if (!error) self->Write();  // an end is seen by Read, which has the reason
                           });
}

void EngineClient::Read() {
  socket_.async_read_some(boost::asio::buffer(chunk_), [self = shared_from_this()](ErrorCode error, size_t num_bytes) {
    if (error) return self->End("rank 0 has ended without saying why: see what the ranks have printed");
    self->reader_.Append(absl::string_view(self->chunk_.data(), num_bytes));
    self->TakeMessages();
    if (!self->ended_) self->Read();
  });
}

void EngineClient::TakeMessages() {
  while (!ended_) {
    absl::StatusOr<std::optional<Message>> message = reader_.Take();
    if (!message.ok()) return End(std::string(message.status().message()));
    if (!*message) return;
    if (const auto* goodbye = std::get_if<Goodbye>(&**message)) return End(goodbye->reason);
    if (const auto* hello = std::get_if<Hello>(&**message)) {
      const absl::Status version = CheckVersion(*hello);
      if (!version.ok()) return End(std::string(version.message()));
    } else {
      handlers_.on_message(**std::move(message));
    }
  }
}

void EngineClient::End(std::string reason) {
  if (std::exchange(ended_, true)) return;
  handlers_.on_end(std::move(reason));
}

}  // namespace tokenferry
