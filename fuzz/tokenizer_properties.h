// What must hold for every tokenizer and every text.
#pragma once

#include "runtime/text/tokenizer.h"

namespace tokenferry {

// Aborts where it does not.
void CheckTokenizerProperties(const Tokenizer& tokenizer, absl::string_view text);

}  // namespace tokenferry
