// What the readers of families share.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxExpertsPerToken = 32;        // the router's limit
constexpr int64_t kMaxPlannedExperts = 1'000'000;  // over all layers

DType ReadDType(ConfigReader& in) {
  // transformers 5 writes `dtype` where earlier versions wrote `torch_dtype`.
  const absl::string_view key = in.KeyOf({"dtype", "torch_dtype"});
  const std::string name = in.String(key, "bfloat16");
  in.RequireOneOf(key, name, {"bfloat16", "float32", "float16"}, "type");
  return name == "float32" ? DType::kF32 : name == "float16" ? DType::kF16 : DType::kBF16;
}

// For each layer one of `known`, as `key` lists them; empty when the file has no such list.
std::vector<std::string> ReadTypes(ConfigReader& in, const ModelSpec& spec, absl::string_view key,
                                   absl::Span<const absl::string_view> known, absl::string_view what) {
  std::vector<std::string> types = in.Strings(key);
  if (in.Has(key) && types.size() != spec.layers.size()) {
    in.Fail(key, absl::StrCat("has ", types.size(), " entries for ", spec.num_layers(), " layers"));
  }
  for (const std::string& type : types) in.RequireOneOf(key, type, known, what);
  return types;
}

}  // namespace

void ReadCommon(ConfigReader& in, const CommonKeys& keys, ModelSpec& spec) {
  spec.vocab_size = in.Int("vocab_size", 1, kMaxSize);
  spec.hidden_size = in.Int(keys.hidden_size, 1, kMaxSize);
  spec.layers.resize(static_cast<size_t>(in.Int(keys.num_layers, 1, kMaxLayers)));
  spec.max_position_embeddings = in.Int(keys.max_positions, 1, kMaxSize, keys.default_positions);
  spec.norm_eps = static_cast<float>(in.Number(keys.norm_eps, 0, 1));
  spec.tie_word_embeddings = in.Bool("tie_word_embeddings", false);
  const std::string activation = in.String(keys.activation_key, std::string(keys.activation));
  in.RequireOneOf(keys.activation_key, activation, {keys.activation}, "activation");
  spec.dtype = ReadDType(in);
  spec.bos_token_id = static_cast<int32_t>(in.Int("bos_token_id", 0, spec.vocab_size - 1, -1));
  spec.eos_token_ids = ReadEndTokens(in, spec.vocab_size);
}

void ReadLatentAttention(ConfigReader& in, ModelSpec& spec) {
  AttentionSpec a{.kind = AttentionKind::kLatent};
  a.num_heads = in.Int("num_attention_heads", 1, kMaxHeads);
  a.q_lora_rank = in.Int("q_lora_rank", 1, kMaxSize, 0);
  a.kv_lora_rank = in.Int("kv_lora_rank", 1, kMaxSize);
  a.nope_dim = in.Int("qk_nope_head_dim", 1, kMaxHeadDim);
  a.rope_dim = in.Int("qk_rope_head_dim", 2, kMaxHeadDim);
  a.value_dim = in.Int("v_head_dim", 1, kMaxHeadDim);
  if (in.Bool("attention_bias", false)) in.FailUnsupported("attention_bias", "is true; only false is supported");
  if (!in.Bool("rope_interleave", true)) in.FailUnsupported("rope_interleave", "is false; only true is supported");
  spec.rope = ReadRope(in, {.head_dim = a.rope_dim, .max_position = spec.max_position_embeddings});
  if (!in.ok()) return;
  a.rope_layout = RopeLayout::kInterleaved;
  a.scale = AttentionScale(spec.rope, a.nope_dim + a.rope_dim);
  for (LayerSpec& layer : spec.layers) layer.attention = a;
}

void ReadIndexer(ConfigReader& in, ModelSpec& spec, RopeLayout rope_layout) {
  const bool pairs = in.Bool("indexer_rope_interleave", rope_layout == RopeLayout::kInterleaved);
  const IndexerSpec indexer{.kind = IndexerSpec::Kind::kOwn,
                            .num_heads = in.Int("index_n_heads", 1, kMaxHeads),
                            .head_dim = in.Int("index_head_dim", 2, kMaxHeadDim),
                            .num_selected = in.Int("index_topk", 1, kMaxSize),
                            .rope_layout = pairs ? RopeLayout::kInterleaved : RopeLayout::kHalfSplit};
  if (!in.ok()) return;
  const AttentionSpec& a = spec.layers[0].attention;
  if (a.q_lora_rank == 0) in.Fail("q_lora_rank", "is missing, but an indexer's queries are made of that latent");
  if (indexer.head_dim < a.rope_dim) {
    in.Fail("index_head_dim",
            absl::StrCat("is ", indexer.head_dim, ", less than the qk_rope_head_dim ", a.rope_dim, " that turn"));
  }
  for (LayerSpec& layer : spec.layers) layer.attention.indexer = indexer;
}

void ReadGroupedAttention(ConfigReader& in, ModelSpec& spec, const RopeDefaults& rope) {
  AttentionSpec a{.kind = AttentionKind::kGrouped};
  a.num_heads = in.Int("num_attention_heads", 1, kMaxHeads);
  a.num_kv_heads = in.Int("num_key_value_heads", 1, kMaxHeads, a.num_heads);
  if (a.num_heads % a.num_kv_heads != 0) {
    in.Fail("num_key_value_heads",
            absl::StrCat("is ", a.num_kv_heads, ", which does not divide num_attention_heads ", a.num_heads));
  }
  if (!in.Has("head_dim") && spec.hidden_size % a.num_heads != 0) {
    in.Fail("num_attention_heads",
            absl::StrCat("is ", a.num_heads, ", which does not divide hidden_size ", spec.hidden_size));
  }
  a.head_dim = in.Int("head_dim", 1, kMaxHeadDim, spec.hidden_size / a.num_heads);
  spec.rope = ReadRope(in, {a.head_dim, spec.max_position_embeddings, rope});
  a.rope_layout = RopeLayout::kHalfSplit;
  a.scale = InverseRoot(a.head_dim);
  for (LayerSpec& layer : spec.layers) layer.attention = a;
}

void ReadExperts(ConfigReader& in, ModelSpec& spec, absl::Span<const absl::string_view> keys,
                 absl::string_view width_key) {
  const absl::string_view key = in.KeyOf(keys), top_k_key = in.KeyOf({"num_experts_per_tok", "experts_per_token"});
  MoeSpec& moe = spec.moe;
  moe.num_experts = in.Int(key, 1, kMaxExperts);
  moe.router.top_k = static_cast<int32_t>(in.Int(top_k_key, 1, kMaxExpertsPerToken));
  moe.intermediate = in.Int(width_key, 1, kMaxSize);
  spec.fused_instead = FusedExperts::kRows;
  if (moe.num_experts * spec.num_layers() > kMaxPlannedExperts) {
    in.Fail(key, absl::StrCat("is ", moe.num_experts, ", which in ", spec.num_layers(), " layers makes more than ",
                              kMaxPlannedExperts, " experts"));
  }
  if (moe.router.top_k > moe.num_experts) {
    in.Fail(top_k_key, absl::StrCat("is ", moe.router.top_k, ", more than the ", moe.num_experts, " experts"));
  }
}

void ReadGroups(ConfigReader& in, ModelSpec& spec) {
  RouterSpec& router = spec.moe.router;
  const int64_t num_experts = spec.moe.num_experts;
  router.num_groups = static_cast<int32_t>(in.Int("n_group", 1, kMaxExperts));
  router.groups_kept = static_cast<int32_t>(in.Int("topk_group", 1, kMaxExperts));
  if (!in.ok()) return;
  if (num_experts % router.num_groups != 0) {
    in.Fail("n_group",
            absl::StrCat("is ", router.num_groups, ", which does not divide n_routed_experts ", num_experts));
    return;
  }
  const int64_t group_size = num_experts / router.num_groups;
  if (router.group_score == GroupScore::kSumOfTwoLargest && router.num_groups > 1 && group_size < 2) {
    in.Fail("n_group", absl::StrCat("is ", router.num_groups, ", which leaves groups of ", group_size, " of ",
                                    num_experts, " experts; a group's score needs two"));
  }
  if (router.groups_kept > router.num_groups) {
    in.Fail("topk_group", absl::StrCat("is ", router.groups_kept, ", more than n_group ", router.num_groups));
  }
  if (router.top_k > router.groups_kept * group_size) {
    in.Fail("num_experts_per_tok",
            absl::StrCat("is ", router.top_k, ", more than the ", router.groups_kept * group_size,
                         " experts in topk_group ", router.groups_kept, " groups of ", group_size));
  }
}

void ReadBiasedRouter(ConfigReader& in, ModelSpec& spec) {
  RouterSpec& router = spec.moe.router;
  router.scoring = Scoring::kSigmoid;
  router.group_score = GroupScore::kSumOfTwoLargest;
  spec.moe.has_choice_bias = true;
  ReadGroups(in, spec);
  router.renormalise = in.Bool("norm_topk_prob") ? Renormalise::kYes : Renormalise::kNo;
  router.scaling = static_cast<float>(in.Number("routed_scaling_factor", 1e-6, 1e6));
  const std::string scoring_func = in.String("scoring_func", "sigmoid");
  in.RequireOneOf("scoring_func", scoring_func, {"sigmoid"}, "scoring function");
  const std::string topk_method = in.String("topk_method", "noaux_tc");
  in.RequireOneOf("topk_method", topk_method, {"noaux_tc"}, "top-k method");
}

void ReadDenseFirst(ConfigReader& in, ModelSpec& spec) {
  constexpr absl::string_view kList = "mlp_layer_types", kCount = "first_k_dense_replace";
  const int64_t width = in.Int("intermediate_size", 1, kMaxSize);
  const bool is_listed = in.Has(kList), is_counted = !is_listed || in.Has(kCount);
  const std::vector<std::string> types = ReadTypes(in, spec, kList, {"dense", "sparse"}, "network");
  const int64_t num_dense = is_counted ? in.Int(kCount, 0, kMaxLayers) : 0;
  const int64_t frequency = in.Int("moe_layer_freq", 1, kMaxLayers, 1);
  for (int64_t i = 0; i < spec.num_layers() && in.ok(); ++i) {
    const bool by_count = i >= num_dense && i % frequency == 0;
    spec.layers[i].is_moe = is_listed ? types[i] == "sparse" : by_count;
    spec.layers[i].dense_intermediate = width;
    if (is_counted && spec.layers[i].is_moe != by_count) {
      in.Fail(kList, absl::StrCat("makes layer ", i, " ", types[i], ", but '", kCount, "' is ", num_dense,
                                  " and 'moe_layer_freq' ", frequency));
    }
  }
}

void ReadDenseLayers(ConfigReader& in, ModelSpec& spec) {
  const int64_t step = in.Int("decoder_sparse_step", 1, kMaxLayers, 1);
  const std::vector<int64_t> dense = in.IntOrList("mlp_only_layers", 0, kMaxLayers);
  const int64_t width = in.Int("intermediate_size", 1, kMaxSize);
  for (int64_t i = 0; i < spec.num_layers(); ++i) {
    spec.layers[i].is_moe = (i + 1) % step == 0 && std::find(dense.begin(), dense.end(), i) == dense.end();
    spec.layers[i].dense_intermediate = width;
  }
}

void ReadSharedExperts(ConfigReader& in, ModelSpec& spec) {
  spec.moe.shared_intermediate = in.Int("n_shared_experts", 0, kMaxExperts, 0) * spec.moe.intermediate;
}

void ReadScoredSharedExpert(ConfigReader& in, ModelSpec& spec) {
  spec.moe.shared_intermediate = in.Int("shared_expert_intermediate_size", 1, kMaxSize);
  spec.moe.has_shared_score = true;
  spec.names = {{Role::kSharedGate, "mlp.shared_expert.gate_proj.weight"},
                {Role::kSharedUp, "mlp.shared_expert.up_proj.weight"},
                {Role::kSharedDown, "mlp.shared_expert.down_proj.weight"}};
}

std::vector<std::string> ReadLayerTypes(ConfigReader& in, const ModelSpec& spec,
                                        absl::Span<const absl::string_view> known) {
  return ReadTypes(in, spec, "layer_types", known, "attention");
}

void AllLayersMoe(ModelSpec& spec) {
  for (LayerSpec& layer : spec.layers) layer.is_moe = true;
}

void NameLikeMixtral(ModelSpec& spec) {
  spec.names = {{Role::kRouter, "block_sparse_moe.gate.weight"},
                {Role::kExpertGate, "block_sparse_moe.experts.$0.w1.weight"},
                {Role::kExpertUp, "block_sparse_moe.experts.$0.w3.weight"},
                {Role::kExpertDown, "block_sparse_moe.experts.$0.w2.weight"}};
}

}  // namespace tokenferry
