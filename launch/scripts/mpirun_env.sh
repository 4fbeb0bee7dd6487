# Sourced (bash or sh) before mpirun, for ranks on this host alone: lets Open MPI start as root, with more ranks than
# cores, and in containers. Settings that are already in the environment win. On several hosts do not use it: there
# mpirun's own defaults and a hostfile are right (cluster-configs/README.md).

# Root: Open MPI refuses it unless asked twice; in a container there often is no other user.
export OMPI_ALLOW_RUN_AS_ROOT="${OMPI_ALLOW_RUN_AS_ROOT:-1}"
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}"

# More ranks than cores; tokenferry pins its ranks and threads itself.
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"

# Shared memory only, and no search for networks that are not needed.
export OMPI_MCA_pml="${OMPI_MCA_pml:-ob1}"
export OMPI_MCA_btl="${OMPI_MCA_btl:-self,vader}"

# Container sandboxes may forbid one process to read another's memory (CMA, a kind of ptrace), and Open MPI notices only
# when a transfer fails. tokenferry tries it when it starts and tells Open MPI (comm/transport/mpi_session.cc).

# mpirun talks to its ranks over a network, be it the loopback alone. Without one it dies with a message about PMIx.
tf_has_network() { ! [ -r /proc/net/fib_trie ] || grep -q LOCAL /proc/net/fib_trie; }
if ! tf_has_network; then
  echo "tokenferry: no network interface is up, not even the loopback, and mpirun cannot start without: leave mpirun out" \
    "and use --ranks N (ranks as threads), or as root: ip link set lo up" >&2
fi

# mpirun looks for ssh even when every rank is on this host.
if ! command -v ssh >/dev/null 2>&1; then
  export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
fi

# Each rank maps 4 MiB of shared memory and some tables: containers often have a /dev/shm of 64 MiB or less, and running
# out of it is a bus error in the middle of a run. A directory on disk does as well, a little slower.
if [ -z "${OMPI_MCA_btl_vader_backing_directory:-}" ]; then
  tf_shm_kib=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $4}')
  if [ "${tf_shm_kib:-0}" -lt "$((${TF_NUM_RANKS:-4} * 8192))" ] || [ ! -w /dev/shm ]; then
    echo "tokenferry: /dev/shm has ${tf_shm_kib:-0} KiB free, too little for ${TF_NUM_RANKS:-4} ranks (8 MiB each);" \
      "ranks share files in ${TMPDIR:-/tmp} instead (docker run --shm-size=1g avoids this)" >&2
    export OMPI_MCA_btl_vader_backing_directory="${TMPDIR:-/tmp}"
  fi
  unset tf_shm_kib
fi
