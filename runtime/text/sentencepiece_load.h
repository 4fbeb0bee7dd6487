// tokenizer.model to Tokenizer::Data. Private to the tokenizer's .cc files.
#pragma once

#include <optional>
#include <string>

#include "core/status.h"
#include "runtime/text/model_load.h"
#include "runtime/text/tokenizer_data.h"

namespace tokenferry {

// InvalidArgument for a file that is no SentencePiece model.
absl::StatusOr<VocabIds> LoadSentencePiece(const std::string& path, Tokenizer::Data& data);

}  // namespace tokenferry
