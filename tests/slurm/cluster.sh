#!/usr/bin/env bash
# One-node SLURM cluster with accounting (munged + mariadbd + slurmdbd +
# slurmctld + slurmd) on 127.0.0.1, as root, without systemd.
#   cluster.sh install   apt packages only
#   cluster.sh up        write the configuration and start the daemons
#   cluster.sh down      stop them (by pid), keep state
#   cluster.sh resume    undrain the node
#   cluster.sh wipe      down, then delete all jobs and the accounting database
#   cluster.sh start|stop slurmctld   start or stop one daemon
# SLURM_CI_CPUS (default: nproc) may exceed the real cores.
set -euo pipefail
export PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH # where the daemons are
HOST=$(hostname -s)
CPUS=${SLURM_CI_CPUS:-$(nproc)}
MEM=$(( $(awk '/^MemTotal/{print $2}' /proc/meminfo) / 1024 * 8 / 10 ))   # MiB, 80 %
DAEMONS="slurmd:/run/slurmd.pid slurmctld:/run/slurmctld.pid slurmdbd:/run/slurmdbd.pid
         mariadbd:/run/mysqld/mysqld.pid munged:/run/munge/munged.pid"

wait_for() {  # SECONDS COMMAND...   polls 5 times a second
    local n=$(( $1 * 5 )); shift
    until "$@" >/dev/null 2>&1; do
        n=$((n - 1)); [ $n -gt 0 ] || { echo "timed out: $*" >&2; return 1; }
        sleep 0.2
    done
}

# NAME:PIDFILE   prints the daemon's pid, if a process of that name runs. Pid files may
# be stale (slurmctld cannot remove its own from /run). A daemon that has ended may stay
# a zombie for seconds if PID 1 is slow to reap it; a zombie does not count as running.
pid_of() {
    local p
    p=$(cat "${1#*:}" 2>/dev/null) && [ -n "$p" ] &&
        grep -qs "^Name:.${1%%:*}\$" "/proc/$p/status" &&
        ! grep -qs '^State:.Z' "/proc/$p/status" && echo "$p"
}
alive() { pid_of "$(tr ' ' '\n' <<<"$DAEMONS" | grep "^$1:")" >/dev/null; }
gone() { ! alive "$1"; }

install_pkgs() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -y -q --no-install-recommends \
        munge slurmctld slurmd slurm-client slurmdbd mariadb-server
}

configure() {
    cat > /etc/slurm/slurm.conf <<CONF
ClusterName=ci
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=slurm
AuthInfo=cred_expire=5
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
KillWait=5
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEM State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    # slurmd 22.05 always loads a cgroup plugin. v1 does nothing with these settings;
    # v2, which autodetection selects on a host with cgroup2 only, needs systemd.
    echo 'CgroupPlugin=cgroup/v1' > /etc/slurm/cgroup.conf
    cat > /etc/slurm/slurmdbd.conf <<CONF
AuthType=auth/munge
DbdHost=localhost
SlurmUser=slurm
PidFile=/run/slurmdbd.pid
LogFile=/var/log/slurm/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
CONF
    chown slurm: /etc/slurm/slurmdbd.conf
    chmod 600 /etc/slurm/slurmdbd.conf
}

up_db() {
    install -d -o mysql -g mysql -m 0755 /run/mysqld
    if ! alive mariadbd; then
        setsid mariadbd --user=mysql --skip-networking --performance-schema=OFF \
            --innodb-buffer-pool-size=32M --innodb-flush-log-at-trx-commit=0 \
            --innodb-lock-wait-timeout=900 </dev/null >/var/log/slurm/mariadbd.log 2>&1 &
    fi
    wait_for 30 mariadb-admin ping
    mariadb -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
                CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED VIA unix_socket;
                GRANT ALL ON slurm_acct_db.* TO slurm@localhost;"
    start slurmdbd
    wait_for 30 bash -c '</dev/tcp/127.0.0.1/6819'
}

up() {
    configure
    install -d -o munge -g munge -m 0755 /run/munge
    install -d -o slurm -g slurm -m 0755 /var/lib/slurm/slurmctld /var/lib/slurm/slurmd /var/log/slurm
    alive munged || runuser -u munge -- /usr/sbin/munged
    up_db
    start slurmctld
    alive slurmd || slurmd || { tail -5 /var/log/slurm/slurmd.log >&2; return 1; }
    resume
    wait_for 30 bash -c 'sinfo -h -o %T | grep -qx -e idle -e mixed -e allocated'
    wait_for 30 bash -c "sacctmgr -nP show cluster format=cluster,controlhost | grep -q '^ci|127'"
    sinfo
}

# slurmctld drains the node if it finds a job there that it lost in a crash.
resume() {
    wait_for 30 sinfo
    if sinfo -h -o %T | grep -q drain; then scontrol update NodeName="$HOST" State=RESUME; fi
}

start() {  # NAME
    alive "$1" || "$1"
}

stop() {  # NAME
    local d p
    d=$(tr ' ' '\n' <<<"$DAEMONS" | grep "^$1:")
    if p=$(pid_of "$d"); then
        kill "$p"
        wait_for 20 gone "$1"
    fi
    rm -f "${d#*:}"
}

down() {
    local d
    for d in $DAEMONS; do stop "${d%%:*}"; done
}

wipe() {
    stop slurmd; stop slurmctld; stop slurmdbd
    if alive mariadbd; then mariadb -e 'DROP DATABASE IF EXISTS slurm_acct_db'; fi
    down
    rm -rf /var/lib/slurm/slurmctld/* /var/lib/slurm/slurmd/*
}

case ${1:-up} in
    install) install_pkgs ;;
    up) up ;;
    down) down ;;
    resume) resume ;;
    wipe) wipe ;;
    start|stop) "$1" "${2:?name a daemon}" ;;
    *) sed -n 2,10p "$0"; exit 2 ;;
esac
