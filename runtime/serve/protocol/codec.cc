#include "runtime/serve/protocol/codec.h"

#include <cstring>

#include "core/check.h"
#include "core/io/archive.h"

namespace tokenferry {

// Found by argument-dependent lookup, which does not look into unnamed namespaces: hence static. Each takes its struct
// apart by a structured binding, so that a new field that is forgotten here does not compile.
template <class Archive>
static void Fields(Archive& a, ReportedToken& t) {
  auto& [token, logprob] = t;
  a(token), a(logprob);
}
template <class Archive>
static void Fields(Archive& a, Hello& m) {
  auto& [version] = m;
  a(version);
}
template <class Archive>
static void Fields(Archive& a, LoadingProgress& m) {
  auto& [bytes_done, bytes_total, seconds_left] = m;
  a(bytes_done), a(bytes_total), a(seconds_left);
}
template <class Archive>
static void Fields(Archive& a, Ready& m) {
  auto& [host_per_rank, setup, max_sequences_per_rank] = m;
  a(host_per_rank), a(setup), a(max_sequences_per_rank);
}
template <class Archive>
static void Fields(Archive& a, AddRequest& m) {
  auto& [id, prompt, output, max_new_tokens, sampling, prompt_scores, routing, cache_scope] = m;
  a(id), a(prompt), a(output), a(max_new_tokens), a(sampling), a(prompt_scores), a(routing), a(cache_scope);
}
template <class Archive>
static void Fields(Archive& a, CancelRequest& m) {
  auto& [id] = m;
  a(id);
}
template <class Archive>
static void Fields(Archive&, Drain&) {}
template <class Archive>
static void Fields(Archive& a, TokenUpdate& m) {
  auto& [id, sampled, top, expert_idx, num_cached_tokens, end] = m;
  a(id), a(sampled), a(top), a(expert_idx), a(num_cached_tokens), a(end);
}
template <class Archive>
static void Fields(Archive& a, TokenBatch& m) {
  auto& [updates] = m;
  a(updates);
}
template <class Archive>
static void Fields(Archive& a, PromptScores& m) {
  auto& [id, logprobs, top, end] = m;
  a(id), a(logprobs), a(top), a(end);
}
template <class Archive>
static void Fields(Archive& a, RequestFailed& m) {
  auto& [id, kind, message] = m;
  a(id), a(kind), a(message);
}
template <class Archive>
static void Fields(Archive& a, Heartbeat& m) {
  auto& [num_steps] = m;
  a(num_steps);
}
template <class Archive>
static void Fields(Archive& a, JobStats& m) {
  auto& [num_steps, prefill_tokens, decode_tokens, num_running, num_waiting, cache_blocks_total, cache_blocks_used,
         prefix_query_tokens, prefix_hit_tokens, num_preemptions, num_replays, step_seconds, exchange_seconds,
         wait_seconds, bytes_sent, expert_rows, rank_rows, dropped, rerouted] = m;
  a(num_steps), a(prefill_tokens), a(decode_tokens), a(num_running), a(num_waiting), a(cache_blocks_total);
  a(cache_blocks_used), a(prefix_query_tokens), a(prefix_hit_tokens), a(num_preemptions), a(num_replays);
  a(step_seconds), a(exchange_seconds), a(wait_seconds), a(bytes_sent), a(expert_rows), a(rank_rows), a(dropped);
  a(rerouted);
}
template <class Archive>
static void Fields(Archive& a, Goodbye& m) {
  auto& [reason] = m;
  a(reason);
}

namespace {

constexpr size_t kHeaderBytes = sizeof(uint32_t) + sizeof(uint8_t);

// An enumeration read from bytes may have any value of its type.
template <class T>
bool InRange(const T&) {
  return true;
}
bool InRange(OutputEnd end) { return end <= OutputEnd::kLength; }
bool InRange(const AddRequest& m) {
  return m.prompt_scores <= WantPromptScores::kYes && m.routing <= WantRouting::kYes;
}
bool InRange(const RequestFailed& m) { return m.kind <= FailureKind::kInternal; }
bool InRange(const PromptScores& m) { return InRange(m.end); }
bool InRange(const TokenBatch& m) {
  for (const TokenUpdate& update : m.updates) {
    if (!InRange(update.end)) return false;
  }
  return true;
}

template <class T>
bool Decode(absl::string_view payload, Message& message) {
  T value;
  ArchiveReader reader(payload);
  Fields(reader, value);
  if (!reader.complete() || !InRange(value)) return false;
  message = std::move(value);
  return true;
}

template <size_t... kTypes>
bool DecodeType(size_t type, absl::string_view payload, Message& message, std::index_sequence<kTypes...>) {
  return ((type == kTypes && Decode<std::variant_alternative_t<kTypes, Message>>(payload, message)) || ...);
}

}  // namespace

std::string EncodeFrame(const Message& message) {
  ArchiveWriter payload;
  std::visit([&payload](const auto& value) { payload(value); }, message);
  const std::string bytes = payload.Take();
  TF_CHECK(bytes.size() <= kMaxPayloadBytes);
  ArchiveWriter header;
  header(static_cast<uint32_t>(bytes.size())), header(static_cast<uint8_t>(message.index()));
  return header.Take() + bytes;
}

absl::StatusOr<std::optional<Message>> FrameReader::Take() {
  const absl::string_view rest = absl::string_view(bytes_).substr(begin_);
  if (rest.size() < kHeaderBytes) return std::nullopt;
  uint32_t size = 0;
  std::memcpy(&size, rest.data(), sizeof(size));
  const auto type = static_cast<uint8_t>(rest[sizeof(size)]);
  if (size > kMaxPayloadBytes || type >= std::variant_size_v<Message>) {
    return absl::DataLossError(absl::StrCat("a message of type ", type, " and ", size, " bytes: the other end of the ",
                                            "socket is not a tokenferry of this version"));
  }
  if (rest.size() - kHeaderBytes < size) return std::nullopt;
  Message message;
  if (!DecodeType(type, rest.substr(kHeaderBytes, size), message,
                  std::make_index_sequence<std::variant_size_v<Message>>())) {
    return absl::DataLossError(absl::StrCat("a message of type ", type, " and ", size, " bytes does not decode"));
  }
  begin_ += kHeaderBytes + size;
  if (begin_ == bytes_.size() || begin_ > (1 << 20)) {
    bytes_.erase(0, begin_);
    begin_ = 0;
  }
  return std::optional<Message>(std::move(message));
}

absl::Status CheckVersion(const Hello& hello) {
  if (hello.version == kProtocolVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the other end speaks version ", hello.version,
                                                    " of the serving protocol, this one version ", kProtocolVersion,
                                                    ": run the same tokenferry as front and as rank 0"));
}

}  // namespace tokenferry
