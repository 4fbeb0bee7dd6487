// The tensors of a plan against the headers of a checkpoint. What CheckCheckpoint (runtime/model/tensor_plan.h) is made
// of.
#pragma once

#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "core/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/name_patterns.h"
#include "runtime/model/stored_tensor.h"

namespace tokenferry {

class TensorCheck {
 public:
  // All must outlive this.
  TensorCheck(const ModelSpec& model, const NamePatterns& ignored, const Checkpoint& checkpoint)
      : model_(model), ignored_(ignored), checkpoint_(checkpoint) {}

  // Finds out how the tensor is stored, checks all that belongs to it, and takes over the stored types. A tensor that
  // is not there at all is remembered.
  absl::Status Resolve(TensorSpec& spec);

  // InvalidArgument that names the first few of the tensors that were not there, of `num_tensors`.
  absl::Status MissingTensors(size_t num_tensors) const;

  const absl::flat_hash_set<std::string>& needed() const { return needed_; }  // what was found, by name

 private:
  absl::Status Choose(TensorSpec& spec) const;
  absl::Status CheckData(const TensorSpec& spec, const StoredTensor& data) const;
  absl::Status CheckSide(const TensorSpec& spec, StoredTensor& side) const;
  absl::Status CheckSurplus(const TensorSpec& spec) const;
  absl::Status CheckUsable(const std::string& name) const;
  std::string PathOf(const std::string& name) const;  // of the file that has it

  const ModelSpec& model_;
  const NamePatterns& ignored_;
  const Checkpoint& checkpoint_;
  absl::flat_hash_set<std::string> needed_;
  std::vector<std::string> missing_;
};

}  // namespace tokenferry
