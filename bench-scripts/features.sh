#!/usr/bin/env bash
# What is each probed feature of the kernel worth? Each is taken away in turn (EVENTSTREAM_WITHOUT); what the kernel lacks anyway shows as 1. The
# makings of a comparison of two kernels: run it on both.
#
# Answer:
#
# ROUNDS, RESULTS, BENCH as in variants.sh; arguments are further variants.
VARIANTS=("as it is:")
for feature in defer_taskrun no_sqarray restrictions registered_ring fixed_buffers byte_cap multishot_accept multishot_recv huge_pages; do
    VARIANTS+=("without $feature:EVENTSTREAM_WITHOUT=$feature")
done
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "${VARIANTS[@]}" "$@"
