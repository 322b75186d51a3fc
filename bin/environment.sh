# shellcheck shell=bash
# Sourced by bin/esper-supervisor and bin/esper-test: the project's own Python environment.
#
# `ensure_environment KIND REQUIREMENTS` makes or completes .venv and sets $PYTHON. A stamp, written
# last, holds the hash of what was installed: with a matching one there is nothing to do. Whatever
# an interrupted set-up left behind is completed, or thrown away when it cannot be. Concurrent
# set-ups wait for each other. Needs no root.

here=${BASH_SOURCE[0]%/*}
ROOT=$(cd "$here/.." && pwd -P)
VENV=${ESPER_VENV:-$ROOT/.venv}
UV_VERSION=0.13.9

say() { printf '%s\n' "esper: $*" >&2; }

refuse() {
    say "$1"
    exit 2
}

# Sets $HASH; not many processes, since every start of the command line waits for it.
wanted_hash() {
    local files=("$ROOT/pyproject.toml" "$ROOT/bin/environment.sh" "$@")
    if command -v sha256sum >/dev/null 2>&1; then
        read -r HASH _ < <(cat "${files[@]}" | sha256sum)
    else
        read -r HASH _ < <(cat "${files[@]}" | shasum -a 256)
    fi
}

# Sets $STAMP to what was installed last for a kind, empty for nothing.
read_stamp() {
    STAMP=
    [ ! -r "$VENV/.esper-$1" ] || read -r STAMP <"$VENV/.esper-$1" || true
}

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${ESPER_PYTHON:-python3.12 python3.13 python3.11 python3 python}; do
        if supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    refuse "no Python 3.11, 3.12 or 3.13 found (torch 2.8 has wheels for no other).
  Debian, Ubuntu: apt-get install python3.12 python3.12-venv    macOS: brew install python@3.12
  anywhere: https://docs.astral.sh/uv/ and \`uv python install 3.12\`
  One in an unusual place: ESPER_PYTHON=/path/to/python $0"
}

make_venv() {
    local base=$1
    if [ -x "$VENV/bin/python" ] && supported "$VENV/bin/python" &&
        "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    [ ! -e "$VENV" ] || say "throwing away an incomplete $VENV"
    rm -rf "$VENV"
    say "making $VENV with $base ($("$base" -V 2>&1))"
    if ! "$base" -m venv "$VENV" >"$VENV.log" 2>&1; then
        rm -rf "$VENV"
        local minor
        minor=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 &&
            apt-get install -y "python$minor-venv" >>"$VENV.log" 2>&1 &&
            "$base" -m venv "$VENV" >>"$VENV.log" 2>&1; then
            :
        else
            tail -n 5 "$VENV.log" >&2 || true
            refuse "$base cannot make a virtual environment.
  Debian, Ubuntu: apt-get install python$minor-venv, then start again"
        fi
    fi
    rm -f "$VENV.log"
}

# uv does not read pip's configuration; whoever set a mirror for pip means it for us as well.
take_over_pip_index() {
    [ -z "${UV_INDEX_URL:-}${UV_DEFAULT_INDEX:-}" ] || return 0
    local index=${PIP_INDEX_URL:-$("$VENV/bin/python" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX=$index
}

install_into_venv() {
    local requirements=$1
    if ! "$VENV/bin/uv" --version 2>/dev/null | grep -q " $UV_VERSION "; then
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
    take_over_pip_index
    say "installing $(grep -c '==' "$requirements") packages (torch is large: some 2 GB to fetch, minutes on a slow line)"
    # a file system that cannot link across devices copies: no reason for a warning
    export UV_LINK_MODE=${UV_LINK_MODE:-copy} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
    "$VENV/bin/uv" pip install --python "$VENV/bin/python" -r "$requirements"
    "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --no-deps -e "$ROOT"
}

locked() {
    LOCK=${TMPDIR:-/tmp}/esper-setup-$(id -u)-$(printf '%s' "$VENV" | cksum | cut -d' ' -f1).lock
    if command -v flock >/dev/null 2>&1; then
        exec 9>>"$LOCK"
        if ! flock -n 9; then
            say "another set-up is at work; waiting for it"
            flock 9
        fi
        return
    fi
    until mkdir "$LOCK.d" 2>/dev/null; do
        kill -0 "$(cat "$LOCK.d/pid" 2>/dev/null || echo $$)" 2>/dev/null || rm -rf "$LOCK.d"
        sleep 1
    done
    echo $$ >"$LOCK.d/pid"
    trap 'rm -rf "$LOCK.d"' EXIT
}

unlocked() {
    if command -v flock >/dev/null 2>&1; then
        exec 9>&-
    else
        rm -rf "$LOCK.d"
        trap - EXIT
    fi
}

# ensure_environment KIND REQUIREMENTS: KIND is run or test; test contains run.
ensure_environment() {
    local kind=$1 requirements=$2 base
    PYTHON=$VENV/bin/python
    wanted_hash "$requirements"
    read_stamp "$kind"
    [ "$STAMP" != "$HASH" ] || return 0
    mkdir -p "${VENV%/*}"
    locked
    read_stamp "$kind"
    if [ "$STAMP" != "$HASH" ]; then
        base=$(find_python)
        make_venv "$base"
        rm -f "$VENV/.esper-$kind"
        install_into_venv "$requirements"
        printf '%s\n' "$HASH" >"$VENV/.esper-$kind.new"
        mv "$VENV/.esper-$kind.new" "$VENV/.esper-$kind"
        say "ready"
    fi
    unlocked
}
