# shellcheck shell=sh
# Writes its first disk without end, reads it back and compares, and meanwhile does what dom0 types with devices that come and
# go: "STEP SLOT [SERIAL]". The disk of a serial number is looked for by that.

step_take() {
    take_disk "$SLOT" "$SERIAL"
    sha256sum /run/late | cut -d ' ' -f 1 >&3
}

# What was written to it last is what is read.
step_same() {
    dd if="/dev/$(disk_of "$SERIAL")" of=/run/back bs=128k count=4 iflag=direct
    cmp /run/late /run/back
}

step_give() {
    give_slot "$SLOT"
}

# A slot without a device is passed by, as at boot.
step_empty() {
    if device_in "$SLOT" >"$TRANSPORT/bind"; then
        echo "something is there" && return 1
    fi
}

# The disk is in use, many requests at a time, until there are errors.
step_use() {
    fio --name=use --filename="/dev/$(disk_of "$SERIAL")" --direct=1 --ioengine=libaio --iodepth=4 --rw=randrw --bs=4k --rate_iops=50 \
        --time_based --runtime=1000 --eta=never --output=/run/use.log &
    echo $! >/run/use.pid
    sleep 1
    kill -0 $!
}

# Then requests fail (what is under way in an I/O error, later ones at the end of a disk without sectors), and none is left over.
step_lost() {
    tries=0
    while kill -0 "$(cat /run/use.pid)"; do
        tries=$((tries + 1))
        [ $tries -lt 50 ] || return 1
        sleep 0.1
    done
    grep -q error= /run/use.log
    block=/sys/block/$(disk_of "$SERIAL")
    awk '{ print $1 " sectors," }' "$block/size" >&3
    awk '{ print $9 " in flight" }' "$block/stat" >&3
}

wait_for_disk
say ready
# One round after the other: what was written is what is read. The guest's one CPU has other things to do as well.
(
    round=0
    while fio --name=round --filename="/dev/$DISK" --size=1M --direct=1 --ioengine=libaio --iodepth=4 --rw=randwrite \
        --bsrange=512-64k --number_ios=24 --eta=never --verify=crc32c --verify_fatal=1 --randseed=$round --gtod_reduce=1 \
        --output=/run/round.log; do
        round=$((round + 1))
        say "round $round"
        sleep 2
    done
    say "round $((round + 1)) FAILED: $(tail -n 1 /run/round.log)"
) &
while read -r step SLOT SERIAL; do
    run_step "$step"
done
