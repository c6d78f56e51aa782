#!/usr/bin/env bash
# How long an acknowledgement takes at a steady rate, at each level, and what the disk alone takes in the same run.
#
#   RATE=10000        events per second
#   SECONDS_EACH=10   for each level
#   CONNECTIONS=1     sessions
#   BODY_BYTES=64     bytes of a body
#   ENGINE_CORE=0 SENDER_CORE=1
#   WORK_DIR=target   where data folders are made (on the disk to be measured)
#
# Arguments are further flags of serve (default: --durability always). One JSON line for the disk before, one per level, one for the disk after.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

RATE=${RATE:-10000} SECONDS_EACH=${SECONDS_EACH:-10} CONNECTIONS=${CONNECTIONS:-1} BODY_BYTES=${BODY_BYTES:-64}
ENGINE_CORE=${ENGINE_CORE:-0} SENDER_CORE=${SENDER_CORE:-1}
[ $# -gt 0 ] || set -- --durability always

if [ "$(nproc)" -ge 2 ] && command -v taskset >/dev/null; then
    ENGINE_PREFIX="taskset -c $ENGINE_CORE" SENDER_PREFIX="taskset -c $SENDER_CORE"
else
    echo "warning: one core, or no taskset: engine and sender share what there is" >&2
    ENGINE_PREFIX='' SENDER_PREFIX=''
fi

build >&2
build_example sync_latency >&2
FOLDER=$(work_folder)
trap 'clean_up "$FOLDER"' EXIT

disk() { # when
    printf '{"disk_alone":"%s","measured":%s}\n' "$1" "$("$EXAMPLE" "$FOLDER")"
}

disk before
for level in accepted written durable; do
    start_engine "$FOLDER" "$@"
    # shellcheck disable=SC2086 # a prefix is words
    sent=$($SENDER_PREFIX "$EVENTSTREAM" send --session --ack "$level" --tcp "127.0.0.1:$TCP_PORT" --generate $((RATE * SECONDS_EACH)) \
        --rate "$RATE" --connections "$CONNECTIONS" --body-bytes "$BODY_BYTES" --json)
    if ! drain_engine; then
        cat "$FOLDER/serve.log" >&2
        fail "the run at $level does not count" 'the engine did not end well' 'read the drain summary above'
    fi
    rm -rf "$FOLDER/data"
    printf '{"ack_level":"%s","rate":%d,"sender":%s}\n' "$level" "$RATE" "$sent"
done
disk after
