#!/bin/bash
# From a fresh Linux machine with Python >= 3.11 to a solved system: no root, no compiler, nothing else installed.
#
#   bash jobs/quickstart.sh
#
# Sets up .venv beside this checkout (pip wheels, an MPI included), solves jobs/quickstart.toml on 2 ranks, prints the
# error against the exact solution and draws a figure. Safe to repeat: set-up and results that are there are used, and
# a run that was stopped goes on. Everything it writes is in .venv/ and in the run folder.
#
# Settings, all optional (environment): HPCME_RANKS (2), HPCME_OUT (runs/quickstart) and those of the set-up,
# explained in jobs/setup.sh: HPCME_PYTHON, HPCME_BASE_PYTHON, HPCME_LAUNCHER, PIP_INDEX_URL and the rest of pip's, and
#   HPCME_TORCH="torch==2.13.0+cpu --extra-index-url ADDRESS"
# which avoids gigabytes of CUDA libraries on a machine that has no GPU.
set -euo pipefail
# shellcheck source=jobs/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ranks=${HPCME_RANKS:-2}
case $ranks in '' | *[!0-9]* | 0*) hpcme_die "HPCME_RANKS=$ranks must be a whole number, at least 1" ;; esac
out=${HPCME_OUT:-runs/quickstart}

cd "$hpcme_root"
hpcme_setup run
hpcme() { "$hpcme_python" -m hpcme "$@"; }

launch=()
if [ "$ranks" -gt 1 ]; then
    [ -n "$hpcme_launcher" ] || hpcme_die "no mpiexec was found for $ranks ranks.
Fix: pip install mpich, name one with HPCME_LAUNCHER=/path/to/mpiexec, or use HPCME_RANKS=1"
    launch=("$hpcme_launcher" -n "$ranks")
fi

hpcme_say "solving jobs/quickstart.toml on $ranks rank(s) into $out"
code=0
${launch[@]+"${launch[@]}"} "$hpcme_python" -m hpcme run jobs/quickstart.toml --out "$out" || code=$?
case $code in
0) ;;
65) hpcme_die "the run was refused (see above). Where $out holds the results of another version of the job, remove
that folder or choose another one: HPCME_OUT=runs/quickstart-2 bash $0" ;;
75) hpcme_die "stopped at a checkpoint; the same command goes on from there" ;;
*) hpcme_die "hpcme run ended with exit code $code; its message is above" ;;
esac

hpcme_say "error against the exact solution (finite state projection):"
hpcme compare "$out" --with exact
hpcme fsp jobs/quickstart.toml --out "$out-exact" --quiet
hpcme plot "$out" --reference "$out-exact" --out "$out/overview.png"
hpcme_say "done
results: $out/results.h5
figure:  $out/overview.png (dashed: exact, from $out-exact)
next:    ${hpcme_bin#"$hpcme_root"/}/hpcme stats $out
         ${hpcme_bin#"$hpcme_root"/}/hpcme run jobs/toggle_switch.toml"
