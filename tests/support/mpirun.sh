#!/usr/bin/env bash
# mpirun.sh N PROGRAM [ARG ..]: N ranks of PROGRAM on this host, also as root, in a container, and on fewer cores than ranks.
set -eu
TF_NUM_RANKS=$1
shift
. "$(dirname "${BASH_SOURCE[0]}")/../../launch/scripts/mpirun_env.sh"
# Test programs call MPI_Init themselves, without asking whether ranks may read each other's memory: they never do.
export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
exec mpirun -n "$TF_NUM_RANKS" "$@"
