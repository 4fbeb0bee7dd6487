#include "runtime/checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "runtime/checkpoint/model_folder.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

FileTensor Bytes(const std::string& name, const std::string& data) {
  return {name, DType::kU8, {static_cast<int64_t>(data.size())}, data};
}

// Tensors a, b in shard one; c in shard two.
class ShardedCheckpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteFile(Path("one.safetensors"), SafetensorsBytes({Bytes("a", "1234"), Bytes("b", "56")}));
    WriteFile(Path("two.safetensors"), SafetensorsBytes({Bytes("c", "789")}));
    WriteIndex(R"("a":"one.safetensors","b":"one.safetensors","c":"two.safetensors")");
  }
  std::string Path(absl::string_view name) const { return absl::StrCat(dir_.path(), "/", name); }
  void WriteIndex(absl::string_view entries) {
    WriteFile(Path(kCheckpointIndexFile), absl::StrCat(R"({"metadata":{},"weight_map":{)", entries, "}}"));
  }
  absl::Status Fault(absl::string_view tensor) const {
    const auto checkpoint = Checkpoint::Open(dir_.path());
    return checkpoint.ok() ? checkpoint->FaultOf(tensor) : checkpoint.status();
  }
  absl::Status Open() const { return StatusOf(Checkpoint::Open(dir_.path())); }

  TempDir dir_;
};

TEST_F(ShardedCheckpoint, FindsTensorsAcrossShards) {
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_OK(checkpoint);
  EXPECT_EQ(checkpoint->num_shards(), 2);
  EXPECT_EQ(checkpoint->num_tensors(), 3);
  EXPECT_EQ(checkpoint->Find("d"), nullptr);
  const int64_t header_bytes = checkpoint->bytes_read();
  std::string read;
  for (const char* name : {"c", "a", "b"}) {
    const Checkpoint::Tensor* tensor = checkpoint->Find(name);
    ASSERT_NE(tensor, nullptr);
    std::string bytes(static_cast<size_t>(tensor->info->num_bytes), '?');
    ASSERT_OK(checkpoint->Read(*tensor, 0, absl::MakeSpan(reinterpret_cast<uint8_t*>(bytes.data()), bytes.size())));
    read += bytes;
  }
  EXPECT_EQ(read, "789123456");
  EXPECT_EQ(checkpoint->bytes_read() - header_bytes, 9);
}

TEST_F(ShardedCheckpoint, PrefersTheSingleFile) {
  WriteFile(Path(kSingleCheckpointFile), SafetensorsBytes({Bytes("z", "0")}));
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_OK(checkpoint);
  EXPECT_EQ(checkpoint->num_shards(), 1);
  EXPECT_NE(checkpoint->Find("z"), nullptr);
}

TEST_F(ShardedCheckpoint, NamesMissingShards) {
  std::filesystem::remove(Path("two.safetensors"));
  EXPECT_ERROR(Fault("c"), absl::StatusCode::kNotFound, Path(kCheckpointIndexFile), "1 of 2 shards",
               "'two.safetensors'", "tensor 'c'");
  ASSERT_OK(Fault("a"));
  std::filesystem::remove(Path("one.safetensors"));
  EXPECT_ERROR(Open(), absl::StatusCode::kNotFound, "2 of 2 shards", "'one.safetensors', 'two.safetensors'");
}

TEST_F(ShardedCheckpoint, ABrokenShardIsTheFaultOfItsTensors) {
  WriteFile(Path("two.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n");
  EXPECT_ERROR(Fault("c"), kInvalid, Path("two.safetensors"), "is a Git LFS pointer");
  ASSERT_OK(Fault("b"));
  std::filesystem::remove(Path("one.safetensors"));
  EXPECT_ERROR(Open(), kInvalid, Path("two.safetensors"), "is a Git LFS pointer");
}

TEST_F(ShardedCheckpoint, RefusesPathsInShardNames) {
  for (const char* name : {"../one.safetensors", "/etc/passwd.safetensors", "x/one.safetensors", "..", "",
                           ".safetensors", "one.bin", "one.safetensors\\u0000.safetensors", "a\\\\b.safetensors"}) {
    WriteIndex(absl::StrCat(R"("a":")", name, R"(","b":"one.safetensors")"));
    EXPECT_ERROR(Open(), kInvalid, Path(kCheckpointIndexFile), "weight_map.a: ", "is not a plain file name");
  }
}

TEST_F(ShardedCheckpoint, AnIndexThatDisagreesWithAShardIsTheFaultOfTheTensor) {
  WriteIndex(R"("a":"one.safetensors","b":"one.safetensors","c":"two.safetensors","d":"two.safetensors")");
  EXPECT_ERROR(Fault("d"), kInvalid, Path(kCheckpointIndexFile), "1 tensors are not in shard", Path("two.safetensors"),
               "'d'");
  ASSERT_OK(Fault("a"));
  WriteIndex(R"("a":"one.safetensors","c":"two.safetensors")");
  EXPECT_ERROR(Fault("b"), kInvalid, Path("one.safetensors"), "1 tensors are missing in", kCheckpointIndexFile.data(),
               "'b'");
  WriteFile(Path("two.safetensors"), SafetensorsBytes({Bytes("c", "789"), Bytes("a", "1234")}));
  WriteIndex(R"("a":"one.safetensors","b":"one.safetensors","c":"two.safetensors")");
  EXPECT_ERROR(Fault("a"), kInvalid, Path("two.safetensors"), "tensor 'a' is here", "puts it in 'one.safetensors'");
  const auto checkpoint = Checkpoint::Open(dir_.path());
  EXPECT_EQ(checkpoint->shard(checkpoint->Find("a")->shard_idx).path(), Path("one.safetensors"));
}

TEST_F(ShardedCheckpoint, RefusesABrokenIndex) {
  WriteFile(Path(kCheckpointIndexFile), "{");
  EXPECT_ERROR(Open(), kInvalid, Path(kCheckpointIndexFile), "not JSON");
  WriteFile(Path(kCheckpointIndexFile), "[]");
  EXPECT_ERROR(Open(), kInvalid, Path(kCheckpointIndexFile), "must be an object");
  WriteFile(Path(kCheckpointIndexFile), R"({"weight_map":[]})");
  EXPECT_ERROR(Open(), kInvalid, "weight_map: must be an object, not a list of 0");
  WriteIndex("");
  EXPECT_ERROR(Open(), kInvalid, "weight_map: is empty");
  WriteIndex(R"("a":3)");
  EXPECT_ERROR(Open(), kInvalid, "weight_map.a: must be a string, not 3");
  WriteIndex(R"("a":"one.safetensors","a":"two.safetensors")");
  EXPECT_ERROR(Open(), kInvalid, "the key 'a' twice");
}

TEST_F(ShardedCheckpoint, ManyDisagreementsStayOneShortLine) {
  std::string entries = R"("c":"two.safetensors")";
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&entries, ",\"x", i, R"(":"one.safetensors")");
  WriteIndex(entries);
  const absl::Status status = Fault("x7");
  EXPECT_ERROR(status, kInvalid, "1000 tensors", "and 997 more");
  EXPECT_LT(status.message().size(), 600u);
}

TEST(Checkpoint, NamesADirectoryWithoutOne) {
  TempDir dir;
  EXPECT_ERROR(Checkpoint::Open(dir.path()), absl::StatusCode::kNotFound, dir.path(), "neither model.safetensors nor");
  EXPECT_ERROR(Checkpoint::Open("/no/such/dir"), absl::StatusCode::kNotFound, "/no/such/dir");
}

TEST(ModelFolder, SaysWhatItIsInstead) {
  TempDir dir;
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  const auto path = [&](const std::string& name) { return dir.path() + "/" + name; };
  EXPECT_ERROR(CheckModelFolder(dir.path()), kNotFound, dir.path(), "is an empty folder");
  EXPECT_ERROR(CheckModelFolder(path("none")), kNotFound, path("none"), "there is no such folder");
  EXPECT_ERROR(CheckModelFolder("some-org/Some-Model.v3"), kNotFound, "hf download some-org/Some-Model.v3",
               "--local-dir Some-Model.v3");
  EXPECT_FALSE(absl::StrContains(StatusOf(CheckModelFolder("../models/x")).message(), "hf download"));
  WriteFile(path("model-Q4_K.gguf"), "GGUF");
  EXPECT_ERROR(Checkpoint::Open(path("model-Q4_K.gguf")), kInvalid, "model-Q4_K.gguf: ends after ");
  EXPECT_ERROR(CheckModelFolder(dir.path()), kNotFound, "but model-Q4_K.gguf, a GGUF file; give that file itself");
  WriteFile(path("config.json"), "{}");
  ASSERT_OK(CheckModelFolder(dir.path()));
  EXPECT_ERROR(CheckModelFolder(path("config.json")), kInvalid, "is a file; give the folder that it is in", dir.path());
  EXPECT_ERROR(Checkpoint::Open(dir.path()), kNotFound, "neither model.safetensors nor", "model-Q4_K.gguf");
  std::filesystem::remove(path("model-Q4_K.gguf"));
  EXPECT_ERROR(Checkpoint::Open(dir.path()), kNotFound, "is the download complete?");
  WriteFile(path("pytorch_model.bin"), "x");
  EXPECT_ERROR(Checkpoint::Open(dir.path()), kNotFound, "but pytorch_model.bin, weights that PyTorch has saved");
  std::filesystem::remove(path("pytorch_model.bin"));
  WriteFile(path("model-00001-of-00002.safetensors"), "x");
  EXPECT_ERROR(Checkpoint::Open(dir.path()), kNotFound, "model-00001-of-00002.safetensors, which no index names");
}

TEST(ModelFolder, KnowsTheHubsCache) {
  TempDir dir;
  std::filesystem::create_directories(dir.path() + "/snapshots/0a1b2c");
  EXPECT_ERROR(CheckModelFolder(dir.path()), absl::StatusCode::kNotFound, "a folder of the Hugging Face cache",
               dir.path() + "/snapshots/0a1b2c");
}

TEST(Checkpoint, OpensTheShippedModelByItsHeadersAlone) {
  const auto checkpoint = Checkpoint::Open(std::string(std::getenv("TF_SOURCE_DIR")) + "/models/ferry-tiny-v3");
  ASSERT_OK(checkpoint);
  EXPECT_EQ(checkpoint->num_shards(), 4);
  EXPECT_EQ(checkpoint->num_tensors(), 1099);
  EXPECT_EQ(checkpoint->bytes_read(), 4 * 8 + 34976 + 45664 + 27656 + 18800);
}

}  // namespace
}  // namespace tokenferry::testing
