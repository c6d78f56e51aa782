#!/usr/bin/env bash
# Boots Debian's 6.1 kernel in a virtual machine with two NUMA nodes and a disk that may be made to fail, and runs tests in it.
# What is tested, and how to look into a failure: README.md beside this file.
#
#   CUTS=6           power cuts on the disk that drops writes
#   ROUNDS=4         kill -9 rounds at each ack level (two at *accepted*)
#   VM_CPUS=2        CPUs, shared between the two nodes
#   VM_MINUTES=20    the machine is switched off after so long
#   VM_ONLY=PATTERN  only tests whose `binary name` matches this extended regular expression
#
# Needs no root and no KVM. The kernel, and tools that are missing, are downloaded as Debian packages and unpacked under target/vm: nothing
# is installed on this host.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CUTS=${CUTS:-6} ROUNDS=${ROUNDS:-4} VM_CPUS=${VM_CPUS:-2} VM_MINUTES=${VM_MINUTES:-20} VM_ONLY=${VM_ONLY:-}
KERNEL_PACKAGE=linux-image-cloud-amd64
# `binary filter`: tests that run inside, by the name of their program and a part of theirs.
SUITES=(
    'host_faults '
    'end_to_end frames_sent_by_hand'
    'end_to_end send_and_status'
    'end_to_end a_terminated_engine'
    'udp_abuse '
    'syscall_faults '
    'root_faults host::'
    'root_faults full::'
    'root_faults failing::'
    'root_faults power::'
    'sessions '
    'sessions_client '
    'kill_rounds '
    'eventstream sys::'
)

WORK=$PWD/target/vm
TOOLS=$WORK/tools
ROOT=$WORK/root
LIBRARIES=$TOOLS/usr/lib/x86_64-linux-gnu:$TOOLS/lib/x86_64-linux-gnu
CONSOLE=$WORK/console.log

fail() { # error, cause, fix
    printf 'error: %s\ncause: %s\nfix:   %s\n' "$1" "$2" "$3" >&2
    exit 1
}

# Downloads packages and unpacks them into a folder.
unpack() { # folder, packages...
    local folder=$1 debs=$WORK/debs
    shift
    mkdir -p "$debs" "$folder"
    (cd "$debs" && apt-get download -qq "$@" >&2) \
        || fail "Debian packages can't be downloaded: $*" 'apt-get download failed (see above)' 'apt-get update, and a network'
    local package
    for package in "$@"; do
        dpkg-deb -x "$(ls -t "$debs/$package"_*.deb | head -n 1)" "$folder"
    done
}

# Unpacks a tool's package and those it needs that are not on this host, if the tool is neither here nor there.
tool() { # command, package
    have "$1" && return
    echo "test-vm: $1 is missing: unpacking $2 and what it needs into ${TOOLS#"$PWD/"}" >&2
    local packages
    mapfile -t packages < <(apt-get install -s --no-install-recommends "$2" | awk '$1 == "Inst" { print $2 }')
    [ "${#packages[@]}" -gt 0 ] || fail "$1 can't be had" "apt-get knows no way to install $2" "apt-get update, or install $2 by hand"
    unpack "$TOOLS" "${packages[@]}"
    have "$1" || fail "$1 can't be had" "it is not in package $2" "install it by hand"
}

have() {
    PATH=$TOOLS/usr/bin:$TOOLS/usr/sbin:$TOOLS/bin:$TOOLS/sbin:$PATH command -v "$1" >/dev/null
}

path_of() {
    PATH=$TOOLS/usr/bin:$TOOLS/usr/sbin:$TOOLS/bin:$TOOLS/sbin:$PATH:/usr/sbin:/sbin command -v "$1"
}

# Copies a program into the machine's root, and the libraries that it is linked to.
put() { # program, path inside
    install -D -m 755 "$1" "$ROOT$2"
    strip --strip-debug "$ROOT$2" 2>/dev/null || true
    local library
    { LD_LIBRARY_PATH=$LIBRARIES ldd "$1" 2>/dev/null || true; } | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
        local inside=/lib/x86_64-linux-gnu/${library##*/}
        [ "${library#/lib64/}" = "$library" ] || inside=$library
        [ -e "$ROOT$inside" ] || install -D -m 755 "$library" "$ROOT$inside"
    done
}

[ "$(uname -m)" = x86_64 ] || fail 'this is for x86_64 hosts' "this one is $(uname -m)" 'run it on another host'
command -v apt-get >/dev/null || fail 'there is no apt-get here' 'kernel and tools are taken from Debian packages' 'run it on Debian'
mkdir -p "$WORK"
tool qemu-system-x86_64 qemu-system-x86
tool busybox busybox-static
tool cpio cpio
tool mkfs.ext4 e2fsprogs
tool dmsetup dmsetup
tool strace strace

# -- the kernel --
image=$(apt-cache depends "$KERNEL_PACKAGE" | sed -n 's/.*Depends: \(linux-image-6\.1\..*\)/\1/p' | head -n 1)
[ -n "$image" ] || fail "no 6.1 kernel behind $KERNEL_PACKAGE" 'the package lists are missing, or of another release' 'apt-get update, on Debian 12'
release=${image#linux-image-}
KERNEL=$WORK/kernel/$release
[ -e "$KERNEL/boot/vmlinuz-$release" ] || unpack "$KERNEL" "$image"

# -- what runs inside --
tests=()
for suite in "${SUITES[@]}"; do
    [ "${suite%% *}" = eventstream ] || tests+=(--test "${suite%% *}")
done
built=$(cargo test --locked --no-run --lib "${tests[@]}" 2>&1) || fail "the tests can't be built" "$built" 'see above'
rm -rf "$ROOT"
mkdir -p "$ROOT"/{bin,dev,proc,sys,tmp,etc,tests,lib/modules}
put "$(path_of busybox)" /bin/busybox
put "$(path_of mkfs.ext4)" /sbin/mkfs.ext4
put "$(path_of dmsetup)" /sbin/dmsetup
put "$(path_of strace)" /bin/strace
put target/debug/eventstream "$PWD/target/debug/eventstream" # Where the tests look for it.
ln -s "$PWD/target/debug/eventstream" "$ROOT/bin/eventstream"
while read -r program; do
    name=${program##*/}
    put "$program" "/tests/${name%-*}"
done < <(sed -n 's/.*Executable .*(\(.*\))/\1/p' <<<"$built")
# The tests' view of their own sources: the samples.
install -D -m 644 tests/vm/init.sh "$ROOT/init"
chmod 755 "$ROOT/init"
printf '%s\n' "${SUITES[@]}" >"$ROOT/tests/suites"
printf 'CUTS=%q\nROUNDS=%q\nVM_ONLY=%q\n' "$CUTS" "$ROUNDS" "$VM_ONLY" >"$ROOT/tests/settings"
echo 'root:x:0:0::/:/bin/sh' >"$ROOT/etc/passwd"

modules=$KERNEL/lib/modules/$release
for folder in drivers/md drivers/block drivers/virtio drivers/dax fs/ext4 fs/jbd2 crypto lib arch/x86/crypto; do
    [ ! -d "$modules/kernel/$folder" ] || { mkdir -p "$ROOT/lib/modules/$release/kernel/$folder" \
        && cp -r "$modules/kernel/$folder/." "$ROOT/lib/modules/$release/kernel/$folder"; }
done
cp "$modules/kernel/fs/mbcache.ko" "$ROOT/lib/modules/$release/kernel/fs/" 2>/dev/null || true
cp "$modules"/modules.{order,builtin,builtin.modinfo} "$ROOT/lib/modules/$release/" 2>/dev/null || true
"$(path_of busybox)" depmod -b "$ROOT" "$release"

(cd "$ROOT" && find . | LD_LIBRARY_PATH=$LIBRARIES "$(path_of cpio)" -o -H newc --quiet) | gzip -1 >"$WORK/initramfs.gz"

# -- the disks: one to be wiped and made to fail, one for the tests' temporary folders --
rm -f "$WORK"/{flaky,scratch}.img
truncate -s 512M "$WORK/flaky.img"
truncate -s 2G "$WORK/scratch.img"
LD_LIBRARY_PATH=$LIBRARIES "$(path_of mkfs.ext4)" -q -F "$WORK/scratch.img"

# -- the machine --
echo "test-vm: Linux $release, $VM_CPUS CPUs, two NUMA nodes; the console goes to ${CONSOLE#"$PWD/"}" >&2
half=$((VM_CPUS / 2))
begun=$SECONDS
LD_LIBRARY_PATH=$LIBRARIES timeout "$((VM_MINUTES * 60))" "$(path_of qemu-system-x86_64)" \
    -L "$TOOLS/usr/share/qemu" -L "$TOOLS/usr/share/seabios" \
    -accel tcg,thread=multi -cpu max,la57=off -machine q35 -nodefaults -no-user-config -display none -vga none -no-reboot \
    -m 3G -smp "$VM_CPUS" \
    -object memory-backend-ram,id=m0,size=1536M -object memory-backend-ram,id=m1,size=1536M \
    -numa "node,nodeid=0,cpus=0-$((half - 1)),memdev=m0" -numa "node,nodeid=1,cpus=$half-$((VM_CPUS - 1)),memdev=m1" \
    -drive "file=$WORK/flaky.img,format=raw,if=virtio,cache=unsafe" -drive "file=$WORK/scratch.img,format=raw,if=virtio,cache=unsafe" \
    -kernel "$KERNEL/boot/vmlinuz-$release" -initrd "$WORK/initramfs.gz" \
    -append 'console=ttyS0 panic=-1 quiet mitigations=off' -serial "file:$CONSOLE" </dev/null || true

# -- what came of it --
tr -d '\r' <"$CONSOLE" | awk -F '|' '
    $1 == "RESULT" {
        printf "%-8s %5s s  %-16s %s\n", $4, $5, $2, $3
        if ($6 != "") printf "%26s%s\n", "", $6
        count[$4]++
    }
    $1 == "END" { ended = 1 }
    END {
        printf "%d ok, %d skipped, %d failed\n", count["ok"], count["skipped"], count["FAILED"]
        if (!ended) print "the machine stopped before all tests had run"
        exit !(ended && count["ok"] > 0 && count["FAILED"] == 0)
    }' || fail "not everything holds on Linux $release" "see the table above; the tests' own words are in ${CONSOLE#"$PWD/"}" \
        'VM_ONLY=name tests/vm/run.sh repeats one of them'
echo "Linux $release in a virtual machine: $((SECONDS - begun)) s" >&2
