#!/usr/bin/env bash
# A real Slurm on this machine alone, for tests: its own munge, controller and node daemons, all state in one folder.
#
#   tests/slurm/cluster.sh start DIR [N]  then: export SLURM_CONF=DIR/slurm.conf; N nodes, node1 to nodeN (default: 1)
#   tests/slurm/cluster.sh node DIR NAME  start the daemon of one node again
#   tests/slurm/cluster.sh kill DIR NAME  kill one node: its daemon and all processes of its jobs
#   tests/slurm/cluster.sh stop DIR
#
# Needs root. Installs Debian's slurm-wlm and munge where they are missing and can be had quickly. A machine that belongs
# to a real cluster stays in it: nothing in /etc is changed for others. Each daemon has a mount namespace of its own, in
# which /etc/hosts also knows the nodes, DIR/nodes/NAME is mounted on DIR/local, and DIR/NAME.mounts, a script, is run.
# A node offers 32 CPUs and 4 GPUs, however many there are. Slurm starts a requeued job after two minutes;
# `scontrol update JobId=N StartTime=now+3` hastens it.
set -euo pipefail

start() {
  local dir=$1 count=$2 host node
  host=$(hostname)
  (command -v slurmctld && command -v slurmd && command -v munged) >/dev/null || install_packages
  mkdir -p "$dir"/{state,munge,local}
  chmod 700 "$dir"/munge
  # munged refuses a socket below a folder that others may write to, unless forced.
  [ -f "$dir/munge/key" ] || (umask 077 && dd if=/dev/urandom of="$dir/munge/key" bs=1 count=1024 status=none)
  munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"

  cat >"$dir/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-6917}
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
SchedulerParameters=bf_interval=1,sched_interval=1
SlurmdTimeout=40
TCPTimeout=5
GresTypes=gpu
CONF
  echo "NodeName=node[1-$count] Name=gpu File=/dev/tty[1-4]" >"$dir/gres.conf"
  cp /etc/hosts "$dir/hosts"
  for node in $(seq "$count"); do
    echo "127.0.0.1 node$node" >>"$dir/hosts"
    echo "NodeName=node$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((${SLURMD_PORT:-6918} + node - 1))" \
      "CPUs=32 Gres=gpu:4 RealMemory=100000 State=UNKNOWN" >>"$dir/slurm.conf"
  done
  echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$dir/slurm.conf"
  echo "PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP" >>"$dir/slurm.conf"

  export SLURM_CONF="$dir/slurm.conf"
  slurmctld
  for node in $(seq "$count"); do
    start_node "$dir" "node$node"
  done
  for _ in $(seq 60); do
    if [ "$(sinfo --noheader --partition=main --Node --states=idle 2>/dev/null | wc -l)" = "$count" ]; then
      echo "Slurm runs: export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  echo "the nodes did not become idle within 30 s; see $dir/slurmctld.log and $dir/slurmd.*.log" >&2
  sinfo --Node --long >&2 || true
  exit 1
}

start_node() {
  local dir=$1 node=$2
  mkdir -p "$dir/nodes/$node"
  SLURM_CONF="$dir/slurm.conf" unshare --mount bash -c '
    set -e
    mount --bind "$1/hosts" /etc/hosts
    mount --bind "$1/nodes/$2" "$1/local"
    [ ! -f "$1/$2.mounts" ] || bash "$1/$2.mounts"
    slurmd -N "$2"' node "$dir" "$node"
}

kill_node() {
  local dir=$1 node=$2 space process signal
  space=$(readlink "/proc/$(cat "$dir/slurmd.$node.pid")/ns/mnt")
  # All at once, as far as the others can see: a process that outlives another would report its end. Children are killed
  # first: a stopped one whose parent ends is woken by the kernel, and srun would use that to have its step killed, which
  # Slurm then does when the node is back, to the step of that number in the requeued job.
  for signal in STOP KILL; do
    for process in $(ls /proc | grep '^[0-9]' | sort -rn); do
      [ "$(readlink "/proc/$process/ns/mnt" 2>/dev/null)" != "$space" ] || kill "-$signal" "$process" 2>/dev/null || true
    done
  done
}

stop() {
  local dir=$1 pidfile
  for pidfile in "$dir"/slurmd.*.pid "$dir"/slurmctld.pid "$dir"/munge/pid; do
    [ -f "$pidfile" ] && kill "$(cat "$pidfile")" 2>/dev/null || true
  done
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  timeout 30 apt-get update -qq >&2
  timeout 120 apt-get install -y -qq --no-install-recommends slurm-wlm munge >&2
}

case "${1:-} ${2:-}" in
  "start "?*) start "$(mkdir -p "$2" && cd "$2" && pwd)" "${3:-1}" ;;
  "node "?*) start_node "$2" "$3" ;;
  "kill "?*) kill_node "$2" "$3" ;;
  "stop "?*) stop "$2" ;;
  *) sed -n '2,7p' "$0" >&2; exit 2 ;;
esac
