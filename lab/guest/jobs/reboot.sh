# shellcheck shell=sh
# Uses all of its devices, and reboots, as often as vd.rounds says. Its first disk outlives it: there it finds what it
# wrote before it rebooted, and how often it has done so. Its second disk is in memory, and new each time.

ROUNDS=$(argument vd.rounds 1)
PLACE=64 # Where that is, in blocks of 64 KiB: behind what churn uses.

# number: the line at the beginning of that place: how often it has been written, and the checksum of what follows.
number() {
    dd if=/dev/vda bs=64k skip=$PLACE count=1 iflag=direct 2>/dev/null | head -n 1 | tr -d '\0'
}

data() {
    dd if=/dev/vda bs=64k skip=$((PLACE + 1)) count=4 iflag=direct 2>/dev/null
}

step_verify() {
    read -r boots sum <<END
$(number)
END
    [ -z "$boots" ] || equal "$(data | sha256sum | cut -d ' ' -f 1)" "$sum" "what was written before boot $boots"
    dd if=/dev/vdb bs=64k skip=1 count=8 iflag=direct | cmp -n $((8 << 16)) - /dev/zero
    dd if=/dev/urandom of=/dev/vdb bs=64k seek=1 count=8 oflag=direct
    echo "${boots:-0}" >/run/boots
}

step_use() {
    churn nothing 1 >&3
}

step_write() {
    dd if=/dev/urandom of=/run/data bs=64k count=4
    dd if=/run/data of=/dev/vda bs=64k seek=$((PLACE + 1)) oflag=direct
    echo "$(($(cat /run/boots) + 1)) $(sha256sum </run/data | cut -d ' ' -f 1)" >/run/line
    dd if=/run/line of=/dev/vda bs=64k seek=$PLACE conv=sync,fsync oflag=direct
}

wait_for_disk
modprobe virtio_net
modprobe virtio_rng
for name in verify use write; do
    [ "$FAILED" != 0 ] || run_step $name
done
if [ "$FAILED" = 0 ]; then
    say "boot $(cat /run/boots) ok"
    [ "$(cat /run/boots)" -ge "$ROUNDS" ] || reboot -f
fi
result
read -r command </dev/console
say "$command"
[ "$command" != reboot ] || reboot -f
