#include "runtime/checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

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
  EXPECT_ERROR(Open(), absl::StatusCode::kNotFound, Path(kCheckpointIndexFile), "1 of 2 shards", "'two.safetensors'",
               "tensor 'c'");
}

TEST_F(ShardedCheckpoint, RefusesPathsInShardNames) {
  for (const char* name : {"../one.safetensors", "/etc/passwd.safetensors", "x/one.safetensors", "..", "",
                           ".safetensors", "one.bin", "one.safetensors\\u0000.safetensors", "a\\\\b.safetensors"}) {
    WriteIndex(absl::StrCat(R"("a":")", name, R"(","b":"one.safetensors")"));
    EXPECT_ERROR(Open(), kInvalid, Path(kCheckpointIndexFile), "weight_map.a: ", "is not a plain file name");
  }
}

TEST_F(ShardedCheckpoint, RefusesAnIndexThatDisagreesWithTheShards) {
  WriteIndex(R"("a":"one.safetensors","b":"one.safetensors","c":"two.safetensors","d":"two.safetensors")");
  EXPECT_ERROR(Open(), kInvalid, Path(kCheckpointIndexFile), "1 tensors are not in shard", Path("two.safetensors"),
               "'d'");
  WriteIndex(R"("a":"one.safetensors","c":"two.safetensors")");
  EXPECT_ERROR(Open(), kInvalid, Path("one.safetensors"), "1 tensors are missing in", kCheckpointIndexFile.data(),
               "'b'");
  WriteFile(Path("two.safetensors"), SafetensorsBytes({Bytes("c", "789"), Bytes("a", "1234")}));
  WriteIndex(R"("a":"one.safetensors","b":"one.safetensors","c":"two.safetensors")");
  EXPECT_ERROR(Open(), kInvalid, Path("two.safetensors"), "tensor 'a' is here", "puts it in 'one.safetensors'");
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
  const absl::Status status = Open();
  EXPECT_ERROR(status, kInvalid, "1000 tensors", "and 997 more");
  EXPECT_LT(status.message().size(), 600u);
}

TEST(Checkpoint, NamesADirectoryWithoutOne) {
  TempDir dir;
  EXPECT_ERROR(Checkpoint::Open(dir.path()), absl::StatusCode::kNotFound, dir.path(), "neither model.safetensors nor");
  EXPECT_ERROR(Checkpoint::Open("/no/such/dir"), absl::StatusCode::kNotFound, "/no/such/dir");
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
