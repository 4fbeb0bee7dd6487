#!/usr/bin/env bash
# local_cluster_inside.sh yes|no RATE DELAY "SLOTS .." COMMAND [ARG ..]: the part of local_cluster.sh that runs as the first
# process of its namespaces. Builds the switch (a bridge) and the hosts, runs COMMAND, prints the traffic.
#
# A host is one process, asleep, that is the first of its own network, name, process, IPC and mount namespaces: killing
# it kills the host. Its link is `linkI` here and `eth0` inside. Files live on a /dev/shm of this namespace alone.
set -euo pipefail
use_mpirun=$1 rate=$2 delay=$3
read -ra slots <<<"$4"
shift 4
state=/dev/shm/local_cluster
network=10.99.0
host_namespaces=(unshare --net --uts --ipc --mount --pid --mount-proc --fork --kill-child)

say() { echo "local_cluster: $*" >&2; }
fail() { say "$*"; exit 2; }
# tc's answer: what was asked for is wrong, or is not in this kernel.
refuse_shape() {
  [[ "$1" != *"qdisc kind is unknown"* ]] || { say "skipped: this kernel cannot shape links ($1)"; exit 77; }
  fail "$1"
}

# A host's or the switch's side of a link.
shape() {
  local run=("$@") where=(root handle 1:) why
  if [ -n "$delay" ]; then
    why=$("${run[@]}" "${where[@]}" netem delay "$delay" limit 100000 2>&1) ||
      refuse_shape "--delay $delay: $why"
    where=(parent 1:1 handle 10:)
  fi
  [ -z "$rate" ] || why=$("${run[@]}" "${where[@]}" tbf rate "$rate" burst 1mb latency 50ms 2>&1) ||
    refuse_shape "--rate $rate: $why"
}

start_switch() {
  mount -t tmpfs tmpfs /dev/shm
  mkdir "$state"
  hostname launcher
  ip link set lo up
  ip link add switch type bridge
  ip addr add "$network.254/24" dev switch
  ip link set switch up
  { echo "127.0.0.1 localhost"; echo "$network.254 launcher"; } >"$state/hosts"
  mount --bind "$state/hosts" /etc/hosts
}

start_host() {  # idx (from 1), slots
  local name=node$1 pid
  # mpirun's daemons want to see the agent, although they need none.
  "${host_namespaces[@]}" sh -c "mount -t tmpfs tmpfs /dev/shm && mkdir $state && cat >$state/ssh && chmod +x $state/ssh &&
    hostname $name && ip link set lo up && echo up && exec sleep infinity" \
    <"$state/ssh" >"$state/$name.up" 2>"$state/$name.err" &
  local unshare=$!
  until [ -s "$state/$name.up" ]; do
    kill -0 "$unshare" 2>/dev/null || fail "cannot start host $name: $(cat "$state/$name.err")"
    sleep 0.01
  done
  pid=$(cat "/proc/$unshare/task/$unshare/children")
  pid=${pid// /}
  echo "$pid" >"$state/$name.pid"
  ip link add "link$1" type veth peer name eth0 netns "$pid"
  ip link set "link$1" master switch up
  local inside=(nsenter --target "$pid" --net)
  "${inside[@]}" ip addr add "$network.$1/24" dev eth0
  "${inside[@]}" ip link set eth0 up
  shape "${inside[@]}" tc qdisc add dev eth0
  shape tc qdisc add dev "link$1"
  echo "$network.$1 $name" >>"$state/hosts"
  echo "$name slots=$2" >>"$state/hostfile"
}

# Takes the place of ssh: [-OPTION ..] HOST COMMAND ..
write_ssh() {
  cat >"$state/ssh" <<'SSH'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
pid=$(cat "/dev/shm/local_cluster/$host.pid") || exit 255
exec nsenter --target "$pid" --net --uts --ipc --mount --pid --wd="$PWD" \
  sh -c "export OMPI_MCA_orte_tmpdir_base=/dev/shm; $*"
SSH
  chmod +x "$state/ssh"
}

# "link sent received" from the hosts' point of view.
read_traffic() { awk '/link[0-9]+:/ {sub(":", " "); print $1, $2, $10}' /proc/net/dev; }

print_traffic() {
  say "bytes on the wire, headers and mpirun's own included"
  read_traffic | join "$state/traffic" - |
    awk '{sub("link", "node", $1); printf "  %-8s sent %12.0f   received %12.0f\n", $1, $4 - $2, $5 - $3}' >&2
}

start_switch
write_ssh
for i in "${!slots[@]}"; do start_host $((i + 1)) "${slots[i]}"; done

export OMPI_MCA_plm_rsh_agent=$state/ssh OMPI_MCA_orte_tmpdir_base=/dev/shm
export OMPI_MCA_plm_rsh_no_tree_spawn=1  # only the launching side can enter hosts
# A host's first process is not the daemon's parent, and what mpirun starts has to end with it.
export OMPI_MCA_orte_leave_session_attached=1
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp
export OMPI_MCA_btl_tcp_if_include=$network.0/24 OMPI_MCA_oob_tcp_if_include=$network.0/24
# Hosts share this machine's cores; tokenferry pins its ranks itself.
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export LOCAL_CLUSTER=$state
num_ranks=0
for n in "${slots[@]}"; do num_ranks=$((num_ranks + n)); done
command=("$@")
[ "$use_mpirun" = no ] || command=(mpirun --hostfile "$state/hostfile" -n "$num_ranks" "$@")
read_traffic >"$state/traffic"

"${command[@]}" <&0 &
job=$!
stop() {
  trap '' TERM
  kill -TERM "$job" 2>/dev/null || true
  for ((i = 0; i < 50; ++i)); do
    kill -0 "$job" 2>/dev/null || break
    sleep 0.1
  done
  print_traffic
  exit 143  # and every process of the namespace with this one
}
trap stop TERM
status=0
wait "$job" || status=$?
print_traffic
exit "$status"
