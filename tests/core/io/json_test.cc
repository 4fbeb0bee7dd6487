#include "core/io/json.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

absl::Status Parse(absl::string_view text, const JsonLimits& limits = {}) {
  return StatusOf(JsonDocument::Parse(std::string(text), "j", limits));
}

JsonDocument Document(absl::string_view text) {
  auto document = JsonDocument::Parse(std::string(text), "j.json");
  EXPECT_TRUE(document.ok()) << document.status();
  return *document;
}

TEST(Json, LimitsHold) {
  ASSERT_OK(Parse(R"({"a":[1,{"b":null}]})"));
  EXPECT_ERROR(Parse(std::string(33, '[')), kInvalid, "j:1:33: is nested deeper than 32 levels");
  EXPECT_ERROR(Parse(std::string(50'000'000, '[')), kInvalid, "nested deeper");
  EXPECT_ERROR(Parse("[1,2,3]", {.max_values = 3}), kInvalid, "j:1:6: has more than 3 values");
  EXPECT_ERROR(Parse("[1,2,3]", {.max_bytes = 6}), kInvalid, "7 bytes of JSON, more than 6");
}

TEST(Json, NoKeyStandsTwiceInOneObject) {
  EXPECT_ERROR(Parse("{\"a\":\n {\"x\":1,\n  \"y\":2, \"x\":3}}"), kInvalid, "j:3:10: has the key 'x' twice");
  EXPECT_ERROR(Parse(R"({"x":[], "\u0078":3})"), kInvalid, "j:1:10: has the key 'x' twice");
  ASSERT_OK(Parse(R"([{"x":1},{"x":2},{"y":{"x":1}}])"));
}

TEST(Json, SyntaxErrorsSayWhere) {
  EXPECT_ERROR(Parse(""), kInvalid, "j:1:1: is empty");
  EXPECT_ERROR(Parse(" \n\t "), kInvalid, "is empty");
  EXPECT_ERROR(Parse("{"), kInvalid, "j:1:2: is not JSON: the text ends too early");
  EXPECT_ERROR(Parse("{\"a\": 1,\n \"b\" 2}"), kInvalid, "j:2:6: is not JSON: syntax error at ");
  EXPECT_ERROR(Parse("[1, 2] x"), kInvalid, "j:1:8: is not JSON: syntax error at 'x'");
  EXPECT_ERROR(Parse("[\"\xff\"]"), kInvalid, "is not JSON");
  EXPECT_ERROR(Parse("[1,\n1e999]"), kInvalid, "j:2:1: has the number 1e999, out of range");
  EXPECT_ERROR(Parse("NaN"), kInvalid, "is not JSON");
}

TEST(Json, FilesThatStandInForOthersAreNamed) {
  EXPECT_ERROR(Parse("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2\n"), kInvalid,
               "j:1:1: is a Git LFS pointer", "git lfs pull");
  EXPECT_ERROR(Parse("<!DOCTYPE html><html>"), kInvalid, "an HTML page");
  EXPECT_ERROR(Parse(absl::string_view("GGUF\x03\0\0\0", 8)), kInvalid, "a GGUF file");
  EXPECT_ERROR(Parse(absl::string_view("\xff\xfe{\0}\0", 6)), kInvalid, "UTF-16");
}

// What nlohmann's parser could throw for must come as a status: numbers out of range, surrogates, very long tokens.
TEST(Json, NothingIsThrown) {
  for (const char* text : {"1e400", "-1e400", "\"\\ud800\"", "\"\\udc00\"", "\"\\u12\"", "\"\x01\"", "01", "+1", "1.",
                           ".5", "-", "tru", "{\"a\"}", "{,}", "[,]", "[1,]", "{\"a\":1,}", "/* */ 1"}) {
    EXPECT_FALSE(Parse(text).ok()) << text;
  }
  EXPECT_FALSE(Parse("\"" + std::string(1 << 20, 'x')).ok());
  EXPECT_LT(Parse(std::string(1 << 20, 'x')).message().size(), 300u);
}

TEST(Json, ErrorsNameTheWayAndThePlace) {
  const JsonDocument document = Document(R"({
  "rope": {"type": "yarn", "factor": 4},
  "prompts": [{"ids": [1, 2, "é", 3]},
              {"ids": []}],
  "odd key": [[[7]], null]
})");
  const JsonNode root = document.root();
  EXPECT_EQ(root.path(), "");
  EXPECT_EQ(root.Where(), "j.json");
  const auto rope = root.Child("rope"), prompts = root.Child("prompts"), odd = root.Child("odd key");
  ASSERT_OK(rope);
  EXPECT_EQ(rope->Where(), "j.json:2:11");
  EXPECT_EQ(rope->Child("factor")->Where(), "j.json:2:38");
  EXPECT_ERROR(rope->Child("factor")->String(), kInvalid, "j.json:2:38: rope.factor: must be a string, not 4");
  EXPECT_ERROR(rope->Child("beta"), kInvalid, "j.json:2:11: rope: lacks \"beta\"");
  const JsonNode first = (*prompts->Elements())[0];
  const JsonNode last = (*first.Child("ids")->Elements())[3];
  EXPECT_EQ(last.Where(), "j.json:3:35");  // in characters: é is one
  EXPECT_ERROR(last.Int(0, 2), kInvalid, "prompts[0].ids[3]: must be an integer in [0, 2], not 3");
  EXPECT_EQ((*prompts->Elements())[1].Where(), "j.json:4:15");
  EXPECT_ERROR((*odd->Elements())[0].Bool(), kInvalid, "j.json:5:15: ['odd key'][0]: must be true or false",
               "a list of 1");
  EXPECT_ERROR((*odd->Elements())[1].NotSupported("null"), absl::StatusCode::kUnimplemented, "j.json:5:22: ");
}

TEST(Json, ValuesOfTheSameContentHaveTheirOwnPlaces) {
  const JsonDocument document = Document("[[1,1],[1,1]]");
  for (int64_t i : {0, 1}) {
    for (int64_t k : {0, 1}) {
      const JsonNode row = (*document.root().Elements())[i];
      EXPECT_EQ((*row.Elements())[k].Where(), absl::StrCat("j.json:1:", 3 + 6 * i + 2 * k));
    }
  }
}

TEST(Json, PartsOfAFileCountItsLines) {
  const auto line = JsonDocument::Parse(R"({"a": -1})", "trace", {.first_line = 17});
  ASSERT_OK(line);
  EXPECT_ERROR(line->root().Child("a")->Int(0, 5), kInvalid, "trace:17:7: a: must be an integer in [0, 5], not -1");
}

TEST(Json, IntegersAreExactAndBounded) {
  const auto number = [](absl::string_view text, int64_t min, int64_t max) {
    return Document(text).root().Int(min, max);
  };
  EXPECT_EQ(*number("9223372036854775807", 0, INT64_MAX), INT64_MAX);
  EXPECT_EQ(*number("-9223372036854775808", INT64_MIN, 0), INT64_MIN);
  EXPECT_EQ(*number("0", 0, 0), 0);
  for (const char* text :
       {"18446744073709551615", "9223372036854775808", "-1", "6", "1.0", "1.5", "true", "null", "\"1\"", "[1]"}) {
    EXPECT_ERROR(number(text, 0, 5), kInvalid, "must be an integer in [0, 5]", text[0] == '[' ? "a list" : text);
  }
  EXPECT_ERROR(number("18446744073709551616", 0, 5), kInvalid, "must be an integer in [0, 5], not 1.8446744");
  EXPECT_ERROR(number("18446744073709551615", -1, 5), kInvalid, "must be an integer");
}

TEST(Json, AbsentAndNullAreAlike) {
  const JsonDocument document = Document(R"({"a": null, "b": true, "c": "x"})");
  const JsonNode root = document.root();
  EXPECT_FALSE((*root.Optional("a")).has_value());
  EXPECT_FALSE((*root.Optional("d")).has_value());
  EXPECT_EQ(*root.BoolOr("a", true), true);
  EXPECT_EQ(*root.BoolOr("b", false), true);
  EXPECT_EQ(*root.StringOr("c", "y"), "x");
  EXPECT_ERROR(root.StringOr("b", "y"), kInvalid, "b: must be a string, not true");
  EXPECT_ERROR(root.Child("b")->Optional("x"), kInvalid, "b: must be an object, not true");
  EXPECT_ERROR(root.Elements(), kInvalid, "j.json: must be a list, not an object");
}

TEST(Json, FilesAreReadWhole) {
  const std::string path = ::testing::TempDir() + "/json_test." + std::to_string(getpid());
  std::ofstream(path) << "{\"a\": 1}";
  ASSERT_OK(JsonDocument::ReadFile(path));
  EXPECT_ERROR(JsonDocument::ReadFile(path, {.max_bytes = 3}), absl::StatusCode::kResourceExhausted, path, "8 bytes");
  std::remove(path.c_str());
  EXPECT_ERROR(JsonDocument::ReadFile(path), absl::StatusCode::kNotFound, path);
  EXPECT_ERROR(JsonDocument::ReadFile(::testing::TempDir()), kInvalid, "is not a regular file");
}

TEST(ForeignText, ExcerptsAreShortAndOneLine) {
  EXPECT_EQ(Excerpt("a\nb\x01"), "a\\nb\\x01");
  EXPECT_LT(Excerpt(std::string(100'000, 'x')).size(), 200u);
}

}  // namespace
}  // namespace tokenferry::testing
