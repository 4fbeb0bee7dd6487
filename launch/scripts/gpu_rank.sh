#!/usr/bin/env bash
# gpu_rank.sh PROGRAM ARG ..: runs PROGRAM as a rank of mpirun or srun on the processors of the NUMA node that its GPU is attached to,
# and has MPI use the network adapter that is nearest to it on PCI. (NCCL finds the nearest one itself.)
#
#   mpirun --bind-to none -n 8 gpu_rank.sh tokenferry generate ..
#
# The rank's GPU is the one of its index on this host, by PCI address. What is already in the environment wins: UCX_NET_DEVICES,
# CUDA_DEVICE_ORDER. Without an NVIDIA driver, or without what sysfs tells, it runs PROGRAM as it is.
set -euo pipefail
[ $# -gt 0 ] || { echo "gpu_rank.sh: give it the program and its arguments" >&2; exit 2; }
sysfs=${TF_SYSFS:-/sys}
rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-${MPI_LOCALRANKID:-0}}}
export CUDA_DEVICE_ORDER="${CUDA_DEVICE_ORDER:-PCI_BUS_ID}"

mapfile -t gpus < <(cd "$sysfs/bus/pci/drivers/nvidia" 2>/dev/null && ls -d ????:??:??.? 2>/dev/null | sort)
# GPUs that the job may use: numbers of CUDA_VISIBLE_DEVICES. A rank that sees one takes it.
if [[ ${CUDA_VISIBLE_DEVICES:-} =~ ^[0-9]+(,[0-9]+)*$ ]]; then
  visible=()
  for i in ${CUDA_VISIBLE_DEVICES//,/ }; do visible+=("${gpus[$i]:-}"); done
  gpus=("${visible[@]}")
fi
[ ${#gpus[@]} -gt 0 ] || exec "$@"
gpu=${gpus[$((rank % ${#gpus[@]}))]}
[ -n "$gpu" ] || exec "$@"

# How many steps of their paths in sysfs, which follow the PCI bridges, two devices have in common.
common_steps() {
  local a b n=0
  IFS=/ read -ra a <<<"$1"
  IFS=/ read -ra b <<<"$2"
  while [ "$n" -lt "${#a[@]}" ] && [ "$n" -lt "${#b[@]}" ] && [ "${a[n]}" = "${b[n]}" ]; do n=$((n + 1)); done
  echo "$n"
}

place=$(readlink -f "$sysfs/bus/pci/devices/$gpu")
nearest= most=0
for nic in "$sysfs"/class/infiniband/*; do
  [ -e "$nic/device" ] || continue
  steps=$(common_steps "$place" "$(readlink -f "$nic/device")")
  if [ "$steps" -gt "$most" ]; then most=$steps nearest=$(basename "$nic"); fi
done
[ -z "$nearest" ] || export UCX_NET_DEVICES="${UCX_NET_DEVICES:-$nearest:1}"

node=$(cat "$place/numa_node" 2>/dev/null || echo -1)
cpus=$(cat "$sysfs/devices/system/node/node$node/cpulist" 2>/dev/null || true)
[ -n "$cpus" ] || exec "$@"
exec taskset --cpu-list "$cpus" "$@"
