#include "runtime/serve/front/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

namespace tokenferry {
namespace {

int StatusOf(const Access& access, const HttpFields& fields, Access::Needs needs, std::string* client) {
  HttpRequest request;
  request.fields = fields;
  const auto error = access.Check(request, needs, client);
  return error ? error->status : 200;
}

TEST(AccessTest, WithoutKeysOnlyThisHostAsks) {
  const Access access({}, {"Models.Example"});
  std::string client;
  const auto status = [&](const HttpFields& fields) { return StatusOf(access, fields, Access::Needs::kKey, &client); };
  for (const char* host :
       {"localhost", "localhost:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "LOCALHOST", "models.example:80"}) {
    EXPECT_EQ(status({{"host", host}}), 200) << host;
  }
  for (const char* host : {"evil.example", "evil.example:8000", "127.evil.example", "127.0.0.1.evil.example",
                           "10.0.0.1", "", "localhost.evil.example", "[::2]"}) {
    EXPECT_EQ(status({{"host", host}}), 403) << host;
  }
  EXPECT_EQ(status({{"host", "localhost"}, {"origin", "http://localhost:3000"}}), 200);
  EXPECT_EQ(status({{"host", "localhost"}, {"origin", "https://models.example"}}), 200);
  EXPECT_EQ(status({{"host", "localhost"}, {"origin", "http://evil.example"}}), 403);
  EXPECT_EQ(status({{"host", "localhost"}, {"origin", "null"}}), 403);
}

TEST(AccessTest, WithKeysOneOfThemIsNeeded) {
  const Access access({"first-key-1", "second-key-2"}, {});
  std::string client;
  const auto status = [&](const HttpFields& fields, Access::Needs needs = Access::Needs::kKey) {
    return StatusOf(access, fields, needs, &client);
  };
  EXPECT_EQ(status({{"host", "anything"}}), 401);
  EXPECT_EQ(status({{"host", "anything"}}, Access::Needs::kNothing), 200);
  EXPECT_EQ(status({{"authorization", "Bearer second-key-2"}}), 200);
  EXPECT_EQ(client, "key 1");
  EXPECT_EQ(status({{"authorization", "bearer  first-key-1 "}}), 200);
  EXPECT_EQ(client, "key 0");
  EXPECT_EQ(status({{"x-api-key", "first-key-1"}}), 200);
  for (const char* wrong : {"", "first-key", "first-key-12", "First-key-1", "first-key-1 second-key-2"}) {
    EXPECT_EQ(status({{"x-api-key", wrong}}), 401) << wrong;
  }
  EXPECT_EQ(status({{"authorization", "Basic first-key-1"}}), 401);
}

TEST(AccessTest, ComparesWholeTexts) {
  EXPECT_TRUE(EqualInConstantTime("abc", "abc"));
  EXPECT_FALSE(EqualInConstantTime("abc", "abd"));
  EXPECT_FALSE(EqualInConstantTime("abcabc", "abc"));
  EXPECT_FALSE(EqualInConstantTime("abc", "abcabc"));
  EXPECT_FALSE(EqualInConstantTime("abc", ""));
}

TEST(AccessTest, KeyFiles) {
  const std::string path = ::testing::TempDir() + "/keys";
  const auto read = [&](const std::string& text) {
    std::ofstream(path) << text;
    return ReadApiKeys(path);
  };
  EXPECT_EQ(*read("# two\n\nfirst-key-1\n  second-key-2 \n"),
            (std::vector<std::string>{"first-key-1", "second-key-2"}));
  const auto spaced = read("good-key-1\nbad secret key\n");
  EXPECT_THAT(std::string(spaced.status().message()), ::testing::HasSubstr("line 2"));
  EXPECT_THAT(std::string(spaced.status().message()), ::testing::Not(::testing::HasSubstr("secret")));
  EXPECT_FALSE(read("short\n").ok());
  EXPECT_FALSE(read("# none\n").ok());
  std::remove(path.c_str());
  EXPECT_EQ(ReadApiKeys(path).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tokenferry
