#include "runtime/checkpoint/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

namespace fs = std::filesystem;

// Names in a folder, sorted; none when it cannot be read.
std::vector<std::string> Entries(const fs::path& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string FirstEndingIn(const std::vector<std::string>& names, absl::string_view suffix) {
  const auto it =
      std::find_if(names.begin(), names.end(), [&](const std::string& name) { return absl::EndsWith(name, suffix); });
  return it == names.end() ? "" : *it;
}

// "org/name", as models are called on the hub.
bool LooksLikeHubName(absl::string_view path) {
  const auto is_name = [](absl::string_view part) {
    return !part.empty() && part[0] != '.' && std::all_of(part.begin(), part.end(), [](unsigned char c) {
      return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
    });
  };
  const size_t slash = path.find('/');
  return slash != absl::string_view::npos && is_name(path.substr(0, slash)) && is_name(path.substr(slash + 1));
}

absl::Status NotThere(const std::string& path) {
  if (!LooksLikeHubName(path)) return absl::NotFoundError(absl::StrCat(path, ": there is no such folder"));
  const absl::string_view name = absl::string_view(path).substr(path.find('/') + 1);
  return absl::NotFoundError(absl::StrCat(path, ": there is no such folder; if this is a model's name on the Hugging ",
                                          "Face hub, download it ('hf download ", path, " --local-dir ", name,
                                          "') and give that folder"));
}

absl::Status IsAFile(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": is a file; give the folder that it is in, ", folder.empty() ? "." : folder));
}

absl::Status HasNoConfig(const std::string& path) {
  const std::vector<std::string> names = Entries(path);
  if (names.empty()) return absl::NotFoundError(absl::StrCat(path, ": is an empty folder, without config.json"));
  const fs::path snapshots = fs::path(path) / "snapshots";
  if (const std::vector<std::string> versions = Entries(snapshots); !versions.empty()) {
    return absl::NotFoundError(absl::StrCat(path, ": is a folder of the Hugging Face cache; give the version in it, ",
                                            (snapshots / versions[0]).string()));
  }
  const std::string other = OtherWeights(path);
  return absl::NotFoundError(absl::StrCat(path, ": has no config.json",
                                          other.empty() ? "; is it a model's folder?" : absl::StrCat(", but ", other)));
}

}  // namespace

absl::Status CheckModelFolder(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) return NotThere(path);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat(path, ": cannot be examined"));
  if (status.type() != fs::file_type::directory) return IsAFile(path);
  // A config.json that is there but cannot be examined is left to whoever opens it, for errno's text.
  return fs::exists(fs::path(path) / "config.json", error) || error ? absl::OkStatus() : HasNoConfig(path);
}

std::string OtherWeights(const std::string& dir) {
  const std::vector<std::string> names = Entries(dir);
  if (const std::string gguf = FirstEndingIn(names, ".gguf"); !gguf.empty()) {
    return absl::StrCat(gguf, ", a GGUF file; give that file itself");
  }
  for (const absl::string_view suffix : {".bin", ".pth", ".pt"}) {
    if (const std::string pickled = FirstEndingIn(names, suffix); !pickled.empty()) {
      return absl::StrCat(pickled,
                          ", weights that PyTorch has saved, which are not read; download or save the model "
                          "as safetensors files");
    }
  }
  if (const std::string part = FirstEndingIn(names, ".safetensors"); !part.empty()) {
    return absl::StrCat(part, ", which no index names; download model.safetensors.index.json too");
  }
  return "";
}

}  // namespace tokenferry
