# shellcheck shell=sh
# Reads its disk once and then does nothing with it, until "busy" is typed at its console: then it reads without end.
# `xl shutdown` ends it: the kernel then runs poweroff.

wait_for_disk
dd if="/dev/$DISK" of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null
for block in /sys/block/vd*; do
    say "disk ${block##*/}: $(cat "$block/size") sectors, serial \"$(cat "$block/serial")\"," \
        "blocks of $(cat "$block/queue/logical_block_size"), read-only $(cat "$block/ro")," \
        "packed $(cut -c 35 "$block/device/features")," \
        "queues of $(cat "$block/mq/0/nr_tags")"
done
if grep -q 0x0004 /sys/bus/virtio/devices/*/device; then
    modprobe virtio-rng
    dd if=/dev/hwrng of=/run/random bs=1024 count=8 2>/dev/null
    say "rng: $(cat /sys/class/misc/hw_random/rng_current), $(wc -c </run/random) bytes," \
        "$(od -An -v -tx8 -w8 /run/random | sort -u | wc -l) different words"
fi
say ready
while read -r command; do
    if [ "$command" = busy ]; then
        while dd if="/dev/$DISK" of=/dev/null bs=64k iflag=direct; do :; done 2>/dev/null &
    fi
done
while :; do
    sleep 1000
done
