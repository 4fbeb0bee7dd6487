#!/usr/bin/env bash
# install_deps.sh [--tests] [--print]: installs the Debian packages that are missing, and does nothing when none is.
# The lists below are the only ones: the quickstart, tests/run.sh and CI call this, README.md refers to it.
# Without root it names the packages and fails. --print names all packages and installs nothing.
set -euo pipefail

build_packages=(g++ cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libabsl-dev libspdlog-dev libcli11-dev
  libyaml-cpp-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev libsentencepiece-dev libhwy-dev libhwloc-dev
  libboost-dev prometheus-cpp-dev python3)
test_packages=(libgtest-dev libgmock-dev libbenchmark-dev clang clang-format lld libclang-rt-14-dev python3-venv iproute2 curl groff-base
  chromium chromium-driver)

packages=("${build_packages[@]}")
print=no
for arg in "$@"; do
  case "$arg" in
    --tests) packages+=("${test_packages[@]}") ;;
    --print) print=yes ;;
    *) echo "install_deps.sh: unknown argument '$arg'; it takes --tests and --print" >&2; exit 2 ;;
  esac
done
if [ "$print" = yes ]; then
  echo "${packages[*]}"
  exit 0
fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_deps.sh: this is not a Debian system; install what these Debian 12 packages contain, then" >&2
  echo "  cmake --preset cpu && cmake --build --preset cpu --target tokenferry" >&2
  echo "  ${packages[*]}" >&2
  exit 1
fi

# dpkg-query fails for names it has never seen, and prints the others all the same.
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
  grep -qx "$package installed" <<<"$installed" || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "Missing Debian packages, and only root can install them. Run this, then start again:" >&2
  echo "  sudo apt-get install --yes --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt_install() {
  apt-get install --yes --quiet --no-install-recommends -o DPkg::Lock::Timeout=120 "${missing[@]}" </dev/null
}
echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
# The package index is fetched only when it does not know a package, or when it points at files that have gone.
if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 || ! apt_install; then
  apt-get update --quiet
  apt_install
fi
