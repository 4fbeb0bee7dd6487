// kv_b_proj of latent attention out of two stored tensors: GGUF files hold keys [heads, r, nope], transposed by head,
// and values [heads, value, r].
#pragma once

#include <cstdint>

#include "core/device/device.h"
#include "core/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/stored_tensor.h"

namespace tokenferry {

// Writes the matrix [heads * (nope + value), r] of spec.format, BF16 or F32, to `dst` in device memory: blocks run
// along what becomes columns, so they are widened. spec.is_split(). All has arrived on return. Host memory in use is
// that of one head. DataLoss, naming file, tensor and element: a NaN or an infinity.
absl::Status LoadSplitKvB(const Checkpoint& checkpoint, const TensorSpec& spec, Stream& stream, uint8_t* dst);

}  // namespace tokenferry
