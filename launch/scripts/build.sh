# Sourced by quickstart.sh and tests/run.sh from the repository's root: configuring and building without repeating work.

say() { printf '\n== %s\n' "$*"; }

# tf_configure PRESET [CMAKE ARG ..]: configures build/PRESET, many files of a library to be compiled as one, which halves
# the time of a build from nothing; who edits and compiles files one by one says -DCMAKE_UNITY_BUILD=OFF. A build folder that
# was moved or copied here from another place is configured afresh, since CMake would refuse it. CMake's own chatter is shown only when it fails.
tf_configure() {
  local preset=$1 cache=build/$1/CMakeCache.txt fresh=() log
  shift
  if [ -f "$cache" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$cache"; then fresh=(--fresh); fi
  mkdir -p "build/$preset"
  log=build/$preset/configure.log
  if ! cmake --preset "$preset" -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=24 "${fresh[@]}" "$@" >"$log" 2>&1; then
    cat "$log" >&2
    echo "configuring build/$preset failed (above, and in $log); a broken cache is cured by: rm -r build/$preset" >&2
    return 1
  fi
}

# tf_build PRESET TARGET ..: as many compilers at a time as there are cores, but no more than the memory can hold
# (about 1.2 GiB for the largest file).
tf_build() {
  local preset=$1 jobs memory_jobs
  shift
  jobs=$(nproc)
  memory_jobs=$(awk '/MemAvailable/ {n = int($2 / 1258291); print n < 1 ? 1 : n}' /proc/meminfo)
  if [ "$memory_jobs" -lt "$jobs" ]; then jobs=$memory_jobs; fi
  cmake --build "build/$preset" --parallel "$jobs" --target "$@"
}
