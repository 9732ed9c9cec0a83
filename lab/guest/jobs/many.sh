# shellcheck shell=sh
# Uses many devices of all kinds, most of them at once. Then lines on the console: "again" uses all disks once more, "take
# SLOT SERIAL" a disk that has come, "end" ends this.

DEVICES=$(argument vd.devices 1)
HOSTS=4

# number FILE...: how many there are.
number() {
    echo $#
}

# One more than the driver domain has: QEMU's.
has_all() {
    [ "$(number /sys/bus/virtio/devices/*/driver)" = $((DEVICES + 1)) ]
}

step_find() {
    for module in virtio_mmio virtio_blk virtio_net virtio_rng; do modprobe $module; done
    tries=0
    until has_all; do
        tries=$((tries + 1))
        [ $tries -lt 100 ]
        sleep 0.1
    done
    echo "$(number "$TRANSPORT"/LNRO0005:*) by virtio-mmio, $(number /sys/block/vd*) disks" >&3
}

# write_and_read DISK: eight requests: what is written can be read back.
write_and_read() {
    dd if="/run/data.$1" of="/dev/$1" bs=64k oflag=direct
    dd if="/dev/$1" of="/run/back.$1" bs=64k count=4 iflag=direct
    cmp "/run/data.$1" "/run/back.$1"
}

# All disks, at the same time.
step_disks() {
    disks=$(cd /sys/block && echo vd*)
    pids=
    for disk in $disks; do
        dd if=/dev/urandom of="/run/data.$disk" bs=64k count=4
    done
    for disk in $disks; do
        write_and_read "$disk" &
        pids="$pids $!"
    done
    for pid in $pids; do wait "$pid"; done
    for disk in $disks; do rm "/run/data.$disk" "/run/back.$disk"; done
    echo "$disks" | wc -w >&3
}

# A disk of the driver domain's and one of QEMU's, whose interrupts are one line; at the same time.
step_shared() {
    ours=$(disk_of S16)
    qemus=$(disk_of qemu)
    irq=$(sed -n 's/^ *\([0-9]*\): .*-fasteoi  *virtio[0-9]*, virtio[0-9]*$/\1/p' /proc/interrupts)
    before=$(sed -n "s/^ *$irq: *\([0-9]*\) .*/\1/p" /proc/interrupts)
    fio --direct=1 --ioengine=libaio --iodepth=8 --rw=randrw --bs=4k --size=512k --number_ios=400 --verify=crc32c \
        --verify_fatal=1 --randrepeat=0 --output=/run/fio.log --name=ours --filename="/dev/$ours" \
        --name=qemus --filename="/dev/$qemus"
    after=$(sed -n "s/^ *$irq: *\([0-9]*\) .*/\1/p" /proc/interrupts)
    echo "$ours and $qemus, $((after - before)) interrupts of line $irq" >&3
}

# Ports of one switch, in slots of both kinds.
step_net() {
    for n in $(seq $HOSTS); do
        wait_for_interface eth$((n - 1))
        make_host "$n"
        in_host "$n" ip addr add "10.0.0.$n/24" dev eth$((n - 1))
        in_host "$n" ip link set eth$((n - 1)) up
    done
    sleep 1
    for pair in "1 3" "4 2" "3 4"; do
        in_host "${pair% *}" ping -c 3 -i 0.1 "10.0.0.${pair#* }" >/run/ping
        grep -q '3 packets transmitted, 3 packets received' /run/ping
    done
}

step_random() {
    directory=/sys/class/misc/hw_random
    sources=$(tr ' ' '\n' <$directory/rng_available | grep virtio)
    for source in $sources; do
        echo "$source" >$directory/rng_current
        dd if=/dev/hwrng bs=64 count=4 | wc -c | grep -x 256
    done
    echo "$sources" | wc -l >&3
}

step_consoles() {
    echo "printed in slot 7" >/dev/hvc1
    echo "printed in slot 21" >/dev/hvc2
}

step_take() {
    take_disk "$SLOT" "$SERIAL"
}

for name in find disks shared net random consoles; do
    run_step $name
done
grep -E 'virtio' /proc/interrupts | sed 's/^/guest: /'
result
say ready
while read -r what SLOT SERIAL && [ "$what" != end ]; do
    case $what in
        again) run_step disks ;;
        take) run_step take ;;
    esac
done </dev/console
