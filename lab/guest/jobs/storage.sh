# shellcheck shell=sh
# Makes a file system on each of its disks and fills it; syncs; then goes on writing until it is ended. dom0 looks at what
# has been synced.

DISKS=$(argument vd.disks 3)

# fill DISK: files of different sizes, and a list of their checksums.
fill() {
    mkfs.ext4 -q -F "/dev/$1"
    mkdir -p "/run/$1"
    mount -t ext4 "/dev/$1" "/run/$1"
    for size in 0 1 4095 4097 70000 1500000; do
        mkdir "/run/$1/$size"
        head -c $size /dev/urandom >"/run/$1/$size/data"
    done
    head -c 300000 /dev/urandom >"/run/$1/gone"
    sync
    rm "/run/$1/gone"
    (cd "/run/$1" && sha256sum ./*/data >sums)
}

step_fill() {
    wait_for_disk
    for disk in $(cd /sys/block && echo vd*); do
        fill "$disk"
    done
    sync
    equal "$(grep -c ext4 /proc/mounts)" "$DISKS" "file systems"
}

# What the block layer says of each, so that it can be seen which disk is which.
step_disks() {
    for disk in $(cd /sys/block && echo vd*); do
        block=/sys/block/$disk
        echo "$disk: $(cat "$block/serial") $(cat "$block/size") sectors, cache $(cat "$block/queue/write_cache")," >&3
    done
}

run_step fill
run_step disks
result
# What comes now nobody promises to keep, but it must not harm what is there.
while :; do
    for disk in $(cd /sys/block && echo vd*); do
        head -c 100000 /dev/urandom >"/run/$disk/unsynced"
        rm "/run/$disk/unsynced"
    done
done
