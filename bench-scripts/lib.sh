# Shared by the scripts of this folder: builds, picks ports, starts and stops an engine.
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# EVENTSTREAM names a binary to use as it is; else the release build of this repository is made and used.
BUILD=${EVENTSTREAM:+no}
EVENTSTREAM=${EVENTSTREAM:-$ROOT/target/release/eventstream}
ENGINE_PID=

fail() { # error, cause, fix
    printf 'error: %s\ncause: %s\nfix: %s\n' "$1" "$2" "$3" >&2
    exit 1
}

build() {
    [ -z "$BUILD" ] || return 0
    (cd "$ROOT" && cargo build --locked --release --bin eventstream)
}

# Builds an example and sets EXAMPLE to its binary.
build_example() { # name
    (cd "$ROOT" && cargo build --locked --release --example "$1")
    EXAMPLE=$ROOT/target/release/examples/$1
}

# A new folder on the disk that the repository is on (/tmp may be memory), unless WORK_DIR says where.
work_folder() {
    local parent=${WORK_DIR:-$ROOT/target}
    mkdir -p "$parent"
    mktemp -d "$parent/eventstream.XXXXXX"
}

listens() { # port
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Sets TCP_PORT, UDP_PORT, ADMIN_PORT to three ports in a row that nothing listens on, below the ephemeral range.
pick_ports() {
    local try first
    for try in {1..50}; do
        first=$((10000 + (RANDOM * 3 + try) % 20000))
        if ! listens "$first" && ! listens $((first + 1)) && ! listens $((first + 2)); then
            TCP_PORT=$first UDP_PORT=$((first + 1)) ADMIN_PORT=$((first + 2))
            return
        fi
    done
    fail 'no free ports' 'fifty tries between 10000 and 30002 met a listener' 'stop what listens there, or try again'
}

# Starts an engine on the picked ports; its output goes to $1/serve.log, its data to $1/data. ENGINE_PREFIX may hold a command
# such as "taskset -c 0"; further arguments are flags of serve.
start_engine() { # folder, flags…
    local folder=$1
    shift
    pick_ports
    # shellcheck disable=SC2086 # a prefix is words
    ${ENGINE_PREFIX:-} "$EVENTSTREAM" serve --tcp-listen "127.0.0.1:$TCP_PORT" --udp-listen "127.0.0.1:$UDP_PORT" \
        --admin-listen "127.0.0.1:$ADMIN_PORT" --data-dir "$folder/data" "$@" >"$folder/serve.log" 2>&1 &
    ENGINE_PID=$!
    local try
    for try in {1..200}; do
        listens "$TCP_PORT" && return
        kill -0 "$ENGINE_PID" 2>/dev/null || break
        sleep 0.05
    done
    cat "$folder/serve.log" >&2
    fail 'the engine did not start' "no answer on 127.0.0.1:$TCP_PORT after $try tries" "see above, or run: $EVENTSTREAM doctor"
}

# Asks the engine to drain and waits for its end. Its exit code is the result.
drain_engine() {
    local code=0 pid=$ENGINE_PID
    ENGINE_PID=
    kill -TERM "$pid"
    wait "$pid" || code=$?
    return "$code"
}

# The largest number under a key anywhere in a JSON text on standard input: of a ledger, the total.
largest() { # key
    { grep -o "\"$1\": *[0-9]*" || true; } | awk -F ': *' '$2 > most { most = $2 } END { printf "%d\n", most }'
}

status_json() {
    "$EVENTSTREAM" status --admin "127.0.0.1:$ADMIN_PORT" --json
}

# Kills an engine that is still there and removes the folder, at the end of a script.
clean_up() { # folder
    [ -z "$ENGINE_PID" ] || kill -KILL "$ENGINE_PID" 2>/dev/null || true
    [ -n "${KEEP:-}" ] || rm -rf "$1"
}
