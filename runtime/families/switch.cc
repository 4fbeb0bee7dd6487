// Switch Transformers: T5's encoder and decoder (arXiv:1910.10683) with top-1 experts of limited capacity
// (arXiv:2101.03961).
#include <algorithm>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/families/family.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kSwitchTypes[] = {"switch_transformers"};
constexpr absl::string_view kSwitchArchitectures[] = {"SwitchTransformersForConditionalGeneration"};

// Which layers of a stack have experts: those whose number, modulo the step, is 1; step 0: none. Where the step is not
// given it follows from the number of sparse layers, as transformers has it.
int64_t ReadSparseStep(ConfigReader& in, absl::string_view step, absl::string_view num_sparse, int64_t num_layers) {
  const int64_t sparse = in.Int(num_sparse, 0, kMaxLayers, 3);
  return in.Int(step, 0, kMaxLayers, sparse > 0 ? num_layers / sparse : 0);
}

void SetSparse(ModelSpec& spec, Stack stack, int64_t step) {
  for (int64_t i = 0; i < spec.num_layers(stack); ++i) {
    spec.layers[spec.first_layer(stack) + i].is_moe = step == 1 || (step > 0 && i % step == 1);
  }
}

LayerSpec ReadEncoderLayer(ConfigReader& in) {
  LayerSpec layer;
  AttentionSpec& a = layer.attention;
  a = {.kind = AttentionKind::kGrouped, .num_heads = in.Int("num_heads", 1, kMaxHeads), .scale = 1};
  a.num_kv_heads = a.num_heads;
  a.head_dim = in.Int("d_kv", 1, kMaxHeadDim);
  a.rotation = Rotation::kNone;
  a.sees_all = true;
  a.relative = {.num_buckets = in.Int("relative_attention_num_buckets", 4, kMaxSize, 32),
                .max_distance = in.Int("relative_attention_max_distance", 1, kMaxHeadDim, 128),
                .sides = RelativeBuckets::Sides::kBoth};
  if (a.relative.num_buckets % 4 != 0 || a.relative.max_distance <= a.relative.num_buckets / 2) {
    in.Fail("relative_attention_num_buckets",
            absl::StrCat("is ", a.relative.num_buckets, ": must be a multiple of 4 and less than twice ",
                         "relative_attention_max_distance ", a.relative.max_distance));
  }
  layer.dense_intermediate = in.Int("d_ff", 1, kMaxSize);
  return layer;
}

void NameLikeT5(ModelSpec& spec) {
  spec.encoder_prefix = "encoder.block.";
  spec.layer_prefix = "decoder.block.";
  const std::map<Role, std::string> attention = {{Role::kInputNorm, "layer.0.layer_norm.weight"},
                                                 {Role::kQ, "layer.0.SelfAttention.q.weight"},
                                                 {Role::kK, "layer.0.SelfAttention.k.weight"},
                                                 {Role::kV, "layer.0.SelfAttention.v.weight"},
                                                 {Role::kO, "layer.0.SelfAttention.o.weight"}};
  const auto with_network = [&](absl::string_view layer) {
    auto names = attention;
    names[Role::kPostNorm] = absl::StrCat(layer, ".layer_norm.weight");
    names[Role::kDenseGate] = absl::StrCat(layer, ".mlp.wi.weight");
    names[Role::kDenseDown] = absl::StrCat(layer, ".mlp.wo.weight");
    names[Role::kRouter] = absl::StrCat(layer, ".mlp.router.classifier.weight");
    names[Role::kRouterBias] = absl::StrCat(layer, ".mlp.router.classifier.bias");
    names[Role::kExpertGate] = absl::StrCat(layer, ".mlp.experts.expert_$0.wi.weight");
    names[Role::kExpertDown] = absl::StrCat(layer, ".mlp.experts.expert_$0.wo.weight");
    return names;
  };
  spec.encoder_names = with_network("layer.1");
  spec.names = with_network("layer.2");
  spec.names[Role::kEmbedTokens] = "shared.weight";
  spec.names[Role::kFinalNorm] = "decoder.final_layer_norm.weight";
  // The table once more, and a bias of cross attention that early files have and T5 never adds.
  spec.not_read = {"encoder.embed_tokens.", "decoder.embed_tokens.",
                   "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias."};
}

void ReadSwitchExperts(ConfigReader& in, ModelSpec& spec) {
  MoeSpec& moe = spec.moe;
  moe.num_experts = in.Int("num_experts", 1, kMaxExperts);
  moe.intermediate = spec.layers[0].dense_intermediate;
  moe.router.top_k = 1;
  moe.activation.kind = GatedActivation::Kind::kRelu;
  moe.has_router_bias = in.Bool("router_bias", false);
  moe.sequence_capacity = in.Int("expert_capacity", 1, kMaxSize, 64);
  if (in.Bool("router_ignore_padding_tokens", false)) {
    in.FailUnsupported("router_ignore_padding_tokens", "is true; there is no padding here");
  }
  const std::string type = in.String("router_type", "tokens_masked");
  in.RequireOneOf("router_type", type, {"tokens_masked"}, "router");
  const std::string dtype = in.String("router_dtype", "float32");
  in.RequireOneOf("router_dtype", dtype, {"float32"}, "type");
}

void ReadSwitch(ConfigReader& in, ModelSpec& spec) {
  if (!in.Bool("is_encoder_decoder", true)) {
    in.FailUnsupported("is_encoder_decoder", "is false; only models with an encoder are supported");
  }
  if (in.Bool("is_gated_act", false)) in.FailUnsupported("is_gated_act", "is true; only false is supported");
  const std::string act = in.String("dense_act_fn", "relu");
  in.RequireOneOf("dense_act_fn", act, {"relu"}, "activation");
  spec.dense_activation = GatedActivation::Kind::kRelu;
  spec.num_encoder_layers = spec.num_layers();
  const int64_t num_decoder_layers = in.Int("num_decoder_layers", 1, kMaxLayers, spec.num_encoder_layers);
  const LayerSpec encoder = ReadEncoderLayer(in);
  LayerSpec decoder = encoder;
  decoder.attention.sees_all = false;
  decoder.attention.relative.sides = RelativeBuckets::Sides::kBefore;
  decoder.attends_to_encoder = true;
  std::fill(spec.layers.begin(), spec.layers.end(), encoder);
  spec.layers.resize(static_cast<size_t>(spec.num_encoder_layers + num_decoder_layers), decoder);
  for (const Stack stack : {Stack::kEncoder, Stack::kDecoder}) {
    spec.layers[spec.first_layer(stack)].attention.has_relative_table = true;
  }
  SetSparse(spec, Stack::kEncoder,
            ReadSparseStep(in, "encoder_sparse_step", "num_sparse_encoder_layers", spec.num_encoder_layers));
  SetSparse(spec, Stack::kDecoder,
            ReadSparseStep(in, "decoder_sparse_step", "num_sparse_decoder_layers", num_decoder_layers));
  ReadSwitchExperts(in, spec);
  spec.decoder_start_token_id = static_cast<int32_t>(in.Int("decoder_start_token_id", 0, spec.vocab_size - 1, 0));
  spec.tie_word_embeddings = in.Bool("tie_word_embeddings", true);
  if (spec.tie_word_embeddings) spec.logits_scale = InverseRoot(spec.hidden_size);
  NameLikeT5(spec);
}

}  // namespace

// Distances have no end; what was trained is as long as this where the files do not say.
const Family kSwitch = {kSwitchTypes,
                        kSwitchArchitectures,
                        ReadSwitch,
                        {.hidden_size = "d_model",
                         .num_layers = "num_layers",
                         .norm_eps = "layer_norm_epsilon",
                         .activation_key = "feed_forward_proj",
                         .activation = "relu",
                         .max_positions = "n_positions",
                         .default_positions = 512}};

}  // namespace tokenferry
