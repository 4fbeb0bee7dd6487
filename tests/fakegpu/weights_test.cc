// Weights that no family's checkpoint has, on the fake GPU, with the CPU's logits bit for bit: models in GGUF files,
// and experts that are rounded while they are loaded.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>

#include "core/device/cuda_device.h"
#include "tests/runtime/engine/engine_runner.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/random_blocks.h"

namespace tokenferry {
namespace {

using testing::GgufWriter;

void ExpectTheBitsOfTheCpu(RunSetup cpu) {
  cpu.num_ranks = 2;
  cpu.engine.prefill_chunk = 5;
  cpu.engine.cache_tokens_per_rank = 256;
  RunSetup gpu = cpu;
  gpu.make_device = [next = std::make_shared<std::atomic<int>>(0)] { return CreateCudaDevice({.ordinal = (*next)++}); };
  const std::vector<Request> requests = {LogitsRequest({5, 6, 7, 8, 9, 10, 11}), GenerateRequest({17, 3, 200}, 3)};
  const std::vector<RunResult> want = RunLocally(cpu, requests), got = RunLocally(gpu, requests);
  ASSERT_FALSE(want[0].logits.empty());
  for (const float x : want[0].logits) ASSERT_TRUE(std::isfinite(x));
  EXPECT_EQ(got[0].logits, want[0].logits);
  EXPECT_EQ(got[0].expert_idx, want[0].expert_idx);
  EXPECT_EQ(got[1].tokens, want[1].tokens);
  EXPECT_EQ(got[1].logprobs, want[1].logprobs);
}

// Seven types of blocks of 32; BF16, with kv_b in two parts.
TEST(GgufOnGpu, HasTheBitsOfTheCpu) {
  for (const char* name : {"qwen3_moe_blocks", "deepseek_v2_lite"}) {
    SCOPED_TRACE(name);
    ExpectTheBitsOfTheCpu({.model_dir = SourceDir() + "/tests/data/gguf/" + name + ".gguf"});
  }
}

std::string RandomValues(std::mt19937& random, size_t size) {
  std::normal_distribution<float> normal(1, 0.1f);
  std::string bytes;
  for (size_t i = 0; i < size; ++i) bytes += GgufWriter::Raw(normal(random));
  return bytes;
}

// A model of qwen3moe whose matrices have blocks of 256.
std::string ModelOfKBlocks() {
  std::mt19937 random(3);
  GgufWriter out;
  const auto key = [&](const std::string& name, auto value) { out.Key("qwen3moe." + name, value); };
  out.Key("general.architecture", "qwen3moe");
  for (const auto& [name, value] : std::vector<std::pair<const char*, uint32_t>>{{"block_count", 1},
                                                                                 {"context_length", 4096},
                                                                                 {"embedding_length", 256},
                                                                                 {"feed_forward_length", 256},
                                                                                 {"attention.head_count", 4},
                                                                                 {"attention.head_count_kv", 2},
                                                                                 {"attention.key_length", 64},
                                                                                 {"attention.value_length", 64},
                                                                                 {"expert_used_count", 2},
                                                                                 {"expert_count", 4},
                                                                                 {"expert_feed_forward_length", 256},
                                                                                 {"vocab_size", 320}}) {
    key(name, value);
  }
  key("attention.layer_norm_rms_epsilon", 1e-6f);
  key("rope.freq_base", 1e6f);
  out.Key("tokenizer.ggml.eos_token_id", uint32_t{319});
  constexpr uint32_t kF32 = 0, kQ4_K = 12, kQ5_K = 13, kQ6_K = 14;
  const auto add = [&](const std::string& name, uint32_t type, std::vector<uint64_t> dims) {
    uint64_t count = 1;
    for (const uint64_t dim : dims) count *= dim;
    if (type == kF32) return void(out.Tensor(name, type, dims, RandomValues(random, count)));
    const DType dtype = type == kQ4_K ? DType::kQ4_K : type == kQ5_K ? DType::kQ5_K : DType::kQ6_K;
    const auto blocks = RandomBlocks(dtype, BytesOfElements(dtype, static_cast<int64_t>(count)), random);
    out.Tensor(name, type, dims, std::string(blocks.begin(), blocks.end()));
  };
  add("token_embd.weight", kQ6_K, {256, 320});
  add("output.weight", kQ6_K, {256, 320});
  add("output_norm.weight", kF32, {256});
  add("blk.0.attn_norm.weight", kF32, {256});
  add("blk.0.ffn_norm.weight", kF32, {256});
  add("blk.0.ffn_gate_inp.weight", kF32, {256, 4});
  add("blk.0.attn_q_norm.weight", kF32, {64});
  add("blk.0.attn_k_norm.weight", kF32, {64});
  add("blk.0.attn_q.weight", kQ4_K, {256, 256});
  add("blk.0.attn_k.weight", kQ4_K, {256, 128});
  add("blk.0.attn_v.weight", kQ6_K, {256, 128});
  add("blk.0.attn_output.weight", kQ5_K, {256, 256});
  add("blk.0.ffn_gate_exps.weight", kQ4_K, {256, 256, 4});
  add("blk.0.ffn_up_exps.weight", kQ5_K, {256, 256, 4});
  add("blk.0.ffn_down_exps.weight", kQ6_K, {256, 256, 4});
  return out.Bytes();
}

TEST(GgufOnGpu, HasTheBitsOfTheCpuWithBlocksOf256) {
  testing::TempDir dir;
  testing::WriteFile(dir.path() + "/k.gguf", ModelOfKBlocks());
  ExpectTheBitsOfTheCpu({.model_dir = dir.path() + "/k.gguf"});
}

TEST(ExpertDtypeOnGpu, HasTheBitsOfTheCpu) {
  for (const ExpertDtype dtype : kExpertDtypes) {
    SCOPED_TRACE(std::string(ExpertDtypeName(dtype)));
    ExpectTheBitsOfTheCpu({.model_dir = SourceDir() + "/tests/data/families/qwen3_moe", .expert_dtype = dtype});
  }
  ExpectTheBitsOfTheCpu(
      {.model_dir = SourceDir() + "/tests/data/gguf/qwen3_moe_blocks.gguf", .expert_dtype = ExpertDtype::kInt4});
}

}  // namespace
}  // namespace tokenferry
