#!/usr/bin/env bash
# Boots the driver domain's image on bare QEMU, which loads it by its PVH note but is no Xen: it has to say why it
# cannot start, and stop; a start_info that it does not accept likewise. Each check prints PASS or FAIL.
set -euo pipefail
shopt -s inherit_errexit

VD_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for part in common packages boot dom0 fio guest project overlay qemu verdict; do
    # shellcheck source=/dev/null
    source "$VD_ROOT/lab/host/$part.sh"
done

# boot SECONDS ARGUMENT...: what the image writes to the debug port within that time. A triple fault would end QEMU
# (-no-reboot) before it.
boot() {
    local seconds=$1 status=0
    shift
    timeout "$seconds" "$QEMU_TREE/usr/lib64/ld-linux-x86-64.so.2" \
        --library-path "$QEMU_TREE/usr/lib/x86_64-linux-gnu" "$QEMU_TREE/usr/bin/qemu-system-x86_64" \
        -L "$QEMU_TREE/usr/share/qemu" -L "$QEMU_TREE/usr/share/seabios" -M pc -accel tcg -m 64 \
        -display none -nic none -no-reboot -kernel "$IMAGE" -debugcon stdio "$@" 2>/dev/null || status=$?
    echo "status $status"
}

# check NAME REGEX ARGUMENT...: the image says so, and stops rather than crashes.
check() {
    local name=$1 regex=$2 output
    shift 2
    output=$(boot 5 "$@")
    if [[ $output =~ $regex && $output == *"status 124" ]]; then
        echo "PASS $name"
    else
        printf '%s\nFAIL %s\n' "$output" "$name"
        return 1
    fi
}

mkdir -p "$VD_CACHE"
need_packages
need_qemu
need_programs
check "the image says that there is no Xen, and stops" 'cannot start: CPUID shows no Xen' &
check "the image refuses a command line that is too long, and stops" \
    'cannot start: start_info: command line is longer than 1023 bytes' -append "$(printf 'x%.0s' {1..2000})" &
failed=0
wait -n || failed=1
wait -n || failed=1
exit "$failed"
