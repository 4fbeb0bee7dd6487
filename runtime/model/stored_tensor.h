// What a matrix or vector of the model is made of in the files: tensors, which part of each, and how their bytes become
// those of memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/formats/dtype.h"
#include "core/formats/weight_format.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/weight_role.h"

namespace tokenferry {

// The part of a stored tensor that a role is: all of it, or what a tensor that holds several has of one.
struct StoredPart {
  enum class Kind : uint8_t {
    kWhole,
    kRange,    // elements [begin, begin + size), in the order of the role's matrix
    kRows,     // of the rows of `cols` elements in that range the rows first, first + step, ..
    kColumns,  // of those rows the columns first, first + step, ..: they are the rows of the role's matrix, which the
               // file has transposed
  };
  Kind kind = Kind::kWhole;
  int64_t begin = 0, size = 0;
  int64_t cols = 0, first = 0, step = 1;
  int64_t num_sharers = 1;  // roles that are made of the same range
};

// What happens to stored elements, a few whole rows at a time, before rows and columns are chosen from them.
struct Repack {
  enum class Kind : uint8_t {
    kNone,
    kWiden,          // 16 bits to F32
    kWidenAddOne,    // the same, plus one
    kAddOne,         // F32 plus one
    kFlipSigns,      // bytes q + 128 to I8, and back
    kZeroPoints,     // a word of codes to a byte for each, plus zero_offset
    kAwqZeroPoints,  // the same, in the order of AWQ's words
    kZeroPointRows,  // a row of words to as many rows of bytes as a word has codes
    kAwqCodes,  // two rows of words in the order of AWQ to a row of bytes: the code of the first row in the low half
  };
  Kind kind = Kind::kNone;
  int32_t bits = 0;  // of a code in a word
  int32_t zero_offset = 0;

  int64_t rows_at_a_time() const { return kind == Kind::kAwqCodes ? 2 : 1; }
  // Bytes that come of one stored byte.
  int64_t growth() const;
};

// dst takes src.size() * growth() bytes. A row has `cols` stored elements; src is whole rows, rows_at_a_time() of them
// or a multiple, unless every stored element becomes one of memory.
void RepackBytes(const Repack& repack, DType dtype, int64_t cols, absl::Span<const uint8_t> src, uint8_t* dst);

struct StoredTensor {
  enum class Use : uint8_t {
    kData,
    kScales,
    kZeroPoints,
    kGroupIdx,  // looked at, and not kept
    kKeyHeads,
    kValueHeads,  // of a kv_b_proj that is stored in two (runtime/model/split_kv_b.h)
  };
  Use use = Use::kData;
  std::string name;
  DType dtype = DType::kBF16;  // as stored, or as config.json implies
  std::vector<int64_t> shape;  // of the stored tensor
  StoredPart part;
  Repack repack;

  int64_t num_bytes() const;  // of the file, of this role: with a share of what several are made of
};

// A tensor of the model.
struct TensorSpec {
  Role role = Role::kEmbedTokens;
  int32_t layer = -1;                // -1: belongs to no layer
  int32_t expert = -1;               // routed experts only
  std::vector<int64_t> shape;        // [rows, cols] or [size]
  std::vector<StoredTensor> stored;  // its data, then scales and what else belongs to it
  WeightFormat stored_format;        // what the stored tensors make
  WeightFormat format;  // in memory: the same, unless it is quantised while it is loaded. F16 vectors are widened to
                        // F32, and so is what Storage::kF32 asks for

  const std::string& name() const { return stored.front().name; }
  DType dtype() const { return stored.front().dtype; }
  ModelPart part() const { return InfoOf(role).part; }
  int64_t rows() const { return shape.size() == 1 ? 1 : shape[0]; }  // a vector is a matrix of one row
  int64_t cols() const { return shape.back(); }
  int64_t num_elements() const { return rows() * cols(); }
  int64_t stored_bytes() const;
  WeightBytes memory_bytes() const { return BytesOf(format, rows(), cols()); }
  bool is_converted() const { return !(format == stored_format); }
  bool is_split() const { return stored.front().use == StoredTensor::Use::kKeyHeads; }
};

// The name of a role's tensor in the files, when it is stored as it is.
std::string PlainName(const ModelSpec& model, Role role, int32_t layer, int32_t expert);

// Whether quantization_config may concern the role.
bool CanBeQuantised(const ModelSpec& model, Role role);

// Fills in `stored` and `format` of what else is given. Quantised: as model.quant says, with scales in the type that
// files usually have.
void StorePlain(const ModelSpec& model, DType dtype, TensorSpec& spec);
void StoreQuantised(const ModelSpec& model, TensorSpec& spec);
// After the dtypes in `stored` have changed: both formats, and conversions that follow from them.
void SetFormat(const ModelSpec& model, TensorSpec& spec);

// What keeps a matrix of this shape from being quantised as model.quant says; empty: nothing does.
std::string QuantisationProblem(const ModelSpec& model, const TensorSpec& spec);

}  // namespace tokenferry
