#!/usr/bin/env bash
# local_cluster.sh [--hosts N] [--ranks-per-host N|N,N,..] [--rate RATE] [--delay TIME] [--no-mpirun] -- COMMAND [ARG ..]
#
# Runs COMMAND under mpirun on N hosts that exist on this machine only: each has its own network, name, processes and
# shared memory, and a link to a common switch.
#
#   bash launch/scripts/local_cluster.sh --hosts 4 --ranks-per-host 2 --rate 2gbit -- \
#       build/cpu/tokenferry generate --model models/ferry-tiny-v3 --prompt "The river"
#
#   --hosts N            2 unless told
#   --ranks-per-host N   1 unless told; 3,1 for three ranks on the first host and one on the second
#   --rate RATE          of each link, each way, in tc's words: 2gbit, 100mbit; unlimited unless told
#   --delay TIME         on each link, each way: 0.1ms, 5ms; needs the kernel's netem
#   --no-mpirun          runs COMMAND on the launching side instead; it finds what tests/cluster/README.md lists
#
# Prints the bytes that each host's link has carried, on stderr. The exit status is COMMAND's; 2 when the command line is
# refused; 77, with a line that says why, where a cluster cannot be made. Needs no root where users may make namespaces.
# Nothing has to be cleaned up, ever: everything lives in namespaces that end with this script, however it ends.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "local_cluster: $*" >&2; }
refuse() { say "$*; bash launch/scripts/local_cluster.sh --help says more"; exit 2; }
skip() { say "skipped: $*"; exit 77; }

hosts=2 ranks_per_host=1 rate= delay= use_mpirun=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --no-mpirun) use_mpirun=no; shift ;;
    --hosts | --ranks-per-host | --rate | --delay)
      [ $# -gt 1 ] && [ "$2" != -- ] || refuse "$1 needs a value"
      case "$1" in
        --hosts) hosts=$2 ;;
        --ranks-per-host) ranks_per_host=$2 ;;
        --rate) rate=$2 ;;
        --delay) delay=$2 ;;
      esac
      shift 2 ;;
    --) shift; break ;;
    *) refuse "unknown argument '$1' (the command goes behind --)" ;;
  esac
done
[ $# -gt 0 ] || refuse "no command: put it behind --"
[[ "$hosts" =~ ^[0-9]{1,3}$ ]] && [ "$hosts" -ge 1 ] && [ "$hosts" -le 200 ] || refuse "--hosts $hosts is not 1 to 200"
[[ "$ranks_per_host" =~ ^[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*$ ]] ||
  refuse "--ranks-per-host $ranks_per_host is not a number such as 2, or one for each host such as 3,1"
IFS=, read -ra slots <<<"$ranks_per_host"
if [ "${#slots[@]}" = 1 ]; then
  for ((i = 1; i < hosts; ++i)); do slots+=("${slots[0]}"); done
fi
[ "${#slots[@]}" = "$hosts" ] || refuse "--ranks-per-host $ranks_per_host has ${#slots[@]} numbers for $hosts hosts"

for tool in ip:iproute2 tc:iproute2 unshare:util-linux nsenter:util-linux setpriv:util-linux mpirun:openmpi-bin; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${tool%:*}" >/dev/null || skip "${tool%:*} is missing (package ${tool#*:})"
done
export PATH=$PATH:/usr/sbin:/sbin

# Without root, a user namespace makes this user root over namespaces of their own, and over nothing else.
as_root=()
[ "$(id -u)" = 0 ] || as_root=(unshare --user --map-root-user)
namespaces=(unshare --net --uts --ipc --mount --pid --mount-proc --fork --kill-child)
why=$("${as_root[@]}" "${namespaces[@]}" sh -c 'mount -t tmpfs tmpfs /dev/shm && ip link add tf0 type bridge &&
  ip link add tf1 type veth peer name tf2' 2>&1) || skip "namespaces, or networks in them, are not permitted here (${why//$'\n'/; })"

# --kill-child and pdeathsig: when this script dies, even of SIGKILL, so does the first process of the namespace, and with
# it every process inside; the last one takes interfaces, mounts and shared memory along.
"${as_root[@]}" setpriv --pdeathsig KILL "${namespaces[@]}" \
  bash "$here/local_cluster_inside.sh" "$use_mpirun" "$rate" "$delay" "${slots[*]}" "$@" <&0 &
outer=$!

stop() {
  trap '' INT TERM HUP
  local inside
  inside=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null || true)
  # shellcheck disable=SC2086  # one pid, or none before it has started
  [ -z "$inside" ] || kill -TERM $inside 2>/dev/null || true
  for ((i = 0; i < 100; ++i)); do
    kill -0 "$outer" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$outer" 2>/dev/null || true
  wait "$outer" 2>/dev/null || true
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP
status=0
wait "$outer" || status=$?
exit "$status"
