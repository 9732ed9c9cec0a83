# shellcheck shell=sh
# Writes numbered records to its first disk, one after the other, and says of each when it is synced; at its start it says
# which is the last that it finds, after it has verified all that are there. "reboot" and "poweroff" on the console end it;
# "take SLOT SERIAL" and "give SLOT SERIAL" are for a disk that comes, and goes.
#
# Record N is in block N % BLOCKS: a line of 96 bytes with the number and the checksum of the data, and 4000 bytes of data.
# Only the one that was being written when the guest ended may be torn.

BLOCKS=64
FIRST=1024 # Its block 0, in blocks of 4 KiB: behind what churn uses.

# record BLOCK: leaves its number in $number, or nothing if there is none; fails if its data is not what it says.
record() {
    dd if=/dev/vda bs=4k skip=$((FIRST + $1)) count=1 iflag=direct of=/run/record 2>/dev/null || return
    head -c 96 /run/record | head -n 1 | tr -d '\0' >/run/line
    number='' sum=''
    read -r number sum </run/line
    [ -z "$number" ] || [ "$(tail -c +97 /run/record | head -c 4000 | sha256sum | cut -d ' ' -f 1)" = "$sum" ]
}

# find: the number of the last record, in $last. Its own successor may be torn, nothing else.
find_last() {
    last=0 torn=''
    block=0
    while [ $block -lt $BLOCKS ]; do
        if ! record $block; then
            torn="$torn $block"
        elif [ "${number:-0}" -gt "$last" ]; then
            last=$number
        fi
        block=$((block + 1))
    done
    for block in $torn; do
        if [ "$block" != $(((last + 1) % BLOCKS)) ]; then
            echo "record in block $block is broken, and the last is $last"
            return 1
        fi
    done
    # All before it, as far back as there are blocks.
    n=$((last > BLOCKS - 2 ? last - BLOCKS + 2 : 1))
    while [ $n -le "$last" ]; do
        record $((n % BLOCKS))
        equal "${number:-none}" $n "record of block $((n % BLOCKS))" || return
        n=$((n + 1))
    done
    echo "$last" >/run/last
}

step_find() {
    find_last
    cat /run/last >&3
}

step_take() {
    take_disk "$SLOT" "$SERIAL"
}

step_give() {
    dd if="/dev/$(disk_of "$SERIAL")" of=/run/back bs=128k count=4 iflag=direct
    cmp /run/late /run/back
    give_slot "$SLOT"
}

step_use() {
    churn nothing 1 >&3
}

# append N: fails if the disk does.
append() {
    head -c 4000 /dev/urandom >/run/data
    {
        printf '%-95s\n' "$1 $(sha256sum </run/data | cut -d ' ' -f 1)"
        cat /run/data
    } >/run/record
    dd if=/run/record of=/dev/vda bs=4k seek=$((FIRST + $1 % BLOCKS)) count=1 oflag=direct conv=sync,fsync,notrunc 2>/run/error
}

wait_for_disk
modprobe virtio_net
modprobe virtio_rng
(
    while read -r command SLOT SERIAL; do
        case $command in
            reboot) reboot -f ;;
            poweroff) poweroff -f ;;
            take | give) run_step "$command" ;;
        esac
    done </dev/console
) &
for name in find use; do
    [ "$FAILED" != 0 ] || run_step $name
done
[ "$FAILED" != 0 ] || {
    last=$(cat /run/last)
    say "found $last"
    while last=$((last + 1)) && append $last; do
        say "synced $last"
        sleep 3 # There is another guest, which may be about to boot.
    done
    say "soak FAILED: record $last: $(cat /run/error)"
}
# dom0 looks, and ends it.
while :; do sleep 1; done
