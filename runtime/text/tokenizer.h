// Tokenizers, read from a model's folder: tokenizer.json (format: huggingface/tokenizers), tiktoken.model,
// tokenizer.model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/status.h"
#include "runtime/text/tagged_text.h"

namespace tokenferry {

enum class SpecialTokens : uint8_t {
  kParse,  // the text of an added token becomes that token
  kText,   // special tokens in the text are plain text (untrusted input); non-special added tokens are still parsed
};

enum class ShowSpecial : uint8_t { kYes, kNo };  // whether special tokens appear in decoded text

// Immutable after loading; all methods may be called from any thread.
class Tokenizer {
 public:
  // Reads DIR/tokenizer.json, or DIR/tiktoken.model (Kimi), or DIR/tokenizer.model (SentencePiece), and
  // DIR/tokenizer_config.json (optional beside the first: bos, eos, add_bos_token, add_eos_token, added_tokens_decoder,
  // whose entries replace those of tokenizer.json by id). Errors name the file and the key. Refuses what it does not
  // implement (other models, normalizers, pre-tokenizers, decoders) by name. Files up to 128 MiB, ids up to 2^24 - 1.
  static absl::StatusOr<Tokenizer> Load(const std::string& model_dir);
  // From the text of a tokenizer.json alone; `name` stands for the file in errors.
  static absl::StatusOr<Tokenizer> FromJson(absl::string_view json, absl::string_view name);

  // Never adds a begin-of-sentence token. `text` is taken as UTF-8; invalid bytes become U+FFFD first. With kText no
  // special token comes out, whatever the text (but for the model's unk_token). Time is O(n log n) for n bytes; a text
  // made to exhaust a splitting expression (pretokenizer_regex.h) is cut less finely than the expression says.
  std::vector<int32_t> Encode(absl::string_view text, SpecialTokens special = SpecialTokens::kParse) const;

  // The text of a chat template: added tokens, special or not ("<think>"), are taken only out of what is
  // TextOrigin::kModel throughout, and their ids do not come out of the rest; but for those that are ordinary text
  // (tokenizer_added.h: runs of spaces, single letters). In between, text of both origins is encoded as one, as if a
  // person had written it all.
  std::vector<int32_t> Encode(const TaggedText& text) const;

  // All ids; unknown ids contribute nothing. Invalid UTF-8 becomes U+FFFD. Text is left as the tokens say:
  // clean_up_tokenization_spaces ("do n't" to "don't"), which some files set, is not done.
  std::string Decode(absl::Span<const int32_t> ids, ShowSpecial show = ShowSpecial::kYes) const;

  int32_t bos_id() const;  // -1: none
  int32_t eos_id() const;  // tokenizer_config's; -1: none
  bool add_bos() const;    // whether a plain prompt starts with special tokens: prefix_ids
  // What stands before and behind a plain prompt: as tokenizer_config's add_bos_token and add_eos_token say, else as
  // tokenizer.json's TemplateProcessing does. A prompt that is to be continued leaves the suffix out: it ends a text.
  absl::Span<const int32_t> prefix_ids() const;
  absl::Span<const int32_t> suffix_ids() const;
  int32_t max_id() const;  // largest id of vocabulary and added tokens
  bool IsSpecial(int32_t id) const;
  // The bytes the token stands for; of a token within a text, as at its start a space may go. Empty for an unknown id.
  absl::string_view TokenBytes(int32_t id) const;

  struct Data;

 private:
  explicit Tokenizer(std::shared_ptr<const Data> data);
  std::shared_ptr<const Data> data_;
  friend class StreamingDecoder;
};

// Turns ids into text piece by piece, never emitting half a character: bytes are held back until a code point is
// complete, and bytes that stand for what a SentencePiece-style vocabulary lacks until their run ends, since whether
// they are text depends on all of them. The concatenation of all pieces equals Tokenizer::Decode of all ids.
class StreamingDecoder {
 public:
  StreamingDecoder(Tokenizer tokenizer, ShowSpecial show);
  std::string Push(int32_t id);
  std::string Finish();  // what was held back, with U+FFFD for what never completed

 private:
  std::string TakeByteRun();
  std::string Stripped(std::string text);

  Tokenizer tokenizer_;
  ShowSpecial show_;
  std::string held_;
  int64_t num_strip_left_;  // characters that the text may still lose at its start
  bool drops_marks_;        // the next token loses its spaces
};

}  // namespace tokenferry
