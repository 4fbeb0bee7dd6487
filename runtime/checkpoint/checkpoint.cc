#include "runtime/checkpoint/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "core/io/gguf.h"
#include "core/io/json.h"
#include "runtime/checkpoint/gguf_file.h"
#include "runtime/checkpoint/model_folder.h"

namespace tokenferry {
namespace {

constexpr size_t kMaxNamesShown = 3;

using WeightMap = std::map<std::string, std::string>;                  // tensor -> shard file
using ShardTensors = std::map<std::string, std::vector<std::string>>;  // shard file -> its tensors

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// A shard is a file of the checkpoint's own directory.
bool IsShardName(absl::string_view name) {
  return absl::EndsWith(name, ".safetensors") && !absl::StartsWith(name, ".") && name.find('/') == name.npos &&
         name.find('\\') == name.npos && name.find('\0') == name.npos;
}

absl::StatusOr<WeightMap> ReadWeightMap(const std::string& index_path) {
  TF_ASSIGN_OR_RETURN(const JsonDocument index, JsonDocument::ReadFile(index_path));
  TF_ASSIGN_OR_RETURN(const JsonNode weight_map, index.root().Child("weight_map"));
  TF_ASSIGN_OR_RETURN(const auto members, weight_map.Members());
  if (members.empty()) return weight_map.Error("is empty");
  WeightMap result;
  for (const auto& [tensor, shard_node] : members) {
    TF_ASSIGN_OR_RETURN(const std::string shard, shard_node.String());
    if (!IsShardName(shard))
      return shard_node.Error(absl::StrCat("'", Excerpt(shard), "' is not a plain file name ending in .safetensors"));
    result.emplace(tensor, shard);
  }
  return result;
}

// "'a', 'b', 'c' and 4 more"
std::string SomeNames(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMaxNamesShown);
  const std::string list =
      absl::StrJoin(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", ",
                    [](std::string* out, const std::string& name) { absl::StrAppend(out, "'", Excerpt(name), "'"); });
  return names.size() > shown ? absl::StrCat(list, " and ", names.size() - shown, " more") : list;
}

// OK when all are there.
absl::Status MissingShards(const ShardTensors& shards, const std::vector<std::string>& missing, const std::string& dir,
                           absl::string_view index_path) {
  if (missing.empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      index_path, ": ", missing.size(), " of ", shards.size(), " shards are missing from ", dir, ": ",
      SomeNames(missing), " (tensor '", Excerpt(shards.at(missing[0])[0]), "' is in the first); download them again"));
}

// Where a shard and the index disagree, in both directions.
class ShardCheck {
 public:
  ShardCheck(const SafetensorsFile& shard, std::string name, const WeightMap& weight_map, std::string index_path)
      : shard_(shard), name_(std::move(name)), weight_map_(weight_map), index_path_(std::move(index_path)) {}

  bool IsElsewhere(const std::string& tensor) const {
    const auto listed = weight_map_.find(tensor);
    return listed != weight_map_.end() && listed->second != name_;
  }

  // `expected`: what the index says is here.
  void Run(const std::vector<std::string>& expected, absl::flat_hash_map<std::string, absl::Status>& faults) const {
    std::vector<std::string> absent, unlisted;
    for (const std::string& tensor : expected) {
      if (shard_.Find(tensor) == nullptr) absent.push_back(tensor);
    }
    for (const TensorInfo& info : shard_.tensors()) {
      if (!weight_map_.contains(info.name)) unlisted.push_back(info.name);
      if (IsElsewhere(info.name)) faults[info.name] = Elsewhere(info.name);
    }
    Blame(absent, faults,
          absl::StrCat(index_path_, ": ", absent.size(), " tensors are not in shard ", shard_.path(),
                       " as the index says: "));
    Blame(unlisted, faults,
          absl::StrCat(shard_.path(), ": ", unlisted.size(), " tensors are missing in ", index_path_, ": "));
  }

 private:
  static void Blame(const std::vector<std::string>& tensors, absl::flat_hash_map<std::string, absl::Status>& faults,
                    const std::string& problem) {
    if (tensors.empty()) return;
    const absl::Status fault = absl::InvalidArgumentError(problem + SomeNames(tensors));
    for (const std::string& tensor : tensors) faults[tensor] = fault;
  }
  absl::Status Elsewhere(const std::string& tensor) const {
    return absl::InvalidArgumentError(absl::StrCat(shard_.path(), ": tensor '", Excerpt(tensor), "' is here, but ",
                                                   index_path_, " puts it in '", Excerpt(weight_map_.at(tensor)), "'"));
  }

  const SafetensorsFile& shard_;
  const std::string name_;
  const WeightMap& weight_map_;
  const std::string index_path_;
};

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& dir) {
  Checkpoint checkpoint;
  checkpoint.dir_ = dir;
  if (checkpoint.is_gguf()) {
    TF_RETURN_IF_ERROR(checkpoint.OpenGguf());
    return checkpoint;
  }
  const std::string single = absl::StrCat(dir, "/", kSingleCheckpointFile);
  const std::string index = absl::StrCat(dir, "/", kCheckpointIndexFile);
  if (Exists(single)) {
    TF_ASSIGN_OR_RETURN(auto shard, SafetensorsFile::Open(single));
    checkpoint.AddShard(std::move(shard), [](const std::string&) { return true; });
    return checkpoint;
  }
  if (!Exists(index)) {
    const std::string other = OtherWeights(dir);
    return absl::NotFoundError(
        absl::StrCat(dir, ": has neither ", kSingleCheckpointFile, " nor ", kCheckpointIndexFile,
                     other.empty() ? "; is the download complete?" : absl::StrCat(", but ", other)));
  }
  TF_RETURN_IF_ERROR(checkpoint.OpenSharded(index));
  return checkpoint;
}

bool Checkpoint::is_gguf() const { return IsGgufPath(dir_); }

absl::Status Checkpoint::OpenGguf() {
  TF_ASSIGN_OR_RETURN(auto first, GgufFile::Open(dir_));
  gguf_metadata_ = first->metadata();
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> paths, GgufShards(dir_, gguf_metadata_->root()));
  for (const std::string& path : paths) {
    std::unique_ptr<GgufFile> shard = std::move(first);
    if (shard == nullptr) {
      TF_ASSIGN_OR_RETURN(shard, GgufFile::Open(path));
    }
    for (const TensorInfo& info : shard->tensors()) {
      const Tensor* other = Find(info.name);
      if (other == nullptr) continue;
      faults_[info.name] = absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor '", Excerpt(info.name), "' is in ", shards_[other->shard_idx]->path(), " too"));
    }
    AddShard(std::move(shard), [&](const std::string& name) { return Find(name) == nullptr; });
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::OpenSharded(const std::string& index_path) {
  TF_ASSIGN_OR_RETURN(const WeightMap weight_map, ReadWeightMap(index_path));
  ShardTensors shards;
  for (const auto& [tensor, shard] : weight_map) shards[shard].push_back(tensor);
  std::vector<std::string> missing;
  absl::Status first_broken;
  for (const auto& [name, tensors] : shards) {
    const std::string path = absl::StrCat(dir_, "/", name);
    if (!Exists(path)) {
      missing.push_back(name);
      continue;
    }
    auto shard = SafetensorsFile::Open(path);
    if (!shard.ok()) {
      first_broken.Update(shard.status());
      for (const std::string& tensor : tensors) faults_[tensor] = shard.status();
      continue;
    }
    const ShardCheck check(**shard, name, weight_map, index_path);
    check.Run(tensors, faults_);
    AddShard(*std::move(shard), [&](const std::string& tensor) { return !check.IsElsewhere(tensor); });
  }
  const absl::Status missing_fault = MissingShards(shards, missing, dir_, index_path);
  for (const std::string& name : missing) {
    for (const std::string& tensor : shards.at(name)) faults_[tensor] = missing_fault;
  }
  if (!shards_.empty()) return absl::OkStatus();
  return first_broken.ok() ? missing_fault : first_broken;
}

void Checkpoint::AddShard(std::unique_ptr<TensorFile> shard, absl::FunctionRef<bool(const std::string&)> wanted) {
  const int shard_idx = num_shards();
  for (const TensorInfo& info : shard->tensors()) {
    if (wanted(info.name)) tensors_.emplace(info.name, Tensor{&info, shard_idx});
  }
  shards_.push_back(std::move(shard));
}

const absl::Status& Checkpoint::FaultOf(absl::string_view name) const {
  static const absl::Status ok;
  const auto it = faults_.find(name);
  return it == faults_.end() ? ok : it->second;
}

const Checkpoint::Tensor* Checkpoint::Find(absl::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

absl::Status Checkpoint::Read(const Tensor& tensor, int64_t offset, absl::Span<uint8_t> dst) const {
  return shards_[tensor.shard_idx]->Read(*tensor.info, offset, dst);
}

int64_t Checkpoint::bytes_read() const {
  int64_t sum = 0;
  for (const auto& shard : shards_) sum += shard->bytes_read();
  return sum;
}

}  // namespace tokenferry
