#!/bin/busybox sh
# The first process of the virtual machine: mounts what tests need, runs them one by one, says what came of each, switches off.
#
#   RESULT|program|test|ok, skipped or FAILED|seconds|the last thing it said about itself
/bin/busybox --install -s /bin
export PATH=/sbin:/bin TMPDIR=/scratch RUST_BACKTRACE=1 FLAKY_DEVICE=/dev/vda
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
for module in virtio_pci virtio_blk crc32c_generic crc32c-intel ext4 loop dm-mod dm-flakey; do
    modprobe "$module" 2>/dev/null
done
mkdir -p /scratch # Not over /tmp: what is tested may lie below it, where it lay on the host.
mount /dev/vdb /scratch
ip link set lo up
. /tests/settings
export CUTS ROUNDS
ulimit -n 20000

uptime_s() {
    cut -d. -f1 /proc/uptime
}

run() { # program, test
    local begun output state note
    begun=$(uptime_s)
    output=/scratch/output
    if "/tests/$1" --include-ignored --exact --show-output "$2" >$output 2>&1; then
        state=ok
        note=$(grep -h 'power cuts on\|kills under load' $output | tail -n 1)
        if grep -q '^SKIPPED:' $output; then
            state=skipped
            note=$(sed -n 's/^SKIPPED: //p' $output | tail -n 1)
        fi
    else
        state=FAILED
        cat $output
        note=
    fi
    echo "RESULT|$1|$2|$state|$(($(uptime_s) - begun))|$note"
}

uname -a
while read -r program filter; do
    # A filter may be a part of the name of several tests.
    "/tests/$program" --list --format terse --include-ignored $filter | sed -n 's/: test$//p' | while read -r test; do
        case "$program $test" in
            *survives_power_cuts_on_xfs) continue ;; # No tools for it in here; make test-root has them.
        esac
        if [ -z "$VM_ONLY" ] || echo "$program $test" | grep -qE "$VM_ONLY"; then
            run "$program" "$test" </dev/null
        fi
    done
done </tests/suites
echo 'END|'
sync
poweroff -f
