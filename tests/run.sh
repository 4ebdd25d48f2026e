#!/bin/bash
# All tests that this machine can run, on a fresh machine too: sets up .venv first (see jobs/setup.sh).
#
#   bash tests/run.sh                every tier
#   bash tests/run.sh serial mpi     these tiers: serial, mpi, restart, fault, slurm, gpu, dsmts
#
# The last line is "N passed, N failed, N skipped", the sum over all pytest runs. A run of CTest that broke off without
# a report (time-out, crash) counts as one failure. The exit code is 0 only when nothing failed.
set -euo pipefail
# shellcheck source=jobs/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../jobs/setup.sh"

known="serial mpi restart fault slurm gpu dsmts"
for tier in "$@"; do
    case " $known " in *" $tier "*) ;; *) hpcme_die "unknown tier \"$tier\". Tiers: $known" ;; esac
done

cd "$hpcme_root"
hpcme_setup test
cmake=$hpcme_bin/cmake
[ -x "$cmake" ] || cmake=$(command -v cmake) || hpcme_die "there is no cmake. Fix: $hpcme_python -m pip install cmake"
ctest=${cmake%cmake}ctest

build=$hpcme_root/build/tests
rm -rf "$build/junit" "$build/Testing" "$build/CMakeCache.txt"
mkdir -p "$build"
"$cmake" -S "$hpcme_root" -B "$build" -DHPCME_PYTHON="$hpcme_python" \
    ${hpcme_launcher:+-DHPCME_LAUNCHER="$hpcme_launcher"} -DHPCME_LAUNCH_FLAGS="${HPCME_LAUNCH_FLAGS:-}" \
    >"$build/configure.log" 2>&1 ||
    { cat "$build/configure.log" >&2; hpcme_die "cmake could not configure the tests"; }

# Which tiers, and why not the others.
labels='' left_out=()
while IFS='|' read -r tier can reason; do
    [ $# -eq 0 ] || case " $* " in *" $tier "*) ;; *) continue ;; esac
    if [ "$can" = yes ]; then
        labels=${labels:+$labels|}$tier
    else
        left_out+=("$tier: $reason")
        [ $# -eq 0 ] || hpcme_die "this machine cannot run the tier $tier: $reason"
    fi
done <"$build/tiers.txt"

hpcme_say "tiers: ${labels//|/, }"
code=0
"$ctest" --test-dir "$build" -L "^($labels)\$" -j "$(nproc)" --output-on-failure || code=$?

[ ${#left_out[@]} -eq 0 ] || printf 'not run here: %s\n' "${left_out[@]}"
"$hpcme_python" tests/count_results.py "$build" "$code"
