#include "core/io/foreign_text.h"

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

struct Kind {
  absl::string_view first_bytes;
  absl::string_view what;
};

constexpr absl::string_view kHtml = "an HTML page, such as a refused download leaves; download the file again";
constexpr Kind kKinds[] = {
    {"version https://git-lfs", "a Git LFS pointer, not the file itself; run 'git lfs pull' in the model's folder"},
    {"GGUF", "a GGUF file; its name must end in .gguf, and the model is that file itself, not its folder"},
    {"\x80\x02", "a pickled file (PyTorch), which Tokenferry does not read; it needs the model's safetensors files"},
    {"PK\x03\x04", "a zip archive, or weights that PyTorch has saved; Tokenferry needs the model's safetensors files"},
    {"\x1f\x8b", "compressed by gzip; unpack it first"},
    {"<!DOCTYPE", kHtml},
    {"<!doctype", kHtml},
    {"<html", kHtml},
    {"\xff\xfe", "UTF-16 text; save it as UTF-8"},
    {"\xfe\xff", "UTF-16 text; save it as UTF-8"},
};

}  // namespace

std::string Excerpt(absl::string_view text) {
  constexpr size_t kMaxBytes = 120;
  std::string out = absl::CHexEscape(text.substr(0, kMaxBytes));
  if (text.size() > kMaxBytes) out += "...";
  return out;
}

absl::string_view ForeignKind(absl::string_view first_bytes) {
  for (const Kind& kind : kKinds) {
    if (absl::StartsWith(first_bytes, kind.first_bytes)) return kind.what;
  }
  return "";
}

absl::Status CheckNotForeign(absl::string_view path, absl::string_view first_bytes) {
  const absl::string_view kind = ForeignKind(first_bytes);
  return kind.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat(path, ": is ", kind));
}

}  // namespace tokenferry
