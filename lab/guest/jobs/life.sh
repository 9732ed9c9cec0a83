# shellcheck shell=sh
# Writes to its disk, and compares what it reads with what it has written, round after round without end, whatever
# happens to the guest meanwhile. On its console, "crash" makes its kernel crash.

MIB=8

# A half that is written once, and a half that is written anew in each round.
write_once() {
    dd if=/dev/urandom of=/run/once bs=1M count=1 && dd if=/run/once of="/dev/$DISK" bs=1M seek=$MIB oflag=direct
}

# verify_round: fio writes at random places of the first half and compares checksums; the other half is as it was.
verify_round() {
    fio --name=life --filename="/dev/$DISK" --size="${MIB}M" --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw \
        --bssplit=4k/60:64k/40 --number_ios=60 --verify=crc32c --verify_fatal=1 --randrepeat=0 --output=/run/fio.log &&
        dd if="/dev/$DISK" of=/run/again bs=1M skip=$MIB count=1 iflag=direct && cmp /run/once /run/again
}

wait_for_disk
write_once 2>/dev/null || say "RESULT FAIL"
say ready
(
    round=0
    while verify_round >/run/round.log 2>&1; do
        round=$((round + 1))
        say "round $round verified"
    done
    sed 's/^/guest:   /' /run/round.log /run/fio.log
    say "RESULT FAIL"
) &
while read -r command; do
    if [ "$command" = crash ]; then
        say crashing
        echo c >/proc/sysrq-trigger
    fi
done
