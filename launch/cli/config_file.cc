#include "launch/cli/config_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "launch/cli/text_file.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxBytes = 1 << 20;

std::string Place(const std::string& path, const YAML::Mark& mark) {
  return mark.is_null() ? path : absl::StrCat(path, ":", mark.line + 1);
}

absl::StatusOr<std::vector<std::string>> Values(const YAML::Node& node, const std::string& place,
                                                const std::string& key) {
  std::vector<std::string> values;
  if (node.IsScalar()) values.push_back(node.Scalar());
  if (node.IsSequence()) {
    for (const YAML::Node& item : node) {
      if (!item.IsScalar()) {
        return absl::InvalidArgumentError(absl::StrCat(place, ": '", key, "' must be a list of plain values"));
      }
      values.push_back(item.Scalar());
    }
  }
  if (values.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": '", key, "' must have a value or a list of values"));
  }
  return values;
}

absl::Status ReadMap(const YAML::Node& map, const std::string& path, const std::string& section,
                     absl::Span<const std::string> sections, std::vector<ConfigEntry>* entries) {
  for (const auto& item : map) {
    const std::string place = Place(path, item.first.Mark());
    if (!item.first.IsScalar()) return absl::InvalidArgumentError(absl::StrCat(place, ": a key must be a flag's name"));
    const std::string key = item.first.Scalar();
    const bool is_section = section.empty() && std::find(sections.begin(), sections.end(), key) != sections.end();
    for (const ConfigEntry& e : *entries) {
      const bool twice = is_section ? e.section == key : e.section == section && e.key == key;
      if (twice) return absl::InvalidArgumentError(absl::StrCat(place, ": '", key, "' stands twice"));
    }
    if (is_section) {
      if (!item.second.IsMap()) {
        return absl::InvalidArgumentError(absl::StrCat(place, ": '", key, "' must be a map of flags to values"));
      }
      TF_RETURN_IF_ERROR(ReadMap(item.second, path, key, sections, entries));
      continue;
    }
    TF_ASSIGN_OR_RETURN(std::vector<std::string> values, Values(item.second, place, key));
    entries->push_back({place, section, key, std::move(values)});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<ConfigEntry>> ReadConfigFile(const std::string& path,
                                                        absl::Span<const std::string> sections) {
  // A file of flags is short; what is longer was not meant.
  TF_ASSIGN_OR_RETURN(const std::string text, ReadFlagFile("--config", path, kMaxBytes));
  std::vector<ConfigEntry> entries;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": has ", documents.size(), " YAML documents, but one is read"));
    }
    const YAML::Node root = documents.empty() ? YAML::Node() : documents.front();
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": must be a map of flags to values, as `compute: f32`"));
    }
    TF_RETURN_IF_ERROR(ReadMap(root, path, "", sections, &entries));
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(Place(path, e.mark), ": not valid YAML: ", e.msg));
  }
  return entries;
}

}  // namespace tokenferry
