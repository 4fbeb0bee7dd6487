#include "core/host/cgroup.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace tokenferry {
namespace {

enum class Version : uint8_t { kV1, kV2 };

// Empty when there is no such file.
std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number at the start of a file; nothing for "max" and for no file.
std::optional<int64_t> ReadNumber(const std::string& path) {
  int64_t value = 0;
  const std::string text = ReadText(path);
  const std::vector<absl::string_view> words = absl::StrSplit(text, absl::ByAnyChar(" \n"));
  if (!absl::SimpleAtoi(words[0], &value)) return std::nullopt;
  return value;
}

// A hierarchy that is mounted, and where this process is in it.
struct Hierarchy {
  Version version;
  std::vector<std::string> controllers;  // v1: of the mount's options
  std::string mount_root;                // the group that is mounted: in a container it may be the container's own
  std::string mount_point;
  std::string group;  // of this process, as /proc/self/cgroup names it

  bool Has(absl::string_view controller) const {
    return version == Version::kV2 ||
           std::find(controllers.begin(), controllers.end(), controller) != controllers.end();
  }
};

// A line of /proc/self/mountinfo: "31 23 0:28 /root /mount/point rw,relatime [tags] - cgroup2 source options".
std::optional<Hierarchy> ParseMount(absl::string_view line) {
  const std::pair<absl::string_view, absl::string_view> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
  const std::vector<absl::string_view> left = absl::StrSplit(halves.first, ' ');
  const std::vector<absl::string_view> right = absl::StrSplit(halves.second, ' ');
  if (left.size() < 5 || right.size() < 3 || !absl::StartsWith(right[0], "cgroup")) return std::nullopt;
  const auto unescape = [](absl::string_view path) { return absl::StrReplaceAll(path, {{"\\040", " "}}); };
  return Hierarchy{.version = right[0] == "cgroup2" ? Version::kV2 : Version::kV1,
                   .controllers = absl::StrSplit(right[2], ','),
                   .mount_root = unescape(left[3]),
                   .mount_point = unescape(left[4]),
                   .group = {}};
}

// /proc/self/cgroup has a line "N:controllers:group" per hierarchy; that of v2 has no controllers.
std::optional<std::string> FindGroup(const std::string& groups, const Hierarchy& hierarchy) {
  for (const absl::string_view line : absl::StrSplit(groups, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || parts[1].empty() != (hierarchy.version == Version::kV2)) continue;
    if (hierarchy.version == Version::kV2) return std::string(parts[2]);
    for (const absl::string_view controller : absl::StrSplit(parts[1], ',')) {
      if (hierarchy.Has(controller)) return std::string(parts[2]);
    }
  }
  return std::nullopt;
}

std::vector<Hierarchy> FindHierarchies(const std::string& root) {
  std::vector<Hierarchy> found;
  const std::string groups = ReadText(absl::StrCat(root, "/proc/self/cgroup"));
  const std::string mounts = ReadText(absl::StrCat(root, "/proc/self/mountinfo"));
  for (const absl::string_view line : absl::StrSplit(mounts, '\n')) {
    std::optional<Hierarchy> hierarchy = ParseMount(line);
    if (!hierarchy) continue;
    const std::optional<std::string> group = FindGroup(groups, *hierarchy);
    if (!group) continue;
    hierarchy->group = *group;
    found.push_back(*std::move(hierarchy));
  }
  return found;
}

// The folders of this process's group and of all groups around it that are visible, the innermost first.
std::vector<std::string> Folders(const std::string& root, const Hierarchy& hierarchy) {
  absl::string_view below = hierarchy.group;
  // Where only a part is mounted, names begin with that part; groups outside of it ("/../..") are not visible.
  if (hierarchy.mount_root != "/" && !absl::ConsumePrefix(&below, hierarchy.mount_root)) below = "";
  if (absl::StartsWith(below, "/..")) below = "";
  std::vector<std::string> folders;
  for (; !below.empty() && below != "/"; below = below.substr(0, below.rfind('/'))) {
    folders.push_back(absl::StrCat(root, hierarchy.mount_point, below));
  }
  folders.push_back(absl::StrCat(root, hierarchy.mount_point));
  return folders;
}

std::optional<double> NumCpus(const std::string& folder, Version version) {
  std::optional<int64_t> quota, period;
  if (version == Version::kV1) {
    quota = ReadNumber(absl::StrCat(folder, "/cpu.cfs_quota_us"));  // -1: no limit
    period = ReadNumber(absl::StrCat(folder, "/cpu.cfs_period_us"));
  } else {
    const std::string text = ReadText(absl::StrCat(folder, "/cpu.max"));  // "150000 100000" or "max 100000"
    const std::vector<absl::string_view> words = absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() > 0 && absl::SimpleAtoi(words[0], &value)) quota = value;
    if (words.size() > 1 && absl::SimpleAtoi(words[1], &value)) period = value;
  }
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

// Pages of files that the kernel drops before it kills: both lists of them, which hold no shared memory.
int64_t DroppableBytes(const std::string& folder, absl::string_view prefix) {
  int64_t sum = 0;
  const std::string text = ReadText(absl::StrCat(folder, "/memory.stat"));
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::pair<absl::string_view, absl::string_view> entry = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    int64_t value = 0;
    const bool counts =
        entry.first == absl::StrCat(prefix, "inactive_file") || entry.first == absl::StrCat(prefix, "active_file");
    if (counts && absl::SimpleAtoi(entry.second, &value)) sum += value;
  }
  return sum;
}

std::optional<int64_t> AvailableBytes(const std::string& folder, Version version) {
  const bool v1 = version == Version::kV1;
  const auto limit = ReadNumber(absl::StrCat(folder, v1 ? "/memory.limit_in_bytes" : "/memory.max"));
  const auto used = ReadNumber(absl::StrCat(folder, v1 ? "/memory.usage_in_bytes" : "/memory.current"));
  if (!limit || !used) return std::nullopt;  // v1 says "no limit" by an enormous one
  const int64_t held = std::max<int64_t>(0, *used - DroppableBytes(folder, v1 ? "total_" : ""));
  return std::max<int64_t>(0, *limit - held);
}

}  // namespace

CgroupLimits ReadCgroupLimits(const std::string& root) {
  CgroupLimits limits;
  for (const Hierarchy& hierarchy : FindHierarchies(root)) {
    for (const std::string& folder : Folders(root, hierarchy)) {
      if (hierarchy.Has("cpu")) {
        limits.num_cpus = std::min(limits.num_cpus, NumCpus(folder, hierarchy.version).value_or(limits.num_cpus));
      }
      if (hierarchy.Has("memory")) {
        limits.available_bytes = std::min(limits.available_bytes,
                                          AvailableBytes(folder, hierarchy.version).value_or(limits.available_bytes));
      }
    }
  }
  return limits;
}

}  // namespace tokenferry
