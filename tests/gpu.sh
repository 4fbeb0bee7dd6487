#!/usr/bin/env bash
# gpu.sh: shows on a machine with an NVIDIA GPU what the machines that build this project cannot: every kernel against its
# reference, the model's logits and texts against the CPU's, ranks that share the GPU, one that is killed, compute-sanitizer,
# and the kernels' rates.
#
#   bash tests/gpu.sh                 builds what it needs in build/gpu, for the GPU that is there, and runs it
#   bash tests/gpu.sh --pack DIR      builds, and puts all that is needed into DIR (below 60 MiB): an archive of programs,
#                                     libraries but glibc, mpirun and model. On a machine without this project's packages:
#                                     bash DIR/tests/gpu.sh, which unpacks it
#   --out DIR                         where results go [gpu-results]: a log per step, and gpu.json
#
# Every step has a time limit, and the next one runs whatever became of it; after 350 seconds no new one begins. What a
# machine cannot show (a second GPU, a newer NCCL) is skipped, and gpu.json says why. Status 0: no step failed, and none was
# left out; 2: nothing could run.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
out=gpu-results
pack=
while [ $# -gt 0 ]; do
  case "$1" in
    --pack) pack=${2:?--pack needs a folder}; shift 2 ;;
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    *) echo "gpu.sh: unknown argument '$1'; it takes --pack DIR and --out DIR" >&2; exit 2 ;;
  esac
done

model=models/ferry-tiny-v3
data=tests/data/ferry-tiny-v3

# Programs of the tests labelled `gpu`, one a line; those that bring a GPU of their own (tests/fakegpu) need none. Those of
# ranks that are processes are beside them.
gpu_tests() {
  ctest --test-dir build/gpu --label-regex '^gpu$' --label-exclude '^(fakegpu|mpi)$' --show-only=json-v1 |
    python3 -c 'import json,sys; [print(t["command"][0]) for t in json.load(sys.stdin)["tests"] if len(t["command"]) == 1]' | grep -v fakegpu
}
mpi_tests=(build/gpu/tests/comm/comm_device_peer_mpi_test)

# build ARCHITECTURE: a folder of its own, since tests/run.sh leaves build/cuda without optimisation and benchmarks. File by
# file, so that a program has the kernels that it launches and no others.
build() {
  cmake --preset cuda -B build/gpu -DTOKENFERRY_TESTS=ON -DTOKENFERRY_BENCH=ON -DCMAKE_CUDA_ARCHITECTURES="$1" \
    -DTOKENFERRY_PTX_AS_TEXT=OFF -DCMAKE_UNITY_BUILD=OFF '-DCMAKE_CXX_FLAGS_RELEASE=-O3 -DNDEBUG' >/dev/null || return
  cmake --build build/gpu --target tokenferry tests_gpu cuda_kernels_bench
}

# All libraries of programs but glibc's own, which belong to the kernel and loader of the machine that runs them.
libraries_of() {
  ldd "$@" | awk '/=> \//{print $3}' | sort -u |
    grep -vE '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util|anl)\.so[^/]*)$'
}

# mpirun with those of its plugins that ranks of one host need: what drives networks brings libraries that are larger than it.
pack_mpirun() {
  local plugins
  plugins=$(ompi_info --parsable --path pkglibdir | sed -n 's/^path:pkglibdir://p' | head -1)
  mkdir -p "$pack"/openmpi/{plugins,help}
  cp -L "$(command -v mpirun)" "$pack/openmpi/mpirun"
  find "$plugins"/ -name 'mca_*.so' | grep -vE 'ucx|openib|ofi|psm|flux|slurm|jsm|gridengine|monitoring|mca_(io|fcoll|fs|fbtl|sharedfp|scoll|memheap|sshmem|spml|atomic)_' |
    xargs cp -L -t "$pack/openmpi/plugins"
  cp "$(ompi_info --parsable --path pkgdatadir | sed -n 's/^path:pkgdatadir://p' | head -1)"/*.txt "$pack/openmpi/help"
}

make_pack() {
  set -e
  # Hopper's code, and its PTX for what came later: the code of all architectures would not be below 60 MiB.
  build 90
  mkdir -p "$pack"/{bin,gpu-tests,mpi-tests,lib,tests,models,launch/scripts}
  install -s -t "$pack/bin" build/gpu/tokenferry build/gpu/bench/cuda_kernels_bench
  gpu_tests | xargs install -s -t "$pack/gpu-tests"
  install -s -t "$pack/mpi-tests" "${mpi_tests[@]}"
  pack_mpirun
  libraries_of "$pack"/{bin,gpu-tests,mpi-tests}/* "$pack"/openmpi/mpirun "$pack"/openmpi/plugins/* | xargs cp -L -t "$pack/lib"
  strip --strip-unneeded "$pack"/lib/*.so*
  cp -r "$model" "$pack/models/"
  mkdir -p "$pack/$data"
  cp "$data"/greedy.json "$data"/heldout_bible.json "$pack/$data/"
  cp tests/gpu.sh tests/gpu_steps.py "$pack/tests/"
  cp launch/scripts/mpirun_env.sh "$pack/launch/scripts/"
  git rev-parse HEAD >"$pack/commit"
  (cd "$pack" && tar --create --gzip --remove-files --file files.tar.gz bin gpu-tests mpi-tests lib openmpi models "$data")
  local kib
  kib=$(du -sk "$pack" | cut -f1)
  echo "gpu.sh: packed $((kib / 1024)) MiB in $pack"
  [ "$kib" -lt $((60 * 1024)) ] || { echo "gpu.sh: that is not below 60 MiB" >&2; exit 1; }
}

if [ -n "$pack" ]; then
  make_pack
  exit 0
fi

refuse() { echo "gpu.sh: $1" >&2; exit 2; }

if [ -f files.tar.gz ]; then
  tar --extract --gzip --file files.tar.gz 2>/dev/null || refuse "files.tar.gz is not whole, or there is no room to unpack it"
  rm files.tar.gz
fi
if [ -d gpu-tests ]; then
  export LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  if [ -d openmpi ]; then
    export PATH=$root/openmpi:$PATH OPAL_PREFIX=$root/openmpi OPAL_PKGLIBDIR=$root/openmpi/plugins OPAL_PKGDATADIR=$root/openmpi/help
    export PMIX_MCA_pcompress_base_silence_warning=1  # its plugins are not there, and are not needed
  fi
  tests=("$root"/gpu-tests/*)
  mpi_tests=("$root"/mpi-tests/*)
  tokenferry=$root/bin/tokenferry
  bench=$root/bin/cuda_kernels_bench
else
  architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -cd 0-9) || refuse "nvidia-smi names no GPU"
  build "$architecture" || refuse "build/gpu was not built"
  mapfile -t tests < <(gpu_tests)
  mpi_tests=("${mpi_tests[@]/#/$root/}")
  tokenferry=$root/build/gpu/tokenferry
  bench=$root/build/gpu/bench/cuda_kernels_bench
fi
export PATH=$PATH:/usr/local/cuda/bin TF_SOURCE_DIR=$root

# Once: whatever a test then says of GPUs that it has not got is about their number.
if ! said=$("$tokenferry" --version 2>&1); then
  refuse "the program does not start: $(tail -n 1 <<<"$said") (packed on Debian 12, it needs glibc 2.36; here is $(getconf GNU_LIBC_VERSION))"
fi
said=$("$tokenferry" inspect --model "$model" --device cuda 2>&1) || refuse "no GPU to test: $(tail -n 1 <<<"$said")"

mkdir -p "$out"
steps=$out/steps.tsv
SECONDS=0
last_begin=350
: >"$steps"

# step NAME SECONDS COMMAND ..: runs it within its limit; status 77 means skipped, the last line of its log says why.
step() {
  local name=$1 limit=$2 begin=$SECONDS status=0 word
  shift 2
  if [ "$SECONDS" -ge "$last_begin" ]; then
    echo "no time was left" >"$out/$name.log"
    status=75
  else
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  fi
  case $status in
    0) word=passed ;;
    75) word="left out" ;;
    77) word=skipped ;;
    124 | 137) word="too slow" ;;
    *) word=failed ;;
  esac
  printf '%s\t%s\t%s\t%s\n' "$name" "$word" "$status" "$((SECONDS - begin))" >>"$steps"
  printf '%-40s %s (%d s)\n' "$name" "$word" "$((SECONDS - begin))"
  if [ "$word" = failed ] || [ "$word" = "too slow" ]; then tail -n 12 "$out/$name.log" | cut -c1-300 | sed 's/^/    /'; fi
}

skip() { echo "$1"; exit 77; }

# All functions below are steps: run in a shell of their own.
machine() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm,clocks.max.mem --format=csv || return
  lscpu | grep -E 'Model name|^CPU\(s\)'
  nvcc --version 2>/dev/null | tail -2
  return 0
}

# A gtest program. What needs more GPUs than there are is skipped; a GPU that has gone is a failure.
unit() {
  local output status=0
  output=$("$@" 2>&1) || status=$?
  echo "$output"
  [ "$status" = 0 ] || return "$status"
  if grep -E 'no CUDA device|no GPU' <<<"$output" | grep -qv 'was asked for, but there are'; then
    echo "tests were skipped: there is no GPU any more"
    return 1
  fi
  if grep -q '^\[  PASSED  \] 0 tests' <<<"$output"; then
    skip "$(grep -B1 -m1 '^\[  SKIPPED \]' <<<"$output" | head -n 1)"
  fi
}

# ranks N COMMAND ..: as processes; this shell becomes mpirun.
ranks() {
  TF_NUM_RANKS=$1
  shift
  command -v mpirun >/dev/null || skip "no mpirun on this machine"
  . launch/scripts/mpirun_env.sh
  # Test programs do not ask whether ranks may read each other's memory.
  export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
  exec mpirun -n "$TF_NUM_RANKS" "$@"
}

eval_to() {  # FILE FLAG ..: logits and routing of held-out text
  local file=$1
  shift
  "$tokenferry" eval --model "$model" --ids "$data/heldout_bible.json" --out "$file" "$@"
}

# f32: the CPU's bits on one rank; with ranks that share the GPU, chunks, and rows in rounds, the same again.
f32_reference() { eval_to "$out/f32.cpu" --device cpu --compute f32; }
same_f32() { eval_to "$out/f32.$1" --device cuda --compute f32 "${@:2}" && cmp "$out/f32.cpu" "$out/f32.$1" && rm "$out/f32.$1"; }

# bf16: tensor cores have an order of their own; one rank, chunks and ranks that share the GPU have the same bits.
bf16_reference() { eval_to "$out/bf16.one" --device cuda --compute bf16; }
same_bf16() { eval_to "$out/bf16.$1" --device cuda --compute bf16 "${@:2}" && cmp "$out/bf16.one" "$out/bf16.$1" && rm "$out/bf16.$1"; }

# processes N FLAG ..: the same of ranks that are processes; they map each other's memory by cudaIpc, also where they share
# the GPU, or send it by NCCL.
processes() {
  local said status=0
  said=$(ranks "$1" "$tokenferry" eval --model "$model" --ids "$data/heldout_bible.json" --out "$out/bf16.processes" --device cuda \
    --share-gpus --compute bf16 "${@:2}" 2>&1) || status=$?
  echo "$said"
  [ "$status" != 77 ] || exit 77
  ! grep -qE "$no_nccl" <<<"$said" || skip "$(grep -m1 -E "$no_nccl" <<<"$said")"
  [ "$status" = 0 ] && cmp "$out/bf16.one" "$out/bf16.processes" || return 1
}

# What the program says where NCCL is not there, or cannot serve ranks that share a GPU.
no_nccl='cannot load NCCL|install 2\.[0-9.]+ or newer'

with_python() { python3 tests/gpu_steps.py "$@"; }

auto_takes_the_gpu() {
  "$tokenferry" generate --model "$model" --prompt "In the" --max-tokens 2 2>&1 | tee /dev/stderr | grep -q 'cuda:0'
}

speed() {
  "$tokenferry" generate --model "$model" --device cuda --prompt "In the beginning" --max-tokens 64 --stats
}

sanitizer() {  # TOOL TEST: compute-sanitizer on a test program, one seed
  local output status=0
  command -v compute-sanitizer >/dev/null || skip "no compute-sanitizer on this machine"
  output=$(TF_TEST_SEEDS=1 compute-sanitizer --tool "$1" --error-exitcode 9 "$2" 2>&1) || status=$?
  echo "$output"
  ! grep -q 'Device not supported' <<<"$output" || skip "compute-sanitizer says: Device not supported"
  return $status
}

export tokenferry model data out bench no_nccl
export -f machine unit skip ranks eval_to f32_reference same_f32 bf16_reference same_bf16 processes with_python auto_takes_the_gpu speed sanitizer
run() { local name=$1 limit=$2; shift 2; step "$name" "$limit" bash -c '"$@"' bash "$@"; }

run machine 20 machine
run auto_takes_the_gpu 30 auto_takes_the_gpu
for test in "${tests[@]}"; do run "$(basename "$test")" 45 unit "$test"; done
for test in "${mpi_tests[@]}"; do
  for n in 1 2 3; do run "$(basename "$test").np$n" 45 unit ranks "$n" "$test"; done
done
run f32_reference 60 f32_reference
run f32_one_rank 60 same_f32 one
run f32_chunks 60 same_f32 chunks --prefill-chunk 37
run f32_three_ranks 60 same_f32 three --ranks 3 --share-gpus
run f32_budget 60 same_f32 budget --ranks 2 --share-gpus --exchange-budget 2700000
run f32_messages 60 same_f32 messages --ranks 2 --share-gpus --path alltoallv
run texts_f32 60 with_python texts "$tokenferry" "$model" "$data/greedy.json" --device cuda
run texts_f32_messages 60 with_python texts "$tokenferry" "$model" "$data/greedy.json" --device cuda --path alltoallv
run texts_f32_two_ranks 60 with_python texts "$tokenferry" "$model" "$data/greedy.json" --device cuda --ranks 2 --share-gpus
run bf16_reference 60 bf16_reference
run bf16_chunks 60 same_bf16 chunks --prefill-chunk 37
run bf16_four_ranks 60 same_bf16 four --ranks 4 --share-gpus
for n in 1 2 4; do
  run "bf16_peer_processes.np$n" 60 processes "$n" --path peer
  run "bf16_nccl_processes.np$n" 60 processes "$n" --transport nccl --path alltoallv
done
run killed_rank_peer 45 with_python killed_rank "$tokenferry" "$model" --device cuda --share-gpus --path peer
run killed_rank_nccl 45 with_python killed_rank "$tokenferry" "$model" --device cuda --share-gpus --transport nccl --path alltoallv
run speed 30 speed
run graphs 60 with_python graphs "$tokenferry" "$model" "$out/graphs.json"
run kernels_bench 60 "$bench" --json "$out/kernels.json"
run alltoall_bench 60 "$tokenferry" bench alltoall --device cuda --path peer --tokens 1,128,1024 --json "$out/alltoall.json"
for test in "${tests[@]}"; do
  case $test in
    *_cuda_test)
      run "memcheck_$(basename "$test")" 25 sanitizer memcheck "$test"
      run "racecheck_$(basename "$test")" 25 sanitizer racecheck "$test" ;;
  esac
done
python3 tests/gpu_steps.py report "$out"
