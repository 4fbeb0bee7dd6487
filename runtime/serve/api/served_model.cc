#include "runtime/serve/api/served_model.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "core/log.h"
#include "runtime/families/families.h"

namespace tokenferry {

namespace {

absl::StatusOr<std::optional<ChatTemplate>> LoadChatTemplate(const ServedModelOptions& options) {
  const std::string& given = options.chat_template;
  absl::StatusOr<ChatTemplate> loaded = ChatTemplate::Open(given, options.dir);
  if (loaded.ok()) return std::optional<ChatTemplate>(*std::move(loaded));
  if (given.empty() && absl::IsNotFound(loaded.status())) return std::nullopt;
  return loaded.status();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ServedModel>> LoadServedModel(const ServedModelOptions& options) {
  TF_ASSIGN_OR_RETURN(ModelSpec spec, LoadModelSpec(options.dir));
  TF_ASSIGN_OR_RETURN(GenerationConfig generation, LoadGenerationConfig(options.dir, spec));
  if (const std::string warning = WarningOf(generation); !warning.empty()) LogWarning(warning);
  TF_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(options.dir));
  TF_ASSIGN_OR_RETURN(std::optional<ChatTemplate> chat_template, LoadChatTemplate(options));
  const int64_t context = spec.max_position_embeddings;
  if (options.max_model_len > context) {
    return absl::InvalidArgumentError(absl::StrCat("--max-model-len ", options.max_model_len,
                                                   " is more than the model's context of ", context, " tokens"));
  }
  const std::filesystem::path path = std::filesystem::path(options.dir).lexically_normal();
  const std::string folder = path.has_filename() ? path.filename() : path.parent_path().filename();
  ServedModel model{options.name.empty() ? folder : options.name,
                    options.max_model_len == 0 ? context : options.max_model_len,
                    std::move(spec),
                    std::move(generation),
                    std::move(tokenizer),
                    std::move(chat_template)};
  if (model.chat_template) {
    model.tool_format = ToolFormatOf(*model.chat_template);
    model.thinks = model.chat_template->Mentions("</think>");
  }
  return std::make_shared<const ServedModel>(std::move(model));
}

}  // namespace tokenferry
