#include "runtime/model/stored_tensor.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/strings/substitute.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

using Use = StoredTensor::Use;
using PartKind = StoredPart::Kind;

constexpr int32_t kMxfp4Group = 32;  // inputs of a block, in 16 bytes
// Whole rows of scales are stored as blocks that no matrix of that width is wider than. Kernels are fastest with blocks
// of whole steps.
constexpr int64_t kWholeBlock = 128;

int64_t Product(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t dim : shape) product *= dim;
  return product;
}

bool Is16Bit(DType dtype) { return dtype == DType::kF16 || dtype == DType::kBF16; }

// Gate and up share a tensor: which half of it the role is; -1: it has one for itself.
int HalfOf(Role role) {
  switch (role) {
    case Role::kSharedGate:
    case Role::kExpertGate:
    case Role::kExpertGateBias:
      return 0;
    case Role::kSharedUp:
    case Role::kExpertUp:
    case Role::kExpertUpBias:
      return 1;
    default:
      return -1;
  }
}

// Where the files have the role's matrix or vector. A shared network is fused by rows only.
StoredTensor Locate(const ModelSpec& model, const TensorSpec& spec, std::string name, DType dtype) {
  const FusedExperts fused = model.fused;
  const int half = HalfOf(spec.role);
  const bool is_shared = spec.part() == ModelPart::kSharedExpert && half >= 0;
  StoredTensor result{.name = std::move(name), .dtype = dtype, .shape = spec.shape};
  if (fused == FusedExperts::kNone || (spec.expert < 0 && !(is_shared && fused == FusedExperts::kRowsOfAll))) {
    return result;
  }
  if (fused == FusedExperts::kStacked) {
    const int64_t size = Product(spec.shape);
    result.part = {.kind = PartKind::kRange, .begin = spec.expert * size, .size = size};
    result.shape.insert(result.shape.begin(), model.moe.num_experts);
    return result;
  }
  const bool is_transposed = fused != FusedExperts::kRows && fused != FusedExperts::kRowsOfAll;
  const int64_t num_halves = half < 0 ? 1 : 2, size = Product(spec.shape), num_rows = spec.shape[0];
  std::vector<int64_t>& stored = result.shape;  // first of one expert
  stored[0] *= num_halves;
  const int64_t expert_begin = std::max(spec.expert, 0) * num_halves * size;
  if (is_transposed) {
    std::reverse(stored.begin(), stored.end());
    const bool in_turn = fused == FusedExperts::kInterleavedColumns;
    result.part = {.kind = PartKind::kColumns,
                   .begin = expert_begin,
                   .size = num_halves * size,
                   .cols = num_halves * num_rows,
                   .first = half <= 0 ? 0
                            : in_turn ? 1
                                      : num_rows,
                   .step = in_turn ? num_halves : 1,
                   .num_sharers = num_halves};
  } else {
    result.part = {.kind = PartKind::kRange, .begin = expert_begin + std::max(half, 0) * size, .size = size};
  }
  if (spec.expert >= 0) stored.insert(stored.begin(), model.moe.num_experts);
  return result;
}

// A stored tensor [rows, cols] that is the transposed matrix.
StoredTensor Transposed(Use use, std::string name, DType dtype, int64_t rows, int64_t cols, Repack repack = {}) {
  return {.use = use,
          .name = std::move(name),
          .dtype = dtype,
          .shape = {rows, cols},
          .part = {.kind = PartKind::kColumns, .size = rows * cols, .cols = cols},
          .repack = repack};
}

int64_t GroupOf(const QuantSpec& quant, const TensorSpec& spec) {
  return quant.block_cols > 0 ? quant.block_cols : spec.cols();
}

// compressed-tensors': integers in groups of inputs. Codes and zero points are both stored plus half their range, or
// both signed: what memory holds is unsigned.
StoredTensor BlockZeroPoints(const QuantSpec& quant, const std::string& name, int64_t rows, int64_t groups) {
  StoredTensor result{
      .use = Use::kZeroPoints, .name = name + "_zero_point", .dtype = DType::kI8, .shape = {rows, groups}};
  if (quant.method == QuantMethod::kI8) {
    result.repack.kind = Repack::Kind::kFlipSigns;
    return result;
  }
  const int64_t word_rows = rows * quant.bits / 32;
  result.dtype = DType::kI32;
  result.shape = {word_rows, groups};
  result.part = {.kind = PartKind::kRows, .size = word_rows * groups, .cols = groups};
  result.repack = {Repack::Kind::kZeroPointRows, quant.bits};
  return result;
}

// X.weight and its scales, in blocks. Experts in one tensor have their scales in one, likewise.
void StoreBlocks(const ModelSpec& model, const std::string& name, DType scale_dtype, TensorSpec& spec) {
  const QuantSpec& quant = model.quant;
  StoredTensor data{.name = name, .dtype = DType::kF8E4M3, .shape = spec.shape};
  if (quant.method == QuantMethod::kI8) {
    data.dtype = DType::kI8;
    if (quant.has_zero_points) data.repack.kind = Repack::Kind::kFlipSigns;
  }
  if (quant.method == QuantMethod::kPacked) {
    data = {.name = name + "_packed", .dtype = DType::kI32, .shape = {spec.rows(), spec.cols() * quant.bits / 32}};
    if (quant.bits == 8 && !quant.has_zero_points) data.repack.kind = Repack::Kind::kFlipSigns;
  }
  const int64_t block_rows = quant.block_rows > 0 ? quant.block_rows : spec.rows();
  StoredTensor scales{.name = name + quant.scale_suffix,
                      .dtype = scale_dtype,
                      .shape = {CeilDiv(spec.rows(), block_rows), CeilDiv(spec.cols(), GroupOf(quant, spec))}};
  if (quant.method == QuantMethod::kF8 && model.fused == FusedExperts::kRows && spec.expert >= 0) {
    data = Locate(model, spec, data.name, data.dtype);
    scales = Locate(model, {.role = spec.role, .expert = spec.expert, .shape = scales.shape}, scales.name, scale_dtype);
  }
  scales.use = Use::kScales;
  spec.stored = {std::move(data), std::move(scales)};
  if (quant.has_zero_points) {
    spec.stored.push_back(BlockZeroPoints(quant, name, spec.rows(), spec.stored.back().shape[1]));
  }
}

void StoreGptq(const QuantSpec& quant, const std::string& base, DType scale_dtype, TensorSpec& spec) {
  const int64_t rows = spec.rows(), cols = spec.cols(), groups = cols / GroupOf(quant, spec);
  const Repack zeros{Repack::Kind::kZeroPoints, quant.bits, quant.zero_offset};
  spec.stored = {
      Transposed(Use::kData, base + "qweight", DType::kI32, cols * quant.bits / 32, rows),
      Transposed(Use::kScales, base + "scales", scale_dtype, groups, rows),
      Transposed(Use::kZeroPoints, base + "qzeros", DType::kI32, groups, rows * quant.bits / 32, zeros),
      {.use = Use::kGroupIdx, .name = base + "g_idx", .dtype = DType::kI32, .shape = {cols}},
  };
}

void StoreAwq(const QuantSpec& quant, const std::string& base, DType scale_dtype, TensorSpec& spec) {
  const int64_t rows = spec.rows(), cols = spec.cols(), groups = cols / GroupOf(quant, spec);
  const Repack codes{Repack::Kind::kAwqCodes, quant.bits}, zeros{Repack::Kind::kAwqZeroPoints, quant.bits};
  spec.stored = {
      Transposed(Use::kData, base + "qweight", DType::kI32, cols, rows * quant.bits / 32, codes),
      Transposed(Use::kScales, base + "scales", scale_dtype, groups, rows),
      Transposed(Use::kZeroPoints, base + "qzeros", DType::kI32, groups, rows * quant.bits / 32, zeros),
  };
}

// Blocks [E, rows, groups, 16] and scales [E, rows, groups] of all experts, gate and up rows in turn.
void StoreMxfp4(const ModelSpec& model, const std::string& name, TensorSpec& spec) {
  const int half = HalfOf(spec.role);
  const int64_t num_halves = half < 0 ? 1 : 2, rows = num_halves * spec.rows(), groups = spec.cols() / kMxfp4Group;
  const auto part = [&](int64_t row_bytes) {
    return StoredPart{.kind = PartKind::kRows,
                      .begin = spec.expert * rows * row_bytes,
                      .size = rows * row_bytes,
                      .cols = row_bytes,
                      .first = std::max(half, 0),
                      .step = num_halves,
                      .num_sharers = num_halves};
  };
  constexpr int64_t kBlockBytes = kMxfp4Group / 2;
  spec.stored = {{.name = name + "_blocks",
                  .dtype = DType::kU8,
                  .shape = {model.moe.num_experts, rows, groups, kBlockBytes},
                  .part = part(groups * kBlockBytes)},
                 {.use = Use::kScales,
                  .name = name + "_scales",
                  .dtype = DType::kU8,
                  .shape = {model.moe.num_experts, rows, groups},
                  .part = part(groups)}};
}

// Blocks lie across what becomes columns, so only BF16 stays what it is.
WeightFormat SplitFormat(const TensorSpec& spec) {
  const bool is_bf16 = spec.stored[0].dtype == DType::kBF16 && spec.stored[1].dtype == DType::kBF16;
  return {.dtype = is_bf16 ? DType::kBF16 : DType::kF32};
}

// Whether the file's vector is one less than the model's.
bool IsMinusOne(const ModelSpec& model, Role role) {
  if (!model.has_norms_minus_one) return false;
  return role == Role::kInputNorm || role == Role::kPostNorm || role == Role::kFinalNorm || role == Role::kQNorm ||
         role == Role::kKNorm;
}

WeightFormat PlainFormat(const ModelSpec& model, TensorSpec& spec) {
  StoredTensor& data = spec.stored[0];
  const bool adds_one = IsMinusOne(model, spec.role);
  const bool is_wide =
      adds_one || InfoOf(spec.role).storage == Storage::kF32 || (data.dtype == DType::kF16 && spec.shape.size() == 1);
  if (is_wide && data.dtype != DType::kF32) {
    data.repack.kind = adds_one ? Repack::Kind::kWidenAddOne : Repack::Kind::kWiden;
  } else {
    data.repack.kind = adds_one ? Repack::Kind::kAddOne : Repack::Kind::kNone;
  }
  return {.dtype = is_wide ? DType::kF32 : data.dtype};
}

WeightFormat QuantisedFormat(const QuantSpec& quant, TensorSpec& spec) {
  StoredTensor& scales = spec.stored[1];
  const auto whole = [](int64_t size) { return static_cast<int32_t>(CeilDiv(size, kWholeBlock) * kWholeBlock); };
  const int32_t group = quant.block_cols > 0 ? quant.block_cols : whole(spec.cols());
  const DType codes = quant.bits == 8 ? DType::kU8 : DType::kU4;
  switch (quant.method) {
    case QuantMethod::kF8:
      scales.repack.kind = Is16Bit(scales.dtype) ? Repack::Kind::kWiden : Repack::Kind::kNone;
      return F8BlockWeights::Of(quant.block_rows > 0 ? quant.block_rows : whole(spec.rows()), group);
    case QuantMethod::kGptq:
    case QuantMethod::kAwq:
      return PlanarWeights::Of(codes, WeightCoding::kZeroPoint, scales.dtype, group);
    case QuantMethod::kMxfp4:
      return PlanarWeights::Of(DType::kU4, WeightCoding::kE2M1, DType::kUE8M0, kMxfp4Group);
    default:
      if (quant.has_zero_points) return PlanarWeights::Of(codes, WeightCoding::kZeroPoint, scales.dtype, group);
      return quant.bits == 8 ? PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, scales.dtype, group)
                             : PlanarWeights::Of(DType::kU4, WeightCoding::kInt4, scales.dtype, group);
  }
}

}  // namespace

int64_t StoredTensor::num_bytes() const {
  const int64_t elements = part.kind == PartKind::kWhole ? Product(shape) : part.size / part.num_sharers;
  return BytesOfElements(dtype, elements);
}

int64_t TensorSpec::stored_bytes() const {
  int64_t sum = 0;
  for (const StoredTensor& tensor : stored) sum += tensor.num_bytes();
  return sum;
}

std::string PlainName(const ModelSpec& model, Role role, int32_t layer, int32_t expert) {
  const bool is_encoder = layer >= 0 && layer < model.num_encoder_layers;
  const auto& names = is_encoder ? model.encoder_names : model.names;
  const auto own = names.find(role);
  const std::string name = own != names.end() ? own->second : InfoOf(role).name;
  const std::string place = layer < 0 ? ""
                                      : absl::StrCat(is_encoder ? model.encoder_prefix : model.layer_prefix,
                                                     is_encoder ? layer : layer - model.num_encoder_layers, ".");
  return absl::StrCat(model.prefix, place, expert < 0 ? name : absl::Substitute(name, expert));
}

bool CanBeQuantised(const ModelSpec& model, Role role) {
  if (!model.quant.is_quantised() || InfoOf(role).storage != Storage::kQuantised) return false;
  return model.quant.method != QuantMethod::kMxfp4 || InfoOf(role).part == ModelPart::kRoutedExpert;
}

void StorePlain(const ModelSpec& model, DType dtype, TensorSpec& spec) {
  spec.stored = {Locate(model, spec, PlainName(model, spec.role, spec.layer, spec.expert), dtype)};
  if (model.has_split_kv_b && spec.role == Role::kKvB) {
    const AttentionSpec& a = model.layers[static_cast<size_t>(spec.layer)].attention;
    const std::string place = absl::StrCat(model.prefix, model.layer_prefix, spec.layer);
    spec.stored = {{.use = Use::kKeyHeads,
                    .name = place + ".attn_k_b.weight",
                    .dtype = dtype,
                    .shape = {a.num_heads, a.kv_lora_rank, a.nope_dim}},
                   {.use = Use::kValueHeads,
                    .name = place + ".attn_v_b.weight",
                    .dtype = dtype,
                    .shape = {a.num_heads, a.value_dim, a.kv_lora_rank}}};
  }
  if (spec.role == Role::kDeltaConv) {
    const int64_t taps = spec.rows(), channels = spec.cols();
    spec.stored[0].shape = {channels, 1, taps};
    spec.stored[0].part = {.kind = PartKind::kColumns, .size = channels * taps, .cols = taps};
  }
  SetFormat(model, spec);
}

void StoreQuantised(const ModelSpec& model, TensorSpec& spec) {
  const bool is_f32 = model.quant.method == QuantMethod::kF8 && model.quant.block_rows != 1;
  const DType scale_dtype = is_f32 ? DType::kF32 : model.dtype;
  const std::string name = PlainName(model, spec.role, spec.layer, spec.expert);
  const std::string base(absl::StripSuffix(name, "weight"));
  switch (model.quant.method) {
    case QuantMethod::kGptq:
      StoreGptq(model.quant, base, scale_dtype, spec);
      break;
    case QuantMethod::kAwq:
      StoreAwq(model.quant, base, scale_dtype, spec);
      break;
    case QuantMethod::kMxfp4:
      StoreMxfp4(model, name, spec);
      break;
    default:
      StoreBlocks(model, name, scale_dtype, spec);
      break;
  }
  SetFormat(model, spec);
}

void SetFormat(const ModelSpec& model, TensorSpec& spec) {
  spec.stored_format = spec.is_split()           ? SplitFormat(spec)
                       : spec.stored.size() == 1 ? PlainFormat(model, spec)
                                                 : QuantisedFormat(model.quant, spec);
  spec.format = spec.stored_format;
}

std::string QuantisationProblem(const ModelSpec& model, const TensorSpec& spec) {
  const QuantSpec& quant = model.quant;
  const bool blocks = quant.method == QuantMethod::kF8;
  if (!blocks && quant.block_cols > 0 && spec.cols() % quant.block_cols != 0) {
    return absl::StrCat("has ", spec.cols(), " inputs, which groups of ", quant.block_cols, " do not divide");
  }
  const int64_t codes = 32 / quant.bits;  // of a word
  const bool words_of_inputs = quant.method == QuantMethod::kPacked || quant.method == QuantMethod::kGptq;
  const bool words_of_outputs = quant.method == QuantMethod::kAwq || quant.method == QuantMethod::kGptq ||
                                (quant.method == QuantMethod::kPacked && quant.has_zero_points);
  if (words_of_inputs && spec.cols() % codes != 0) {
    return absl::StrCat("has ", spec.cols(), " inputs, which do not fill words of ", codes, " codes");
  }
  if (words_of_outputs && spec.rows() % codes != 0) {
    return absl::StrCat("has ", spec.rows(), " outputs, which do not fill words of ", codes, " codes");
  }
  if (quant.method == QuantMethod::kAwq && spec.cols() % 2 != 0) {
    return absl::StrCat("has ", spec.cols(), " inputs, which do not fill bytes of two codes");
  }
  if (model.fused != FusedExperts::kNone && spec.expert >= 0 && quant.method != QuantMethod::kMxfp4) {
    const bool has_whole_blocks =
        quant.block_rows > 0 && (HalfOf(spec.role) < 0 || spec.rows() % quant.block_rows == 0);
    if (quant.method != QuantMethod::kF8 || model.fused != FusedExperts::kRows || !has_whole_blocks) {
      return "holds several experts, which is supported for MXFP4, and FP8 whose blocks are each of one matrix alone";
    }
  }
  return "";
}

}  // namespace tokenferry
