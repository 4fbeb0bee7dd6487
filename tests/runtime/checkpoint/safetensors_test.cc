#include "runtime/checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/io/foreign_text.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

// Parses `header` over `data_bytes` of data, as the file "f".
absl::StatusOr<std::vector<TensorInfo>> Parse(absl::string_view header, int64_t data_bytes) {
  return ParseSafetensorsHeader(header, data_bytes, "f");
}

std::string OneTensor(absl::string_view fields) { return absl::StrCat("{\"a\":{", fields, "}}"); }

TEST(SafetensorsHeader, ReadsTensorsInOrderOfTheirData) {
  const auto tensors =
      Parse(R"({"b":{"dtype":"BF16","shape":[3],"data_offsets":[24,30]},"__metadata__":{"format":"pt","x":"y"},)"
            R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
            R"("s":{"dtype":"F8_E4M3","shape":[],"data_offsets":[30,31]},)"
            R"("e":{"dtype":"I64","shape":[0,7],"data_offsets":[31,31]},)"
            R"("p":{"dtype":"F4","shape":[3,2],"data_offsets":[31,34]}}    )",
            34);
  ASSERT_OK(tensors);
  ASSERT_EQ(tensors->size(), 5u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*tensors)[1].name, "b");
  EXPECT_EQ((*tensors)[1].dtype, DType::kBF16);
  EXPECT_EQ((*tensors)[1].begin, 24);
  EXPECT_EQ((*tensors)[1].num_bytes, 6);
  EXPECT_EQ((*tensors)[2].num_bytes, 1);
  EXPECT_EQ((*tensors)[3].num_bytes, 0);
  EXPECT_EQ((*tensors)[4].num_bytes, 3);  // two elements to a byte
}

TEST(SafetensorsHeader, RefusesWhatIsNoHeader) {
  EXPECT_ERROR(Parse("", 0), kInvalid, "f: ", "not JSON");
  EXPECT_ERROR(Parse("{\"a\":", 0), kInvalid, "f: ", "syntax error at byte");
  EXPECT_ERROR(Parse("\xff\xfe garbage", 0), kInvalid, "not JSON");
  EXPECT_ERROR(Parse("{} x", 0), kInvalid, "not JSON");
  EXPECT_ERROR(Parse("[1]", 0), kInvalid, "f: header is an array instead of an object");
  EXPECT_ERROR(Parse("17", 0), kInvalid, "the number 17 instead of an object");
  EXPECT_ERROR(Parse("{\"a\":[]}", 0), kInvalid, "header key 'a' is an array instead of an object");
  EXPECT_ERROR(Parse("{\"a\":null}", 0), kInvalid, "header key 'a' is null");
  EXPECT_ERROR(Parse("{\"__metadata__\":{\"k\":1}}", 0), kInvalid, "__metadata__ key 'k' is the number 1");
  EXPECT_ERROR(Parse("{\"__metadata__\":{\"k\":{}}}", 0), kInvalid, "__metadata__ key 'k' is an object");
  EXPECT_ERROR(Parse("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0), kInvalid, "the key 'k' twice");
}

TEST(SafetensorsHeader, RefusesDuplicateNames) {
  const std::string one = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_ERROR(Parse("{" + one + "," + one + "}", 1), kInvalid, "f: header names 'a' twice");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])"), 1), kInvalid,
               "tensor 'a': has the key 'dtype' twice");
}

// Nobody may need it, so it is not an error yet. What the offsets say must hold all the same.
TEST(SafetensorsHeader, AnUnknownDtypeIsAProblemOfItsTensor) {
  const auto tensors = Parse(OneTensor(R"("dtype":"F5","shape":[1,9],"data_offsets":[0,3])"), 3);
  ASSERT_OK(tensors);
  EXPECT_EQ((*tensors)[0].problem, "has the unknown dtype 'F5'");
  EXPECT_EQ((*tensors)[0].num_bytes, 3);
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"F5","shape":[1],"data_offsets":[0,3])"), 4), kInvalid, "cover 3 bytes");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"F5","shape":[1],"data_offsets":[0,9])"), 4), kInvalid, "reach beyond");
}

TEST(SafetensorsHeader, RefusesBadFields) {
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2), kInvalid,
               "F4 [3] has 12 bits, which are no whole bytes");
  EXPECT_ERROR(Parse(OneTensor(R"("shape":[1],"data_offsets":[0,1])"), 1), kInvalid, "'a': has no dtype");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","data_offsets":[0,1])"), 1), kInvalid, "'a': has no shape");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[1])"), 1), kInvalid, "'a': has no data_offsets");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[0])"), 1), kInvalid, "of two values");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,2])"), 1), kInvalid, "more than two");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1)"), 1), kInvalid,
               "'a': has the unknown key 'x'");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"), 1), kInvalid, "the number -1");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[1.5],"data_offsets":[0,1])"), 1), kInvalid, "the number 1.5");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":"1","data_offsets":[0,1])"), 1), kInvalid, "'shape'", "'1'");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":3,"shape":[1],"data_offsets":[0,1])"), 1), kInvalid, "'dtype'", "number 3");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])"), 1), kInvalid,
               "more than 8 dimensions");
}

TEST(SafetensorsHeader, RefusesSizesThatOverflowOrDisagree) {
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0), kInvalid,
               "f: tensor 'a': the size of F32 [4294967296, 4294967296] overflows");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,0])"), 0), kInvalid,
               "dimension 18446744073709551615 overflows");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0])"), 0), kInvalid,
               "the number 18446744073709551616");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"BF16","shape":[2,3],"data_offsets":[0,11])"), 11), kInvalid,
               "BF16 [2, 3] needs 12 bytes, but data_offsets [0, 11) hold 11");
}

TEST(SafetensorsHeader, RefusesBadRanges) {
  const auto two = [](int b0, int e0, int b1, int e1, int64_t data_bytes) {
    return Parse(
        absl::StrCat(R"({"a":{"dtype":"U8","shape":[)", e0 - b0, R"(],"data_offsets":[)", b0, ",", e0,
                     R"(]},"b":{"dtype":"U8","shape":[)", e1 - b1, R"(],"data_offsets":[)", b1, ",", e1, "]}}"),
        data_bytes);
  };
  EXPECT_TRUE(two(0, 4, 4, 8, 8).ok());
  EXPECT_TRUE(two(4, 8, 0, 4, 8).ok());
  EXPECT_ERROR(two(0, 4, 3, 7, 7), kInvalid, "tensor 'b': data_offsets [3, 7) overlap those of tensor 'a' [0, 4)");
  EXPECT_ERROR(two(0, 8, 2, 4, 8), kInvalid, "overlap");
  EXPECT_ERROR(two(0, 4, 5, 8, 8), kInvalid, "tensor 'b'", "hole of 1 bytes after byte 4");
  EXPECT_ERROR(two(1, 4, 4, 8, 8), kInvalid, "tensor 'a'", "hole of 1 bytes after byte 0");
  EXPECT_ERROR(two(0, 4, 4, 9, 8), kInvalid, "tensor 'b': data_offsets [4, 9) reach beyond the 8 bytes");
  EXPECT_ERROR(two(0, 4, 4, 8, 10), kInvalid, "cover 8 bytes", "the file has 10");
  EXPECT_ERROR(Parse(OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[3,2])"), 8), kInvalid,
               "data_offsets [3, 2) are descending");
}

TEST(SafetensorsHeader, BombsCostNoMoreThanTheirSize) {
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  const size_t n = 20'000'000;
  EXPECT_ERROR(Parse(std::string(n, '['), 0), kInvalid, "an array instead of an object");
  EXPECT_ERROR(Parse("{\"a\":{\"shape\":" + std::string(n, '['), 0), kInvalid, "tensor 'a'", "an array");
  std::string objects;
  for (size_t i = 0; i < n / 5; ++i) objects += "{\"a\":";
  EXPECT_ERROR(Parse(objects, 0), kInvalid, "unknown key");
  std::string dims = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1";
  for (size_t i = 0; i < n / 2; ++i) dims += ",1";
  EXPECT_ERROR(Parse(dims, 0), kInvalid, "more than 8 dimensions");
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 300 * 1024);  // KiB: the inputs themselves, and no trees of them
}

TEST(SafetensorsFile, RefusesBadLengths) {
  TempDir dir;
  const std::string path = dir.path() + "/x.safetensors";
  EXPECT_ERROR(SafetensorsFile::Open(path), absl::StatusCode::kNotFound, path);
  WriteFile(path, "");
  EXPECT_ERROR(SafetensorsFile::Open(path), kInvalid, path, "has only 0 bytes");
  const auto open_with_length = [&](uint64_t length) {
    std::string bytes(8, '\0');
    for (int i = 0; i < 8; ++i) bytes[static_cast<size_t>(i)] = static_cast<char>(length >> (8 * i));
    WriteFile(path, bytes + "{}");
    return StatusOf(SafetensorsFile::Open(path));
  };
  EXPECT_TRUE(open_with_length(2).ok());
  EXPECT_ERROR(open_with_length(3), kInvalid, path, "header length 3 is beyond the end of the file (10 bytes)");
  EXPECT_ERROR(open_with_length(100'000'001), kInvalid, "header length 100000001 is beyond the limit of 100000000");
  EXPECT_ERROR(open_with_length(uint64_t{1} << 60), kInvalid, "1152921504606846976");
  EXPECT_ERROR(open_with_length(~uint64_t{0}), kInvalid, "18446744073709551615");
  EXPECT_ERROR(open_with_length(0), kInvalid, "not JSON");
}

TEST(SafetensorsFile, RefusesWhatIsNoRegularFile) {
  TempDir dir;
  EXPECT_ERROR(SafetensorsFile::Open(dir.path()), kInvalid, dir.path(), "not a regular file");
  const std::string pipe = dir.path() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_ERROR(SafetensorsFile::Open(pipe), kInvalid, "not a regular file");
}

// Two tensors of distinct bytes: [0, 100) and [100, 200).
std::string WriteTwoTensors(const TempDir& dir) {
  std::string data;
  for (int i = 0; i < 200; ++i) data.push_back(static_cast<char>(i));
  const std::string path = dir.path() + "/two.safetensors";
  WriteFile(path, SafetensorsBytes(
                      {{"a", DType::kU8, {10, 10}, data.substr(0, 100)}, {"b", DType::kU8, {100}, data.substr(100)}}));
  return path;
}

std::string ReadRange(const SafetensorsFile& file, absl::string_view tensor, int64_t offset, size_t count) {
  std::string out(count, '?');
  const absl::Status status =
      file.Read(*file.Find(tensor), offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(out.data()), out.size()));
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

TEST(SafetensorsFile, ReadsRangesAndCountsBytes) {
  TempDir dir;
  const auto opened = SafetensorsFile::Open(WriteTwoTensors(dir));
  ASSERT_OK(opened);
  const SafetensorsFile& file = **opened;
  const int64_t header_bytes = file.bytes_read();
  EXPECT_EQ(file.Find("c"), nullptr);
  EXPECT_EQ(ReadRange(file, "b", 0, 3), "\x64\x65\x66");
  EXPECT_EQ(ReadRange(file, "a", 98, 2), "\x62\x63");
  EXPECT_EQ(ReadRange(file, "a", 100, 0), "");
  EXPECT_EQ(file.bytes_read() - header_bytes, 5);
  uint8_t buffer[101];
  EXPECT_ERROR(file.Read(*file.Find("a"), 0, absl::MakeSpan(buffer)), absl::StatusCode::kOutOfRange, "tensor 'a'",
               "101");
  EXPECT_ERROR(file.Read(*file.Find("a"), 100, absl::MakeSpan(buffer, 1)), absl::StatusCode::kOutOfRange);
  EXPECT_ERROR(file.Read(*file.Find("a"), -1, absl::MakeSpan(buffer, 1)), absl::StatusCode::kOutOfRange);
  EXPECT_ERROR(file.Read(*file.Find("a"), INT64_MAX, absl::MakeSpan(buffer, 1)), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(file.bytes_read() - header_bytes, 5);
}

int g_interruptions = 0;

// Every second call is interrupted; the others return at most 7 bytes.
ssize_t ReluctantPread(int fd, void* data, size_t num_bytes, off_t offset) {
  if (++g_interruptions % 2 == 1) {
    errno = EINTR;
    return -1;
  }
  return ::pread(fd, data, std::min<size_t>(num_bytes, 7), offset);
}

TEST(SafetensorsFile, SurvivesShortAndInterruptedReads) {
  TempDir dir;
  const std::string path = WriteTwoTensors(dir);
  const auto plain = SafetensorsFile::Open(path), reluctant = SafetensorsFile::Open(path, ReluctantPread);
  ASSERT_OK(plain);
  ASSERT_OK(reluctant);
  EXPECT_EQ(ReadRange(**reluctant, "b", 0, 100), ReadRange(**plain, "b", 0, 100));
  EXPECT_EQ((*reluctant)->bytes_read(), (*plain)->bytes_read());
  EXPECT_GT(g_interruptions, 2 * 100 / 7);
}

ssize_t FailingPread(int, void*, size_t, off_t) {
  errno = EIO;
  return -1;
}

TEST(SafetensorsFile, NamesFailuresOfTheFile) {
  TempDir dir;
  const std::string path = WriteTwoTensors(dir);
  const absl::Status failed = StatusOf(SafetensorsFile::Open(path, FailingPread));
  EXPECT_FALSE(failed.ok());
  EXPECT_TRUE(absl::StrContains(failed.message(), path)) << failed;
  EXPECT_TRUE(absl::StrContains(failed.message(), strerror(EIO))) << failed;

  const auto file = SafetensorsFile::Open(path);
  ASSERT_OK(file);
  ASSERT_EQ(truncate(path.c_str(), 250), 0);  // while it is open
  uint8_t buffer[100];
  EXPECT_ERROR((*file)->Read(*(*file)->Find("b"), 0, absl::MakeSpan(buffer)), absl::StatusCode::kDataLoss, path,
               "tensor 'b'", "ended while reading 100 bytes");
}

}  // namespace
}  // namespace tokenferry::testing
