// The input is a byte that says how long the pieces are, and a text. As a stream of events it is read alike however it
// is cut; and as the text of an answer, or of an error, it comes back whole from the events that every route makes of
// it, with no event more, whatever line ends it has.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/serve/event_stream.h"
#include "core/check.h"
#include "runtime/serve/api/answer.h"
#include "runtime/text/unicode.h"

namespace {

using namespace tokenferry;

std::vector<std::string> Read(absl::string_view bytes, size_t piece) {
  EventStream stream;
  std::vector<std::string> events;
  for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
    TF_CHECK(stream
                 .Feed(bytes.substr(0, piece),
                       [&events](absl::string_view data) {
                         events.emplace_back(data);
                         return absl::OkStatus();
                       })
                 .ok());
  }
  return events;
}

Tokenizer SmallTokenizer() {
  auto tokenizer = Tokenizer::FromJson(
      R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"},)"
      R"( "model": {"type": "BPE", "merges": [], "vocab": {"a": 0}}})",
      "fuzz");
  TF_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

// The only event of what a route has written, as JSON.
nlohmann::json OnlyEvent(const std::string& written) {
  const std::vector<std::string> events = Read(written, written.size());
  TF_CHECK_EQ(events.size(), 1U);
  return nlohmann::json::parse(events[0]);
}

void CheckAnswers(const std::string& text) {
  static const Tokenizer tokenizer = SmallTokenizer();
  static const auto completion = CompletionFormat(tokenizer), chat = ChatFormat(tokenizer);
  AnswerFacts facts;
  ChoicePart part;
  part.text = text;
  TF_CHECK(OnlyEvent(completion->StreamPart(facts, part))["choices"][0]["text"] == text);
  part.pieces = {{PieceKind::kText, -1, text}};
  const nlohmann::json delta = OnlyEvent(chat->StreamPart(facts, part))["choices"][0]["delta"];
  TF_CHECK(text.empty() ? !delta.contains("content") : delta["content"] == text);

  const auto messages = MessagesFormat(tokenizer);  // one for each answer: it numbers its blocks
  std::string said;
  for (const std::string& event :
       Read(messages->StreamBegin(facts, 1) + messages->StreamPart(facts, part) + messages->StreamEnd(facts, nullptr),
            size_t{1} << 30)) {
    const nlohmann::json json = nlohmann::json::parse(event);
    if (json["type"] == "content_block_delta") said += json["delta"]["text"].get<std::string>();
  }
  TF_CHECK(said == text);

  const HttpError error{500, "internal_error", text, ""};
  const std::vector<std::string> failed = Read(completion->StreamError(error), size_t{1} << 30);
  TF_CHECK_EQ(failed.size(), 2U);
  TF_CHECK(nlohmann::json::parse(failed[0])["error"]["message"] == text);
  TF_CHECK(failed[1] == "[DONE]");
  TF_CHECK(OnlyEvent(messages->StreamError(error))["error"]["message"] == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  TF_CHECK(Read(bytes, bytes.size() + 1) == Read(bytes, data[0] % 17 + 1));
  std::string text;
  AppendValidUtf8(bytes, Utf8End::kLast, text);
  CheckAnswers(text);
  return 0;
}
