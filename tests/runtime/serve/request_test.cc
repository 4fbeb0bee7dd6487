// Bodies of requests: what becomes of the fields that say of what form an answer is, and of too many keys.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/generation_request.h"

namespace tokenferry {
namespace {

using ::testing::HasSubstr;

const ServedModel& Model() {
  static const auto* const model = [] {
    const char* source = std::getenv("TF_SOURCE_DIR");
    const std::string root = source == nullptr ? "." : source;
    return new std::shared_ptr<const ServedModel>(
        *LoadServedModel({.dir = absl::StrCat(root, "/models/ferry-tiny-v3"),
                          .chat_template = absl::StrCat(root, "/tests/launch/serve/tools.jinja")}));
  }();
  return **model;
}

absl::StatusOr<GenerationRequest> Completion(const std::string& fields) {
  return ParseCompletionRequest(absl::StrCat(R"({"prompt":"a",)", fields, "}"), Model(), {}, nullptr);
}

// A chat that has to call a function with such parameters.
absl::StatusOr<GenerationRequest> Call(const std::string& parameters) {
  return ParseChatRequest(
      absl::StrCat(
          R"({"messages":[{"role":"user","content":"a"}],"tool_choice":"required","tools":[{"type":"function",)",
          R"("function":{"name":"f","parameters":)", parameters, "}}]}"),
      Model(), {}, nullptr);
}

// What generators of schemas write for a class is often a reference, and `type` may not stand beside it.
TEST(RequestGrammar, ParametersWithoutATypeOfTheirOwn) {
  const std::string object = R"({"type":"object","properties":{"x":{"type":"integer"}},"required":["x"]})";
  const absl::StatusOr<GenerationRequest> plain = Call(object);
  ASSERT_TRUE(plain.ok()) << plain.status();
  ASSERT_FALSE(plain->sampling.grammar.empty());
  const std::string same[] = {
      R"({"properties":{"x":{"type":"integer"}},"required":["x"]})",
      absl::StrCat(R"({"$ref":"#/$defs/p","$defs":{"p":)", object, "}}"),
      absl::StrCat(R"({"anyOf":[)", object, "]}"),
      absl::StrCat(R"({"allOf":[)", object, "]}"),
  };
  for (const std::string& parameters : same) {
    const absl::StatusOr<GenerationRequest> request = Call(parameters);
    ASSERT_TRUE(request.ok()) << parameters << " " << request.status();
    EXPECT_EQ(request->sampling.grammar, plain->sampling.grammar) << parameters;
  }
  for (const std::string parameters : {"{}", R"({"enum":[{"x":1}]})", R"({"const":{"x":1}})"}) {
    EXPECT_TRUE(Call(parameters).ok()) << parameters << " " << Call(parameters).status();
  }
}

TEST(RequestGrammar, ItsBytesAreCountedForEverySequence) {
  // A form of more than a quarter of a MiB, of which 64 would be more than 16 MiB.
  const std::string form =
      absl::StrCat(R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"const":")",
                   std::string(18'000, 'x'), "\"}}}");
  const absl::StatusOr<GenerationRequest> one = Completion(form);
  ASSERT_TRUE(one.ok()) << one.status();
  const size_t size = one->sampling.grammar.size();
  ASSERT_GT(size * 64, 16U << 20);
  const size_t most = (16U << 20) / size;
  EXPECT_TRUE(Completion(absl::StrCat(form, ",\"n\":", most)).ok());
  const absl::StatusOr<GenerationRequest> refused = Completion(absl::StrCat(form, ",\"n\":", most + 1));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr(absl::StrCat(size, " bytes for each of ", most + 1)));
  // Several prompts count as several choices do.
  std::string prompts = R"("prompt":["a")";
  for (size_t i = 0; i < most; ++i) prompts += R"(,"a")";
  EXPECT_FALSE(ParseCompletionRequest(absl::StrCat("{", prompts, "],", form, "}"), Model(), {}, nullptr).ok());
}

std::string ObjectOf(size_t num_keys) {
  std::string object = "{";
  for (size_t i = 0; i < num_keys; ++i) absl::StrAppend(&object, i > 0 ? "," : "", "\"", i, "\":1");
  return object + "}";
}

// Reading them takes a time that grows with the square of an object's keys, and with the number of such objects.
TEST(RequestBody, TooManyKeys) {
  EXPECT_TRUE(Completion(absl::StrCat("\"x\":", ObjectOf(10'000))).ok());
  EXPECT_TRUE(Completion(absl::StrCat("\"x\":[", ObjectOf(7000), ",", ObjectOf(7000), "]")).ok());
  const std::string refused[] = {
      absl::StrCat("\"x\":", ObjectOf(10'001)),
      absl::StrCat("\"x\":[", ObjectOf(8000), ",[{\"y\":", ObjectOf(8000), "}]]"),
  };
  for (const std::string& fields : refused) {
    EXPECT_THAT(std::string(Completion(fields).status().message()), HasSubstr("has too many keys: at most 10000"));
  }
}

}  // namespace
}  // namespace tokenferry
