#include "runtime/engine/logit_rows.h"

#include <utility>

#include "core/check.h"
#include "core/status.h"

namespace tokenferry {
namespace {

bool IsScored(const LogitRows::Row& row) { return row.token < static_cast<int64_t>(row.entry->targets.size()); }

// Whether the token behind it is to be chosen.
bool IsSampled(const LogitRows::Row& row) {
  return row.entry->want == Want::kToken && row.token + 1 == static_cast<int64_t>(row.entry->tokens.size());
}

// Without the tokens that a grammar allows.
SamplingState StateOf(const LogitRows::Row& row) {
  const SequenceTable::Sequence& s = *row.sequence;
  const int64_t position = row.entry->position + row.token + 1;  // of the token that the logits are for
  return {.counts = UsesCounts(s.sampling) ? &s.counts : nullptr,
          .position = position,
          .num_generated = position - s.num_prompt_tokens};
}

}  // namespace

int64_t LogitRows::NumBytes(DeviceKind device, int64_t vocab_size, int64_t num_rows) {
  const int64_t per_row = vocab_size * static_cast<int64_t>(sizeof(float));
  const int64_t beside = device == DeviceKind::kCpu ? 0 : sizeof(int32_t);  // candidates wanted
  return num_rows * (per_row + beside);
}

absl::StatusOr<LogitRows> LogitRows::Create(Device& device, int64_t vocab_size, int64_t num_rows) {
  LogitRows rows;
  rows.vocab_size_ = vocab_size;
  rows.num_rows_ = num_rows;
  rows.is_on_host_ = device.kind() == DeviceKind::kCpu;
  const size_t num_bytes = num_rows * vocab_size * sizeof(float);
  TF_ASSIGN_OR_RETURN(rows.host_logits_, device.Allocate(num_bytes, MemoryKind::kHost, "logits"));
  if (rows.is_on_host_) return rows;
  TF_ASSIGN_OR_RETURN(rows.logits_, device.Allocate(num_bytes, MemoryKind::kDevice, "logits on the device"));
  TF_ASSIGN_OR_RETURN(rows.num_candidates_,
                      device.Allocate(num_rows * sizeof(int32_t), MemoryKind::kDevice, "candidates wanted"));
  TF_ASSIGN_OR_RETURN(rows.summaries_,
                      device.Allocate(num_rows * sizeof(LogitSummary), MemoryKind::kHost, "summaries of logits"));
  return rows;
}

int LogitRows::NumCandidates(const Row& row) const {
  if (is_on_host_ || IsScored(row) || !IsSampled(row) || row.sequence->grammar != nullptr) return 0;
  return Sampler::NumCandidates(row.sequence->sampling, StateOf(row));
}

void LogitRows::Want(Stream& stream, std::vector<Row> rows) {
  TF_CHECK_LE(static_cast<int64_t>(rows.size()), num_rows_);
  rows_ = std::move(rows);
  wanted_.clear();
  for (const Row& row : rows_) wanted_.push_back(NumCandidates(row));
  if (is_on_host_) return;
  wanted_.resize(num_rows_);
  stream.CopyToDevice(num_candidates_.data(), wanted_.data(), wanted_.size() * sizeof(int32_t));
}

MatrixView<float> LogitRows::Rows(int64_t begin, int64_t num_rows) const {
  const Buffer& logits = is_on_host_ ? host_logits_ : logits_;
  return MakeMatrix<float>(logits.as<float>() + begin * vocab_size_, num_rows, vocab_size_);
}

void LogitRows::Scan(Stream& stream, int64_t begin, int64_t num_rows) {
  if (is_on_host_) return;
  ScanLogits(stream,
             {Rows(begin, num_rows), num_candidates_.as<int32_t>() + begin, summaries_.as<LogitSummary>() + begin});
}

void LogitRows::Fetch(Stream& stream) {
  for (size_t i = 0; !is_on_host_ && i < rows_.size(); ++i) {
    if (wanted_[i] > 0) continue;
    const auto row = static_cast<int64_t>(i);
    stream.CopyToHost(host_logits_.as<float>() + row * vocab_size_, Rows(row, 1).data, vocab_size_ * sizeof(float));
  }
}

void LogitRows::Take(int64_t row, EntryResult& result) {
  if (!result.error.ok()) return;
  const absl::Status taken = TryTake(row, result);
  if (!taken.ok()) result = {.seq = result.seq, .error = taken};
}

absl::Status LogitRows::TryTake(int64_t row_idx, EntryResult& result) {
  const Row& row = rows_[row_idx];
  const StepEntry& entry = *row.entry;
  const absl::Span<const float> logits(host_logits_.as<float>() + row_idx * vocab_size_, vocab_size_);
  if (IsScored(row) || entry.want == Want::kLogits) {
    TF_ASSIGN_OR_RETURN(const double log_sum_exp, sampler_.LogSumExp(logits, StateOf(row).position));
    if (IsScored(row)) {
      result.logprobs.push_back(static_cast<double>(logits[entry.targets[row.token]]) - log_sum_exp);
      const auto top = Likeliest(logits, row.sequence->sampling.num_top_logprobs, log_sum_exp);
      result.top_logprobs.insert(result.top_logprobs.end(), top.begin(), top.end());
    }
  }
  if (entry.want == Want::kLogits) result.logits.insert(result.logits.end(), logits.begin(), logits.end());
  if (!IsSampled(row)) return absl::OkStatus();
  SamplingState state = StateOf(row);
  if (wanted_[row_idx] > 0) {
    TF_ASSIGN_OR_RETURN(result.sampled,
                        sampler_.Sample(summaries_.as<LogitSummary>()[row_idx], row.sequence->sampling, state));
    return absl::OkStatus();
  }
  if (row.sequence->grammar != nullptr) {
    TF_ASSIGN_OR_RETURN(state.allowed, row.sequence->grammar->Allowed(row.sequence->sampling.stop_token_ids));
  }
  TF_ASSIGN_OR_RETURN(result.sampled, sampler_.Sample(logits, row.sequence->sampling, state));
  return absl::OkStatus();
}

}  // namespace tokenferry
