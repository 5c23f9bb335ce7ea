#!/bin/sh
# Makes a virtual environment with this checkout and the pinned packages, unless it is there already:
#   sh make_venv.sh FOLDER LOCK...
# PYTHON, if it is set, names the Python to make it with. An environment that another Python made,
# or that was made before the checkout was moved, is made anew.
set -eu
unset PYTHONHOME PYTHONPATH # pip would count as installed what is found through them
folder=$1
shift
made=$folder/installed # where and from what it was made; empty until it is complete

fail() {
    echo "error: $*" >&2
    exit 1
}

# .ci/run tests the first and the last of these versions.
ACCEPTED="Python 3.11, 3.12 or 3.13"
is_accepted() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}
version_of() {
    "$1" -c 'import sys; print(sys.version)' 2>/dev/null
}

# Prints the first of some Pythons that is accepted. Each is run, because pyenv puts commands on
# PATH for versions that do not run.
choose() {
    bare=
    for python; do
        is_accepted "$python" || continue
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$python"
            return
        fi
        bare=${bare:-$python}
    done
    [ -z "$bare" ] || fail "$bare has no module ensurepip, which makes virtual environments:" \
        "install it (Debian and Ubuntu have it in $(basename "$bare")-venv)"
    fail "there is no $ACCEPTED on PATH: install one or name it, as in 'make PYTHON=/path/to/python3.11'"
}

case $PWD in
*:*) fail "the checkout is in $PWD, but no virtual environment can be in a path with a colon: move it" ;;
esac
[ -z "${PYTHON:-}" ] || is_accepted "$PYTHON" || fail "PYTHON is $PYTHON, but it must run $ACCEPTED"

wanted="$PWD
$(cat pyproject.toml "$@" | cksum)"
outdated=
if [ -e "$folder" ]; then
    if [ -n "${PYTHON:-}" ] && [ "$(version_of "$PYTHON")" != "$(version_of "$folder/bin/python")" ]; then
        outdated="PYTHON is $PYTHON"
    elif ! is_accepted "$folder/bin/python" || ! [ -e "$folder/bin/pip" ]; then
        outdated="it is incomplete, or its Python is not $ACCEPTED"
    elif [ -s "$made" ] && [ "$(head -n 1 "$made")" != "$PWD" ]; then
        outdated="it was made in $(head -n 1 "$made")"
    elif [ "$(cat "$made" 2>/dev/null)" = "$wanted" ]; then
        exit 0
    fi
    [ -z "$outdated" ] || [ -e "$made" ] || fail "$folder was not made here, and $outdated: remove it"
fi

if [ -n "$outdated" ] || ! [ -e "$folder" ]; then
    if [ -n "${PYTHON:-}" ]; then
        python=$(choose "$PYTHON")
    else
        python=$(choose python3.11 python3.12 python3.13 python3)
    fi
    echo "$folder is made with $("$python" --version), $python${outdated:+: $outdated}"
    rm -rf "$folder"
    mkdir "$folder"
    : >"$made"
    "$python" -m venv "$folder"
fi

# Scripts such as bin/pip fail where the path has a blank or is long, so Python runs the modules.
: >"$made"
for lock; do
    set -- "$@" --requirement "$lock"
    shift
done
if [ $# -gt 0 ]; then
    "$folder/bin/python" -m pip install --quiet --no-compile "$@"
    # On all cores, which pip does not do. Some packages ship files for other Pythons: not an error.
    "$folder/bin/python" -m compileall -q -j 0 "$folder/lib" >/dev/null || true
fi
# The checkout is found by a relative path: an editable installation fails where its path has a $.
# https://docs.python.org/3/library/site.html
"$folder/bin/python" -c '
import os, pathlib, sysconfig
packages = sysconfig.get_path("purelib")
pathlib.Path(packages, "powerstep.pth").write_text(os.path.relpath(".", packages), encoding="utf-8")
'
echo "$wanted" >"$made"
