#include "core/io/json_writer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

TEST(JsonWriter, WhatFitsTakesOneLine) {
  EXPECT_EQ(FormatJson(Json::object()), "{}");
  EXPECT_EQ(FormatJson({{"a", 1}, {"b", {{"c", "x\"y"}, {"d", nullptr}}}, {"e", {1.5, true}}}),
            R"({"a": 1, "b": {"c": "x\"y", "d": null}, "e": [1.5, true]})");
}

TEST(JsonWriter, SpreadsWhatDoesNotFitButNoListOfNumbers) {
  const Json json = {{"words", std::vector<std::string>(30, "word")},
                     {"numbers", std::vector<int>(200, 7)},
                     {"objects", std::vector<Json>(20, {{"key", 1}, {"other", 2}})}};
  const std::string text = FormatJson(json);
  EXPECT_EQ(Json::parse(text), json);
  std::istringstream lines(text);
  int num_lines = 0;
  for (std::string line; std::getline(lines, line); ++num_lines) {
    EXPECT_TRUE(line.size() <= 120 || line.find("\"numbers\": [7, 7") != std::string::npos) << line;
  }
  EXPECT_EQ(num_lines, 2 + (2 + 30) + 1 + (2 + 20));
}

TEST(JsonWriter, ALineOf120ColumnsIsWholeWithItsComma) {
  // {"a": "xx.."} in an array has two columns of indent before it and a comma behind it.
  for (const int extra : {0, 1}) {
    const Json inner = {{"a", std::string(108 + extra, 'x')}};
    const std::string text = FormatJson(Json(std::vector<Json>(2, inner)));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), extra == 0 ? 3 : 7) << text;
  }
}

TEST(JsonWriter, BytesThatAreNoTextAreReplaced) { EXPECT_EQ(FormatJson(Json("a\xFFz")), "\"a\xEF\xBF\xBDz\""); }

}  // namespace
}  // namespace tokenferry
