// Text that knows of every byte whether the model's files or somebody outside wrote it, so that what looks like a
// control token in a message stays text: a special token or any other that was added for templates to write, as
// "<think>" and "<tool_call>". An answer that comes back with the conversation is a message too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace tokenferry {

enum class TextOrigin : uint8_t {
  kModel,    // written in a chat template, or the text of one of the model's special tokens
  kMessage,  // came with a conversation: messages, tools, documents, any other variable
};

class TaggedText {
 public:
  struct Run {
    size_t end;  // the run covers the bytes from the end of the one before to here
    TextOrigin origin;
  };

  TaggedText() = default;
  TaggedText(absl::string_view text, TextOrigin origin) { Append(text, origin); }

  const std::string& text() const { return text_; }
  size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }
  // In order, none empty, neighbours of different origin; the last one ends at size().
  const std::vector<Run>& runs() const { return runs_; }

  // Whether all bytes of [begin, end) have this origin; true for an empty range. O(log runs).
  bool IsAll(TextOrigin origin, size_t begin, size_t end) const;
  // The origin of text made from this one as a whole: kMessage if any byte is.
  TextOrigin Mixed() const { return IsAll(TextOrigin::kModel, 0, size()) ? TextOrigin::kModel : TextOrigin::kMessage; }

  void Append(absl::string_view text, TextOrigin origin);
  void Append(const TaggedText& other) { AppendRange(other, 0, other.size()); }
  void AppendRange(const TaggedText& other, size_t begin, size_t end);  // bytes [begin, end) of `other`
  TaggedText Range(size_t begin, size_t end) const;

 private:
  std::string text_;
  std::vector<Run> runs_;
};

}  // namespace tokenferry
