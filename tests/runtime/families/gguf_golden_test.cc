// Models in GGUF files, as llama.cpp's converter writes them (tests/data/gguf/make_gguf.py), against the same models in
// safetensors.
#include "tests/runtime/families/gguf_golden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "core/formats/block_decode.h"
#include "core/io/gguf.h"
#include "runtime/checkpoint/gguf_file.h"
#include "runtime/families/families.h"
#include "runtime/model/generation_config.h"
#include "runtime/model/tensor_plan.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry {
namespace {

using testing::FileTensor;
using testing::GgufWriter;

std::string GgufPath(const std::string& name) { return SourceDir() + "/tests/data/gguf/" + name + ".gguf"; }

TEST(GgufGolden, AgreesWithTheModelThatWasConverted) {
  ExpectResultsOf("deepseek_v2_lite", GgufPath("deepseek_v2_lite"));
}

// The name on the hub of a tensor of qwen3moe; $0 in it: it holds all experts.
std::string HubName(const std::string& name) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  const size_t dot = name.find('.', 4);
  const std::string layer = name.substr(4, dot - 4), part = name.substr(dot + 1);
  const std::map<std::string, std::string> parts = {{"attn_norm", "input_layernorm"},
                                                    {"ffn_norm", "post_attention_layernorm"},
                                                    {"attn_q", "self_attn.q_proj"},
                                                    {"attn_k", "self_attn.k_proj"},
                                                    {"attn_v", "self_attn.v_proj"},
                                                    {"attn_output", "self_attn.o_proj"},
                                                    {"attn_q_norm", "self_attn.q_norm"},
                                                    {"attn_k_norm", "self_attn.k_norm"},
                                                    {"ffn_gate_inp", "mlp.gate"},
                                                    {"ffn_gate_exps", "mlp.experts.$0.gate_proj"},
                                                    {"ffn_up_exps", "mlp.experts.$0.up_proj"},
                                                    {"ffn_down_exps", "mlp.experts.$0.down_proj"}};
  return "model.layers." + layer + "." + parts.at(part.substr(0, part.rfind('.'))) + ".weight";
}

// The tensors of a GGUF file as F32 under the hub's names.
std::vector<FileTensor> Widened(const std::string& path) {
  std::vector<FileTensor> tensors;
  const auto file = GgufFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  for (const TensorInfo& info : (*file)->tensors()) {
    std::vector<uint8_t> bytes(static_cast<size_t>(info.num_bytes));
    EXPECT_TRUE((*file)->Read(info, 0, absl::MakeSpan(bytes)).ok());
    int64_t count = 1;
    for (const int64_t dim : info.shape) count *= dim;
    std::string data(static_cast<size_t>(count) * sizeof(float), '\0');
    auto* values = reinterpret_cast<float*>(data.data());
    for (int64_t i = 0; i < count; i += IsBlockType(info.dtype) ? kDecodedValues : 1) {
      if (IsBlockType(info.dtype)) DecodeBlocks(info.dtype, bytes.data(), i, values + i);
      if (info.dtype == DType::kF32) std::memcpy(values + i, bytes.data() + 4 * i, 4);
      if (info.dtype == DType::kBF16) values[i] = ToFloat(reinterpret_cast<const BF16*>(bytes.data())[i]);
    }
    const std::string name = HubName(info.name);
    if (info.shape.size() < 3) {
      tensors.push_back({name, DType::kF32, info.shape, data});
      continue;
    }
    const size_t size = data.size() / static_cast<size_t>(info.shape[0]);
    for (int64_t e = 0; e < info.shape[0]; ++e) {
      std::string one = name;
      one.replace(one.find("$0"), 2, std::to_string(e));
      tensors.push_back({one, DType::kF32, {info.shape[1], info.shape[2]}, data.substr(e * size, size)});
    }
  }
  return tensors;
}

// Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL and MXFP4 in one model: the bits of its values widened to F32, from files by
// the hub's rules; and memory holds what the file holds.
TEST(GgufGolden, BlocksComputeWhatTheirValuesDo) {
  const std::string path = GgufPath("qwen3_moe_blocks");
  testing::TempDir dir;
  const std::vector<FileTensor> tensors = Widened(path);
  testing::WriteFile(dir.path() + "/model.safetensors", testing::SafetensorsBytes(tensors));
  testing::WriteFile(dir.path() + "/config.json", testing::ReadFile(FamilyDir("qwen3_moe") + "/config.json"));
  const auto ids = Golden<int32_t>("qwen3_moe", "long.input_ids");
  const std::vector<float> logits = LogitsOfAll(path, ids);
  EXPECT_TRUE(SameBits(RunLocally(SetupOf(dir.path()), {LogitsRequest(ids)})[0].logits, logits));
  for (const float x : logits) ASSERT_TRUE(std::isfinite(x));

  const auto model = LoadModelSpec(path);
  ASSERT_OK(model);
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_OK(checkpoint);
  const auto checked = CheckCheckpoint(*model, *checkpoint);
  ASSERT_OK(checked);
  EXPECT_EQ(checked->num_unknown, 0);
  std::map<DType, int> num_tensors;
  for (const TensorSpec& spec : checked->plan.tensors) {
    EXPECT_EQ(spec.memory_bytes().total(), spec.stored_bytes()) << spec.name();
    ++num_tensors[spec.dtype()];
  }
  EXPECT_EQ(num_tensors.size(), 8);  // and F32
}

// Shards, of which the second has every tensor but one; then it is missing, then it has one that the first has too.
TEST(GgufGolden, ShardsAreOneModel) {
  const auto file = RangeFile::Open(GgufPath("qwen3_moe_blocks"));
  ASSERT_OK(file);
  const auto header = ReadGgufHeader(**file);
  ASSERT_OK(header);
  const std::string bytes = testing::ReadFile(GgufPath("qwen3_moe_blocks"));
  const std::map<std::string, uint32_t> types = {{"F32", 0},  {"Q4_0", 2}, {"Q4_1", 3},    {"Q5_0", 6},
                                                 {"Q5_1", 7}, {"Q8_0", 8}, {"IQ4_NL", 20}, {"MXFP4", 39}};
  GgufWriter first, second, twice;
  for (const auto& [key, value] : header->metadata.root().value().items()) {
    if (value.is_string()) first.Key(key, value.get<std::string>().c_str());
    if (value.is_number_float()) first.Key(key, value.get<float>());
    if (value.is_number_integer()) first.Key(key, value.get<uint32_t>());
  }
  first.Key("split.count", uint16_t{2});
  for (const GgufTensor& t : header->tensors) {
    const std::vector<uint64_t> dims(t.shape.rbegin(), t.shape.rend());
    const std::string data = bytes.substr(t.begin, t.num_bytes);
    (t.name == "output_norm.weight" ? first : second).Tensor(t.name, types.at(t.type_name), dims, data);
    twice.Tensor(t.name, types.at(t.type_name), dims, data);
  }
  testing::TempDir dir;
  const std::string path = dir.path() + "/m-00001-of-00002.gguf", other = dir.path() + "/m-00002-of-00002.gguf";
  testing::WriteFile(path, first.Bytes());
  EXPECT_ERROR(Checkpoint::Open(path), absl::StatusCode::kNotFound, "1 of 2 shards are missing", other);
  EXPECT_ERROR(LoadModelSpec(path), absl::StatusCode::kNotFound, "1 of 2 shards are missing", other);
  testing::WriteFile(other, twice.Bytes());
  const auto model = LoadModelSpec(path);
  ASSERT_OK(model);
  const auto repeated = Checkpoint::Open(path);
  ASSERT_OK(repeated);
  EXPECT_ERROR(CheckCheckpoint(*model, *repeated), absl::StatusCode::kInvalidArgument,
               "tensor 'output_norm.weight' is in ", path);
  testing::WriteFile(other, second.Bytes());
  const auto ids = Golden<int32_t>("qwen3_moe", "short.input_ids");
  EXPECT_TRUE(SameBits(RunLocally(SetupOf(path, 2), {LogitsRequest(ids)})[0].logits,
                       RunLocally(SetupOf(GgufPath("qwen3_moe_blocks")), {LogitsRequest(ids)})[0].logits));
}

}  // namespace
}  // namespace tokenferry
