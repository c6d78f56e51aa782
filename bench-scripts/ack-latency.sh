#!/usr/bin/env bash
# How long an acknowledgement takes at a steady rate and flat out, at each level, and what the disk alone takes in the same run (`make ack-latency`).
# At 10,000 events/s on a quiet machine, p50: accepted 149 us, written 495, durable 486; the disk alone 84 (kernel-notes, *Writing*).
#
#   OUT=target/ack-latency   results; the engine's data is there meanwhile, on the disk that is measured
#
# Arguments are further options of `eventstream bench run sessions`, such as --rates 20000 or --seconds 10.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OUT=${OUT:-$ROOT/target/ack-latency}
build
"$EVENTSTREAM" bench run sessions --out "$OUT" "$@"
"$EVENTSTREAM" bench report "$OUT"
