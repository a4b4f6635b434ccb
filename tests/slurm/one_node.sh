#!/usr/bin/env bash
# A real Slurm on this machine alone, for tests: its own munge, controller and node daemon, all state in one folder.
#
#   tests/slurm/one_node.sh start DIR     then: export SLURM_CONF=DIR/slurm.conf
#   tests/slurm/one_node.sh stop DIR
#
# Needs root. Installs Debian's slurm-wlm and munge where they are missing and can be had quickly. Nothing in /etc is
# read or written, so a machine that belongs to a real cluster stays in it. The node offers 4 CPUs, however many there
# are, and no GPU. Slurm starts a requeued job after two minutes; `scontrol update JobId=N StartTime=now+3` hastens it.
set -euo pipefail

start() {
  local dir=$1 host
  host=$(hostname)
  (command -v slurmctld && command -v slurmd && command -v munged) >/dev/null || install_packages
  mkdir -p "$dir"/{state,spool,munge}
  chmod 700 "$dir"/munge
  # munged refuses a socket below a folder that others may write to, unless forced.
  [ -f "$dir/munge/key" ] || (umask 077 && dd if=/dev/urandom of="$dir/munge/key" bs=1 count=1024 status=none)
  munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"

  cat >"$dir/slurm.conf" <<CONF
ClusterName=one_node
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-6917}
SlurmdPort=${SLURMD_PORT:-6918}
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
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
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF="$dir/slurm.conf"
  slurmctld
  slurmd
  for _ in $(seq 60); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
      echo "Slurm runs: export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  echo "the node did not become idle within 30 s; see $dir/slurmctld.log and $dir/slurmd.log" >&2
  sinfo --Node --long >&2 || true
  exit 1
}

stop() {
  local dir=$1 pidfile
  for pidfile in "$dir"/slurmd.pid "$dir"/slurmctld.pid "$dir"/munge/pid; do
    [ -f "$pidfile" ] && kill "$(cat "$pidfile")" 2>/dev/null || true
  done
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  timeout 30 apt-get update -qq >&2
  timeout 120 apt-get install -y -qq --no-install-recommends slurm-wlm munge >&2
}

case "${1:-} ${2:-}" in
  "start "?*) start "$(mkdir -p "$2" && cd "$2" && pwd)" ;;
  "stop "?*) stop "$2" ;;
  *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac
