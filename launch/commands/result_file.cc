#include "launch/commands/result_file.h"

#include "comm/transport/collectives.h"

namespace tokenferry {

absl::StatusOr<std::unique_ptr<TextFileWriter>> OpenResultFile(RankContext& context, absl::string_view flag,
                                                               const std::string& path) {
  std::unique_ptr<TextFileWriter> writer;
  absl::Status status = absl::OkStatus();
  if (!path.empty() && context.rank() == RankId(0)) {
    auto created = TextFileWriter::Create(flag, path);
    status = created.status();
    if (created.ok()) writer = *std::move(created);
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {.phase = "result files"}, status));
  return writer;
}

}  // namespace tokenferry
