# shellcheck shell=sh
# Every CPU writes its own part of the disk and reads it back, all at once: the kicks come from every CPU.

CPUS=$(nproc)
MIB=1

# on_cpu CPU: writes and compares, pinned to that CPU.
on_cpu() {
    at=$(($1 * MIB * 256))
    taskset -c "$1" dd if=/run/data of="/dev/$DISK" bs=4k count=$((MIB * 256)) seek=$at oflag=direct &&
        taskset -c "$1" dd if="/dev/$DISK" of="/run/back.$1" bs=4k count=$((MIB * 256)) skip=$at iflag=direct &&
        cmp /run/data "/run/back.$1"
}

step_find() {
    wait_for_disk
    queues=$(find "/sys/block/$DISK/mq" -mindepth 1 -maxdepth 1 -type d | wc -l)
    echo "$CPUS CPUs, $queues queues" >&3
    [ "$queues" = "$CPUS" ]
}

step_all_at_once() {
    dd if=/dev/urandom of=/run/data bs=1M count=$MIB
    pids=
    for cpu in $(seq 0 $((CPUS - 1))); do
        on_cpu "$cpu" &
        pids="$pids $!"
    done
    for pid in $pids; do
        wait "$pid"
    done
}

# How many queues a network device uses.
queues_of() {
    find "/sys/class/net/$1/queues" -name 'tx-*' | wc -l
}

# Each CPU in turn uses every device, on its own queue.
step_use() {
    modprobe virtio_net
    modprobe virtio_rng
    for nic in eth0 eth1; do
        equal "$(queues_of $nic)" "$CPUS" "queues of $nic"
    done
    churn nothing 8 >&3
}

step_drivers() { churn driver 1 >&3; }
step_modules() { churn transport-module 1 >&3; }

for name in find all_at_once use drivers modules; do
    [ "$FAILED" != 0 ] || run_step $name
done
grep virtio /proc/interrupts | sed 's/^/guest: /'
result
sleep 3
