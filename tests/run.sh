#!/usr/bin/env bash
# run.sh [--full]: installs what is missing, builds, and runs every test; ends with one line "N passed, N failed" and
# status 0 only when nothing failed. What it runs:
#   cpu    every test on the release build                  (--full: headers are compiled alone, too)
#   asan   address + undefined behaviour sanitizers: every test that is not labelled `slow`, and every libFuzzer target for
#          2 seconds                                                        (--full: every test; 5 minutes each)
#   tsan   thread sanitizer: the tests labelled `tsan`, transports and exchange                  (--full: `tsan_full` too)
#   cuda   where nvcc is found: core and the tests labelled `gpu`, which pass without one: kernels are executed on the CPU,
#          from nvcc's PTX for Hopper, with few seeds, beside hardly optimised host code
#                                                             (--full: all architectures and seeds; the program, a model)
#   arm64  with --full only: tests/arm64.sh
# A part that does not build counts as one failed test, and the others still run. All parts but cpu are left out when
# nothing has changed since they passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/scripts/build.sh

full=no
case "${1:-}" in
  "") ;;
  --full) full=yes ;;
  *) echo "run.sh: unknown argument '$1'; it takes --full" >&2; exit 2 ;;
esac

passed=0
failed=0
failures=()
TF_CTEST_PREFIX=  # a command in front of ctest

fail() {
  failed=$((failed + 1))
  failures+=("$1")
}

# run_ctest PRESET CTEST_ARG ..: adds the tests' results, from ctest's JUnit file, to the sums. A test that could not be
# started (`skipped` there) has failed; one that says that it cannot run here (status 77) is named, and counts as
# neither. Four at a time for each processor, since tests that start processes wait most of the time; tests whose ranks wait
# for each other count as two, and the longest begin first (COST).
run_ctest() {
  local preset=$1 results=build/$1/results.xml ran=0 bad=0 unstarted=0 skipped=0 status=0 absent
  shift
  rm -f "$results"
  ${TF_CTEST_PREFIX:-} ctest --preset "$preset" --parallel "$((4 * $(nproc)))" --progress --output-junit results.xml "$@" || status=$?
  read -r ran bad unstarted skipped < <(sed -n '/<testcase/q; s/^[^a-z]*\(tests\|failures\|disabled\|skipped\)="\([0-9]*\)".*/\2/p' \
    "$results" 2>/dev/null | head -4 | tr '\n' ' '; echo)
  absent=$(grep -B1 'skipped message="SKIP_RETURN_CODE=77"' "$results" 2>/dev/null | sed -n 's/.*<testcase name="\([^"]*\)".*/\1/p')
  [ -z "$absent" ] || say "$preset: skipped, the log says why:" $absent
  bad=$((${bad:-0} + ${unstarted:-0} + ${skipped:-0} - $(wc -w <<<"$absent")))
  ran=$((${ran:-0} - $(wc -w <<<"$absent")))
  if [ "${ran:-0}" = 0 ] || { [ "$status" != 0 ] && [ "$bad" = 0 ]; }; then
    fail "$preset: ctest ended with status $status, and no failing test"
    return
  fi
  passed=$((passed + ran - bad))
  failed=$((failed + bad))
  [ "$bad" = 0 ] || failures+=("$preset: $bad tests, named above")
}

# configure_and_build PART: part PART in folder build/PART.
configure_and_build() {
  case "$1-$full" in
    cpu-no) tf_configure cpu -DTOKENFERRY_TESTS=ON -DTOKENFERRY_BENCH=ON && tf_build cpu all ;;
    cpu-yes) tf_configure cpu -DTOKENFERRY_TESTS=ON -DTOKENFERRY_BENCH=ON && tf_build cpu all tokenferry_headers_alone ;;
    asan-no) tf_configure asan -DTOKENFERRY_FUZZ_SECONDS=2 -DCMAKE_DISABLE_PRECOMPILE_HEADERS=OFF && tf_build asan tests_quick fuzzers ;;
    asan-yes) tf_configure asan -DTOKENFERRY_FUZZ_SECONDS=300 -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON -DCMAKE_UNITY_BUILD=OFF && tf_build asan all ;;
    tsan-no) tf_configure tsan && tf_build tsan tests_tsan ;;
    tsan-yes) tf_configure tsan && tf_build tsan all ;;
    cuda-no) tf_configure cuda -DTOKENFERRY_BENCH=OFF -DCMAKE_CUDA_ARCHITECTURES=90a-virtual '-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG' '-DCMAKE_CUDA_FLAGS_RELEASE=-O1 -DNDEBUG' && tf_build cuda tests_gpu ;;
    cuda-yes) tf_configure cuda -DTOKENFERRY_BENCH=OFF '-DCMAKE_CXX_FLAGS_RELEASE=-O3 -DNDEBUG' && tf_build cuda tokenferry tokenferry.fakegpu fakegpu_engine_test.fakegpu tests_gpu ;;
  esac
}

run_tests() {
  case "$1-$full" in
    cpu-*) run_ctest cpu ;;
    asan-no) run_ctest asan --label-exclude slow ;;
    asan-yes) run_ctest asan ;;
    tsan-no) TF_CTEST_PREFIX=$tsan_prefix run_ctest tsan --label-regex '^tsan$' ;;
    tsan-yes) TF_CTEST_PREFIX=$tsan_prefix run_ctest tsan --label-regex '^tsan' ;;
    cuda-no) TF_TEST_SEEDS=4 run_ctest cuda --label-regex '^gpu$' ;;
    cuda-yes) run_ctest cuda --label-regex '^(gpu|fakegpu)$' ;;
  esac
}

# What a part's outcome depends on: the tree as it stands, the compilers, and what was asked for. Empty outside git.
state_of() {
  git rev-parse --is-inside-work-tree >/dev/null 2>&1 || return 0
  { git rev-parse 'HEAD^{tree}'; git diff HEAD --binary; git ls-files --others --exclude-standard -z | xargs -0 -r sha256sum
    g++ --version; clang++ --version; echo "$1 $full"; } 2>/dev/null | sha256sum
}

# Tests that wait for processes and deadlines leave a third of the processors idle. So one builder builds the parts one after
# another, in a process group of its own: it takes what the tests leave, and all there is while a part is waited for (where
# the user may not renice back to 0, no more than what is idle). What it is building, it goes on building in between.
builder=
start_builder() {
  local part
  for part in "$@"; do
    mkdir -p "build/$part"
    : >"build/$part/build.log"
    rm -f "build/$part/build.status"
  done
  set -m
  (
    for part in "$@"; do
      configure_and_build "$part" >>"build/$part/build.log" 2>&1
      echo $? >"build/$part/build.status"
    done
  ) >/dev/null 2>&1 </dev/null &
  builder=$!
  set +m
}
builder_takes() {
  local niceness=19
  if [ "$1" = everything ]; then niceness=0; fi
  renice -n "$niceness" -g "$builder" >/dev/null 2>&1 || :
}
stop_builder() {
  [ -n "$builder" ] || return 0
  kill -TERM -- "-$builder" 2>/dev/null
  wait "$builder" 2>/dev/null
  while kill -0 -- "-$builder" 2>/dev/null; do sleep 0.1; done
}
trap stop_builder EXIT

# is_built PART: shows the builder's output until PART is built; status 0 when that went well.
is_built() {
  local outcome=build/$1/build.status
  builder_takes everything
  (while [ ! -s "$outcome" ] && kill -0 "$builder" 2>/dev/null; do sleep 0.2; done) &
  tail --pid $! --sleep-interval 0.2 --lines +1 --follow "build/$1/build.log"
  builder_takes what_is_left
  [ "$(cat "$outcome" 2>/dev/null)" = 0 ]
}

# suite PART: tests PART when it is built.
suite() {
  local start=$SECONDS before=$failed
  rm -f "build/$1/passed"
  say "$1: building"
  if ! is_built "$1"; then
    fail "$1: does not build"
    return
  fi
  say "$1: built, $((SECONDS - start)) s later; testing"
  run_tests "$1"
  echo "$1 took $((SECONDS - start)) s in all"
  if [ "$failed" = "$before" ]; then echo "${states[$1]}" >"build/$1/passed"; fi
}

# The leak checker stops the other threads by ptrace, which container sandboxes forbid: then leaks go unchecked, and all
# else is checked as usual.
choose_asan_options() {
  local dir
  dir=$(mktemp -d)
  echo 'int main() { return 0; }' >"$dir/probe.cc"
  if clang++ -fsanitize=address "$dir/probe.cc" -o "$dir/probe" && ! "$dir/probe" 2>/dev/null; then
    export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"
    echo "asan: leaks are not checked, since ptrace is forbidden here"
  fi
  # GCC 12's thread sanitizer cannot start where the kernel spreads addresses too widely.
  if g++ -fsanitize=thread "$dir/probe.cc" -o "$dir/probe" && ! "$dir/probe" 2>/dev/null; then
    tsan_prefix="setarch $(uname -m) --addr-no-randomize"
  fi
  rm -r "$dir"
}

if ! bash launch/scripts/install_deps.sh --tests; then
  printf '0 passed, 1 failed\n'
  exit 1
fi

tsan_prefix=
choose_asan_options

parts=(cpu asan tsan)
if [ -x /usr/local/cuda/bin/nvcc ]; then PATH=$PATH:/usr/local/cuda/bin; fi
if command -v nvcc >/dev/null; then parts+=(cuda); else say "cuda: skipped, no nvcc here"; fi

declare -A states
due=(cpu)
for part in "${parts[@]}"; do
  states[$part]=$(state_of "$part")
  if [ "$part" = cpu ]; then continue; fi
  if [ -n "${states[$part]}" ] && [ "$(cat "build/$part/passed" 2>/dev/null)" = "${states[$part]}" ]; then
    say "$part: nothing has changed since it passed; rm build/$part/passed to repeat it"
  else
    due+=("$part")
  fi
done
start_builder "${due[@]}"
for part in "${due[@]}"; do suite "$part"; done
if [ "$full" = yes ]; then
  say "arm64: building and testing under qemu"
  if bash tests/arm64.sh; then passed=$((passed + 1)); else fail "arm64: tests/arm64.sh, above"; fi
fi

say "Everything took $SECONDS s"
for failure in "${failures[@]}"; do echo "FAILED $failure"; done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
