#!/bin/sh
# Makes .venv:   tools/setup.sh student   requirements.lock: what the notebooks need
#                tools/setup.sh dev       requirements-dev.lock: the same pins, and what `make test` needs
#                tools/setup.sh newest    no lock: the newest versions that pyproject.toml admits
# It does nothing where .venv is whole already. PYTHON=/path/to/python names the Python to use.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)
kind=$1
stamp=.venv/setup.stamp # "KIND CHECKSUM in FOLDER", written last; "unfinished in FOLDER" until then
log=.venv/setup.log

fail() {
    echo "setup: $1" >&2
    exit 1
}

# 3.11 is tried first: the stored outputs were made with it. A name may exist and not run (pyenv's shims).
find_python() {
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.11 python3 python3.12 python3.13 python3.14; fi
    for candidate; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer (tried: $*); install one, or name it: make setup PYTHON=/path/to/python3.11"
}

version_of() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null; }

# The stamp names the folder, because scripts in a moved .venv still point to the old one.
usable() {
    case "$(cat "$stamp" 2>/dev/null)" in *" in $here") ;; *) return 1 ;; esac
    version_of .venv/bin/python >/dev/null || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of .venv/bin/python)" ]
}

make_venv() {
    python=$(find_python)
    rm -rf .venv
    mkdir .venv
    "$python" -m venv .venv >"$log" 2>&1 ||
        fail "$python cannot make a .venv; install its venv module (Debian, Ubuntu: apt install python3-venv) or name another: make setup PYTHON=/path/to/python3.11 (log: $log)"
}

install() {
    if command -v uv >/dev/null; then
        set -- uv pip install --python .venv/bin/python "$@"
    else
        set -- .venv/bin/python -m pip install "$@"
    fi
    "$@" >>"$log" 2>&1 </dev/null || explain_failure
}

explain_failure() {
    if grep -qiE 'name resolution|new ?connection|dns error|unreachable|connection refused|timed out|error sending request|proxyerror' "$log"; then
        fail "no network, or the package index does not answer; connect and run the same again (log: $log)"
    fi
    fail "a package was not installed; the end of $log says why; mend it and run the same again, or try PYTHON=/path/to/python3.11"
}

install_all() {
    if [ "$kind" = newest ]; then
        install --upgrade --no-cache-dir -e '.[dev,site]'
    else
        # Wheels only: building a source package would fetch build tools that no lock pins.
        install --require-hashes --only-binary :all: -r "$lock"
        install --no-deps --no-build-isolation -e . # setuptools comes from the lock: nothing unpinned is fetched
    fi
}

# JupyterLab runs the scripts in stored outputs (the explorable figures) only in notebooks that this user signed.
# Only the course's own folders: never submitted/. Signing costs a second, so only what changed since the last time.
sign_notebooks() {
    signed=.venv/setup.signed
    [ -e $signed ] || touch -t 200001010000 $signed
    set --
    for notebook in lectures/*.ipynb solutions/*/*.ipynb exercises/*/*.ipynb; do
        if [ "$notebook" -nt $signed ]; then set -- "$@" "$notebook"; fi
    done
    if [ $# -gt 0 ]; then
        .venv/bin/jupyter trust "$@" >>"$log" 2>&1 || fail "the notebooks could not be signed; the end of $log says why"
        touch $signed
    fi
}

# A developer's environment serves a student too, so `make lab` leaves it one.
case "$kind $(cat "$stamp" 2>/dev/null)" in "student dev "*) kind=dev ;; esac
case $kind in
student) lock=requirements.lock ;;
dev) lock=requirements-dev.lock ;;
newest) lock=/dev/null ;;
*) fail "unknown environment '$kind': student, dev or newest" ;;
esac
whole="$kind $(cat $lock pyproject.toml | cksum) in $here"

if [ "$kind" = newest ] || ! usable || [ "$(cat $stamp)" != "$whole" ]; then
    usable || make_venv
    echo "Setting up .venv ($kind; the first time takes about a minute) ..."
    echo "unfinished in $here" >$stamp
    : >$log # an old failure must not explain a new one
    install_all
    echo "$whole" >$stamp
fi
sign_notebooks
