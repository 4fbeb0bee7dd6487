// The front's process as a whole, with a socket in place of rank 0.
#include "runtime/serve/front/front.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

// What a client gets; empty where nobody listens, or nobody answers.
std::string Ask(int port, const std::string& request) {
  asio::io_context io;
  tcp::socket client(io);
  ErrorCode error;
  // From another address than the front's, so that a client cannot be given its own port and meet itself there.
  client.open(tcp::v4());
  client.bind({asio::ip::make_address("127.0.0.2"), 0}, error);
  if (!error) client.connect({asio::ip::make_address("127.0.0.1"), static_cast<uint16_t>(port)}, error);
  if (!error) asio::write(client, asio::buffer(request), error);
  std::string answer;
  if (!error) asio::read(client, asio::dynamic_buffer(answer), error);
  return answer;
}

int FreePort() {
  asio::io_context io;
  return tcp::acceptor(io, {asio::ip::make_address("127.0.0.1"), 0}).local_endpoint().port();
}

// It listens before it reads the model. Clients that come then are not answered from a model that there is not.
TEST(Front, WithoutAModelItAnswersNobody) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const OwnedFd rank_end(ends[0]);
  FrontOptions options;
  options.port = FreePort();
  options.model.dir = "/no/such/model";
  std::atomic<bool> ended = false;
  std::thread client([&] {
    while (!ended) {
      EXPECT_EQ(Ask(options.port, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), "");
      EXPECT_EQ(Ask(options.port,
                    "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                    "application/json\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}"),
                "");
    }
  });
  EXPECT_EQ(Front(options, OwnedFd(ends[1])).Run(), 1);
  ended = true;
  client.join();
  FrameReader reader;
  char bytes[4096];
  const ssize_t size = recv(rank_end.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
  ASSERT_GT(size, 0);
  reader.Append({bytes, static_cast<size_t>(size)});
  const absl::StatusOr<std::optional<Message>> message = reader.Take();
  ASSERT_TRUE(message.ok() && message->has_value()) << message.status();
  const auto* const goodbye = std::get_if<Goodbye>(&**message);
  ASSERT_NE(goodbye, nullptr);
  EXPECT_THAT(goodbye->reason, ::testing::HasSubstr("/no/such/model"));
}

// As mpirun does that waits for a host which does not answer.
TEST(RankSupervisor, EndsAJobThatNeverConnects) {
  asio::io_context io;
  RankJobOptions job;
  job.command = {"sleep", "1000"};
  job.restart = RestartPolicy::kOnFailure;  // what has never been ready is not tried again
  job.most_silence_at_start = absl::ZeroDuration();
  std::string why;
  RankSupervisor ranks(
      io, job, {[](const Message&) {}, [](const std::string&) {}, [&](const std::string& reason) { why = reason; }});
  ASSERT_TRUE(ranks.Start().ok());
  EXPECT_FALSE(ranks.idle());
  const Deadline deadline = Deadline::After(absl::Seconds(60));
  while (!(ranks.idle() && !why.empty()) && !deadline.Expired()) io.run_one_for(std::chrono::milliseconds(100));
  EXPECT_TRUE(ranks.idle());
  EXPECT_THAT(why, ::testing::HasSubstr("not even a connection"));
}

TEST(RankJob, ItsEndWaitsForItsProcesses) {
  asio::io_context io;
  {
    RankJob job(io, {"sh", "-c", "sleep 1000 & sleep 1000"}, {[](const OwnedFd&) {}, [](const std::string&) {}});
    ASSERT_TRUE(job.Start().ok());
  }
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);  // no child is left, also no orphan
}

}  // namespace
}  // namespace tokenferry
