#!/bin/sh
# Creates a virtual environment with this checkout and the pinned packages, unless it is up to date:
#   sh make_venv.sh FOLDER LOCK...
# The variable PYTHON, if set, names the Python to use. The environment is created again if another
# Python created it, or if the checkout has moved since.
set -eu
unset PYTHONHOME PYTHONPATH # pip would treat packages on these paths as installed
folder=$1
shift
# Records the checkout's path and a checksum of the inputs; empty until the environment is complete.
made=$folder/installed

fail() {
    echo "error: $*" >&2
    exit 1
}

# .ci/run tests the oldest and the newest of these versions.
ACCEPTED="Python 3.11, 3.12 or 3.13"
is_accepted() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}
version_of() {
    "$1" -c 'import sys; print(sys.version)' 2>/dev/null
}

# Prints the first of the given Pythons that is accepted. Each is tried, because pyenv puts shims on
# PATH for versions that it cannot run.
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
    [ -z "$bare" ] || fail "$bare has no module ensurepip, which virtual environments need:" \
        "install it (package $(basename "$bare")-venv on Debian and Ubuntu)"
    fail "there is no $ACCEPTED on PATH: install one or name it, as in 'make PYTHON=/path/to/python3.11'"
}

case $PWD in
*:*) fail "the path of the checkout, $PWD, has a colon, but virtual environments do not support that: move it" ;;
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
        outdated="it was created in $(head -n 1 "$made")"
    elif [ "$(cat "$made" 2>/dev/null)" = "$wanted" ]; then
        exit 0
    fi
    [ -z "$outdated" ] || [ -e "$made" ] || fail "$folder was not created by make_venv.sh, and $outdated: remove it"
fi

if [ -n "$outdated" ] || ! [ -e "$folder" ]; then
    if [ -n "${PYTHON:-}" ]; then
        python=$(choose "$PYTHON")
    else
        python=$(choose python3.11 python3.12 python3.13 python3)
    fi
    echo "creating $folder with $("$python" --version), $python${outdated:+: $outdated}"
    rm -rf "$folder"
    mkdir "$folder"
    : >"$made"
    "$python" -m venv "$folder"
fi

# pip runs as a module: scripts such as bin/pip fail if the path contains a space or is too long.
: >"$made"
for lock; do
    set -- "$@" --requirement "$lock"
    shift
done
if [ $# -gt 0 ]; then
    "$folder/bin/python" -m pip install --quiet --no-compile "$@"
    # pip compiles on one core only, this uses all. Errors are ignored: some packages contain files
    # for other versions of Python.
    "$folder/bin/python" -m compileall -q -j 0 "$folder/lib" >/dev/null || true
fi
# A .pth file with a relative path adds the checkout to sys.path, because an editable installation
# fails if the path contains a $.
# https://docs.python.org/3/library/site.html
"$folder/bin/python" -c '
import os, pathlib, sysconfig
packages = sysconfig.get_path("purelib")
pathlib.Path(packages, "powerstep.pth").write_text(os.path.relpath(".", packages), encoding="utf-8")
'
echo "$wanted" >"$made"
