#include "launch/commands/cmd_eval.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "comm/transport/collectives.h"
#include "core/host/memory_info.h"
#include "core/io/json.h"
#include "core/io/json_writer.h"
#include "launch/cli/flag_set.h"
#include "launch/cli/text_file.h"
#include "launch/commands/eval_comparison.h"
#include "launch/commands/run_requests.h"
#include "runtime/checkpoint/safetensors_writer.h"

namespace tokenferry {
namespace {

using Ids = std::vector<int32_t>;

constexpr absl::string_view kUnquantised = "unquantised";

// A prompt, and with an encoder what its decoder is given, of which the scores are.
struct EvalPrompt {
  Ids ids, decoder_ids = {};

  const Ids& scored() const { return decoder_ids.empty() ? ids : decoder_ids; }
  int64_t num_scored() const { return static_cast<int64_t>(scored().size()); }
};

absl::StatusOr<Ids> ReadTokens(const JsonNode& list, const std::string& what, const ModelSpec& model) {
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> tokens, list.Elements());
  Ids ids;
  for (const JsonNode& token : tokens) {
    TF_ASSIGN_OR_RETURN(const int64_t id, token.Int(0, model.vocab_size - 1));
    ids.push_back(static_cast<int32_t>(id));
  }
  const absl::Status fits = CheckContext(what, static_cast<int64_t>(ids.size()), 0, model);
  return fits.ok() ? absl::StatusOr<Ids>(std::move(ids)) : list.Error(fits.message());
}

absl::StatusOr<std::vector<EvalPrompt>> ReadIds(const std::string& path, const ModelSpec& model) {
  TF_ASSIGN_OR_RETURN(std::string text, ReadFlagFile("--ids", path));
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::move(text), absl::StrCat("--ids ", path)));
  TF_ASSIGN_OR_RETURN(const JsonNode list, document.root().Child("prompts"));
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> nodes, list.Elements());
  if (nodes.empty()) return list.Error("is empty");
  std::vector<EvalPrompt> prompts;
  for (const JsonNode& node : nodes) {
    TF_ASSIGN_OR_RETURN(const JsonNode input_ids, node.Child("input_ids"));
    const std::string what = absl::StrCat("prompt ", prompts.size());
    EvalPrompt prompt;
    TF_ASSIGN_OR_RETURN(prompt.ids, ReadTokens(input_ids, what, model));
    if (model.has_encoder()) {
      TF_ASSIGN_OR_RETURN(const JsonNode decoder_ids, node.Child("decoder_input_ids"));
      TF_ASSIGN_OR_RETURN(prompt.decoder_ids, ReadTokens(decoder_ids, absl::StrCat(what, " of the decoder"), model));
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

// The text in windows of the model's context, each starting with what the tokenizer puts before a prompt.
absl::StatusOr<std::vector<EvalPrompt>> ReadText(const std::string& path, const ModelFiles& files) {
  if (files.model.has_encoder()) {
    return absl::InvalidArgumentError(
        "--text: the model has an encoder, and one text does not say what its decoder is given; use --ids with "
        "input_ids and decoder_input_ids");
  }
  TF_ASSIGN_OR_RETURN(const std::string text, ReadFlagFile("--text", path));
  Ids all = files.tokenizer->Encode(text);
  const Ids start(files.tokenizer->prefix_ids().begin(), files.tokenizer->prefix_ids().end());
  if (absl::MakeConstSpan(all).subspan(0, start.size()) == absl::MakeConstSpan(start)) {
    all.erase(all.begin(), all.begin() + static_cast<ptrdiff_t>(start.size()));
  }
  if (static_cast<int64_t>(start.size()) >= files.model.max_position_embeddings) {
    return absl::InvalidArgumentError("the tokenizer puts more before a text than the model's context has");
  }
  if (all.empty()) return absl::InvalidArgumentError(absl::StrCat("--text '", path, "': no tokens in it"));
  const size_t window = static_cast<size_t>(files.model.max_position_embeddings) - start.size();
  std::vector<EvalPrompt> windows;
  for (size_t begin = 0; begin < all.size(); begin += window) {
    Ids& ids = windows.emplace_back(EvalPrompt{start}).ids;
    ids.insert(ids.end(), all.begin() + begin, all.begin() + std::min(begin + window, all.size()));
  }
  return windows;
}

// The file of --out: for prompt i logits.i [S, V], expert_idx.i and expert_weight.i [M, S, K] and, with --trace,
// hidden_states.i [L + 1, S, H], router_logits.i [M, S, E] and, of models with indexers, indexer_topk.i [L, S,
// index_topk]. L layers, M of them MoE layers. With an encoder these are the decoder's, and encoder_expert_idx.i and so
// on, all but logits, those of its encoder.
class OutFile {
 public:
  static absl::StatusOr<std::unique_ptr<OutFile>> Create(const std::string& path,
                                                         const std::vector<EvalPrompt>& prompts, const ModelSpec& model,
                                                         Wanted trace) {
    auto out = std::make_unique<OutFile>();
    out->trace_ = trace;
    for (size_t i = 0; i < prompts.size(); ++i) {
      Sequence& s = out->sequences_.emplace_back();
      s.first = out->specs_.size();
      out->specs_.push_back({absl::StrCat("logits.", i), DType::kF32, {prompts[i].num_scored(), model.vocab_size}});
      out->AddStack(model, Stack::kDecoder, i, prompts[i].num_scored());
      s.first_of_encoder = out->specs_.size();
      if (model.has_encoder()) out->AddStack(model, Stack::kEncoder, i, static_cast<int64_t>(prompts[i].ids.size()));
    }
    TF_ASSIGN_OR_RETURN(out->writer_, SafetensorsWriter::Create(path, out->specs_));
    return out;
  }

  absl::Status Take(const SequenceUpdate& u) {
    const Sequence& s = sequences_[u.seq];
    const EntryResult& r = u.result;
    size_t next = s.first_of_encoder;
    if (u.stack == Stack::kDecoder) {
      next = s.first;
      TF_RETURN_IF_ERROR(WriteRows(next++, u.position, absl::MakeConstSpan(r.logits)));
    }
    TF_RETURN_IF_ERROR(WriteRows(next++, u.position, absl::MakeConstSpan(r.expert_idx)));
    TF_RETURN_IF_ERROR(WriteRows(next++, u.position, absl::MakeConstSpan(r.expert_weight)));
    if (trace_ == Wanted::kNo) return absl::OkStatus();
    TF_RETURN_IF_ERROR(WriteRows(next++, u.position, absl::MakeConstSpan(r.hidden_states)));
    TF_RETURN_IF_ERROR(WriteRows(next++, u.position, absl::MakeConstSpan(r.router_logits)));
    if (r.selected_keys.empty()) return absl::OkStatus();
    return WriteRows(next, u.position, absl::MakeConstSpan(r.selected_keys));
  }
  absl::Status Commit() { return writer_->Commit(); }

 private:
  struct Sequence {
    size_t first = 0, first_of_encoder = 0;  // in specs_
  };

  // What both stacks have.
  void AddStack(const ModelSpec& model, Stack stack, size_t i, int64_t num_tokens) {
    const int64_t M = model.num_moe_layers(stack), K = model.moe.router.top_k;
    const auto add = [&](absl::string_view name, DType dtype, int64_t num_matrices, int64_t cols) {
      const absl::string_view prefix = stack == Stack::kEncoder ? "encoder_" : "";
      specs_.push_back({absl::StrCat(prefix, name, ".", i), dtype, {num_matrices, num_tokens, cols}});
    };
    add("expert_idx", DType::kI32, M, K);
    add("expert_weight", DType::kF32, M, K);
    if (trace_ == Wanted::kNo) return;
    add("hidden_states", DType::kF32, model.num_layers(stack) + 1, model.hidden_size);
    add("router_logits", DType::kF32, M, model.moe.num_experts);
    if (model.num_selected_keys() == 0) return;
    add("indexer_topk", DType::kI32, model.num_layers(stack), model.num_selected_keys());
  }

  // Rows [position, ..) of each of a tensor's matrices: `values` [matrices, n, cols] into [matrices, S, cols], or
  // [n, cols] into [S, cols].
  template <class T>
  absl::Status WriteRows(size_t tensor_idx, int64_t position, absl::Span<const T> values) {
    const std::vector<int64_t>& shape = specs_[tensor_idx].shape;
    const int64_t num_matrices = shape.size() == 3 ? shape[0] : 1;
    if (num_matrices == 0) return absl::OkStatus();
    const int64_t row_bytes = shape.back() * sizeof(T), num_tokens = shape[shape.size() - 2];
    const auto n = static_cast<int64_t>(values.size()) / (num_matrices * shape.back());
    for (int64_t m = 0; m < num_matrices; ++m) {
      TF_RETURN_IF_ERROR(writer_->Write(tensor_idx, (m * num_tokens + position) * row_bytes,
                                        values.data() + m * n * shape.back(), n * row_bytes));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<SafetensorsWriter> writer_;
  std::vector<SafetensorsWriter::Spec> specs_;
  std::vector<Sequence> sequences_;  // by prompt
  Wanted trace_ = Wanted::kNo;
};

struct Score {
  int64_t num_tokens = 0;  // scored
  double nll = 0;          // natural log

  double perplexity() const { return num_tokens > 0 ? std::exp(nll / static_cast<double>(num_tokens)) : std::nan(""); }
};

// What rank 0 does with the prompts and their results.
class Evaluation {
 public:
  static absl::StatusOr<std::unique_ptr<Evaluation>> Start(const EvalFlags& flags, const ModelFiles& files) {
    auto e = std::make_unique<Evaluation>();
    if (!flags.ids_file.empty()) {
      TF_ASSIGN_OR_RETURN(e->prompts_, ReadIds(flags.ids_file, files.model));
    } else {
      TF_ASSIGN_OR_RETURN(e->prompts_, ReadText(flags.text_file, files));
    }
    if (!flags.out_file.empty()) {
      auto out = OutFile::Create(flags.out_file, e->prompts_, files.model, flags.trace);
      if (!out.ok()) return Annotate(out.status(), "--out");
      e->out_ = *std::move(out);
    }
    if (!flags.json_file.empty()) {
      TF_ASSIGN_OR_RETURN(e->json_, TextFileWriter::Create("--json", flags.json_file));
    }
    e->scores_.resize(e->prompts_.size());
    return e;
  }

  std::vector<Request> requests(Wanted trace) const {
    std::vector<Request> requests;
    const bool needs_logits = out_ != nullptr || comparison_ != nullptr;
    for (const EvalPrompt& prompt : prompts_) {
      Request& request = requests.emplace_back();
      request.prompt = prompt.ids;
      request.decoder_input = prompt.decoder_ids;
      request.kind = needs_logits ? RequestKind::kLogits : RequestKind::kScore;
      request.trace = trace;
    }
    return requests;
  }

  // Before requests().
  void CompareTo(const ModelSpec& reference, const ModelSpec& model) {
    comparison_ = std::make_unique<EvalComparison>(reference, model, prompt_tokens());
  }
  std::vector<int64_t> prompt_tokens() const {
    std::vector<int64_t> num_tokens;
    for (const EvalPrompt& prompt : prompts_) num_tokens.push_back(prompt.num_scored());
    return num_tokens;
  }
  EvalComparison* comparison() { return comparison_.get(); }

  absl::StatusOr<Proceed> Take(const SequenceUpdate& u) {
    for (double logprob : u.result.logprobs) scores_[u.seq].nll -= logprob;
    scores_[u.seq].num_tokens += static_cast<int64_t>(u.result.logprobs.size());
    if (out_) TF_RETURN_IF_ERROR(out_->Take(u));
    if (comparison_) TF_RETURN_IF_ERROR(comparison_->Take(u));
    return Proceed::kGoOn;
  }

  absl::Status Finish(const RunReport& report) {
    if (out_) TF_RETURN_IF_ERROR(out_->Commit());
    Score total;
    nlohmann::ordered_json json;
    std::printf("%-8s %8s %10s %12s\n", "prompt", "tokens", "nll/token", "perplexity");
    const auto show = [](const std::string& name, const Score& s) {
      if (s.num_tokens == 0) {  // nothing to predict in a prompt of one token
        std::printf("%-8s %8d %10s %12s\n", name.c_str(), 0, "-", "-");
      } else {
        std::printf("%-8s %8ld %10.5f %12.5f\n", name.c_str(), static_cast<long>(s.num_tokens),
                    s.nll / static_cast<double>(s.num_tokens), s.perplexity());
      }
      return nlohmann::ordered_json{{"tokens", s.num_tokens}, {"nll", s.nll}, {"perplexity", s.perplexity()}};
    };
    for (size_t i = 0; i < scores_.size(); ++i) {
      total.nll += scores_[i].nll, total.num_tokens += scores_[i].num_tokens;
      json["prompts"].push_back(show(absl::StrCat(i), scores_[i]));
    }
    json["total"] = show("total", total);
    if (comparison_) {
      show("other", {comparison_->num_scored(), comparison_->reference_nll()});
      comparison_->Print();
      json["compared_to"] = comparison_->Json();
    }
    json["report"] = report.Json();
    std::fflush(stdout);  // --json /dev/stdout comes after the table
    return json_ ? json_->Commit(FormatJson(json) + "\n") : absl::OkStatus();
  }

 private:
  std::vector<EvalPrompt> prompts_;
  std::vector<Score> scores_;
  std::unique_ptr<OutFile> out_;
  std::unique_ptr<TextFileWriter> json_;
  std::unique_ptr<EvalComparison> comparison_;
};

// Collective. Whether rank 0, whose `evaluation` is not null, has memory for what the comparison keeps. A host that
// does not tell (no /proc) is not refused.
absl::Status CheckRoom(RankContext& context, const ModelSpec& reference, const Evaluation* evaluation) {
  absl::Status fits = absl::OkStatus();
  if (evaluation != nullptr) {
    const auto available = AvailableMemory();
    if (available.ok()) fits = EvalComparison::FitsMemory(reference, evaluation->prompt_tokens(), *available);
  }
  return AgreeOnStatus(context.transport, {"memory"}, fits);
}

// Runs the prompts through the model that --compare-to names, and forgets that model again.
// `model` is the one that is compared with it; `evaluation` is rank 0's, null on others.
absl::Status RunReference(RankContext& context, const EvalFlags& flags, const ModelSpec& model,
                          Evaluation* evaluation) {
  SharedFlags other = context.flags;
  other.expert_dtype = ExpertDtype::kStored;
  if (flags.compare_to != kUnquantised) other.model = flags.compare_to;
  RankContext reference{
      other,       context.transport,   context.device, context.topology, context.gpu_per_rank, context.gpu_ordinal,
      context.isa, context.num_threads, context.cpus};
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelFiles> files, OpenModel(reference, TokenizerUse::kNone));
  TF_RETURN_IF_ERROR(
      AgreeOnStatus(context.transport, {"compare models"}, EvalComparison::Comparable(files->model, model)));
  TF_RETURN_IF_ERROR(CheckRoom(context, files->model, evaluation));
  if (evaluation != nullptr) evaluation->CompareTo(files->model, model);
  const std::vector<Request> requests =
      evaluation != nullptr ? evaluation->requests(Wanted::kNo) : std::vector<Request>();
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelSession> session, StartSession(reference, std::move(files), requests));
  // Again, beside the weights: what is reserved takes no memory before it is written.
  TF_RETURN_IF_ERROR(CheckRoom(context, session->files->model, evaluation));
  return RunRequests(reference, *session, requests,
                     [&](const SequenceUpdate& u) -> absl::StatusOr<Proceed> {
                       TF_RETURN_IF_ERROR(evaluation->comparison()->TakeReference(u));
                       return Proceed::kGoOn;
                     })
      .status();
}

}  // namespace

void EvalCommand::Declare(FlagSet& set, SharedFlags* shared) {
  set.Text("ids", &flags_.ids_file,
           "JSON file {\"prompts\": [{\"input_ids\": [..]}, ..]}, with an encoder decoder_input_ids too; -: stdin");
  set.Text("text", &flags_.text_file, "text file, tokenized as one prompt; -: stdin");
  set.Text("out", &flags_.out_file, "safetensors file to write: logits and routing");
  set.Switch("trace", &flags_.trace, Wanted::kYes,
             "hidden states of every layer and router logits too, in the file of --out");
  set.Text("json", &flags_.json_file, "JSON file to write: perplexities");
  set.Text(
      "compare-to", &flags_.compare_to,
      "model folder, or unquantised (this one without --expert-dtype), to run the prompts through first: shows its "
      "perplexity, the KL divergence from it, and how many choices of experts changed in each layer");
  DeclareModelFlags(set, shared);
  DeclareEngineFlags(set, shared);
}

absl::Status EvalCommand::Check(const FlagSet& set, SharedFlags* shared) {
  if (flags_.ids_file.empty() == flags_.text_file.empty()) {
    return absl::InvalidArgumentError("eval needs one of --ids F.json and --text F");
  }
  if (flags_.trace == Wanted::kYes && flags_.out_file.empty()) {
    return absl::InvalidArgumentError("--trace adds tensors to the file of --out: give --out F.safetensors too");
  }
  if (flags_.compare_to == kUnquantised && shared->expert_dtype == ExpertDtype::kStored) {
    return absl::InvalidArgumentError(
        "--compare-to unquantised compares with the experts as they are stored: give --expert-dtype too");
  }
  return CheckEngineFlags(set, *shared);
}

absl::Status EvalCommand::Run(RankContext& context) const {
  const EvalFlags& flags = flags_;
  Transport& transport = context.transport;
  const bool first = transport.rank() == RankId(0);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelFiles> files,
                      OpenModel(context, flags.ids_file.empty() ? TokenizerUse::kNeeded : TokenizerUse::kNone));
  absl::StatusOr<std::unique_ptr<Evaluation>> evaluation = nullptr;
  if (first) evaluation = Evaluation::Start(flags, *files);
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, {"eval input"}, evaluation.status()));
  if (!flags.compare_to.empty()) {
    TF_RETURN_IF_ERROR(RunReference(context, flags, files->model, first ? evaluation->get() : nullptr));
  }
  const std::vector<Request> requests = first ? (*evaluation)->requests(flags.trace) : std::vector<Request>();
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelSession> session, StartSession(context, std::move(files), requests));
  TF_ASSIGN_OR_RETURN(const RunReport report, RunRequests(context, *session, requests, [&](const SequenceUpdate& u) {
                        return (*evaluation)->Take(u);
                      }));
  return first ? (*evaluation)->Finish(report) : absl::OkStatus();
}

}  // namespace tokenferry
