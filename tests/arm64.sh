#!/usr/bin/env bash
# arm64.sh: builds for 64-bit ARM and runs the tests of numbers, kernels, experts and the exchange under qemu's emulation:
# that NEON gives the bits of the plain reference. Installs Debian's cross compiler and qemu (as root); ARM libraries are
# unpacked below build/arm64 and installed nowhere. It takes five minutes; of run.sh it is part with --full only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/scripts/build.sh
root=$PWD/build/arm64

bash launch/scripts/install_deps.sh --tests
if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
  apt-get update --quiet
  apt-get install --yes --quiet --no-install-recommends g++-aarch64-linux-gnu qemu-user-static
fi

# An index, a cache and a list of installed packages of its own: this system's are left alone.
apt_arm64() {
  apt-get --quiet -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::status="$root/apt/status" \
    -o Dir::State::lists="$root/apt/lists" -o Dir::Cache="$root/apt/cache" "$@"
}
if [ ! -e "$root/sysroot/complete" ]; then
  mkdir -p "$root"/apt/lists/partial "$root"/apt/cache/archives/partial "$root/sysroot"
  : >"$root/apt/status"
  apt_arm64 update
  packages=()
  for package in $(bash launch/scripts/install_deps.sh --tests --print); do
    case "$package" in *-dev) packages+=("$package") ;; esac  # no tools: they run on this machine
  done
  apt_arm64 install --yes --no-install-recommends --download-only libc6-dev libstdc++6 "${packages[@]}"
  for package in "$root"/apt/cache/archives/*.deb; do dpkg -x "$package" "$root/sysroot"; done
  touch "$root/sysroot/complete"
fi

tf_configure arm64
tf_build arm64 tests_arm64 tokenferry
ctest --preset arm64 --parallel "$(nproc)" --label-regex '^arm64$'

# One meaning everywhere: the whole model's logits and routing have the same bits here and there.
tf_configure cpu
tf_build cpu tokenferry
out=$(mktemp -d)
trap 'rm -r "$out"' EXIT
ids() { printf '1'; for ((i = 1; i < $1; ++i)); do printf ', %d' $((1 + 7 * i % 200)); done; }
printf '{"prompts": [{"input_ids": [%s]}, {"input_ids": [%s]}, {"input_ids": [%s]}]}\n' "$(ids 5)" "$(ids 1)" "$(ids 33)" >"$out/ids"
same() {
  local compute=$1
  shift
  build/cpu/tokenferry eval --model models/ferry-tiny-v3 --ids "$out/ids" --ranks 2 --compute "$compute" --out "$out/here" "$@"
  qemu-aarch64-static -L "$root/sysroot" "$root/tokenferry" eval --model models/ferry-tiny-v3 --ids "$out/ids" --ranks 2 \
    --compute "$compute" --out "$out/arm64"
  cmp "$out/here" "$out/arm64"
  echo "arm64: logits and routing are those of this machine, $compute $*"
}
same f32
same f32 --instruction-set portable
same bf16 --instruction-set portable
