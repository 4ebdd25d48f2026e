# shellcheck shell=bash
# Where the Slurm of the tests lives, and what it needs; sourced by start.sh and stop.sh.
#
# Everything is below one folder: configuration, key, state, logs and process ids. /etc/slurm and /etc/munge are neither
# read nor written, and ports and sockets are its own, so that a Slurm that this machine may have goes on undisturbed.
slurm_home=/run/hpcme-slurm
slurm_conf=$slurm_home/slurm.conf
slurm_mark="# written by hpcme's tests/slurm/start.sh; stop.sh removes it"
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# Prints why this machine cannot run a Slurm; nothing when it can.
why_not() {
    local program missing=''
    [ "$(uname -s)" = Linux ] || { echo "this is not Linux"; return; }
    [ "$(id -u)" = 0 ] || { echo "Slurm's daemons need root"; return; }
    for program in munged slurmctld slurmd sbatch srun setsid; do
        command -v $program >/dev/null || missing="$missing $program"
    done
    [ -z "$missing" ] || echo "there is no$missing (Debian: apt-get install munge slurmctld slurmd slurm-client)"
    [ ! -e $slurm_home ] || [ -O $slurm_home ] || echo "$slurm_home belongs to somebody else"
    [ ! -e $slurm_conf ] || grep -qxF "$slurm_mark" $slurm_conf || echo "$slurm_conf is not one of these tests"
}

# alive PIDFILE NAME: the recorded process is still that program of ours, and no zombie that nobody collects.
alive() {
    local pid
    [ -s "$1" ] && read -r pid <"$1" && grep -qs "^[0-9]* ($2) [^ZX]" "/proc/$pid/stat"
}
