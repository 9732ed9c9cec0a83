# shellcheck shell=sh
# Uses a disk of dom0's (vda), one that can only be read (vdb) and one in memory (vdc), and then writes one record after
# the other to the first while dom0 does things to it. A record is told of once it is on the disk for good.

RECORDS=8192 # Where they begin, in blocks of 4 KiB.

step_find() {
    wait_for_disk
    for disk in vda vdb vdc; do
        block=/sys/block/$disk
        echo "$disk: $(cat "$block/size") sectors, serial \"$(cat "$block/serial")\", read-only $(cat "$block/ro")," \
            "cache $(cat "$block/queue/write_cache")," >&3
    done
}

# Data that dom0 finds in the image.
step_write() {
    dd if=/dev/urandom of=/run/data bs=1M count=8
    dd if=/run/data of=/dev/vda bs=256k oflag=direct conv=fsync
    dd if=/dev/vda of=/run/back bs=512k count=16 iflag=direct
    cmp /run/data /run/back
    sha256sum /run/data | cut -d ' ' -f 1 >&3
    rm /run/data /run/back
}

# Many at once: every block that was written is read, and its checksum compared.
step_random() {
    fio --name=random --filename=/dev/vda --offset=8M --size=16M --direct=1 --ioengine=libaio --iodepth=32 \
        --iodepth_batch_submit=16 --iodepth_batch_complete_min=8 \
        --rw=randrw --bssplit=512/30:4k/40:16k/20:64k/10 --number_ios=600 \
        --verify=crc32c --verify_fatal=1 --gtod_reduce=1 --randrepeat=0 --output=/run/fio.log --output-format=normal
    sed -n 's/^ *\(issued rwts: [^ ]*\).*/\1/p' /run/fio.log >&3
}

# What is given back reads as zeroes.
step_discard() {
    blkdiscard -f -o 0 -l 1M /dev/vdc
    dd if=/dev/vda of=/run/back bs=1M skip=24 count=1 iflag=direct
    blkdiscard -f -o 24M -l 1M /dev/vda
    dd if=/dev/vda bs=1M skip=24 count=1 iflag=direct | cmp -n $((1 << 20)) - /dev/zero
}

step_readonly() {
    dd if=/dev/vdb bs=1M iflag=direct | sha256sum | cut -d ' ' -f 1 >&3
    if dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct; then
        echo "it was written to" && return 1
    fi
}

step_memory() {
    dd if=/dev/urandom of=/run/data bs=1M count=2
    dd if=/run/data of=/dev/vdc bs=64k oflag=direct conv=fsync
    dd if=/dev/vdc of=/run/back bs=64k count=32 iflag=direct
    cmp /run/data /run/back
}

# Says what becomes of the read-only disk, when it is another than before.
watch_library() {
    before=
    while :; do
        if dd if=/dev/vdb of=/dev/null bs=64k count=1 iflag=direct 2>/run/library.log; then
            now=readable
        else
            now="not readable: $(grep -o 'Input/output error' /run/library.log)"
        fi
        [ "$now" = "$before" ] || say "library $now"
        before=$now
        sleep 0.3
    done
}

for name in find write random discard readonly memory; do
    run_step $name
done
say "stat $(cat /sys/block/vda/stat)"
result
# dom0 looks at what the driver domain has counted, and types a line when it has.
read -r _
watch_library &
record=0
while :; do
    if printf 'record %d\n' $((record + 1)) |
        dd of=/dev/vda bs=4k seek=$((RECORDS + record)) conv=sync,fsync,notrunc oflag=direct 2>/run/record.log; then
        record=$((record + 1))
        say "record $record on $(cat /sys/block/vda/size) sectors"
    else
        say "record $((record + 1)) FAILED: $(tail -n 1 /run/record.log)"
        sleep 1
    fi
done
