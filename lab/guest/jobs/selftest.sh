# shellcheck shell=sh
# Tests the disk in every way that a guest uses one: alone, with a file system, at random, with many requests at once.
# Destroys what is on it.

FILE_MIB=${FILE_MIB:-64}
IOS=${IOS:-7000}

step_find() {
    wait_for_disk
    block=/sys/block/$DISK
    echo "$(($(cat "$block/size") / 2048)) MiB, serial $(cat "$block/serial" 2>/dev/null)," \
        "blocks of $(cat "$block/queue/logical_block_size") bytes, read-only $(cat "$block/ro")" >&3
}

# The disk is virtio-mmio's, found through ACPI, and so is every other.
step_only() {
    for block in /sys/block/*; do
        device=$(readlink -f "$block/device/..")
        case ${block##*/}:$device in
            ram* | loop* | "$DISK":*/LNRO0005:* | vd*:*/LNRO0005:*) ;;
            "$DISK":*) case $DISK in xvd*) ;; *) echo "the disk's transport is $device" && return 1 ;; esac ;;
            *) echo "there is another disk: ${block##*/} at $device" && return 1 ;;
        esac
    done
    echo "$(readlink -f "/sys/block/$DISK/device/.."), $(grep -c virtio /proc/interrupts) virtio interrupts" >&3
}

step_mkfs() {
    mkfs.ext4 -q -F "/dev/$DISK"
    mount -t ext4 "/dev/$DISK" /mnt
}

step_write() {
    dd if=/dev/urandom of=/mnt/file bs=1M count="$FILE_MIB" conv=fsync
}

step_checksum() {
    sha256sum /mnt/file >/run/sum
}

# What is read again comes from the disk: no cache has survived.
step_remount() {
    umount /mnt
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 "/dev/$DISK" /mnt
    sha256sum -c /run/sum
}

step_fsck() {
    umount /mnt
    e2fsck -f -n "/dev/$DISK"
}

step_direct_read() {
    for size in 512 4k 64k 1M; do
        dd if="/dev/$DISK" of=/dev/null bs=$size count=16 iflag=direct
    done
}

step_direct_write() {
    dd if=/dev/urandom of=/run/data bs=1M count=4
    dd if=/run/data of="/dev/$DISK" bs=256k seek=7 oflag=direct
    dd if="/dev/$DISK" of=/run/back bs=256k skip=7 count=16 iflag=direct
    cmp /run/data /run/back
    rm /run/data /run/back
}

# Half as many again as IOS: reads, writes, and then a read of every block that was written, whose checksum fio compares.
step_random() {
    fio --name=random --filename="/dev/$DISK" --size="${FILE_MIB}M" --direct=1 --ioengine=libaio --iodepth=32 \
        --iodepth_batch_submit=16 --iodepth_batch_complete_min=8 \
        --rw=randrw --bssplit=512/30:4k/40:16k/20:64k/10 --number_ios="$IOS" \
        --verify=crc32c --verify_fatal=1 --gtod_reduce=1 --randrepeat=0 --output=/run/fio.log --output-format=normal
    sed -n 's/^ *\(issued rwts: [^ ]*\).*/\1/p' /run/fio.log >&3
}

step_discard() {
    blkdiscard -f -o 1M -l 8M "/dev/$DISK"
    dd if="/dev/$DISK" bs=1M skip=1 count=8 iflag=direct | cmp -n $((8 << 20)) - /dev/zero
}

for name in find only mkfs write checksum remount fsck direct_read direct_write random discard; do
    run_step $name
    [ $name != find ] || [ "$FAILED" = 0 ] || break
done
grep virtio /proc/interrupts | sed 's/^/guest: /'
result
# Time to look at what the driver domain has counted.
sleep 3
