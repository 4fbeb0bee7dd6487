#include "runtime/serve/http/head_check.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

HttpError Bad(absl::string_view what) {
  return {400, "malformed_request", absl::StrCat("malformed HTTP request: ", what), ""};
}

bool IsTokenChar(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || absl::StrContains("!#$%&'*+-.^_`|~", c);
}

bool IsToken(absl::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), IsTokenChar); }

bool IsUtf8(absl::string_view bytes) {
  std::string valid;
  AppendValidUtf8(bytes, Utf8End::kLast, valid);
  return valid == bytes;
}

// CR and LF only together, and no other control character but tab.
std::optional<HttpError> CheckBytes(absl::string_view head) {
  for (size_t i = 0; i < head.size(); ++i) {
    const auto c = static_cast<unsigned char>(head[i]);
    if (c == '\n' && (i == 0 || head[i - 1] != '\r')) return Bad("a line ends in LF without CR");
    if (c == '\r' && i + 1 < head.size() && head[i + 1] != '\n') return Bad("CR without LF");
    if ((c < 0x20 && c != '\t' && c != '\r' && c != '\n') || c == 0x7f) return Bad("a control character in the head");
  }
  return std::nullopt;
}

std::optional<HttpError> CheckRequestLine(absl::string_view line) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == absl::string_view::npos || first == last) return Bad("the request line is not 'METHOD /path HTTP/1.1'");
  const absl::string_view method = line.substr(0, first), target = line.substr(first + 1, last - first - 1),
                          version = line.substr(last + 1);
  if (!IsToken(method)) return Bad("the method is not a word");
  const bool printable = std::all_of(target.begin(), target.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (target.empty() || target[0] != '/' || !printable) return Bad("the target is not a path of printable characters");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return Bad("the version is not HTTP/1.1 or HTTP/1.0");
  return std::nullopt;
}

// What has to be single, over all fields.
struct Framing {
  int num_hosts = 0, num_lengths = 0, num_encodings = 0;

  std::optional<HttpError> Take(absl::string_view name, absl::string_view value) {
    if (absl::EqualsIgnoreCase(name, "host")) ++num_hosts;
    if (absl::EqualsIgnoreCase(name, "content-length")) {
      ++num_lengths;
      const bool digits = std::all_of(value.begin(), value.end(), absl::ascii_isdigit);
      if (value.empty() || value.size() > 15 || !digits) return Bad("Content-Length is not a number");
    }
    if (absl::EqualsIgnoreCase(name, "transfer-encoding")) {
      ++num_encodings;
      if (!absl::EqualsIgnoreCase(value, "chunked")) return Bad("a Transfer-Encoding that is not just 'chunked'");
    }
    if (absl::EqualsIgnoreCase(name, "expect") && !absl::EqualsIgnoreCase(value, "100-continue")) {
      return HttpError{417, "expectation_failed", "Expect: only 100-continue is known", ""};
    }
    return std::nullopt;
  }

  std::optional<HttpError> Check(absl::string_view request_line) const {
    if (num_hosts != 1) return Bad(num_hosts == 0 ? "no Host" : "more than one Host");
    if (num_lengths > 1) return Bad("more than one Content-Length");
    if (num_encodings > 1) return Bad("more than one Transfer-Encoding");
    if (num_encodings > 0 && num_lengths > 0) return Bad("Content-Length together with Transfer-Encoding");
    if (num_encodings > 0 && absl::EndsWith(request_line, "HTTP/1.0")) return Bad("Transfer-Encoding in HTTP/1.0");
    return std::nullopt;
  }
};

HttpError TooLarge(const HttpLimits& limits) {
  return {431, "headers_too_large",
          absl::StrCat("the request's head has more than ", limits.max_header_bytes, " bytes (--max-header-bytes)"),
          ""};
}

}  // namespace

std::optional<HttpError> CheckPartialHead(absl::string_view begin, const HttpLimits& limits) {
  if (static_cast<int64_t>(begin.size()) > limits.max_header_bytes) return TooLarge(limits);
  return CheckBytes(begin);
}

std::optional<HttpError> CheckHead(absl::string_view head, const HttpLimits& limits) {
  if (auto error = CheckPartialHead(head, limits)) return error;
  if (!IsUtf8(head)) return Bad("the head is not UTF-8");
  if (!absl::ConsumeSuffix(&head, "\r\n\r\n")) return Bad("no empty line at the end of the head");
  const size_t line_end = head.find("\r\n");
  const absl::string_view request_line = head.substr(0, line_end);
  if (auto error = CheckRequestLine(request_line)) return error;
  absl::string_view rest = line_end == absl::string_view::npos ? "" : head.substr(line_end + 2);
  Framing framing;
  for (int num_fields = 0; !rest.empty();) {
    const size_t end = std::min(rest.find("\r\n"), rest.size());
    const absl::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 2, rest.size()));
    if (++num_fields > limits.max_header_fields) {
      return HttpError{
          431, "headers_too_large",
          absl::StrCat("the request has more than ", limits.max_header_fields, " header fields (--max-header-fields)"),
          ""};
    }
    if (line.empty() || line[0] == ' ' || line[0] == '\t') return Bad("a folded header field");
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) return Bad("a header field without a colon");
    if (!IsToken(line.substr(0, colon))) return Bad("a header field whose name is not a word right before the colon");
    const absl::string_view value = absl::StripAsciiWhitespace(line.substr(colon + 1));
    if (auto error = framing.Take(line.substr(0, colon), value)) return error;
  }
  return framing.Check(request_line);
}

}  // namespace tokenferry
