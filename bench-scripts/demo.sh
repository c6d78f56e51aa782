#!/usr/bin/env bash
# The engine in one go: starts it in a folder of its own, sends the committed samples and a million generated events of all
# five priorities over TCP and UDP, drains it, and shows the ledger, the latencies and the first records of the log.
#
#   TCP_EVENTS=900000 UDP_EVENTS=100000   how many are generated
#   KEEP=1                                keeps the data folder
#
# Arguments are further flags of serve.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TCP_EVENTS=${TCP_EVENTS:-900000} UDP_EVENTS=${UDP_EVENTS:-100000}
MIX=5,15,40,25,15 # CRITICAL, HIGH, MEDIUM, LOW, BATCH

build
FOLDER=$(work_folder)
trap 'clean_up "$FOLDER"' EXIT

say() {
    printf '\n── %s\n' "$*"
}

say "the engine starts, its data in $FOLDER/data"
start_engine "$FOLDER" "$@"
cat "$FOLDER/serve.log"
SHOWN=$(wc -l <"$FOLDER/serve.log")

say 'the samples in data/samples, over TCP'
for sample in "$ROOT"/data/samples/*.jsonl; do
    printf '%s: ' "$(basename "$sample")"
    "$EVENTSTREAM" send --tcp "127.0.0.1:$TCP_PORT" --json-lines --file "$sample"
done

say "$TCP_EVENTS events over TCP, 8 connections, and at the same time $UDP_EVENTS over UDP"
"$EVENTSTREAM" send --udp "127.0.0.1:$UDP_PORT" --generate "$UDP_EVENTS" --mix "$MIX" --topic udp &
UDP_SENDER=$!
"$EVENTSTREAM" send --tcp "127.0.0.1:$TCP_PORT" --generate "$TCP_EVENTS" --mix "$MIX" --topic tcp
wait "$UDP_SENDER"

say 'SIGTERM: the engine drains and gives its account'
CODE=0
drain_engine || CODE=$?
tail -n "+$((SHOWN + 1))" "$FOLDER/serve.log"
[ "$CODE" -eq 0 ] || fail 'the engine did not end well' "exit code $CODE" 'read its summary above'

say 'the first records of the log'
"$EVENTSTREAM" log dump --data-dir "$FOLDER/data" --limit 5
