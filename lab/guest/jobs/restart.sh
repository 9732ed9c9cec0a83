# shellcheck shell=sh
# Uses everything it has without a pause, while its driver domain is replaced: fio writes to and verifies both disks, with
# many requests at once; a record after the other goes to each of them and is told of once it is there for good; two network
# devices talk to one another. After a line from dom0 all of it ends, and everything that was written is read again.

RECORDS=256 # Where they begin, in blocks of 16 KiB.
ROOM=8      # So many of them are kept.

# content RECORD DISK: 16 KiB that say which record of which disk this is. Nothing is started for it: in an emulated machine
# that takes longer than the writing.
content() {
    content=$(printf 'record %9d on %-10s.\n_' "$1" "$2")
    content=${content%_}
    for _ in 1 2 3 4 5 6 7 8 9; do content=$content$content; done
    printf %s "$content"
}

step_find() {
    wait_for_disk
    modprobe virtio_net
    modprobe virtio_rng
    wait_for_interface eth1
    [ -b /dev/vdb ]
}

step_up() {
    for n in 1 2; do
        make_host $n
        device=eth$((n - 1))
        in_host $n ip addr add "10.0.0.$n/24" dev $device
        in_host $n ip link set $device up
    done
    in_host 1 ping -c 1 -W 5 10.0.0.2
}

# load: writes to both disks and verifies what it has written, several requests at once, until it is told to stop. Slowly:
# what else there is has to share one CPU with it.
load() {
    fio --thread --direct=1 --ioengine=libaio --iodepth=8 --iodepth_batch_submit=8 --rate_iops=8 --size=256k --bs=4k \
        --loops=10000 --rw=randwrite --verify=crc32c --verify_fatal=1 --verify_backlog=16 --eta=never --gtod_reduce=1 \
        --randrepeat=0 --output=/run/fio --output-format=normal --name=vda --filename=/dev/vda --name=vdb --filename=/dev/vdb
}

# records DISK: one after the other, each safe before the next. Which one is safe is kept in /run/safe.DISK.PLACE.
records() {
    record=0
    while [ ! -e /run/stop ]; do
        record=$((record + 1))
        place=$((record % ROOM))
        content $record "$1" >"/run/record.$1"
        if ! dd if="/run/record.$1" of="/dev/$1" bs=16k seek=$((RECORDS + place)) oflag=direct conv=fsync,notrunc 2>"/run/dd.$1"; then
            say "record $record of $1 FAILED: $(tail -n 1 "/run/dd.$1")"
            touch /run/failed
        fi
        echo $record >"/run/safe.$1.$place"
        say "record $record of $1"
        # What else there is has to share one CPU with this, xl's scripts too.
        sleep 1
    done
}

# What was told to be safe is there.
step_verify() {
    for disk in vda vdb; do
        count=0 place=0
        while [ $place -lt $ROOM ]; do
            if [ -e "/run/safe.$disk.$place" ]; then
                read -r record <"/run/safe.$disk.$place"
                content "$record" "$disk"
                count=$((count + 1))
            else
                # Nothing was written there.
                dd if=/dev/zero bs=16k count=1
            fi >>"/run/expected.$disk"
            place=$((place + 1))
        done
        [ $count -gt 0 ]
        dd if=/dev/$disk of=/run/back bs=16k skip=$RECORDS count=$ROOM iflag=direct
        cmp "/run/expected.$disk" /run/back
        echo "$disk: $count records" >&3
    done
    [ ! -e /run/failed ]
}

# Neither of fio's two jobs has found anything wrong.
step_load() {
    cat /run/fio
    equal "$(grep -c 'err= 0' /run/fio)" 2 "jobs without an error"
    sed -n 's/^ *\(issued rwts: [^ ]*\).*/\1/p' /run/fio >&3
}

step_network() {
    in_host 1 wget -q -O /run/got http://10.0.0.2/file
    equal "$(sha256sum </run/got)" "$(sha256sum </run/www/file)" "a file over the network"
    tail -n 2 /run/ping >&3
}

step_random() {
    dd if=/dev/hwrng of=/run/random bs=64 count=4
    equal "$(wc -c </run/random)" 256 "random bytes"
}

for name in find up; do
    run_step $name
done
mkdir -p /run/www
dd if=/dev/urandom of=/run/www/file bs=64k count=16 2>/dev/null
in_host 2 httpd -h /run/www
in_host 1 ping 10.0.0.2 >/run/ping 2>&1 &
load &
loading=$!
records vda &
first=$!
records vdb &
second=$!
say "ready"
read -r _
touch /run/stop
kill -INT "$(pidof ping)"
kill -INT "$(pidof fio)"
# A record that was begun ends with its turn.
wait $loading $first $second
for name in verify load network random; do
    run_step $name
done
result
read -r _
