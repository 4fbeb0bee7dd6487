#include "tests/fakegpu/snippet.h"

#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "tests/fakegpu/ptx/launch.h"

namespace tokenferry::fakegpu {

void HostMemory::Add(void* data, size_t num_bytes) {
  const auto begin = reinterpret_cast<uint64_t>(data);
  ranges_[begin] = begin + num_bytes;
}

MemoryRange HostMemory::Find(uint64_t address) {
  auto next = ranges_.upper_bound(address);
  if (next == ranges_.begin()) return {};
  --next;
  if (address >= next->second) return {};
  return {next->first, next->second, reinterpret_cast<char*>(next->first)};
}

std::string HostMemory::Describe(uint64_t) { return "memory of the test"; }

namespace {

constexpr char kKernel[] = R"(
.version 9.0
.target sm_80
.address_size 64
.visible .entry snippet(.param .u64 snippet_in, .param .u64 snippet_out, .param .u32 snippet_size)
{
  .reg .pred %p<10>;
  .reg .b16 %rs<10>;
  .reg .b32 %r<20>;
  .reg .b64 %rd<20>;
  .reg .f32 %f<10>;
  .reg .f64 %fd<10>;
  .shared .align 16 .b8 shared[256];
  ld.param.u64 %rd10, [snippet_in];
  ld.param.u64 %rd11, [snippet_out];
  ld.param.u32 %r12, [snippet_size];
  mov.u32 %r10, %ctaid.x;
  mov.u32 %r13, %ntid.x;
  mov.u32 %r14, %tid.x;
  mad.lo.s32 %r10, %r10, %r13, %r14;
  setp.ge.u32 %p9, %r10, %r12;
  @%p9 ret;
  mul.wide.u32 %rd12, %r10, 24;
  add.s64 %rd10, %rd10, %rd12;
  mul.wide.u32 %rd12, %r10, 8;
  add.s64 %rd11, %rd11, %rd12;
  ld.global.u64 %rd1, [%rd10];
  ld.global.u64 %rd2, [%rd10+8];
  ld.global.u64 %rd3, [%rd10+16];
$0  setp.lt.s32 %p7, %r1, 0;
  $1
  $2
  st.global.u64 [%rd11], %rd0;
  ret;
}
)";

std::string ResultToRd0(const std::string& code) {
  if (absl::StrContains(code, "%rd0")) return "";
  if (absl::StrContains(code, "%r0")) return "cvt.u64.u32 %rd0, %r0;";
  if (absl::StrContains(code, "%rs0")) return "cvt.u64.u16 %rd0, %rs0;";
  if (absl::StrContains(code, "%fd0")) return "mov.b64 %rd0, %fd0;";
  if (absl::StrContains(code, "%f0")) return "mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;";
  return absl::StrContains(code, "%p0") ? "selp.u64 %rd0, 1, 0, %p0;" : "mov.u64 %rd0, 0;";
}

}  // namespace

std::vector<uint64_t> RunSnippet(const std::string& code, std::vector<SnippetInput> inputs, uint32_t seed) {
  std::string parts;
  for (int i = 1; i <= 3; ++i) {
    absl::StrAppend(
        &parts,
        absl::Substitute(
            "  cvt.u32.u64 %r$0, %rd$0; cvt.u16.u64 %rs$0, %rd$0; mov.b32 %f$0, %r$0; mov.b64 %fd$0, %rd$0;\n", i));
  }
  Module module = ParsePtx(absl::Substitute(kKernel, parts, code, ResultToRd0(code)));
  std::vector<uint64_t> out(inputs.size());
  HostMemory memory;
  memory.Add(inputs.data(), inputs.size() * sizeof(SnippetInput));
  memory.Add(out.data(), out.size() * sizeof(uint64_t));
  constexpr uint32_t kThreads = 64;
  KernelLaunch launch;
  launch.grid[0] = (static_cast<uint32_t>(inputs.size()) + kThreads - 1) / kThreads;
  launch.block[0] = kThreads;
  launch.seed = seed;
  launch.max_warp_instructions = 10'000'000;
  launch.params.resize(20);
  const void* pointers[] = {inputs.data(), out.data()};
  const auto size = static_cast<uint32_t>(inputs.size());
  std::memcpy(launch.params.data(), pointers, sizeof pointers);
  std::memcpy(&launch.params[16], &size, sizeof size);
  RunKernel(module.kernels.at("snippet"), launch, memory);
  return out;
}

}  // namespace tokenferry::fakegpu
