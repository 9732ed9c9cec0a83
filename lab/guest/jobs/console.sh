# shellcheck shell=sh
# A shell on the virtio console; over the port "data" a file comes in and another one goes out. A line on the
# console "say TEXT" prints it on the virtio console; "end" ends this.

BYTES=262144
TTY=/dev/hvc1

# port NAME: the device of a port.
port() {
    for port in /sys/class/virtio-ports/*; do
        if [ "$(cat "$port/name" 2>/dev/null)" = "$1" ]; then
            echo "/dev/${port##*/}"
            return
        fi
    done
    return 1
}

step_find() {
    modprobe virtio_mmio
    tries=0
    until port data && port log; do
        tries=$((tries + 1))
        [ $tries -lt 300 ]
        sleep 0.1
    done
    echo "$(port data), $(port log)" >&3
}

# What is printed while nobody is there.
step_print() {
    echo "printed early" >$TTY
    stty size <$TTY >&3
}

step_shell() {
    setsid -c sh -i <>$TTY >&0 2>&1 &
}

# The port stays open: what comes between two readers is not thrown away. An end is read while dom0 is not there.
step_receive() {
    : >/run/in
    until [ -s /run/in ]; do
        cat <&4 >>/run/in
        sleep 0.1
    done
    sha256sum </run/in | cut -d ' ' -f 1 >&3
    wc -c </run/in >&3
}

step_send() {
    dd if=/dev/urandom of=/run/out bs=$BYTES count=1
    cat /run/out >&4
    sha256sum </run/out | cut -d ' ' -f 1 >&3
}

for step in find print shell; do
    run_step $step
done
say ready
exec 4<>"$(port data)"
run_step receive
run_step send
exec 4>&-
grep virtio /proc/interrupts | sed 's/^/guest: /'
result
while read -r what text && [ "$what" != end ]; do
    echo "$text" >$TTY
    say "said $text"
done </dev/console
