// The input is what a client sends on one connection; its first byte says in pieces of which size it comes. However it
// is cut, the same requests come out, and what is taken has one Host and a body within the limit.
#include <string>
#include <vector>

#include "core/check.h"
#include "runtime/serve/http/request_parser.h"

namespace {

using namespace tokenferry;

struct Outcome {
  std::vector<std::string> requests;
  int refused = 0;  // the status
};

Outcome Read(absl::string_view bytes, size_t piece) {
  HttpLimits limits;
  limits.max_body_bytes = 1000;
  limits.max_header_bytes = 2000;
  RequestParser parser(limits);
  Outcome outcome;
  std::string input;
  while (true) {
    const auto state = parser.Parse(input);
    if (state == RequestParser::State::kRefused) {
      outcome.refused = parser.error().status;
      TF_CHECK(outcome.refused >= 400 && outcome.refused < 500);
      return outcome;
    }
    if (state == RequestParser::State::kDone) {
      bool keep_alive = false;
      const HttpRequest request = parser.Take(&keep_alive);
      int num_hosts = 0;
      for (const auto& [name, value] : request.fields) num_hosts += name == "host";
      TF_CHECK_EQ(num_hosts, 1);
      TF_CHECK(request.body.size() <= 1000);
      outcome.requests.push_back(request.method + " " + request.path + "?" + request.query + "\n" + request.body);
      continue;
    }
    if (bytes.empty()) return outcome;
    input.append(bytes.data(), std::min(piece, bytes.size()));
    bytes.remove_prefix(std::min(piece, bytes.size()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Outcome whole = Read(bytes, bytes.size() + 1), pieces = Read(bytes, data[0] % 17 + 1);
  TF_CHECK(whole.requests == pieces.requests);
  TF_CHECK_EQ(whole.refused == 0, pieces.refused == 0);
  return 0;
}
