// What JSON schemas allow an answer to be, byte by byte.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/engine/byte_automaton.h"
#include "runtime/serve/grammar/json_schema.h"
#include "tests/runtime/serve/compile_form.h"

namespace tokenferry {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

bool GoesOn(const ByteAutomaton& a, int32_t state) {
  return a.is_end[state] == 1 || a.edge_offsets[state] < a.edge_offsets[state + 1];
}

struct Case {
  std::string schema;
  std::vector<std::string> good, bad;
};

TEST(JsonSchema, AllowsWhatIsValidAndNothingElse) {
  const Case cases[] = {
      {R"({"type":"string"})",
       {"\"\"", "\"a b\"", "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"", R"("\"\\\/\b\f\n\r\t\u00e9\uD7FF\uE000")",
        " \"a\""},
       {"", "a", "\"", "\"a", "\"a\"x", "\"\n\"", "\"\xFF\"", "\"\xC3\"", "\"\xED\xA0\x80\"", "\"\xC0\x80\"",
        "\"\xF4\x90\x80\x80\"", R"("\x")", R"("\uD800")", R"("\u12")", "  \"a\""}},
      {R"({"type":"string","minLength":1,"maxLength":2})",
       {"\"a\"", "\"\xC3\xA9\xC3\xA9\"", "\"\\n\\u0041\""},
       {"\"\"", "\"abc\""}},
      {R"({"type":"integer"})",
       {"0", "-0", "12", "-9007199254740993"},
       {"", "01", "+1", "1.0", "1e3", "-", "12345678901234567"}},
      {R"({"type":"number"})",
       {"0", "-1.5", "1e3", "1.25E-10", "0.0"},
       {".5", "1.", "1e", "1e123", "--1", "0x1", "NaN"}},
      {R"({"type":"boolean"})", {"true", "false"}, {"tru", "truefalse", "1"}},
      {R"({"type":["null","boolean"]})", {"null", "true"}, {"0"}},
      {R"({"enum":["a",1,null,{"b":[]}]})", {"\"a\"", "1", "null", "{\"b\":[]}"}, {"\"b\"", "2", "{}"}},
      {R"({"const":"é"})", {"\"é\""}, {"\"e\""}},
      {R"({"type":"string","enum":["a",1,null]})", {"\"a\""}, {"1", "null"}},
      {R"({"type":["integer","null"],"enum":["a",1,1.5,2.0,null]})", {"1", "2.0", "null"}, {"\"a\"", "1.5"}},
      {R"({"type":"object","const":{"a":1}})", {"{\"a\":1}"}, {"{}"}},
      {R"({"items":{"type":"null"},"maxItems":1})", {"[]", "[null]"}, {"[null,null]", "[1]", "1"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"null"},"c":{"type":"boolean"}},
           "required":["b"]})",
       {R"({"b":null})", R"({"a": 1, "b": null})", R"({"b":null,"c":true})",
        "{\n  \"a\": 1,\n  \"b\": null,\n  \"c\": false\n}"},
       {"{}", R"({"a":1})", R"({"b":null,"a":1})", R"({"b":null,})", R"({"b":null,"d":1})", R"({"a":1"b":null})",
        R"({"b" :null})"}},
      {R"({"properties":{"a":{},"b":{}}})",
       {"{}", "{ }", R"({"a":[1,{"x":"y"}],"b":2})", R"({"b":2})"},
       {R"({"c":1})", "[]"}},
      {R"({"type":"object","additionalProperties":false})", {"{}", "{\n}"}, {R"({"a":1})"}},
      {R"({"type":"object"})",
       {"{}", R"({"a":{"b":[1,"x",null,{}]},"":0})"},
       {"[]", "{\"a\"}", "{\"a\":}", "{1:2}", "{}{}"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})", {"{}", R"({"x":1, "y":2})"}, {R"({"x":"1"})"}},
      {R"({"type":"object","properties":{"a":{"type":"null"},"ab":{"type":"null"},"é\"":{"type":"null"}},
           "required":["ab"],"additionalProperties":{"type":"integer"}})",
       {R"({"ab":null})", R"({"a":null,"ab":null,"é\"":null})",
        R"({"ab":null,"":1,"abc":2, "aé":3,"b":4,"\"":5,"é":6})"},
       {R"({"ab":null,"a":1})", R"({"ab":null,"ab":1})", R"({"ab":null,"\u0061":1})", R"({"ab":null,"x":null})",
        R"({"x":1})", R"({"ab":null,"é\"":1})"}},
      {R"({"type":"object","patternProperties":{"^x[0-9]$":{"type":"integer"}}})",
       {"{}", R"({"x1":1, "x2":2})"},
       {R"({"x":1})", R"({"x1":null})", R"({"y":1})"}},
      {R"({"patternProperties":{"b":{}},"additionalProperties":false,"minProperties":1})",
       {R"({"abc":[]})"},
       {"{}", R"({"ac":1})"}},
      // Records of zod, with any names and with those of a list.
      {R"({"type":"object","propertyNames":{"type":"string"},"additionalProperties":{"type":"number"}})",
       {"{}", R"({"a":1.5,"b":0})"},
       {R"({"a":"x"})"}},
      {R"({"type":"object","propertyNames":{"minLength":2,"pattern":"^a"},"additionalProperties":{"type":"null"}})",
       {"{}", R"({"ab":null})"},
       {R"({"a":null})", R"({"ba":null})"}},
      {R"({"type":"object","propertyNames":{"type":"string","enum":["a","b"]},"additionalProperties":{"type":"null"},
           "required":["b"],"minProperties":1,"maxProperties":2})",
       {R"({"b":null})", R"({"a":null,"b":null})"},
       {R"({"a":null})", R"({"b":1})", R"({"c":null})", R"({"b":null,"b":null})"}},
      {R"({"type":"object","additionalProperties":{"type":"null"},"minProperties":1})",
       {R"({"x":null})", R"({"x":null,"y":null})"},
       {"{}", "{ }"}},
      {R"({"type":"object","minProperties":1})", {R"({"x":[]})"}, {"{}"}},
      {R"({"type":["string","integer"],"nullable":true})", {"\"a\"", "1", "null"}, {"true"}},
      {R"({"type":"string","enum":["a","b"],"const":"b"})", {"\"b\""}, {"\"a\""}},
      {R"({"type":"array","items":{"type":"integer"}})",
       {"[]", "[1]", "[1, 2,3]", "[\n  1,\n  2\n]"},
       {"[,]", "[1,]", "[\"a\"]", "[1"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3})",
       {"[1,2]", "[1,2,3]"},
       {"[]", "[1]", "[1,2,3,4]"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":2})", {"[1,2]", "[1,2,3,4,5]"}, {"[]", "[1]"}},
      {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
      // Tuples, as pydantic and zod write them, and as they were written before 2020.
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"minItems":2,"maxItems":2})",
       {R"([1,"a"])"},
       {R"([1])", R"(["a",1])", R"([1,"a",2])", "[]"}},
      {R"({"prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"}})",
       {"[]", "[1]", R"([1,"a",null, null])"},
       {R"([1,"a",1])", "[null]"}},
      {R"({"prefixItems":[{"type":"integer"}],"items":false})", {"[]", "[1]"}, {"[1,1]"}},
      {R"({"prefixItems":[{"type":"integer"}],"minItems":3})",
       {R"([1,null,"x"])", "[1,2,3,4]"},
       {"[1,2]", "[null,1,1]"}},
      {R"({"type":"array","items":[{"type":"integer"},{"type":"null"}],"additionalItems":{"type":"boolean"}})",
       {"[1,null,true,false]", "[1]"},
       {"[1,null,1]", "[null]"}},
      {R"({"type":"array","items":[{"type":"integer"}],"additionalItems":false})", {"[1]"}, {"[1,1]"}},
      {R"({"type":"array"})", {"[]", R"([1,["a",{"b":null}]])"}, {"{}"}},
      {R"({"anyOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},
                    {"type":"object","properties":{"ab":{"type":"null"}},"required":["ab"]},{"type":"string"}]})",
       {R"({"a":1})", R"({"ab":null})", "\"x\""},
       {R"({"a":null})", R"({"ab":1})", "{}"}},
      {R"({"$defs":{"x":{"type":"integer"}},"type":"array","items":{"$ref":"#/$defs/x"}})", {"[1,2]"}, {"[null]"}},
      {R"({"definitions":{"a/b":{"type":"null"}},"allOf":[{"$ref":"#/definitions/a~1b"}]})", {"null"}, {"1"}},
      // A list that contains itself, and a tree that is the whole schema.
      {R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},
           "next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","next"]}}})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
       {R"({"v":1})", R"({"v":1,"next":{}})", R"({"v":1,"next":{"v":2,"next":null})"}},
      {R"({"type":"object","properties":{"c":{"type":"array","items":{"$ref":"#"}}}})",
       {"{}", R"({"c":[{"c":[]},{}]})"},
       {R"({"c":[1]})"}},
      // An alternative that never ends is none.
      {R"({"anyOf":[{"$ref":"#/$defs/x"},{"type":"null"}],
           "$defs":{"x":{"type":"array","items":{"$ref":"#/$defs/x"},"minItems":1}}})",
       {"null"},
       {"[", "[null]"}},
      {"true", {"1", "[]", R"({"a":"b"})"}, {"", "a"}},
      {R"({"oneOf":[{"type":"integer"},{"type":["string","null"]},{"enum":[true,1.5]}]})",
       {"1", "\"a\"", "null", "true", "1.5"},
       {"false", "2.5", "[]"}},
      // Told apart by a property, as pydantic writes it.
      {R"({"discriminator":{"propertyName":"kind"},"oneOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}],"$defs":{
           "a":{"type":"object","properties":{"kind":{"const":"a"},"n":{"type":"integer"}},"required":["kind","n"]},
           "b":{"type":"object","properties":{"kind":{"enum":["b","c"]},"n":{"type":"null"}},
                "required":["n","kind"]}}})",
       {R"({"kind":"a","n":1})", R"({"kind":"c","n":null})"},
       {R"({"kind":"a","n":null})", R"({"kind":"b"})"}},
      {R"({"type":["string","null"],"pattern":"^[a-c]+$","minLength":2,"maxLength":3})",
       {"null", "\"ab\"", "\"cba\""},
       {"\"a\"", "\"abca\"", "\"ad\"", "\"\""}},
      {R"({"type":"string","pattern":"\"\\\\\u00e9","minLength":4})",
       {R"("a\"\\é")", R"("\"\\éa")", R"("\"\\é\n\u0001")"},
       {R"("\"\\é")", R"("a\"\\\u00e9")", R"("a\u0022\\é")"}},
      {R"({"type":"string","format":"date-time"})",
       {"\"2024-02-29T23:59:60.25Z\"", "\"1999-12-01T00:00:00+01:30\""},
       {"\"2024-13-01T00:00:00Z\"", "\"2024-02-29\"", "\"2024-02-29T24:00:00Z\"", "\"2024-02-29T00:00:00\""}},
      {R"({"type":"string","format":"date"})", {"\"2024-02-29\""}, {"\"2024-2-29\"", "\"2024-00-10\""}},
      {R"({"type":"string","format":"time"})", {"\"12:00:00Z\""}, {"\"12:60:00Z\"", "\"12:00Z\""}},
      {R"({"type":"string","format":"uuid"})",
       {"\"123e4567-E89B-12d3-a456-426614174000\""},
       {"\"123e4567e89b12d3a456426614174000\"", "\"123e4567-e89b-12d3-a456-42661417400g\""}},
      {R"({"type":"string","format":"email"})",
       {"\"a.b+c@x-y.example.org\""},
       {"\"a\"", "\"a@b\"", "\".a@b.de\"", "\"a@-b.de\""}},
      {R"({"type":"string","format":"hostname"})", {"\"a\"", "\"a-1.b.c\""}, {"\"\"", "\"-a\"", "\"a..b\"", "\"a_b\""}},
      {R"({"type":"string","format":"ipv4"})", {"\"0.10.199.255\""}, {"\"1.2.3\"", "\"1.2.3.256\"", "\"01.2.3.4\""}},
      {R"({"type":"string","format":"ipv6"})",
       {"\"::\"", "\"::1\"", "\"fe80::\"", "\"1:2:3:4:5:6:7:8\"", "\"1::3:4:5:6:7:8\"", "\"2001:db8::8a2e:370:7334\""},
       {"\":\"", "\"1:2:3:4:5:6:7\"", "\"1:2:3:4:5:6:7:8:9\"", "\"1::2::3\"", "\"12345::\"", "\"1:2:3:4:5:6:7:8::\""}},
      {R"({"type":"string","format":"duration"})",
       {"\"P3D\"", "\"P1Y2M3DT4H5M6S\"", "\"PT30M\"", "\"P2W\""},
       {"\"P\"", "\"PT\"", "\"3D\"", "\"P1D2Y\"", "\"P1W2D\""}},
      {R"({"type":"string","format":"uri"})", {"\"a\""}, {"1"}},
      {R"({"type":"string","format":"date","pattern":"^x$"})", {"\"x\""}, {"\"2024-02-29\""}},
      {R"({"title":"T","description":"d","default":1,"examples":[1],"format":"x","type":"integer"})", {"5"}, {"\"5\""}},
  };
  for (const Case& c : cases) {
    const absl::StatusOr<ByteAutomaton> automaton = CompileSchema(c.schema);
    ASSERT_TRUE(automaton.ok()) << c.schema << ": " << automaton.status();
    for (const ByteAutomaton::Edge& edge : automaton->edges) {  // nowhere is there no way on
      EXPECT_TRUE(GoesOn(*automaton, edge.target) && (edge.then < 0 || GoesOn(*automaton, edge.then))) << c.schema;
    }
    for (const std::string& text : c.good) EXPECT_TRUE(Accepts(*automaton, text)) << c.schema << " " << text;
    for (const std::string& text : c.bad) EXPECT_FALSE(Accepts(*automaton, text)) << c.schema << " " << text;
  }
}

// Two alternatives that only depth tells are alike, and at each level a name that is required 200 times.
std::string RequiredManyTimes() {
  std::string schema = R"({"type":"object"})", required = R"("k")";
  for (int i = 1; i < 200; ++i) required += R"(,"k")";
  for (int depth = 0; depth < 20; ++depth) {
    schema = absl::StrCat(R"({"type":"object","properties":{"k":)", schema, R"(},"required":[)", required, "]}");
  }
  return absl::StrCat(R"({"oneOf":[)", schema, ",", schema, "]}");
}

TEST(JsonSchema, NamesWhatItRefuses) {
  const std::pair<std::string, const char*> cases[] = {
      {R"({"type":"string","pattern":1})", "schema: the schema: 'pattern' must be a text"},
      {R"x({"properties":{"x":{"type":"string","pattern":"^a(?=b)"}}})x",
       "properties.x: pattern: lookaround, '(?=', is not supported"},
      {R"({"type":"string","pattern":"^a$","minLength":2})", "matches nothing"},
      {R"({"properties":{"x":{"type":"integer","multipleOf":0}}})",
       "schema: properties.x: 'multipleOf' must be above zero"},
      {R"({"type":"integer","multipleOf":100003})", "'multipleOf' takes more than 20000 remainders"},
      {R"({"type":"integer","multipleOf":"2"})", "'multipleOf' must be a number"},
      {R"({"type":"number","exclusiveMinimum":true})", "'exclusiveMinimum' must be a number"},
      {R"({"type":"integer","minimum":2,"maximum":1})", "no number is within its limits"},
      {R"({"type":"integer","exclusiveMinimum":1,"exclusiveMaximum":2})", "no number is within its limits"},
      {R"({"type":"integer","minimum":1e300})", "no number is within its limits"},
      {R"({"oneOf":[]})", "oneOf: must be a list of schemas"},
      {R"({"oneOf":[{"type":"null"},{"type":"number"},{"type":"integer"}]})",
       "oneOf: alternatives 1 and 2 may have a value in common"},
      {R"({"oneOf":[{"type":"string"},{"properties":{}}]})", "alternatives 0 and 1 may have a value in common"},
      {R"({"oneOf":[{"enum":[1,"a"]},{"const":1.0}]})", "alternatives 0 and 1 may have a value in common"},
      {R"({"oneOf":[{"const":{"a":1,"b":2}},{"const":{"b":2,"a":1}}]})", "may have a value in common"},
      {R"({"oneOf":[true,{"type":"null"}]})", "may have a value in common"},
      {RequiredManyTimes(), "alternatives 0 and 1 may have a value in common"},
      // The property that tells them apart may be missing.
      {R"({"oneOf":[{"type":"object","properties":{"k":{"const":1}},"required":["k"]},
                    {"type":"object","properties":{"k":{"const":2}}}]})",
       "may have a value in common"},
      {R"({"not":{}})", "'not' is not supported"},
      {R"({"properties":{"a":{}},"patternProperties":{"x":{}}})", "'patternProperties' of several patterns, or beside"},
      {R"({"patternProperties":{"x":{},"y":{}}})", "'patternProperties' of several patterns"},
      {R"x({"patternProperties":{"(?=x)":{}}})x", "patternProperties.(?=x): pattern: lookaround"},
      {R"({"type":"object","patternProperties":1})", "patternProperties: must be an object"},
      {R"({"type":"object","properties":{"a":{}},"propertyNames":{}})", "'propertyNames' beside 'properties'"},
      {R"({"type":"object","propertyNames":{"format":"x","not":{}}})", "schema: propertyNames: 'not' is not supported"},
      {R"({"type":"object","propertyNames":{"type":"integer"}})", "propertyNames: names are of type 'string'"},
      {R"({"type":"object","propertyNames":{"enum":[1]}})", "propertyNames: of an 'enum' must be a list of texts"},
      {R"({"type":"object","propertyNames":1})", "propertyNames: must be an object"},
      {R"({"type":"object","minProperties":2})", "'minProperties' above 1"},
      {R"({"type":"object","maxProperties":2})",
       "'maxProperties' below the number of properties, or where there may be any"},
      {R"({"properties":{"a":{},"b":{}},"maxProperties":1})", "'maxProperties' below the number"},
      {R"({"type":"array","prefixItems":1})", "prefixItems: must be a list of schemas"},
      {R"({"type":"array","items":{},"additionalItems":false})", "'additionalItems' without a list of 'items'"},
      {R"({"prefixItems":[{}],"items":false,"minItems":2})", "maxItems is less than minItems"},
      {R"({"type":"string","nullable":1})", "nullable: must be true or false"},
      {R"({"nullable":true})", "'nullable' is not supported, or not without a type"},
      {R"({"oneOf":[{"type":"null"},{"type":"string","nullable":true}]})",
       "alternatives 0 and 1 may have a value in common"},
      {R"({"type":"thing"})", "type: 'thing' is no type"},
      {R"({"type":[]})", "type: must not be empty"},
      {R"({"type":[1]})", "type: must be a text"},
      {"1", "must be an object, or true"},
      {"false", "must be an object, or true"},
      {R"({"enum":[]})", "enum: must be a list of values"},
      {R"({"type":"integer","enum":[1,2],"minimum":2})", "'minimum' beside 'enum' is not supported"},
      {R"({"type":"string","enum":["a","b"],"pattern":"b"})", "'pattern' beside 'enum' is not supported"},
      {R"({"const":1,"not":{"const":1}})", "'not' beside 'const' is not supported"},
      {R"({"enum":[1,2],"const":3})", "no value is of the type, or is the const"},
      {R"({"type":"string","enum":[1,null]})", "enum: no value is of the type"},
      {R"({"type":"strings","enum":["a"]})", "type: 'strings' is no type"},
      {R"({"properties":{},"dependentRequired":{}})", "'dependentRequired' is not supported"},
      {R"({"items":{},"uniqueItems":true})", "'uniqueItems' is not supported"},
      {R"({"type":"object","additionalProperties":1})", "additionalProperties: must be an object, true or false"},
      {R"({"anyOf":[]})", "anyOf: must be a list of schemas"},
      {R"({"anyOf":[{"type":"null"}],"type":"null"})", "'type' beside 'anyOf' is not supported"},
      {R"({"allOf":[{},{}]})", "'allOf' of more than one schema"},
      {R"({"$ref":"#/$defs/no"})", "$ref: there is no '#/$defs/no'"},
      {R"({"$ref":"other.json"})", "$ref: 'other.json' is not in this schema"},
      {R"({"$ref":1})", "$ref: must be a text"},
      {R"({"$ref":"#"})", "begins with itself"},
      {R"({"required":["a"],"type":"object"})", "required: 'a' is not among the properties"},
      {R"({"required":1,"type":"object"})", "required: must be a list"},
      {R"({"type":"object","properties":1})", "properties: must be an object"},
      {R"({"type":"string","minLength":-1})", "'minLength' must be a number"},
      {R"({"type":"string","minLength":2,"maxLength":1})", "maxLength is less than minLength"},
      {R"({"type":"array","minItems":2,"maxItems":1})", "maxItems is less than minItems"},
      {R"({"type":"array","maxItems":1.5})", "'maxItems' must be a number"},
      {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})", "contains itself for ever"},
      {R"({"anyOf":[{"type":"object"},{"type":"object","properties":{"a":{}}}]})", "alternatives that begin alike"},
  };
  for (const auto& [schema, message] : cases) {
    EXPECT_THAT(std::string(CompileSchema(schema).status().message()), HasSubstr(message)) << schema;
  }
}

TEST(JsonSchema, StaysWithinItsLimits) {
  const auto refusal = [](const std::string& schema) { return std::string(CompileSchema(schema).status().message()); };
  const auto too_much = HasSubstr("more than 20000 states");
  EXPECT_THAT(refusal(R"({"type":"string","maxLength":1000000000})"), too_much);
  EXPECT_THAT(refusal(R"({"type":"string","maxLength":20000})"), too_much);
  EXPECT_THAT(refusal(R"({"type":"array","minItems":1000000000,"items":{"type":"integer"}})"), too_much);
  EXPECT_THAT(refusal(absl::StrCat(R"({"description":")", std::string(kMaxSchemaBytes, 'x'), "\"}")),
              HasSubstr("65536 bytes"));
  // A name as long as a schema allows: what other names there are is not found out by a recursion as deep.
  EXPECT_THAT(refusal(absl::StrCat(R"({"type":"object","properties":{")", std::string(30'000, 'a'),
                                   R"(":{}},"additionalProperties":{"type":"integer"}})")),
              HasSubstr("states"));
  EXPECT_EQ(refusal(absl::StrCat(R"({"type":"object","properties":{")", std::string(300, 'a'),
                                 R"(":{}},"additionalProperties":{"type":"integer"}})")),
            "");
  std::string deep = "{}";
  for (int i = 0; i <= kMaxSchemaDepth; ++i) deep = absl::StrCat(R"({"type":"array","items":)", deep, "}");
  EXPECT_THAT(refusal(deep), HasSubstr("nested more than 32 deep"));
  // Each definition means two of the next: 2^40 of the last.
  std::string bomb = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < 40; ++i) {
    const std::string next = absl::StrCat(R"({"$ref":"#/$defs/d)", i + 1, "\"}");
    absl::StrAppend(&bomb, "\"d", i, R"(":{"type":"object","properties":{"a":)", next, ",\"b\":", next, "}},");
  }
  EXPECT_FALSE(CompileSchema(bomb + R"("d40":{}}})").ok());
  // A long definition that is used again and again: whether it contains itself takes a look at all of it each time.
  std::string zeros = "0", uses = R"({"$ref":"#/$defs/a"})";
  for (int i = 1; i < 20'000; ++i) absl::StrAppend(&zeros, ",0");
  for (int i = 1; i < 1100; ++i) absl::StrAppend(&uses, R"(,{"$ref":"#/$defs/a"})");
  const std::string defs = absl::StrCat(R"("$defs":{"a":{"type":"null","default":[)", zeros, "]}}}");
  EXPECT_THAT(refusal(absl::StrCat(R"({"anyOf":[)", uses, "],", defs)),
              HasSubstr("more than 20000000 steps to compile"));
  EXPECT_EQ(refusal(absl::StrCat(R"({"$ref":"#/$defs/a",)", defs)), "");
}

TEST(AutomatonBuilder, CountsItsSteps) {
  AutomatonBuilder builder;
  std::vector<AutomatonBuilder::Node> nodes;
  for (int i = 0; i < 1000; ++i) nodes.push_back(builder.NewNode());
  for (const auto from : nodes) {
    for (const auto to : nodes) builder.Join(from, to);
  }
  for (int i = 0; i < 26; ++i) builder.Byte(builder.RuleBegin(0), 'a' + i, 'a' + i, nodes[i]);
  builder.EndRule(0, nodes[0]);
  EXPECT_THAT(std::string(builder.Build().status().message()), HasSubstr("more than 20000000 steps to compile"));
}

// A character of a long text is one state, whatever its bytes.
TEST(JsonSchema, LongTexts) {
  const auto automaton =
      CompileSchema(R"({"properties":{"v":{"type":"string","minLength":2,"maxLength":15000}},"required":["v"]})");
  ASSERT_TRUE(automaton.ok()) << automaton.status();
  const auto text = [](const std::string& character, int count) {
    std::string out = R"({"v":")";
    for (int i = 0; i < count; ++i) out += character;
    return out + "\"}";
  };
  for (const std::string character : {"a", "é", "\xF0\x9F\x98\x80", "\\n", "\\u00e9"}) {
    for (const auto& [count, good] :
         {std::pair(1, false), std::pair(2, true), std::pair(15000, true), std::pair(15001, false)}) {
      EXPECT_EQ(Accepts(*automaton, text(character, count)), good) << character << " " << count;
    }
  }
  EXPECT_FALSE(Accepts(*automaton, text("\xC3", 2)));
  EXPECT_FALSE(Accepts(*automaton, text("\n", 2)));
}

// Whatever a walk through the automaton makes is JSON, and is valid: here, of the types that the schema says.
TEST(JsonSchema, RandomWalksAreValid) {
  const auto automaton = CompileSchema(R"({"type":"object","properties":{"n":{"type":"number"},"s":{"type":"string"},
      "l":{"type":"array","items":{"type":["integer","null"]}},"o":{"type":"object"}},"required":["n","l"]})");
  ASSERT_TRUE(automaton.ok()) << automaton.status();
  const auto seed = std::random_device()();
  std::mt19937 random(seed);
  int num_whole = 0;
  for (int walk = 0; walk < 300; ++walk) {
    std::string text;
    AutomatonPosition position;
    while (text.size() < 2000 && !MayEnd(*automaton, position)) {
      std::vector<uint8_t> next;
      for (int byte = 0; byte < 256; ++byte) {
        AutomatonPosition copy = position;
        if (Advance(*automaton, static_cast<uint8_t>(byte), copy)) next.push_back(static_cast<uint8_t>(byte));
      }
      ASSERT_FALSE(next.empty()) << "no way on after " << text << " seed " << seed;
      // Ends things often enough: random bytes would go on in a text for ever.
      const std::string closing = "\"]},";
      std::vector<uint8_t> likely;
      for (const uint8_t byte : next) {
        if (closing.find(static_cast<char>(byte)) != std::string::npos) likely.push_back(byte);
      }
      const auto& from = !likely.empty() && random() % 2 == 0 ? likely : next;
      text += static_cast<char>(from[random() % from.size()]);
      ASSERT_TRUE(Advance(*automaton, static_cast<uint8_t>(text.back()), position));
    }
    if (!MayEnd(*automaton, position)) continue;
    num_whole += 1;
    const Json value = Json::parse(text, nullptr, false);
    ASSERT_TRUE(value.is_object() && value["n"].is_number() && value["l"].is_array()) << text << " seed " << seed;
    for (const Json& item : value["l"]) ASSERT_TRUE(item.is_null() || item.is_number_integer()) << text;
    ASSERT_TRUE(!value.contains("s") || value["s"].is_string()) << text;
    ASSERT_TRUE(!value.contains("o") || value["o"].is_object()) << text;
  }
  EXPECT_GT(num_whole, 50);
}

}  // namespace
}  // namespace tokenferry
