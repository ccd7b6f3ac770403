#!/usr/bin/env bash
# A SLURM of two nodes on this machine, without systemd: munge, slurmctld and two slurmd.
#
#   apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
#   bash tests/slurm/mini_slurm.sh start DIR && export SLURM_CONF=DIR/slurm.conf
#   bash tests/slurm/mini_slurm.sh kill DIR 1    # a node dies, and all of jobs on it
#   bash tests/slurm/mini_slurm.sh node DIR 1    # and comes back
#   bash tests/slurm/mini_slurm.sh stop DIR      # ends what start started, and no more
#
# The nodes are named 127.0.0.1 and 127.0.0.2, which resolve everywhere.
set -eu

command=$1 dir=$2
export SLURM_CONF=$dir/slurm.conf

free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets:
    s.bind(("", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

write_conf() {
    read -r -a port <<<"$(free_ports 3)"
    cat >"$SLURM_CONF" <<CONF
ClusterName=mini
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=${port[0]}
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
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
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
MpiDefault=none
JobRequeue=1
KillWait=5
OverTimeLimit=0
SchedulerParameters=sched_interval=1,batch_sched_delay=1
NodeName=127.0.0.1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=${port[1]} CPUs=4 RealMemory=4000
NodeName=127.0.0.2 NodeHostname=$(hostname) NodeAddr=127.0.0.2 Port=${port[2]} CPUs=4 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

case $command in
start)
    mkdir -p "$dir/state" "$dir/spool.127.0.0.1" "$dir/spool.127.0.0.2"
    write_conf
    mungekey --create --keyfile "$dir/munge.key"
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
        --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
    slurmctld -f "$SLURM_CONF"
    "$0" node "$dir" 1
    "$0" node "$dir" 2
    for _ in $(seq 300); do
        [ "$(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l)" = 2 ] && exit 0
        sleep 0.1
    done
    echo "the nodes did not become idle within 30 s; see the logs in $dir" >&2
    exit 1
    ;;
node)
    slurmd -N "127.0.0.$3" -f "$SLURM_CONF"
    ;;
kill)
    node=127.0.0.$3
    kill -KILL "$(cat "$dir/slurmd.$node.pid")"
    for process in /proc/[0-9]*; do
        of=$({ tr '\0' '\n' <"$process/environ"; } 2>/dev/null) || continue
        grep -qx "SLURMD_NODENAME=$node" <<<"$of" || continue
        grep -qx "SLURM_CONF=$SLURM_CONF" <<<"$of" || continue
        parent=$(awk '/^PPid:/ { print $2 }' "$process/status" 2>/dev/null) || continue
        # Above a task stands the slurmstepd of its step, which slurmd detached.
        if grep -qx slurmstepd "/proc/$parent/comm"; then kill -KILL "$parent"; fi
        kill -KILL "${process#/proc/}" || true
    done
    ;;
stop)
    if timeout 10 scancel --user=root; then
        for _ in $(seq 100); do
            [ -z "$(timeout 10 squeue --noheader)" ] && break
            sleep 0.1
        done
    fi
    for name in slurmd.127.0.0.1 slurmd.127.0.0.2 slurmctld munged; do
        if [ -f "$dir/$name.pid" ]; then kill "$(cat "$dir/$name.pid")" 2>/dev/null || true; fi
    done
    ;;
*)
    echo "usage: mini_slurm.sh start|node|kill|stop DIR [NODE]" >&2
    exit 2
    ;;
esac
