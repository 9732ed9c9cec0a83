# shellcheck shell=sh
# Reads and writes its disk at random places, without end, and says every second how far it is.

wait_for_disk
say ready
# fio's own report every second: requests so far are what changes.
fio --name=hammer --filename="/dev/$DISK" --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw \
    --bsrange=512-64k --bs_unaligned=0 --blockalign=4096 --time_based --runtime=1000000 \
    --eta=always --eta-newline=1 2>&1 | tr '\r' '\n' | sed -u 's/^/guest: hammer: /'
say "RESULT FAIL"
