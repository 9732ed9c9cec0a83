# shellcheck shell=sh
# One disk does honest work, while a hostile driver takes another (slot 1) from the kernel and breaks every rule.

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

step_hostile() {
    innocent &
    hostile LNRO0005:01 fea01000 | sed 's/^hostile/guest: hostile/' >/dev/console
    touch /run/stop
    wait $!
}

run_step hostile
grep virtio /proc/interrupts | sed 's/^/guest: /'
result
sleep 3
