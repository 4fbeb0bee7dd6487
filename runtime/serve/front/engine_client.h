// The front's end of the socket to rank 0.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <functional>
#include <memory>
#include <string>

#include "runtime/serve/process/front_process.h"
#include "runtime/serve/protocol/codec.h"

namespace tokenferry {

// Used on the io_context's thread, which calls the handlers.
class EngineClient final : public std::enable_shared_from_this<EngineClient> {
 public:
  struct Handlers {
    std::function<void(Message)> on_message;  // never Hello nor Goodbye
    // Once: rank 0 has said Goodbye or its end has been closed. Why, in one line.
    std::function<void(std::string)> on_end;
  };
  EngineClient(boost::asio::io_context& io, OwnedFd socket, Handlers handlers);

  void Start();
  // Closes the socket; no handler is called any more.
  void Close();
  void Send(const Message& message);
  // After what has been sent; on_end is not called any more.
  void SayGoodbye(const std::string& reason);
  // Everything is on its way to rank 0, or there is nobody to take it.
  bool idle() const { return writing_.empty(); }

 private:
  void Read();
  void TakeMessages();
  void Write();
  void End(std::string reason);

  boost::asio::local::stream_protocol::socket socket_;
  Handlers handlers_;
  FrameReader reader_;
  std::array<char, 65536> chunk_;
  std::string writing_, waiting_;
  bool ended_ = false;
};

}  // namespace tokenferry
