# shellcheck shell=sh
# Reads and writes its disk at random places, without end; says every second that it is alive, and how many requests
# the disk has completed. The sign of life does not need the disk.

wait_for_disk
say ready
while :; do
    fio --name=hammer --filename="/dev/$DISK" --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw \
        --bsrange=4k-64k --time_based --runtime=100000 --eta=never --output=/run/fio.log
    sleep 1
done &
seconds=0
while :; do
    # Fields 1 and 5: reads and writes completed.
    say "alive $seconds s, $(awk '{ print $1 + $5 }' "/sys/block/$DISK/stat") requests"
    seconds=$((seconds + 1))
    sleep 1
done
