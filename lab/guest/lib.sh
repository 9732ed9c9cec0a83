# shellcheck shell=sh
# What the guest's jobs have in common. Every line that they print begins with "guest: ".

say() {
    echo "guest: $*"
}

# now: the time since boot in hundredths of a second.
now() {
    sed 's/^\([0-9]*\)\.\([0-9]*\) .*/\1\2/' /proc/uptime
}

# load_drivers: virtio-mmio and its block device; for a PV disk, Xen's.
load_drivers() {
    case $DISK in
        xvd*) modprobe xen-blkfront ;;
        *) modprobe virtio_mmio && modprobe virtio_blk ;;
    esac
}

# wait_for_disk: until the disk is there, at most a minute.
wait_for_disk() {
    load_drivers || return
    tries=0
    until [ -b "/dev/$DISK" ]; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ]; then
            echo "no /dev/$DISK after a minute"
            return 1
        fi
        sleep 0.1
    done
}

# wait_for_interface NAME: until the network interface is there, at most ten seconds.
wait_for_interface() {
    tries=0
    until [ -e "/sys/class/net/$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || return 1
        sleep 0.1
    done
}

# make_host N: a network namespace of its own for eth(N-1), which speaks IPv4 only.
make_host() {
    # shellcheck disable=SC2016 # for the inner shell
    unshare -n sh -c 'echo $$ >"/run/host$1"; exec sleep 1000' sh "$1" &
    until [ -s "/run/host$1" ]; do sleep 0.1; done
    sleep 0.2
    ip link set "eth$(($1 - 1))" netns "$(cat "/run/host$1")"
    in_host "$1" sh -c "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"
}

# in_host N COMMAND...: runs it where eth(N-1) is.
in_host() {
    pid=$(cat "/run/host$1")
    shift
    nsenter -t "$pid" -n "$@"
}

TRANSPORT=/sys/bus/platform/drivers/virtio-mmio

# disk_of SERIAL: the name of that disk.
disk_of() {
    for block in /sys/block/vd*; do
        [ "$(cat "$block/serial")" = "$1" ] && echo "${block##*/}" && return
    done
    echo "no disk with the serial number $1"
    return 1
}

# device_in SLOT: what Linux calls the platform device there.
device_in() {
    printf 'LNRO0005:%02x\n' "$1"
}

# take_disk SLOT SERIAL: a disk comes: it is as new, and everything that is written can be read back. What is written stays
# in /run/late.
take_disk() {
    device_in "$1" >$TRANSPORT/bind
    tries=0
    until taken=$(disk_of "$2"); do
        tries=$((tries + 1))
        [ $tries -lt 50 ] || return 1
        sleep 0.1
    done
    dd if="/dev/$taken" bs=64k count=4 iflag=direct | cmp -n $((256 << 10)) - /dev/zero
    dd if=/dev/urandom of=/run/late bs=512k count=1
    dd if=/run/late of="/dev/$taken" bs=64k oflag=direct conv=fsync
    dd if="/dev/$taken" of=/run/back bs=128k count=4 iflag=direct
    cmp /run/late /run/back
}

# give_slot SLOT: the driver lets the device there go.
give_slot() {
    device_in "$1" >$TRANSPORT/unbind
}

# run_step NAME: runs the function step_NAME. What it prints is shown if it fails; its last line is the reason.
# A step's own information goes to file descriptor 3.
FAILED=0
run_step() {
    began=$(now)
    # Not as a condition: the shell ignores set -e in conditions.
    (set -e; "step_$1") >/run/step.log 2>&1 3>/run/step.info
    status=$?
    if [ $status = 0 ]; then
        took=$(($(now) - began))
        say "step $1 ok ($((took / 100)).$((took / 10 % 10)) s) $(tr '\n' ' ' </run/step.info)"
    else
        FAILED=1
        sed 's/^/guest:   /' /run/step.log
        say "step $1 FAILED: $(tail -n 1 /run/step.log)"
    fi
}

# equal A B WHAT: two values are the same.
equal() {
    [ "$1" = "$2" ] && return
    echo "$3: $1 instead of $2"
    return 1
}

# result: the last line of a job.
result() {
    if [ $FAILED = 0 ]; then
        say "RESULT PASS"
    else
        say "RESULT FAIL"
    fi
}
