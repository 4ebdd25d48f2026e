#!/bin/bash
# End the Slurm that tests/slurm/start.sh started, by its process ids, and remove what it wrote. Safe to repeat.
set -uo pipefail
# shellcheck source=tests/slurm/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ -e $slurm_home ] || exit 0
problem=$(why_not)
[ -z "$problem" ] || die "$problem"

# end PIDFILE NAME
end() {
    local pid i
    if alive "$1" "$2"; then
        read -r pid <"$1"
        kill -TERM "$pid"
        for ((i = 0; i < 50; i++)); do
            alive "$1" "$2" || break
            sleep 0.1
        done
        if alive "$1" "$2"; then kill -KILL "$pid"; fi
    fi
    rm -f "$1"
}

export SLURM_CONF=$slurm_conf
if alive $slurm_home/slurmctld.pid slurmctld; then # no job may outlive its daemons
    jobs=$(timeout 10 squeue -h -o %A | sort -u)
    # shellcheck disable=SC2086
    [ -z "$jobs" ] || timeout 10 scancel $jobs
    for ((i = 0; i < 60; i++)); do
        [ -n "$(timeout 10 squeue -h)" ] || break
        sleep 0.5
    done
fi
for file in $slurm_home/slurmd-*.pid; do end "$file" slurmd; done
end $slurm_home/slurmctld.pid slurmctld
end $slurm_home/munge/munged.pid munged
# What jobs left behind: an srun of mpiexec, say, whose step was killed. Told by its environment, so it is ours.
for file in /proc/[0-9]*/environ; do
    if grep -qzxF "SLURM_CONF=$slurm_conf" "$file" 2>/dev/null && grep -qz '^SLURM_JOB_ID=' "$file" 2>/dev/null; then
        pid=${file#/proc/}
        kill -KILL "${pid%/environ}" 2>/dev/null
    fi
done
rm -rf $slurm_home
