// The tokenizer in a GGUF file's metadata, as the files of the hub that say the same. Private to runtime/text.
#pragma once

#include <string>

#include "core/io/json.h"
#include "core/status.h"

namespace tokenferry {

// The tokenizer.json: byte-level BPE with a named pre-tokenizer (tokenizer.ggml.model "gpt2"), or BPE by the scores of
// pieces, as SentencePiece does it ("llama"). Unimplemented names another kind, and a pre-tokenizer that is not known.
absl::StatusOr<JsonDocument> TokenizerJsonOfGguf(const JsonNode& metadata, const std::string& path);
// The tokenizer_config.json: special tokens, whether prompts begin and end with them, chat templates.
absl::StatusOr<JsonDocument> TokenizerConfigOfGguf(const JsonNode& metadata, const std::string& path);

}  // namespace tokenferry
