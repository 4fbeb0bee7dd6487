#!/usr/bin/env bash
# with_packages.sh FOLDER TEST PROGRAM: runs TEST, a script of this folder, with the packages of requirements.txt, in a
# virtual environment in FOLDER that is made once. Status 77, skipped, where they cannot be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
folder=$1
if ! cmp --silent requirements.txt "$folder/installed.txt"; then
  rm -rf "$folder"
  if ! { python3 -m venv "$folder" && timeout 200 "$folder/bin/pip" install --quiet --requirement requirements.txt; } >&2; then
    rm -rf "$folder"
    echo "skipped: the packages of tests/launch/serve/requirements.txt cannot be installed here"
    exit 77
  fi
  cp requirements.txt "$folder/installed.txt"
fi
exec "$folder/bin/python" "$2" "$3"
