#!/usr/bin/env bash
# mpirun.sh N PROGRAM [ARG ..]: N ranks of PROGRAM on this host, also as root, in a container, and on fewer cores than ranks.
set -eu
TF_NUM_RANKS=$1
shift
. "$(dirname "${BASH_SOURCE[0]}")/../../launch/mpirun_env.sh"
exec mpirun -n "$TF_NUM_RANKS" "$@"
