#!/usr/bin/env bash
# What is each probed feature of the kernel worth? Each is taken away in turn (EVENTSTREAM_WITHOUT); what the kernel lacks anyway shows as 1. The
# makings of a comparison of two kernels: run it on both.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, a machine busy with other work, medians of 3): CPU of the engine for an event is 155 ns, without huge_pages 165,
# without defer_taskrun 162, multishot_recv 159, no_sqarray and restrictions 158, fixed_buffers 157, registered_ring and multishot_accept 156, byte_cap 155.
#
# ROUNDS, RESULTS, BENCH as in variants.sh; arguments are further variants.
VARIANTS=("as it is:")
for feature in defer_taskrun no_sqarray restrictions registered_ring fixed_buffers byte_cap multishot_accept multishot_recv huge_pages; do
    VARIANTS+=("without $feature:EVENTSTREAM_WITHOUT=$feature")
done
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "${VARIANTS[@]}" "$@"
