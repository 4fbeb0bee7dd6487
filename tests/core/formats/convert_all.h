// Every conversion of core/formats/scalar.h, on host and device.
#pragma once

#include <cstdint>

#include "core/formats/scalar.h"

namespace tokenferry {

struct Converted {
  uint32_t bf16, fp16, e4m3, e5m2, ue8m0;                        // the narrow codes of the float with bits i * stride
  float from_bf16, from_fp16, from_e4m3, from_e5m2, from_ue8m0;  // of the code i
};

TF_HOST_DEVICE inline Converted Convert(uint32_t i, uint32_t stride) {
  const float x = internal::FloatFromBits(i * stride);
  const uint16_t code = static_cast<uint16_t>(i);
  const uint8_t byte = static_cast<uint8_t>(i);
  return {ToBF16(x).bits,      ToFP16(x).bits,      ToF8E4M3(x).bits,      ToF8E5M2(x).bits,      ToUE8M0(x).bits,
          ToFloat(BF16{code}), ToFloat(FP16{code}), ToFloat(F8E4M3{byte}), ToFloat(F8E5M2{byte}), ToFloat(UE8M0{byte})};
}

// out [n], device memory: Convert(i, stride) of each i, by the default stream.
void ConvertAll(Converted* out, uint32_t n, uint32_t stride);

}  // namespace tokenferry
