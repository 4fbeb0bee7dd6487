#include "runtime/model/split_kv_b.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/formats/block_decode.h"
#include "core/formats/f16.h"

namespace tokenferry {
namespace {

template <class Narrow>
void WidenStored(const std::vector<uint8_t>& bytes, std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    Narrow narrow;
    std::memcpy(&narrow, bytes.data() + i * sizeof(Narrow), sizeof(Narrow));
    values[i] = ToFloat(narrow);
  }
}

// Elements [begin, begin + values.size()) of a stored tensor: whole blocks.
absl::Status ReadWidened(const Checkpoint& checkpoint, const StoredTensor& tensor, int64_t begin,
                         std::vector<float>& values) {
  const DType dtype = tensor.dtype;
  const Checkpoint::Tensor* source = checkpoint.Find(tensor.name);
  TF_CHECK(source != nullptr);
  const auto count = static_cast<int64_t>(values.size());
  std::vector<uint8_t> bytes(static_cast<size_t>(BytesOfElements(dtype, count)));
  TF_RETURN_IF_ERROR(checkpoint.Read(*source, BytesOfElements(dtype, begin), absl::MakeSpan(bytes)));
  if (IsBlockType(dtype)) {
    for (int64_t i = 0; i < count; i += kDecodedValues) DecodeBlocks(dtype, bytes.data(), i, &values[i]);
  } else if (dtype == DType::kF32) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
  } else {
    dtype == DType::kF16 ? WidenStored<F16>(bytes, values) : WidenStored<BF16>(bytes, values);
  }
  for (int64_t i = 0; i < count; ++i) {
    if (std::isfinite(values[i])) continue;
    return absl::DataLossError(absl::StrCat(checkpoint.shard(source->shard_idx).path(), ": tensor '", tensor.name,
                                            "': element ", begin + i, " of ", DescribeTensor(dtype, tensor.shape),
                                            " is NaN or infinite; the file is damaged"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadSplitKvB(const Checkpoint& checkpoint, const TensorSpec& spec, Stream& stream, uint8_t* dst) {
  TF_CHECK(spec.is_split());
  const StoredTensor &keys = spec.stored[0], &values = spec.stored[1];
  const int64_t num_heads = keys.shape[0], rank = keys.shape[1], nope = keys.shape[2], value = values.shape[1];
  const int64_t rows = nope + value, element_bytes = DTypeBytes(spec.format.dtype);
  std::vector<float> key_head(static_cast<size_t>(rank * nope)), value_head(static_cast<size_t>(value * rank));
  std::vector<uint8_t> head(static_cast<size_t>(rows * rank * element_bytes));
  for (int64_t h = 0; h < num_heads; ++h) {
    TF_RETURN_IF_ERROR(ReadWidened(checkpoint, keys, h * rank * nope, key_head));
    TF_RETURN_IF_ERROR(ReadWidened(checkpoint, values, h * value * rank, value_head));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < rank; ++i) {
        const float x = row < nope ? key_head[i * nope + row] : value_head[(row - nope) * rank + i];
        uint8_t* at = head.data() + (row * rank + i) * element_bytes;
        if (spec.format.dtype == DType::kF32) {
          std::memcpy(at, &x, sizeof(x));
        } else {
          const BF16 narrow = ToBF16(x);  // exact: that is how it is stored
          std::memcpy(at, &narrow, sizeof(narrow));
        }
      }
    }
    stream.CopyToDevice(dst + h * static_cast<int64_t>(head.size()), head.data(), head.size());
    TF_RETURN_IF_ERROR(stream.Synchronize());
  }
  return absl::OkStatus();
}

}  // namespace tokenferry
