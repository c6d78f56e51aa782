#!/usr/bin/env bash
# What is this host (this kernel, these settings) worth to the engine? The machine's own limits and a few scenarios, in about three minutes,
# into one folder: JSON, CSV, .hgrm, and report.html with plots. Run it on two hosts, or before and after a change of one; then compare.
#
#   OUT=target/host-report/HOST-KERNEL-TIME   the folder
#   SCENARIOS="ingest-tcp latency-sweep mixed idle"
#   REPEAT=3 SECONDS_EACH=1                   repeats of each point; seconds of what is not flat out
#   ENGINE_CORE=0 SENDER_CORE=1
#   DATA_DIR=$OUT                             where data is written meanwhile: a folder on the disk to be measured, with 5 GiB free
#
# Arguments are flags of serve. What doctor and topology say is kept beside the results. The exit code is 0 when every scenario counts: nothing
# lost, every account balanced.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

STAMP=$(date +%Y%m%d-%H%M%S)
OUT=${OUT:-$ROOT/target/host-report/$(uname -n)-$(uname -r)-$STAMP}
SCENARIOS=${SCENARIOS:-ingest-tcp latency-sweep mixed idle}
REPEAT=${REPEAT:-3} SECONDS_EACH=${SECONDS_EACH:-1} ENGINE_CORE=${ENGINE_CORE:-0} SENDER_CORE=${SENDER_CORE:-1} DATA_DIR=${DATA_DIR:-$OUT}

build >&2
mkdir -p "$OUT"
# Where these have something to say against the host, figures are those of a host without it.
"$EVENTSTREAM" doctor >"$OUT/doctor.txt" 2>&1 || true
"$EVENTSTREAM" topology >"$OUT/topology.txt" 2>&1 || true

COMMON=(--repeat "$REPEAT" --out "$OUT" --data-dir "$DATA_DIR" --engine-core "$ENGINE_CORE" --sender-core "$SENDER_CORE")
CODE=0
"$EVENTSTREAM" bench ceiling "${COMMON[@]}" --for-ms 300 || CODE=$?
for scenario in $SCENARIOS; do
    # A scenario that fails is in the report, and is no reason to leave out the others.
    "$EVENTSTREAM" bench run "$scenario" "${COMMON[@]}" --seconds "$SECONDS_EACH" -- "$@" || CODE=$?
done
"$EVENTSTREAM" bench report "$OUT"
cat <<END

report:  $OUT/report.html
compare: $EVENTSTREAM bench compare $OUT OTHER-FOLDER --fail-over 5%
END
exit "$CODE"
