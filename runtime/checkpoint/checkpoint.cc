#include "runtime/checkpoint/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "core/io/json.h"

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

absl::Status CheckShardsPresent(const ShardTensors& shards, const std::string& dir, absl::string_view index_path) {
  std::vector<std::string> missing;
  for (const auto& [name, tensors] : shards) {
    if (!Exists(absl::StrCat(dir, "/", name))) missing.push_back(name);
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      index_path, ": ", missing.size(), " of ", shards.size(), " shards are missing from ", dir, ": ",
      SomeNames(missing), " (tensor '", Excerpt(shards.at(missing[0])[0]), "' is in the first); download them again"));
}

// Both directions: what the index says is there (`expected`), and nothing else is.
absl::Status CheckShardAgainstIndex(const SafetensorsFile& shard, const std::string& shard_name,
                                    const std::vector<std::string>& expected, const WeightMap& weight_map,
                                    absl::string_view index_path) {
  std::vector<std::string> absent, unlisted;
  for (const std::string& tensor : expected) {
    if (shard.Find(tensor) == nullptr) absent.push_back(tensor);
  }
  if (!absent.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": ", absent.size(), " tensors are not in shard ",
                                                   shard.path(), " as the index says: ", SomeNames(absent)));
  }
  for (const TensorInfo& info : shard.tensors()) {
    const auto listed = weight_map.find(info.name);
    if (listed == weight_map.end()) {
      unlisted.push_back(info.name);
    } else if (listed->second != shard_name) {
      return absl::InvalidArgumentError(absl::StrCat(shard.path(), ": tensor '", Excerpt(info.name), "' is here, but ",
                                                     index_path, " puts it in '", Excerpt(listed->second), "'"));
    }
  }
  if (unlisted.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(shard.path(), ": ", unlisted.size(), " tensors are missing in ",
                                                 index_path, ": ", SomeNames(unlisted)));
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& dir) {
  Checkpoint checkpoint;
  checkpoint.dir_ = dir;
  const std::string single = absl::StrCat(dir, "/", kSingleCheckpointFile);
  const std::string index = absl::StrCat(dir, "/", kCheckpointIndexFile);
  if (Exists(single)) {
    TF_RETURN_IF_ERROR(checkpoint.AddShard(single));
    return checkpoint;
  }
  if (!Exists(index)) {
    return absl::NotFoundError(absl::StrCat(dir, ": has neither ", kSingleCheckpointFile, " nor ", kCheckpointIndexFile,
                                            "; is it a checkpoint directory?"));
  }
  TF_RETURN_IF_ERROR(checkpoint.OpenSharded(index));
  return checkpoint;
}

absl::Status Checkpoint::OpenSharded(const std::string& index_path) {
  TF_ASSIGN_OR_RETURN(const WeightMap weight_map, ReadWeightMap(index_path));
  ShardTensors shards;
  for (const auto& [tensor, shard] : weight_map) shards[shard].push_back(tensor);
  TF_RETURN_IF_ERROR(CheckShardsPresent(shards, dir_, index_path));
  for (const auto& [name, tensors] : shards) {
    TF_RETURN_IF_ERROR(AddShard(absl::StrCat(dir_, "/", name)));
    TF_RETURN_IF_ERROR(CheckShardAgainstIndex(*shards_.back(), name, tensors, weight_map, index_path));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::AddShard(const std::string& path) {
  TF_ASSIGN_OR_RETURN(auto shard, SafetensorsFile::Open(path));
  const int shard_idx = num_shards();
  for (const TensorInfo& info : shard->tensors()) tensors_.emplace(info.name, Tensor{&info, shard_idx});
  shards_.push_back(std::move(shard));
  return absl::OkStatus();
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
