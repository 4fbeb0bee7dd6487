// Every tensor that a model needs, derived from its description, and the check of a checkpoint against it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/formats/dtype.h"
#include "core/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/weight_role.h"

namespace tokenferry {

// The part of a stored tensor that a role is: all of it, or what a fused tensor has of one expert.
struct StoredPart {
  enum class Kind : uint8_t {
    kWhole,
    kRange,    // elements [begin, begin + size), in the order of the role's matrix
    kColumns,  // of the rows of `cols` elements in that range the columns first_col, first_col + col_step, ..: they are
               // the rows of the role's matrix, which the file has transposed
  };
  Kind kind = Kind::kWhole;
  int64_t begin = 0, size = 0;
  int64_t cols = 0, first_col = 0, col_step = 1;
};

struct TensorSpec {
  Role role;
  int32_t layer = -1;                 // -1: belongs to no layer
  int32_t expert = -1;                // routed experts only
  std::string name;                   // of the stored tensor
  std::vector<int64_t> shape;         // [rows, cols] or [size], of the role
  std::vector<int64_t> stored_shape;  // of the stored tensor
  StoredPart stored;
  DType dtype = DType::kBF16;  // kF32, kBF16, kF16 or kF8E4M3. As stored, or as config.json implies

  ModelPart part() const { return InfoOf(role).part; }
  int64_t num_elements() const;
  DType memory_dtype() const;  // what memory holds: F16 is widened to F32, and so is what Storage::kF32 asks for
  bool has_scales() const { return dtype == DType::kF8E4M3; }
  int64_t data_bytes() const { return num_elements() * DTypeBytes(dtype); }
  int64_t memory_bytes() const { return num_elements() * DTypeBytes(memory_dtype()); }  // without scales
  std::string scale_name() const { return name + "_scale_inv"; }
  std::vector<int64_t> scale_shape(int32_t block) const;  // [ceil(rows / block), ceil(cols / block)], F32
  int64_t scale_bytes(int32_t block) const;               // 0 without scales
};

struct TensorPlan {
  ModelSpec model;
  std::vector<TensorSpec> tensors;  // by layer, routed experts by index
};

// A tensor of the model: what it is for, its shape, and for routed experts which one (else -1).
using TensorVisitor = absl::FunctionRef<void(Role role, std::vector<int64_t> shape, int32_t expert)>;
// The one place that knows which tensors a layer has.
void VisitLayer(const ModelSpec& model, const LayerSpec& layer, TensorVisitor visit);

// All tensors of the model, with the types that config.json implies: FP8 for the projections of attention and experts
// when it is quantised, else config.json's dtype.
TensorPlan PlanTensors(const ModelSpec& model);

struct CheckedPlan {
  TensorPlan plan;  // with the types stored in the checkpoint
  int64_t num_skipped =
      0;  // known and not needed: multi-token-prediction modules, inv_freq, a tied head, towers for images
  int64_t skipped_bytes = 0;
  int64_t num_skipped_params = 0;          // elements of those, without scales
  int64_t num_unknown = 0;                 // neither known nor needed: worth a warning
  std::vector<std::string> unknown_names;  // the first few of them
  std::vector<std::string> warnings;       // what is wrong with tensors that are not needed; a few lines
};

// Looks at headers only. Refuses, naming file, tensor, what is there and what should be: missing tensors, wrong shapes,
// types that cannot be used, FP8 without its scales or without a quantization_config, and tensors with a fault
// (Checkpoint::FaultOf). The faults of tensors that nobody needs are warnings.
absl::StatusOr<CheckedPlan> CheckCheckpoint(const ModelSpec& model, const Checkpoint& checkpoint);

// Unimplemented, naming two tensors, when routed experts of one layer are not all stored in one type. CPUs look at each
// expert; a GPU's kernel is chosen for all of them (WeightArray).
absl::Status CheckExpertsAlike(const TensorPlan& plan);

}  // namespace tokenferry
