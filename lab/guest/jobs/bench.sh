# shellcheck shell=sh
# Measures disks side by side. A line on the console, "MODE SIZE DEPTH BATCH LIMIT NAME...", has fio run on the disks that
# are called so, one after another: MODE is randread or randwrite, SIZE a block's, DEPTH the requests under way, BATCH how
# many are submitted at once, LIMIT "time=SECONDS" for each disk or "ios=NUMBER". Each disk gives one line:
# "guest: bench NAME REQUESTS MICROSECONDS". Another line ends it.

# disk_of NAME: the disk that is called so: of virtio, by its serial number; the PV disk is "pv".
disk_of() {
    if [ "$1" = pv ]; then
        echo xvda
    else
        grep -lx "$1" /sys/block/vd*/serial 2>/dev/null | cut -d / -f 4
    fi
}

# measure NAME...: as $mode, $size, $depth, $batch and $limit say. Terse output counts KiB and milliseconds: of reads in
# the fields 6 and 9, of writes in 47 and 50.
measure() {
    case $limit in
        time=*) set -- "--time_based --runtime=${limit#time=}" "$@" ;;
        ios=*) set -- "--number_ios=${limit#ios=}" "$@" ;;
    esac
    how=$1
    shift
    jobs=
    for name; do
        jobs="$jobs --name=$name --filename=/dev/$(disk_of "$name") --stonewall"
    done
    # shellcheck disable=SC2086 # many words each
    fio --direct=1 --ioengine=libaio --norandommap --randrepeat=1 --gtod_reduce=1 --thread --rw="$mode" --bs="$size" \
        --iodepth="$depth" --iodepth_batch_submit="$batch" --iodepth_batch_complete_min=1 --iodepth_batch_complete_max="$depth" \
        --eta=never --minimal --output=/run/fio.log $how $jobs || return
    awk -F ';' -v size="$size" '
        { kib = $6 + $47; ms = $9 + $50; printf "guest: bench %s %d %d\n", $3, kib * 1024 / size, ms * 1000 }
    ' /run/fio.log
}

modprobe xen-blkfront
until [ -n "$(disk_of driver)$(disk_of posted)" ]; do
    modprobe virtio_mmio
    modprobe virtio_blk
    sleep 0.2
done
until [ -b /dev/xvda ]; do sleep 0.2; done
for disk in /sys/block/vd* /sys/block/xvd*; do
    # The same scheduler for all; none merges or waits.
    echo none >"$disk/queue/scheduler"
    say "disk ${disk##*/} $(cat "$disk/serial" 2>/dev/null) $(cat "$disk/size") sectors, $(readlink -f "$disk/device")"
done
say ready
while read -r mode size depth batch limit names; do
    [ -n "$names" ] || break
    # shellcheck disable=SC2086 # several names
    measure $names || say "bench FAILED: $(grep -m 1 error /run/fio.log)"
    say "bench end"
done </dev/console
result
