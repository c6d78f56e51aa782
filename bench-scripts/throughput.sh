#!/usr/bin/env bash
# Events per second from socket to log: engine on core 0, sender on core 1, flat out over TCP.
#
#   RUNS=5            runs; the median is printed at the end
#   EVENTS=6000000    events per run (64-byte bodies: about 100 bytes each in the log)
#   CONNECTIONS=8     TCP connections
#   BODY_BYTES=64     bytes of a body
#   MIX=10,60,30      shares of HIGH, MEDIUM, LOW
#   ENGINE_CORE=0 SENDER_CORE=1
#   WORK_DIR=target   where data folders are made (on the disk to be measured)
#
# Arguments are further flags of serve. A run counts only if every event was stored and the engine's ledger balances (its exit
# code says so). Its rate is events / (start of the sender to the last event stored): it includes connecting and closing.
# One JSON line per run goes to standard output, and one with the median.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

RUNS=${RUNS:-5} EVENTS=${EVENTS:-6000000} CONNECTIONS=${CONNECTIONS:-8} BODY_BYTES=${BODY_BYTES:-64} MIX=${MIX:-10,60,30}
ENGINE_CORE=${ENGINE_CORE:-0} SENDER_CORE=${SENDER_CORE:-1}

if [ "$(nproc)" -ge 2 ] && command -v taskset >/dev/null; then
    ENGINE_PREFIX="taskset -c $ENGINE_CORE" SENDER_PREFIX="taskset -c $SENDER_CORE"
else
    echo "warning: one core, or no taskset: engine and sender share what there is" >&2
    ENGINE_PREFIX='' SENDER_PREFIX=''
fi

build >&2
FOLDER=$(work_folder)
trap 'clean_up "$FOLDER"' EXIT

micros() {
    echo "${EPOCHREALTIME/[.,]/}"
}

one_run() { # number
    local begun ended sent stored=0 code=0
    start_engine "$FOLDER" "${SERVE_FLAGS[@]}"
    begun=$(micros)
    # shellcheck disable=SC2086 # a prefix is words
    sent=$($SENDER_PREFIX "$EVENTSTREAM" send --tcp "127.0.0.1:$TCP_PORT" --generate "$EVENTS" --connections "$CONNECTIONS" \
        --body-bytes "$BODY_BYTES" --mix "$MIX" --json)
    # shellcheck disable=SC2034 # a counter
    for try in {1..500}; do
        stored=$(status_json | largest stored)
        ended=$(micros)
        [ "$stored" -lt "$EVENTS" ] || break
        sleep 0.02
    done
    drain_engine || code=$?
    if [ "$code" -ne 0 ] || [ "$stored" -ne "$EVENTS" ]; then
        cat "$FOLDER/serve.log" >&2
        fail "run $1 does not count" "exit code $code, $stored of $EVENTS events stored" 'read the drain summary above'
    fi
    rm -rf "$FOLDER/data"
    RATE=$((EVENTS * 1000000 / (ended - begun)))
    printf '{"run":%d,"events":%d,"stored":%d,"stored_per_second":%d,"balanced":true,"sender":%s}\n' \
        "$1" "$EVENTS" "$stored" "$RATE" "$sent"
}

SERVE_FLAGS=("$@")
RATES=()
for run in $(seq "$RUNS"); do
    one_run "$run"
    RATES+=("$RATE")
done
MEDIAN=$(printf '%s\n' "${RATES[@]}" | sort -n | awk '{ rate[NR] = $1 } END { print rate[int((NR + 1) / 2)] }')
printf '{"runs":%d,"median_stored_per_second":%d,"kernel":"%s","cpus":%d}\n' "$RUNS" "$MEDIAN" "$(uname -r)" "$(nproc)"
