#!/usr/bin/env bash
# A Slurm cluster of this one machine, for tests: munge, slurmctld and N slurmd, all below one folder, on ports of its own.
#
#   slurm_cluster.sh start FOLDER [NODES]     prints nothing; afterwards SLURM_CONF=FOLDER/slurm.conf makes sbatch use it
#   slurm_cluster.sh node FOLDER NUMBER       starts one slurmd again
#   slurm_cluster.sh stop FOLDER
#
# As root, since Slurm runs jobs as their users. Everything listens on this machine's own address only.
set -euo pipefail
verb=$1 folder=$2
host=$(hostname -s)
conf=$folder/slurm.conf

lacking() { for name in munged slurmctld slurmd sbatch squeue scancel; do command -v "$name" >/dev/null || PATH=$PATH:/usr/sbin command -v "$name" >/dev/null || { echo "$name"; return; }; done; }
export PATH=$PATH:/usr/sbin

start_munge() {
    mkdir -p "$folder/munge"
    chmod 700 "$folder/munge"
    [ -s "$folder/munge/key" ] || dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
    chmod 600 "$folder/munge/key"
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
           --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --num-threads=2
}

# the first of two free ports above where the folder's name leads: two clusters at once do not meet
port() { python3 - "$1" <<'PY'
import socket, sys, zlib
start = 20000 + zlib.crc32(sys.argv[1].encode()) % 20000
for first in range(start, start + 400, 8):
    try:
        for port in range(first, first + 8):
            with socket.socket() as one:
                one.bind(("", port))
        print(first)
        break
    except OSError:
        continue
PY
}

case $verb in
start)
    nodes=${3:-2}
    missing=$(lacking)
    [ -z "$missing" ] || { echo "slurm_cluster.sh: $missing is not installed" >&2; exit 3; }
    mkdir -p "$folder"/{state,spool,log}
    chmod 755 "$folder"
    base=$(port "$folder")
    memory=$(awk '/MemTotal/ {print int($2 / 1024 / '"$nodes"')}' /proc/meminfo)
    {
        echo "ClusterName=test"
        echo "SlurmctldHost=$host"
        echo "SlurmctldPort=$base"
        echo "SlurmUser=root"
        echo "SlurmdUser=root"
        echo "AuthType=auth/munge"
        echo "AuthInfo=socket=$folder/munge/socket"
        echo "CredType=cred/munge"
        echo "StateSaveLocation=$folder/state"
        echo "SlurmdSpoolDir=$folder/spool/%n"
        echo "SlurmctldPidFile=$folder/slurmctld.pid"
        echo "SlurmdPidFile=$folder/slurmd-%n.pid"
        echo "SlurmctldLogFile=$folder/log/slurmctld.log"
        echo "SlurmdLogFile=$folder/log/slurmd-%n.log"
        echo "ProctrackType=proctrack/linuxproc"
        echo "TaskPlugin=task/none"
        echo "SwitchType=switch/none"
        echo "MpiDefault=none"
        echo "SelectType=select/cons_tres"
        echo "SelectTypeParameters=CR_CPU"
        echo "SchedulerType=sched/backfill"
        echo "SchedulerParameters=sched_min_interval=200000,bf_interval=2,batch_sched_delay=0,requeue_delay=1"
        echo "JobAcctGatherType=jobacct_gather/none"
        echo "AccountingStorageType=accounting_storage/none"
        echo "ReturnToService=2"
        echo "JobRequeue=1"
        echo "KillWait=5"
        echo "MinJobAge=600"
        echo "SlurmctldTimeout=60"
        echo "SlurmdTimeout=20"
        echo "InactiveLimit=0"
        echo "SlurmdParameters=config_overrides"
        echo "MailProg=/bin/true"
        for number in $(seq "$nodes"); do
            echo "NodeName=n$number NodeHostname=$host NodeAddr=$host Port=$((base + number)) CPUs=1 RealMemory=$memory State=UNKNOWN"
        done
        echo "PartitionName=main Nodes=n[1-$nodes] Default=YES MaxTime=60 State=UP"
        echo "PartitionName=one Nodes=n1 MaxTime=60 State=UP"
    } > "$conf"
    start_munge
    export SLURM_CONF=$conf
    slurmctld -f "$conf"
    for number in $(seq "$nodes"); do slurmd -f "$conf" -N "n$number"; done
    for _ in $(seq 100); do
        [ "$(sinfo -h -p main -t idle -o %D 2>/dev/null || true)" = "$nodes" ] && exit 0
        sleep 0.2
    done
    echo "slurm_cluster.sh: the nodes are not idle: $(sinfo -h 2>&1 | tr '\n' ';') $(tail -n 3 "$folder"/log/*.log)" >&2
    exit 4
    ;;
node)
    SLURM_CONF=$conf slurmd -f "$conf" -N "n$3"
    ;;
stop)
    for pid in "$folder"/slurmd-*.pid "$folder/slurmctld.pid" "$folder/munge/pid"; do
        [ -s "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
    done
    for _ in $(seq 50); do
        [ -e "$folder/slurmctld.pid" ] || break
        sleep 0.1
    done
    ;;
*)
    echo "slurm_cluster.sh: $verb: expected start, node or stop" >&2
    exit 2
    ;;
esac
