#!/bin/bash
# A small but real Slurm on this one machine (munged, slurmctld, two slurmd), without systemd, for tests/test_slurm.py.
#
#   bash tests/slurm/start.sh           start what is not running; prints the path of its slurm.conf
#   bash tests/slurm/start.sh --check   start nothing; prints why this machine cannot, and fails then
#   bash tests/slurm/stop.sh            end it and remove everything that it wrote
#
# Commands use it with   export SLURM_CONF=/run/hpcme-slurm/slurm.conf . Needs root and the packages munge, slurmctld,
# slurmd and slurm-client; installs nothing. The nodes hn1 and hn2 are two slurmd of this host, each with 4 CPUs and
# 2 GPUs that are copies of /dev/null. There is no accounting: sacct has no data, scontrol knows ended jobs for an hour.
set -euo pipefail
# shellcheck source=tests/slurm/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes="hn1 hn2" cpus=4 gpus=2 port=26817

problem=$(why_not)
[ -z "$problem" ] || { echo "$problem"; exit 1; }
[ "${1:-}" != --check ] || exit 0

mkdir -p $slurm_home/{state,log,munge}
chmod 755 $slurm_home $slurm_home/munge
host=$(hostname -s)
memory=$(awk '/^MemTotal:/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
{
    echo "$slurm_mark"
    cat <<CONF
ClusterName=hpcme
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire (at least 5) is also how long a job waits that was put back into the queue (otherwise 2 minutes)
AuthInfo=socket=$slurm_home/munge/socket,cred_expire=5
SlurmctldPort=$port
SlurmctldPidFile=$slurm_home/slurmctld.pid
SlurmdPidFile=$slurm_home/slurmd-%n.pid
SlurmctldLogFile=$slurm_home/log/slurmctld.log
SlurmdLogFile=$slurm_home/log/slurmd-%n.log
StateSaveLocation=$slurm_home/state
SlurmdSpoolDir=$slurm_home/spool-%n
# no cgroups, no binding, no accounting
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
MinJobAge=3600
# scheduling as quick as it goes
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PriorityType=priority/basic
JobRequeue=1
KillWait=10
CompleteWait=0
MpiDefault=none
ReturnToService=2
InactiveLimit=0
MailProg=/bin/true
SwitchType=switch/none
GresTypes=gpu
CONF
    i=0
    for node in $nodes; do
        i=$((i + 1))
        echo "NodeName=$node NodeHostname=$node NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus Boards=1" \
            "SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$memory Gres=gpu:$gpus State=UNKNOWN"
    done
    echo "PartitionName=tests Nodes=${nodes// /,} Default=YES MaxTime=INFINITE DefaultTime=10:00 State=UP"
} >$slurm_conf
{
    echo "AutoDetect=off"
    for node in $nodes; do echo "NodeName=$node Name=gpu File=$slurm_home/gpu[0-$((gpus - 1))]"; done
} >$slurm_home/gres.conf
for ((i = 0; i < gpus; i++)); do # slurmd wants device files
    [ -c "$slurm_home/gpu$i" ] || mknod -m 666 "$slurm_home/gpu$i" c 1 3
done
export SLURM_CONF=$slurm_conf

# setsid and closed descriptors: the daemons hold neither the terminal nor a pipe of whoever started this script.
if ! alive $slurm_home/munge/munged.pid munged; then
    [ -s $slurm_home/munge/key ] || (umask 077 && head -c 128 /dev/urandom >$slurm_home/munge/key)
    rm -f $slurm_home/munge/socket*
    (cd / && setsid munged --key-file=$slurm_home/munge/key --socket=$slurm_home/munge/socket \
        --pid-file=$slurm_home/munge/munged.pid --log-file=$slurm_home/log/munged.log \
        --seed-file=$slurm_home/munge/seed </dev/null >>$slurm_home/log/start.log 2>&1) ||
        die "munged does not start: $(tail -n 3 $slurm_home/log/start.log)"
fi
if ! alive $slurm_home/slurmctld.pid slurmctld; then
    rm -f $slurm_home/slurmctld.pid
    (cd / && setsid slurmctld -f $slurm_conf </dev/null >>$slurm_home/log/start.log 2>&1) ||
        die "slurmctld does not start: $(tail -n 3 $slurm_home/log/start.log)"
fi
for node in $nodes; do
    alive "$slurm_home/slurmd-$node.pid" slurmd && continue
    rm -f "$slurm_home/slurmd-$node.pid"
    mkdir -p "$slurm_home/spool-$node"
    (cd / && setsid slurmd -f $slurm_conf -N "$node" </dev/null >>$slurm_home/log/start.log 2>&1) ||
        die "slurmd $node does not start: $(tail -n 3 $slurm_home/log/start.log)"
done

wanted=$(echo "$nodes" | wc -w)
for ((i = 0; i < 120; i++)); do
    up=$(sinfo -h -N -o '%T' 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$' || true)
    if [ "$up" -ge "$wanted" ]; then
        echo $slurm_conf
        exit 0
    fi
    # A node that was lost in an earlier, killed test comes back by hand only.
    [ $((i % 20)) -ne 19 ] || scontrol update NodeName="${nodes// /,}" State=RESUME 2>/dev/null || true
    sleep 0.5
done
sinfo -N -l >&2 || true
tail -n 15 $slurm_home/log/*.log >&2 || true
die "the nodes did not come up within a minute"
