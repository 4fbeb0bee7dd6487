// What an exchange is asked for. A value.
#pragma once

#include <functional>
#include <string>

#include "comm/exchange/path/paths.h"
#include "comm/plan/row_formats.h"

namespace tokenferry {

// Of the combine on path two_level. Other paths are always exact.
enum class Reduction : uint8_t {
  kExact,  // each selection's output travels home: the same bits as every other path
  kNode,   // a host sums its own experts' outputs and sends one row per token: deterministic for a layout of ranks
};

struct ExchangeOptions {
  int64_t hidden = 0;
  // Of dispatched rows, rank-local ones too: kF32, kBF16 (each element rounded once), kF8E4M3 or kI8 (quantised with a
  // scale per 128 values, comm/ops/row_codec_ops.h). Quantised rows are widened to expert_dtype where they
  // arrive, or, where memory is shared, before they are published.
  DType wire_dtype = DType::kF32;
  DType expert_dtype = DType::kF32;  // of ExpertRows when wire_dtype is quantised: kF32 or kBF16; else it is wire_dtype
  // Of expert outputs, rank-local ones too, from where experts write them: kF32, or kBF16 (each element rounded once).
  DType output_dtype = DType::kF32;
  ExchangePath path = ExchangePath::kAuto;
  Reduction reduction = Reduction::kExact;
  // Sees, on rank 0, why kAuto took a path: links, predictions, choice. Given on all ranks or on none; then the log
  // sees it, at debug level, where links have to be measured anyway.
  std::function<void(const std::string&)> on_choice;
  // What buffers are sized for at creation; larger exchanges grow them. 0: nothing in advance.
  int64_t max_tokens = 0;  // of any rank, in one exchange
  int max_top_k = 0;
  int64_t max_peer_bytes = 0;  // path peer: most bytes of a rank's part; 0: no bound but the host's

  // Of ExpertRows and HomeRows: rows are read as they travelled, unless they were quantised.
  DType resident_dtype() const {
    return wire_dtype == DType::kF32 || wire_dtype == DType::kBF16 ? wire_dtype : expert_dtype;
  }
  RowFormats formats() const { return {hidden, wire_dtype, expert_dtype, output_dtype}; }
};

}  // namespace tokenferry
