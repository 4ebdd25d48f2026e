# shellcheck shell=bash disable=SC2034
# The Python environment of jobs/quickstart.sh and tests/run.sh; sourced by them, does nothing by itself.
#
#   hpcme_setup run|test    makes .venv ready and sets
#       hpcme_python        the Python to use
#       hpcme_bin           the folder of its commands (hpcme, mpiexec)
#       hpcme_launcher      the MPI launcher, full path; empty where there is none
#
# .venv is made with `python -m venv` and pip wheels at the versions of jobs/constraints.txt; no root, no compiler.
# A stamp in .venv (.hpcme-run, .hpcme-test) holds a hash of everything that set-up depends on: where it still fits,
# nothing is done. A set-up that was killed half-way leaves .hpcme-unfinished behind and is done again from scratch.
#
# Settings, all optional (environment):
#   HPCME_PYTHON       a Python that already has hpcme and its dependencies: used as it is instead of .venv. An active
#                      virtual environment that has them is used in the same way.
#   HPCME_BASE_PYTHON  the Python >= 3.11 that .venv is made from; default: the first good one in PATH
#   HPCME_TORCH        what to give to pip for torch, instead of the plain pinned version. On a machine without a GPU
#                      the plain wheel brings gigabytes of CUDA libraries that are never used; the CPU build is small:
#                          HPCME_TORCH="torch==2.13.0+cpu --extra-index-url ADDRESS"
#                      with the ADDRESS of an index of CPU builds (PyTorch's own install page names one).
#   HPCME_LAUNCHER     the MPI launcher; default: mpiexec beside that Python, then mpiexec in PATH
# pip reads its own settings as always: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_CERT, pip.conf, proxies.

hpcme_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
hpcme_venv=$hpcme_root/.venv

hpcme_say() { printf '%s: %s\n' "${0##*/}" "$*"; }
hpcme_die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# What `hpcme_setup LEVEL` installs, as pip sees it.
hpcme_extras() { if [ "$1" = test ]; then echo "test,plot,mpi,xarray"; else echo "plot,mpi"; fi; }

# hpcme_missing PYTHON LEVEL: prints which modules that Python lacks; nothing when it is ready.
hpcme_missing() {
    local modules="numpy scipy numba h5py torch mpi4py matplotlib hpcme"
    [ "$2" = run ] || modules="$modules pytest hypothesis"
    # shellcheck disable=SC2086
    (cd / && "$1" -c 'import importlib.util as u, os, sys
if sys.version_info < (3, 11): sys.exit("Python >= 3.11 (it is %d.%d)" % sys.version_info[:2])
found = {m: u.find_spec(m) for m in sys.argv[2:]}
missing = [m for m in found if found[m] is None]
root = os.path.realpath(sys.argv[1]) + os.sep
here = found["hpcme"] and os.path.realpath(found["hpcme"].origin).startswith(root)
print(*missing, *([] if here or "hpcme" in missing else ["hpcme of this checkout"]))' "$hpcme_root" $modules 2>&1) || true
}

# A Python >= 3.11 to make .venv from; every refused one is named in the message.
hpcme_find_base() {
    local candidate version found=()
    for candidate in ${HPCME_BASE_PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.version_info >= (3, 11))' \
            2>/dev/null) || continue
        case $version in
        *True)
            hpcme_base=$candidate
            # With .venv active that may be its own Python, which is about to be replaced: take the one behind it.
            [ "$("$candidate" -c 'import sys; print(sys.prefix)')" != "$hpcme_venv" ] ||
                hpcme_base=$("$candidate" -c 'import sys; print(sys._base_executable)')
            return
            ;;
        *) found+=("$candidate is Python ${version% *}") ;;
        esac
    done
    local seen="none was found"
    if [ ${#found[@]} -gt 0 ]; then seen=$(printf '%s; ' "${found[@]}"); seen=${seen%; }; fi
    [ -z "${HPCME_BASE_PYTHON:-}" ] || seen="HPCME_BASE_PYTHON=$HPCME_BASE_PYTHON: $seen"
    hpcme_die "hpcme needs Python 3.11 or newer; $seen.
Fix: load a newer one (on a cluster often: module load python), or name it:
    HPCME_BASE_PYTHON=/path/to/python3.12 bash $0"
}

hpcme_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# Everything that the content of .venv depends on, as one line.
hpcme_wanted() {
    {
        cat "$hpcme_root/jobs/constraints.txt" "$hpcme_root/pyproject.toml"
        echo "$1 $(hpcme_extras "$1") $hpcme_venv ${HPCME_TORCH:-} ${HPCME_BASE_PYTHON:-}"
    } | sha256sum | cut -d ' ' -f 1
}

hpcme_is_ready() {
    [ -f "$hpcme_venv/.hpcme-$1" ] && [ "$(cat "$hpcme_venv/.hpcme-$1")" = "$(hpcme_wanted "$1")" ] &&
        [ -x "$hpcme_venv/bin/hpcme" ] && "$hpcme_venv/bin/python" -c '' 2>/dev/null
}

# An empty .venv with a pip that works; an old one is kept where it can be.
hpcme_make_venv() {
    local clear=() stamp
    for stamp in "$hpcme_venv"/.hpcme-{run,test}; do
        # Commands in .venv/bin hold the path of their Python: a folder that was moved or copied is of no use.
        [ ! -f "$stamp" ] || [ "$(cat "$hpcme_venv/.hpcme-path" 2>/dev/null)" = "$hpcme_venv" ] || clear=(--clear)
    done
    if [ -e "$hpcme_venv/.hpcme-unfinished" ]; then
        hpcme_say "an earlier set-up of .venv did not end: starting it afresh"
        clear=(--clear)
    elif [ -e "$hpcme_venv" ] && ! "$hpcme_venv/bin/python" -m pip --version >/dev/null 2>&1; then
        hpcme_say ".venv has no Python or pip that works: making it afresh"
        clear=(--clear)
    elif [ -e "$hpcme_venv" ] && [ ${#clear[@]} -eq 0 ]; then
        local has
        has=$(hpcme_version "$hpcme_venv/bin/python")
        if [ -z "${HPCME_BASE_PYTHON:-}" ]; then
            [ "${has#3.}" -lt 11 ] || return 0
        else
            hpcme_find_base
            [ "$has" != "$(hpcme_version "$hpcme_base")" ] || return 0
        fi
        hpcme_say ".venv has Python $has: making it afresh"
        clear=(--clear)
    fi
    hpcme_find_base
    hpcme_say "making .venv from $("$hpcme_base" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    if "$hpcme_base" -c 'import venv, ensurepip' 2>/dev/null; then
        "$hpcme_base" -m venv ${clear[@]+"${clear[@]}"} "$hpcme_venv" ||
            hpcme_die "cannot make $hpcme_venv: see the message above (no space, or no permission to write there?)"
    elif "$hpcme_base" -c 'import venv, pip' 2>/dev/null; then
        # Debian splits ensurepip off; the pip of the system can fill a virtual environment from outside.
        if ! { "$hpcme_base" -m venv --without-pip ${clear[@]+"${clear[@]}"} "$hpcme_venv" &&
            "$hpcme_base" -m pip --python "$hpcme_venv/bin/python" install -q pip; }; then
            hpcme_die "cannot make $hpcme_venv with pip in it: see the message above"
        fi
    else
        hpcme_die "$hpcme_base cannot make virtual environments: its venv or ensurepip module is missing.
Fix: on Debian and Ubuntu  apt install python3-venv ; without root, use another Python >= 3.11 (a module of the
cluster, conda, pyenv, uv) and name it:  HPCME_BASE_PYTHON=/path/to/python bash $0"
    fi
}

# pip with a log; on the screen only what it downloads and installs.
hpcme_pip() {
    local log=$hpcme_venv/hpcme-pip.log
    # A user-wide `user = true` in pip's settings cannot be meant for a virtual environment.
    if PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$hpcme_venv/bin/python" -m pip --no-input install \
        --progress-bar off "$@" 2>&1 | tee -a "$log" |
        { grep --line-buffered -E '^ *(Downloading|Installing|ERROR)' | cut -c 1-110 || true; }; then
        return
    fi
    local fix="see the lines above; all of pip's words are in $log"
    if grep -qiE 'no space left|disk quota' "$log"; then
        fix="the disk or the quota is full: make room, or set TMPDIR and PIP_CACHE_DIR to a larger disk"
    elif grep -qiE 'connection|name resolution|timed out|max retries|proxy|certificate' "$log"; then
        fix="the package index could not be reached: check the network, HTTPS_PROXY, PIP_INDEX_URL and PIP_CERT"
    elif grep -qiE 'no matching distribution|conflicting dependencies' "$log"; then
        fix="a pinned version has no wheel for this Python ($("$hpcme_venv/bin/python" -V)) or is not on your index:
take Python 3.11 to 3.13 (HPCME_BASE_PYTHON=...), or see PIP_INDEX_URL and HPCME_TORCH in jobs/setup.sh"
    fi
    rm -f "$hpcme_venv/.hpcme-unfinished" # pip ended in good order: what it installed may stay
    tail -n 12 "$log" >&2
    hpcme_die "pip failed.
Fix: $fix. Then run the same command again."
}

hpcme_install() {
    local level=$1 constraints=$hpcme_venv/hpcme-constraints.txt
    rm -f "$hpcme_venv"/.hpcme-"$level" "$hpcme_venv/hpcme-pip.log"
    : >"$hpcme_venv/.hpcme-unfinished"
    cp "$hpcme_root/jobs/constraints.txt" "$constraints"
    hpcme_say "installing into .venv (the first time takes minutes: torch is large)"
    if [ -n "${HPCME_TORCH:-}" ]; then
        grep -v '^torch==' "$hpcme_root/jobs/constraints.txt" >"$constraints"
        # shellcheck disable=SC2086
        hpcme_pip -c "$constraints" $HPCME_TORCH
    fi
    # setuptools first and no build isolation: building hpcme then needs nothing that is not pinned.
    hpcme_pip -c "$constraints" setuptools
    hpcme_pip -c "$constraints" --no-build-isolation -e "${hpcme_root}[$(hpcme_extras "$level")]"
    echo "$hpcme_venv" >"$hpcme_venv/.hpcme-path"
    hpcme_wanted "$level" >"$hpcme_venv/.hpcme-$level"
    [ "$level" = run ] || hpcme_wanted run >"$hpcme_venv/.hpcme-run" # the tests need all of run, and more
    rm -f "$hpcme_venv/.hpcme-unfinished"
}

# An environment that the user chose; returns 1 when there is none.
hpcme_use_own() {
    local missing
    if [ -n "${HPCME_PYTHON:-}" ]; then
        missing=$(hpcme_missing "$HPCME_PYTHON" "$1")
        [ -z "$missing" ] || hpcme_die "HPCME_PYTHON=$HPCME_PYTHON cannot be used; it lacks: $missing
Fix: $HPCME_PYTHON -m pip install -c jobs/constraints.txt -e '.[$(hpcme_extras "$1")]'
or unset HPCME_PYTHON: then .venv is made."
        hpcme_python=$(command -v "$HPCME_PYTHON")
        return 0
    fi
    if [ -n "${VIRTUAL_ENV:-}" ] && [ "$VIRTUAL_ENV" != "$hpcme_venv" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
        missing=$(hpcme_missing "$VIRTUAL_ENV/bin/python" "$1")
        if [ -z "$missing" ]; then hpcme_python=$VIRTUAL_ENV/bin/python; return 0; fi
        hpcme_say "the active virtual environment $VIRTUAL_ENV lacks $missing: using .venv instead"
    fi
    return 1
}

hpcme_setup() {
    if hpcme_use_own "$1"; then
        hpcme_say "using $hpcme_python as it is"
    else
        unset PYTHONPATH PYTHONHOME # modules of a cluster's Python would shadow those of .venv
        if ! hpcme_is_ready "$1"; then
            # Two set-ups at once would spoil each other; where the file system has no locks, go on without.
            exec 9<"$hpcme_root"
            command -v flock >/dev/null && { flock 9 2>/dev/null || true; }
            if ! hpcme_is_ready "$1"; then
                hpcme_make_venv
                hpcme_install "$1"
            fi
            exec 9<&-
        fi
        hpcme_python=$hpcme_venv/bin/python
    fi
    hpcme_bin=$(dirname "$hpcme_python")
    if [ -n "${HPCME_LAUNCHER:-}" ]; then
        hpcme_launcher=$(command -v "$HPCME_LAUNCHER") || hpcme_die "HPCME_LAUNCHER=$HPCME_LAUNCHER is not a command"
    elif [ -x "$hpcme_bin/mpiexec" ]; then
        hpcme_launcher=$hpcme_bin/mpiexec
    else
        hpcme_launcher=$(command -v mpiexec || true)
    fi
}
