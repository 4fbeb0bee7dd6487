#!/usr/bin/env bash
# gpu.sh: shows on a machine with an NVIDIA GPU what the machines that build this project cannot: every kernel against its
# reference, the model's logits and texts against the CPU's, compute-sanitizer, and the kernels' rates.
#
#   bash tests/gpu.sh                 from a built tree (build/cuda; tests/run.sh leaves it compiled for Hopper alone: configure
#                                     and build with --preset cuda first)
#   bash tests/gpu.sh --pack DIR      builds, and puts all that is needed into DIR (below 60 MiB): programs, libraries but
#                                     glibc, model. On a machine without this project's packages: bash DIR/tests/gpu.sh
#   --out DIR                         where results go [gpu-results]: a log per step, and gpu.json
#
# Every step has a time limit, and the next one runs whatever became of it; after 350 seconds no new one begins. Status 0:
# no step failed, and none was left out.
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

# Programs of the tests labelled `gpu`, one a line; those that bring a GPU of their own (tests/fakegpu) need none.
gpu_tests() {
  ctest --test-dir build/cuda --label-regex '^gpu$' --label-exclude '^fakegpu$' --show-only=json-v1 |
    python3 -c 'import json,sys; [print(t["command"][0]) for t in json.load(sys.stdin)["tests"] if len(t["command"]) == 1]' | grep -v /fakegpu/
}

make_pack() {
  set -e
  # Hopper's code, and its PTX for what came later: the code of all architectures would not be below 60 MiB.
  cmake --preset cuda -DCMAKE_CUDA_ARCHITECTURES=90 >/dev/null
  cmake --build build/cuda --target tokenferry tests_gpu cuda_kernels_bench
  mkdir -p "$pack"/{bin,gpu-tests,lib,tests,models}
  install -s -t "$pack/bin" build/cuda/tokenferry build/cuda/bench/cuda_kernels_bench
  gpu_tests | xargs install -s -t "$pack/gpu-tests"
  # All libraries but glibc's own, which belong to the kernel and loader of the machine that runs this.
  ldd "$pack"/bin/* "$pack"/gpu-tests/* | awk '/=> \//{print $3}' | sort -u |
    grep -vE '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util|anl)\.so[^/]*)$' | xargs cp -L -t "$pack/lib"
  strip --strip-unneeded "$pack"/lib/*.so*
  cp -r "$model" "$pack/models/"
  mkdir -p "$pack/$data"
  cp "$data"/greedy.json "$data"/heldout_bible.json "$pack/$data/"
  cp tests/gpu.sh "$pack/tests/"
  git rev-parse HEAD >"$pack/commit"
  local kib
  kib=$(du -sk "$pack" | cut -f1)
  echo "gpu.sh: packed $((kib / 1024)) MiB in $pack"
  [ "$kib" -lt $((60 * 1024)) ] || { echo "gpu.sh: that is not below 60 MiB" >&2; exit 1; }
}

if [ -n "$pack" ]; then
  make_pack
  exit 0
fi

if [ -d gpu-tests ]; then
  chmod +x bin/* gpu-tests/*  # what carried the folder may have lost it
  export LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  tests=("$root"/gpu-tests/*)
  tokenferry=$root/bin/tokenferry
  bench=$root/bin/cuda_kernels_bench
else
  mapfile -t tests < <(gpu_tests)
  tokenferry=$root/build/cuda/tokenferry
  bench=$root/build/cuda/bench/cuda_kernels_bench
fi
mkdir -p "$out"
steps=$out/steps.tsv
SECONDS=0
last_begin=350
: >"$steps"
export PATH=$PATH:/usr/local/cuda/bin TF_SOURCE_DIR=$root

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
  nvcc --version | tail -2
}

# A gtest program; tests that were skipped for want of a GPU have failed.
unit() {
  local output status=0
  output=$("$@" 2>&1) || status=$?
  echo "$output"
  if grep -qE 'no CUDA device|no GPU' <<<"$output"; then
    echo "tests were skipped: no GPU was found"
    return 1
  fi
  return $status
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

# Ranks that are processes map each other's memory by cudaIpc, also where they share the GPU.
processes() {
  [ ! -d gpu-tests ] || skip "a packed program has no mpirun of its own"
  . launch/scripts/mpirun_env.sh
  mpirun -n "$1" "$tokenferry" eval --model "$model" --ids "$data/heldout_bible.json" --out "$out/bf16.processes" --device cuda \
    --share-gpus --path peer --compute bf16 && cmp "$out/bf16.one" "$out/bf16.processes"
}

# A decode step is a graph on path peer, which is the usual one; by messages it is not.
texts() {  # FLAG ..: the golden texts
  python3 - "$tokenferry" "$model" "$data/greedy.json" "$@" <<'PY'
import json, subprocess, sys
program, model, file, *flags = sys.argv[1:]
golden = json.load(open(file))
prompts = [word for case in golden.values() for word in ("--prompt", case["prompt"])]
done = subprocess.run([program, "generate", "--model", model, "--json", "--max-tokens", "64", "--compute", "f32", *flags, *prompts],
                      capture_output=True, text=True)
if done.returncode != 0:
    sys.exit(done.stderr)
print(done.stderr)
bad = [name for (name, case), got in zip(golden.items(), json.loads(done.stdout)["outputs"]) if got["ids"] != case["ids"]]
print(f"{len(golden) - len(bad)} of {len(golden)} golden texts")
sys.exit(f"wrong: {bad}" if bad else 0)
PY
}

auto_takes_the_gpu() {
  "$tokenferry" generate --model "$model" --prompt "In the" --max-tokens 2 2>&1 | tee /dev/stderr | grep -q 'cuda:0'
}

speed() {
  "$tokenferry" generate --model "$model" --device cuda --prompt "In the beginning" --max-tokens 64 --stats
}

sanitizer() {  # TOOL TEST: compute-sanitizer on a test program, one seed
  command -v compute-sanitizer >/dev/null || skip "no compute-sanitizer on this machine"
  TF_TEST_SEEDS=1 compute-sanitizer --tool "$1" --error-exitcode 9 "$2"
}

export tokenferry model data out bench
export -f machine unit skip eval_to f32_reference same_f32 bf16_reference same_bf16 processes texts auto_takes_the_gpu speed sanitizer
run() { local name=$1 limit=$2; shift 2; step "$name" "$limit" bash -c '"$@"' bash "$@"; }

run machine 20 machine
run auto_takes_the_gpu 30 auto_takes_the_gpu
for test in "${tests[@]}"; do run "$(basename "$test")" 45 unit "$test"; done
run f32_reference 60 f32_reference
run f32_one_rank 60 same_f32 one
run f32_chunks 60 same_f32 chunks --prefill-chunk 37
run f32_three_ranks 60 same_f32 three --ranks 3 --share-gpus
run f32_budget 60 same_f32 budget --ranks 2 --share-gpus --exchange-budget 2700000
run f32_messages 60 same_f32 messages --ranks 2 --share-gpus --path alltoallv
run texts_f32 60 texts --device cuda
run texts_f32_messages 60 texts --device cuda --path alltoallv
run texts_f32_two_ranks 60 texts --device cuda --ranks 2 --share-gpus
run bf16_reference 60 bf16_reference
run bf16_chunks 60 same_bf16 chunks --prefill-chunk 37
run bf16_four_ranks 60 same_bf16 four --ranks 4 --share-gpus
run bf16_two_processes 60 processes 2
run bf16_three_processes 60 processes 3
run speed 30 speed
run kernels_bench 60 "$bench" --json "$out/kernels.json"
run alltoall_bench 60 "$tokenferry" bench alltoall --device cuda --path peer --tokens 1,128,1024 --json "$out/alltoall.json"
for test in "${tests[@]}"; do
  case $test in
    *_cuda_test)
      run "memcheck_$(basename "$test")" 25 sanitizer memcheck "$test"
      run "racecheck_$(basename "$test")" 25 sanitizer racecheck "$test" ;;
  esac
done

python3 - "$out" <<'PY'
import json, os, sys
out = sys.argv[1]
steps = [line.rstrip("\n").split("\t") for line in open(os.path.join(out, "steps.tsv"))]
log = lambda name: open(os.path.join(out, name + ".log"), errors="replace").read()
report = {"commit": open("commit").read().strip() if os.path.exists("commit") else None,
          "machine": log("machine").splitlines(),
          "steps": [{"name": n, "outcome": w, "status": int(s), "seconds": int(t), "log_end": log(n)[-600:]} for n, w, s, t in steps]}
for name in ("kernels", "alltoall"):
    file = os.path.join(out, name + ".json")
    if os.path.exists(file):
        report[name] = json.load(open(file))
json.dump(report, open(os.path.join(out, "gpu.json"), "w"), indent=1)
bad = [n for n, w, _, _ in steps if w not in ("passed", "skipped")]
print(f"{len(steps) - len(bad)} of {len(steps)} steps without a failure; {os.path.join(out, 'gpu.json')}")
sys.exit(1 if bad else 0)
PY
