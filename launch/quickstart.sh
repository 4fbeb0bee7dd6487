#!/usr/bin/env bash
# quickstart.sh: from a clone to generated text. Installs the packages that are missing, builds the release program in
# build/cpu and runs it with 4 ranks on the checkpoint that comes with the repository. Run again, it only runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/scripts/build.sh

ranks=4
bash launch/scripts/install_deps.sh

# The tests share this build folder: what they have configured is kept, so that nothing is built twice.
if [ ! -f build/cpu/build.ninja ] || ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" build/cpu/CMakeCache.txt; then
  say "Configuring build/cpu"
  tf_configure cpu -DTOKENFERRY_TESTS=OFF -DTOKENFERRY_BENCH=OFF
fi
say "Building build/cpu/tokenferry (a few minutes the first time)"
tf_build cpu tokenferry

export TF_NUM_RANKS=$ranks
. launch/scripts/mpirun_env.sh
cores=$(nproc)
if [ "$cores" -lt "$ranks" ]; then
  echo "$ranks ranks share $cores cores here: it works, but every rank waits for the others' turns."
fi
command=(mpirun --bind-to none -n "$ranks" build/cpu/tokenferry generate --model models/ferry-tiny-v3
  --prompt "1 And it came to pass" --max-tokens 64 --stats)
if ! tf_has_network; then  # as threads of one process they need none
  command=("${command[@]:5}" --ranks "$ranks")
fi
printf '\n$'
printf ' %q' "${command[@]}"
printf '\n\n'
"${command[@]}" || {
  status=$?
  echo "quickstart.sh: the run above failed with status $status" >&2
  exit "$status"
}
printf '\nTry your own: . launch/scripts/mpirun_env.sh; mpirun --bind-to none -n 4 build/cpu/tokenferry generate --help\n'
