# shellcheck shell=sh
# One disk and two network devices do honest work, while a hostile driver takes another disk (slot 1), another network
# device (slot 2) and an entropy device (slot 3) from the kernel, one after the other, and breaks every rule.

wait_for_disk

# innocent: writes and verifies at random, until it is told to stop; a line of its own in the end.
innocent() {
    rounds=0
    until [ -e /run/stop ]; do
        fio --name=innocent --filename="/dev/$DISK" --size=4M --direct=1 --ioengine=libaio --iodepth=8 --rw=randrw \
            --bssplit=512/40:4k/60 --number_ios=200 --verify=crc32c --verify_fatal=1 --randrepeat=0 \
            --eta=never --output=/run/innocent.log || return
        rounds=$((rounds + 1))
    done
    say "innocent: $rounds rounds of I/O, all verified" >/dev/console
}

# passing: frames from one honest network device to the other and back, each compared, until it is told to stop.
passing() {
    rounds=0
    until [ -e /run/stop ]; do
        churn nothing 20 >/run/passing.log 2>&1 || return
        rounds=$((rounds + 1))
        sleep 1
    done
    say "passing: $rounds rounds of frames, all as they were" >/dev/console
}

# attack SLOT: what it prints goes to the console.
attack() {
    hostile "LNRO0005:0$1" "$(sed -n "s/^ *0*\([0-9a-f]*\)-.*LNRO0005:0$1\$/\1/p" /proc/iomem | head -n 1)" | sed "s/^hostile:/guest: hostile $1:/" >/dev/console
}

step_hostile() {
    # All that is network from here on is honest.
    echo LNRO0005:02 >/sys/bus/platform/drivers/virtio-mmio/unbind
    modprobe virtio_net
    innocent &
    innocent=$!
    passing &
    passing=$!
    for slot in 1 2 3; do
        attack $slot
    done
    touch /run/stop
    wait $innocent
    wait $passing
}

run_step hostile
grep virtio /proc/interrupts | sed 's/^/guest: /'
result
sleep 3
