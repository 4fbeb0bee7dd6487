// tokenizer_bench DIR TEXT ROUNDS IDS: encodes the file TEXT with the tokenizer of the folder DIR, ROUNDS times on one
// thread, decodes the ids as often, and prints {"bytes", "tokens", "encode_seconds": [..], "decode_seconds": [..]}. The
// ids go to the file IDS, as numbers in a line, so that others can check them. compare.py runs it beside
// huggingface/tokenizers.
#include <time.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/io/range_file.h"
#include "runtime/text/tokenizer.h"

namespace tokenferry {
namespace {

// That this thread has run: on a machine with other work it says more than the time that has passed.
double ThreadSeconds() {
  timespec time = {};
  TF_CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

absl::Status Run(const std::string& dir, const std::string& text_path, int rounds, const std::string& ids_path) {
  TF_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(dir));
  TF_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(text_path, int64_t{1} << 30));
  std::vector<int32_t> ids;
  std::vector<double> encode_seconds, decode_seconds;
  for (int round = 0; round < rounds; ++round) {
    const double start = ThreadSeconds();
    ids = tokenizer.Encode(text);
    const double middle = ThreadSeconds();
    const std::string decoded = tokenizer.Decode(ids);
    encode_seconds.push_back(middle - start);
    decode_seconds.push_back(ThreadSeconds() - middle);
    if (decoded != text) return absl::InternalError("the text that comes back is not the one that was encoded");
  }
  std::ofstream(ids_path) << absl::StrJoin(ids, " ") << "\n";
  const nlohmann::json result = {{"bytes", text.size()},
                                 {"tokens", ids.size()},
                                 {"encode_seconds", encode_seconds},
                                 {"decode_seconds", decode_seconds}};
  std::printf("%s\n", result.dump().c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace tokenferry

int main(int argc, char** argv) {
  int rounds = 0;
  if (argc != 5 || !absl::SimpleAtoi(argv[3], &rounds) || rounds < 1) {
    std::fprintf(stderr, "usage: tokenizer_bench DIR TEXT ROUNDS IDS\n");
    return 2;
  }
  const absl::Status status = tokenferry::Run(argv[1], argv[2], rounds, argv[4]);
  if (!status.ok()) std::fprintf(stderr, "tokenizer_bench: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
