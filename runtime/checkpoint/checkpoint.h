// The tensors of a model: a Hugging Face checkpoint directory (model.safetensors, or model.safetensors.index.json and
// its shards), or a GGUF file and its shards.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/io/json.h"
#include "core/status.h"
#include "runtime/checkpoint/safetensors.h"

namespace tokenferry {

inline constexpr absl::string_view kSingleCheckpointFile = "model.safetensors";
inline constexpr absl::string_view kCheckpointIndexFile = "model.safetensors.index.json";

// Immutable after Open, which reads only headers; all methods may be called from any thread.
class Checkpoint {
 public:
  struct Tensor {
    const TensorInfo* info;
    int shard_idx;
  };

  // Prefers model.safetensors where both exist. Errors name the directory, the file and the tensors: no checkpoint, a
  // broken index, a shard name with a path in it, not one shard that can be read. What concerns some tensors alone,
  // which nobody may need, is their fault. With a path that ends in .gguf: that file and the shards that it counts, of
  // which none may be missing.
  static absl::StatusOr<Checkpoint> Open(const std::string& dir);

  const std::string& dir() const { return dir_; }  // or the GGUF file
  bool is_gguf() const;
  // is_gguf(): of the first shard.
  const JsonDocument& gguf_metadata() const { return *gguf_metadata_; }
  int num_shards() const { return static_cast<int>(shards_.size()); }
  const TensorFile& shard(int shard_idx) const { return *shards_[shard_idx]; }
  int64_t num_tensors() const { return static_cast<int64_t>(tensors_.size()); }

  // Null: no such tensor.
  const Tensor* Find(absl::string_view name) const;

  // Why a tensor must not be used, naming file and tensors: its shard is missing or broken, its shard lacks it although
  // the index says otherwise, the index lacks it or puts it elsewhere, two shards of a GGUF file have it. OK for all
  // others.
  const absl::Status& FaultOf(absl::string_view name) const;
  const absl::flat_hash_map<std::string, absl::Status>& faults() const { return faults_; }  // by tensor

  // dst.size() bytes of the tensor from byte `offset` of it.
  absl::Status Read(const Tensor& tensor, int64_t offset, absl::Span<uint8_t> dst) const;

  int64_t bytes_read() const;  // from all shards, headers included; not the index

 private:
  Checkpoint() = default;
  absl::Status OpenGguf();
  absl::Status OpenSharded(const std::string& index_path);
  // Takes over the tensors of an opened shard that `wanted` accepts by name.
  void AddShard(std::unique_ptr<TensorFile> shard, absl::FunctionRef<bool(const std::string&)> wanted);

  std::string dir_;
  std::optional<JsonDocument> gguf_metadata_;
  std::vector<std::unique_ptr<TensorFile>> shards_;
  absl::flat_hash_map<absl::string_view, Tensor> tensors_;
  absl::flat_hash_map<std::string, absl::Status> faults_;
};

}  // namespace tokenferry
