#!/usr/bin/env bash
# mpirun.sh N PROGRAM [ARG ..]: N ranks of PROGRAM on this host, also as root, in a container, and on fewer cores than ranks.
set -eu
ranks=$1
shift
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_btl=self,vader
exec mpirun -n "$ranks" "$@"
