#!/usr/bin/env bash
# Are slots of several sizes worth it, and how many should there be? An event takes the smallest class that holds its topic and body: 256 bytes, 2 KiB,
# or the longest frame. Bodies on both sides of a class show what its stride costs; fewer and more slots, what the memory behind them does.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, a machine busy with other work, medians of 3): an event of 240 bytes in a small slot cost the engine 285 ns, one
# of 260 in a medium one 298 (1.05); 2000 bytes in a medium one 1253, 2100 in a large one 1452 (1.16). The sizes themselves cost more than the class. A pool
# of a million small slots cost an event of 64 bytes 1.07 of what the standard one does, one of 32 K 1.05: within the noise.
#
# ROUNDS, RESULTS, BENCH as in variants.sh; arguments are further variants. Without a number of events each run has as many as are 800 MB.
export BENCH=${BENCH:---connections 8}
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "64 bytes:" \
    "64 bytes, 32 K small slots:--pool-small-slots=32768 --batch-capacity=16384 --transactional-capacity=16384" \
    "64 bytes, 1 M small slots:--pool-small-slots=1048576" \
    "240 bytes, small slots:bench:--body-bytes=240" "260 bytes, medium slots:bench:--body-bytes=260" \
    "2000 bytes, medium slots:bench:--body-bytes=2000" "2100 bytes, large slots:bench:--body-bytes=2100" "$@"
