# shellcheck shell=bash
# Disks of every kind that dom0 can give to a driver domain: an image, a partition of a block device, an image that QEMU
# serves; over several rings where the back end offers them. The guest makes file systems on them and is destroyed; dom0
# checks the file systems, mounts them, and finds what the guest has synced.
# timeout: 150
# half: second

RINGS=3

# loop_of FILE [OPTION]: makes a block device of a file, and says which.
loop_of() {
    local device
    device=$(losetup -f)
    losetup ${2:+"$2"} "$device" "$1" && printf '%s\n' "$device"
}

step "an image, a partition, an image for QEMU"
modprobe ext4
truncate -s 24M /root/image.img /root/block.img /root/qemu.img
# One partition of Linux' type, from the first MiB to the end.
printf '\0\0\0\0\x83\0\0\0\0\x08\0\0\0\xb8\0\0' | dd of=/root/block.img bs=1 seek=446 conv=notrunc status=none
printf '\x55\xaa' | dd of=/root/block.img bs=1 seek=510 conv=notrunc status=none
loop=$(loop_of /root/block.img -P)
[[ -b ${loop}p1 ]] || fail "no partition"
echo "$RINGS" >/sys/module/xen_blkback/parameters/max_queues
expect_ok vdom create "$(guest_config stored storage -vdom_ramdisk 'vdom_devices = [
    "type=blk,backend=vbd:xvda,serial=IMAGE,queues=4", "type=blk,backend=vbd:xvdb,serial=PARTITION,queues=2",
    "type=blk,backend=vbd:xvdc,serial=QEMU,queues=2" ]' "vdom_disk = [ \"format=raw,vdev=xvda,access=rw,target=/root/image.img\",
    \"phy:${loop}p1,xvdb,w\", \"format=raw,backendtype=qdisk,vdev=xvdc,access=rw,target=/root/qemu.img\" ]")"
follow_console stored
driver=$(xl domid stored-vd)

step "how many rings each has: as many as both sides can"
# of FRONTEND NODE
of() { xenstore-read "/local/domain/$driver/device/vbd/$1/$2"; }
assert_eq "$(of 51712 multi-queue-num-queues)" "$RINGS" "rings of the image"
assert_eq "$(of 51728 multi-queue-num-queues)" 2 "rings of the partition"
for ring in 0 1 2; do
    of 51712 "queue-$ring/event-channel" >/dev/null || fail "no ring $ring"
done
grep -a 'is served by' "$(console stored-vd)"
console_says stored-vd "disk xvda is served by domain 0, $RINGS ring" || fail "it has another number of rings"
kinds=$(for number in 51712 51728 51744; do of $number backend | cut -d / -f 6; done | tr '\n' ' ')
assert_eq "$kinds" "vbd vbd qdisk " "kinds of back ends"

step "the guest makes file systems on them, and is destroyed"
wait_for 90 "the guest's result" console_says stored '^guest: RESULT'
console_says stored '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console stored)")"
sleep 1
vdom stats stored | grep -E 'device-[0-9]*-(ring|flushes|writes|errors|connections)'
expect_ok vdom destroy stored
for name in image.img block.img qemu.img; do
    losetup -a | grep -q "/root/$name" && [[ $name != block.img ]] && fail "$name is still in use"
done

# content DEVICE: what is on it is a whole file system with the files that its list names.
content() {
    # The guest had no time to unmount it: what it has committed is in the journal.
    mount -t ext4 "$1" /mnt
    (cd /mnt && sha256sum --quiet -c sums && wc -l <sums)
    umount /mnt
    e2fsck -f -n "$1"
}

step "dom0 finds what was synced"
mkdir -p /mnt
image=$(loop_of /root/image.img)
qemu=$(loop_of /root/qemu.img)
for device in "${loop}p1" "$image" "$qemu"; do
    expect_ok content "$device"
done
for device in "$loop" "$image" "$qemu"; do
    losetup -d "$device"
done
assert_clean
no_warnings
