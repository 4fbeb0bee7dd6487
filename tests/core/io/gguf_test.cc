// GGUF headers: what ggml's package writes is read, and what is damaged is refused in one line.
#include "core/io/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/formats/block_decode.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

std::string DataPath(const std::string& name) {
  return std::string(std::getenv("TF_SOURCE_DIR")) + "/tests/data/gguf/" + name;
}

const GgufTensor& Find(const GgufHeader& header, const std::string& name) {
  for (const GgufTensor& t : header.tensors) {
    if (t.name == name) return t;
  }
  ADD_FAILURE() << name;
  return header.tensors[0];
}

std::vector<uint8_t> Bytes(const RangeFile& file, const GgufTensor& t) {
  std::vector<uint8_t> bytes(static_cast<size_t>(t.num_bytes));
  EXPECT_TRUE(file.Read(t.begin, absl::MakeSpan(bytes)).ok());
  return bytes;
}

class Gguf : public ::testing::Test {
 protected:
  absl::StatusOr<GgufHeader> Read(const std::string& bytes) {
    WriteFile(path_, bytes);
    TF_ASSIGN_OR_RETURN(const auto file, RangeFile::Open(path_));
    return ReadGgufHeader(*file);
  }
  TempDir dir_;
  const std::string path_ = dir_.path() + "/model.gguf";
};

TEST_F(Gguf, WhatTheFormatSaysIsRead) {
  for (const uint32_t version : {2u, 3u}) {
    GgufWriter out;
    out.version = version;
    out.Key("a.u8", uint8_t{255}).Key("a.i64", int64_t{-5}).Key("a.f32", 0.5f).Key("a.flag", true);
    out.Key("a.text", "Grüße").Key("a.list", std::vector<std::string>{"x", ""}).Key("general.alignment", uint32_t{64});
    out.Tensor("one", 0, {3, 2}, std::string(24, 'a')).Tensor("two", 8, {64}, std::string(68, 'b'));
    out.Tensor("other", 999, {5}, "");
    const auto header = Read(out.Bytes());
    ASSERT_OK(header);
    const nlohmann::json& metadata = header->metadata.root().value();
    EXPECT_EQ(metadata["a.u8"], 255);
    EXPECT_EQ(metadata["a.i64"], -5);
    EXPECT_EQ(metadata["a.f32"], 0.5);
    EXPECT_EQ(metadata["a.flag"], true);
    EXPECT_EQ(metadata["a.text"], "Grüße");
    EXPECT_EQ(metadata["a.list"], (nlohmann::json{"x", ""}));
    const GgufTensor &one = Find(*header, "one"), &two = Find(*header, "two"), &other = Find(*header, "other");
    EXPECT_EQ(one.shape, (std::vector<int64_t>{2, 3}));  // the fastest stands first in the file
    EXPECT_EQ(one.num_bytes, 24);
    EXPECT_EQ(one.begin % 64, 0);
    EXPECT_EQ(two.begin, one.begin + 64);
    EXPECT_EQ(two.dtype, DType::kQ8_0);
    EXPECT_EQ(two.num_bytes, 68);
    EXPECT_EQ(other.dtype, std::nullopt);
    EXPECT_EQ(other.type_name, "type 999");
    EXPECT_ERROR(header->metadata.root().Child("a.text")->Int(0, 1), kInvalid, path_ + ": ", "a.text", "an integer");
  }
}

// Every prefix of a file is refused, or its last tensors are, and says that something is missing.
TEST_F(Gguf, TruncatedFilesAreRefused) {
  GgufWriter out;
  out.Key("a.text", "words").Key("a.list", std::vector<std::string>{"x", "yz"});
  out.Tensor("one", 0, {3, 2}, std::string(24, 'a')).Tensor("two", 0, {1}, std::string(4, 'b'));
  const std::string whole = out.Bytes();
  ASSERT_OK(Read(whole));
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto header = Read(whole.substr(0, size));
    if (!header.ok()) {
      EXPECT_ERROR(header, kInvalid, path_ + ": ");
    }
    const std::string message = header.ok() ? Find(*header, "two").problem : std::string(header.status().message());
    EXPECT_TRUE(message.find("is it complete?") != message.npos || message.find("too few") != message.npos) << message;
  }
  const auto cut = Read(whole.substr(0, whole.size() - 1));
  ASSERT_OK(cut);
  EXPECT_EQ(Find(*cut, "one").problem, "");
  EXPECT_EQ(Find(*cut, "two").problem,
            "takes 4 bytes from byte 32 of the data, but the file has only 35 after its header (is it complete?)");
}

TEST_F(Gguf, DamagedHeadersAreRefused) {
  const auto base = [] {
    GgufWriter out;
    out.Tensor("one", 0, {8}, std::string(32, 'a'));
    return out;
  };
  EXPECT_ERROR(Read("GGML" + std::string(60, '\0')), kInvalid, "is no GGUF file: it begins with 'GGML'");
  EXPECT_ERROR(Read("version https://git-lfs.github.com/spec/v1"), kInvalid, "a Git LFS pointer");
  GgufWriter out = base();
  out.version = 1;
  EXPECT_ERROR(Read(out.Bytes()), kInvalid, "version 1 of the format; only 2 and 3");
  out.version = 0x03000000;
  EXPECT_ERROR(Read(out.Bytes()), kInvalid, "big-endian");
  for (const uint64_t count : {uint64_t{1} << 60, ~uint64_t{0}, uint64_t{1000}}) {
    out = base();
    out.num_tensors = count;
    EXPECT_ERROR(Read(out.Bytes()), kInvalid, absl::StrCat("there are ", count, " tensors"));
    out = base();
    out.num_keys = count;
    EXPECT_ERROR(Read(out.Bytes()), kInvalid, absl::StrCat("there are ", count, " keys"));
    out = base();
    out.RawKey("a", 9, std::string("\4\0\0\0", 4) + GgufWriter::Raw(count));
    EXPECT_ERROR(Read(out.Bytes()), kInvalid, absl::StrCat("there are ", count, " elements"));
    out = base();
    out.RawKey("a", 8, GgufWriter::Raw(count));
    EXPECT_ERROR(Read(out.Bytes()), kInvalid, absl::StrCat("a string of ", count, " bytes"));
  }
  out = base();
  EXPECT_ERROR(Read(out.RawKey("k", 77, "").Bytes()), kInvalid, "key 'k': the type 77");
  out = base();
  EXPECT_ERROR(Read(out.RawKey("k", 7, "\2").Bytes()), kInvalid, "key 'k': the boolean is 2");
  out = base();  // lists of lists
  EXPECT_ERROR(Read(out.RawKey("k", 9, GgufWriter::Raw(uint32_t{9}) + std::string(8, '\0')).Bytes()), kInvalid,
               "key 'k' is a list of elements of type 9");
  out = base();
  EXPECT_ERROR(Read(out.Key("k", true).Key("k", true).Bytes()), kInvalid, "the key 'k' twice");
  for (const uint32_t alignment : {0u, 24u, 1u << 31}) {
    out = base();
    EXPECT_ERROR(Read(out.Key("general.alignment", alignment).Bytes()), kInvalid,
                 absl::StrCat("'general.alignment' is ", alignment));
  }
}

TEST_F(Gguf, DamagedTensorsAreRefused) {
  const auto with = [&](uint32_t type, std::vector<uint64_t> dims, uint64_t offset, const std::string& name = "two") {
    GgufWriter out;
    out.Tensor("one", 0, {8}, std::string(32, 'a')).RawTensor(name, type, std::move(dims), offset);
    return Read(out.Bytes() + std::string(256, '\0'));
  };
  const auto problem = [&](uint64_t dim, uint64_t offset, const std::string& name = "two") {
    const auto header = with(0, {dim}, offset, name);
    EXPECT_TRUE(header.ok()) << header.status();
    return header.ok() ? Find(*header, name).problem : "";
  };
  EXPECT_EQ(problem(8, 32), "");
  EXPECT_EQ(problem(8, 32, "one"), "is there twice");
  EXPECT_EQ(problem(8, uint64_t{1} << 60).find("takes 32 bytes from byte 1152921504606846976 of the data"), 0u);
  EXPECT_EQ(problem(uint64_t{1} << 60, 32).find("takes 4611686018427387904 bytes"), 0u);
  EXPECT_ERROR(with(0, {8}, 0), kInvalid, "begins at byte 0 of the data, within tensor 'one' [0, 32)");
  EXPECT_ERROR(with(0, {8}, 40), kInvalid, "tensor 'two' begins at byte 40 of the data, which is no multiple of 32");
  EXPECT_ERROR(with(0, {8}, ~uint64_t{0}), kInvalid, "offset 18446744073709551615 overflows");
  EXPECT_ERROR(with(0, {uint64_t{1} << 63}, 32), kInvalid, "dimension 9223372036854775808 overflows");
  EXPECT_ERROR(with(0, {uint64_t{1} << 40, uint64_t{1} << 40}, 32), kInvalid, "the size of F32 [1099511627776, ",
               "overflows");
  EXPECT_ERROR(with(12, {128, 4}, 32), kInvalid,
               "tensor 'two' is Q4_K [4, 128], but blocks of Q4_K have 256 elements, which do not divide 128");
  EXPECT_ERROR(with(0, std::vector<uint64_t>(9, 1), 32), kInvalid, "tensor 'two' has 9 dimensions");
}

TEST_F(Gguf, ShardsAreThereOrNamed) {
  const auto write = [&](const std::string& name, int count) {
    GgufWriter out;
    WriteFile(dir_.path() + name, out.Key("split.count", static_cast<uint16_t>(count)).Bytes());
    return dir_.path() + name;
  };
  const auto shards = [](const std::string& path) -> absl::StatusOr<std::vector<std::string>> {
    TF_ASSIGN_OR_RETURN(const JsonDocument metadata, ReadGgufMetadata(path));
    return GgufShards(path, metadata.root());
  };
  EXPECT_EQ(*shards(write("/alone.gguf", 1)), std::vector<std::string>{dir_.path() + "/alone.gguf"});
  const std::string first = write("/m-00001-of-00003.gguf", 3), third = write("/m-00003-of-00003.gguf", 3);
  EXPECT_ERROR(shards(first), absl::StatusCode::kNotFound, "1 of 3 shards are missing, the first of them ",
               "/m-00002-of-00003.gguf");
  const std::string second = write("/m-00002-of-00003.gguf", 3);
  EXPECT_EQ(*shards(first), (std::vector<std::string>{first, second, third}));
  EXPECT_ERROR(shards(third), kInvalid, "is one of 3 shards",
               "give the first, whose name ends in '-00001-of-00003.gguf'");
  EXPECT_ERROR(shards(write("/renamed.gguf", 2)), kInvalid,
               "give the first, whose name ends in '-00001-of-00002.gguf'");
}

// Random bits of every type, against what ggml's package makes of them.
TEST(BlockDecode, EqualsThePackageBitForBit) {
  const auto file = RangeFile::Open(DataPath("blocks.gguf"));
  ASSERT_OK(file);
  const auto header = ReadGgufHeader(**file);
  ASSERT_OK(header);
  int num_types = 0;
  for (const GgufTensor& t : header->tensors) {
    if (!t.dtype || !IsBlockType(*t.dtype)) continue;
    ++num_types;
    const std::vector<uint8_t> blocks = Bytes(**file, t), want = Bytes(**file, Find(*header, t.name + ".values"));
    std::vector<float> got(want.size() / sizeof(float));
    ASSERT_GE(got.size(), size_t{1024}) << t.name;
    for (size_t i = 0; i < got.size(); i += kDecodedValues) {
      DecodeBlocks(*t.dtype, blocks.data(), static_cast<int64_t>(i), &got[i]);
    }
    EXPECT_EQ(0, std::memcmp(got.data(), want.data(), want.size())) << t.name;
    EXPECT_EQ(FindNonFiniteScale(*t.dtype, blocks.data(), t.num_bytes), -1) << t.name;
  }
  EXPECT_EQ(num_types, 10);
}

// An infinity or a NaN among the scales is found, in the block where it is, wherever it stands.
TEST(BlockDecode, ScalesThatAreNoNumbersAreFound) {
  for (int type = static_cast<int>(DType::kQ4_0); type <= static_cast<int>(DType::kMXFP4); ++type) {
    const auto dtype = static_cast<DType>(type);
    const DTypeBlock size = BlockOf(dtype);
    int num_found = 0;
    for (int64_t at = 0; at + 1 < size.bytes; ++at) {
      std::vector<uint8_t> blocks(static_cast<size_t>(3 * size.bytes));
      blocks[size.bytes + at] = 0xFF;
      blocks[size.bytes + at + 1] = 0xFF;
      float values[kDecodedValues];
      bool finite = true;
      for (int64_t i = 0; i < size.elements; i += kDecodedValues) {
        DecodeBlocks(dtype, blocks.data(), size.elements + i, values);
        for (const float v : values) finite = finite && std::isfinite(v);
      }
      const int64_t found = FindNonFiniteScale(dtype, blocks.data(), static_cast<int64_t>(blocks.size()));
      num_found += found >= 0 ? 1 : 0;
      EXPECT_TRUE(found == size.elements || (found == -1 && finite)) << DTypeName(dtype) << " " << at;
    }
    EXPECT_GT(num_found, 0) << DTypeName(dtype);
    EXPECT_LE(num_found, 4) << DTypeName(dtype);
  }
}

}  // namespace
}  // namespace tokenferry::testing
