// What others have published for the settings that --preset names, to stand beside what is measured here.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "comm/plan/exchange_traffic.h"

namespace tokenferry {

struct PublishedFigure {
  int num_ranks = 0;
  double dispatch_us = 0, dispatch_gbps = 0, combine_us = 0, combine_gbps = 0;  // us 0: not published
  const char* link = "";                                                        // whose bandwidth it is
};

struct PublishedSetting {
  const char* preset;  // a value of --preset
  const char* source;  // of whom, on what
  // Of which rows their 10^9 bytes/s are, both ways: (token, rank), (token, expert) ..
  const char* unit;
  int64_t RowBases::*basis;
  absl::Span<const PublishedFigure> figures;
};

// Null: none.
const PublishedSetting* FindPublished(const std::string& preset);

}  // namespace tokenferry
