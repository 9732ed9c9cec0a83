# shellcheck shell=sh
# Three network devices, each in a network namespace of its own, so that all that they say to one another goes through the
# driver domain's switch.

MIB=1

# feature DEVICE BIT: whether the driver has chosen it.
feature() {
    [ "$(cut -c $(($2 + 1)) "/sys/class/net/$1/device/features")" = 1 ]
}

# fetch FROM TO: TO gets FROM's file, and it is the same.
fetch() {
    in_host "$2" wget -q -O "/run/got$1$2" "http://10.0.0.$1:80/file$1"
    equal "$(sha256sum <"/run/got$1$2")" "$(sha256sum <"/run/www/file$1")" "what $2 has got from $1"
    rm "/run/got$1$2"
}

step_find() {
    modprobe virtio_mmio
    modprobe virtio_net
    wait_for_interface eth2
    for n in 1 2 3; do
        equal "$(cat /sys/class/net/eth$((n - 1))/address)" "00:16:3e:00:00:0$n" address
    done
    # Large segments and checksums, both ways; several buffers a frame; commands; several queues.
    for bit in 0 1 3 5 7 8 11 12 15 16 17 23; do
        feature eth0 $bit
        feature eth1 $bit
        case $bit in
            0 | 1 | 7 | 8 | 11 | 12) ! feature eth2 $bit ;;
            *) feature eth2 $bit ;;
        esac
    done
    feature eth1 22
    equal "$(cat /sys/class/net/eth0/mtu) $(cat /sys/class/net/eth2/mtu)" "1500 1400" MTU
    echo "features $(cat /sys/class/net/eth0/device/features)" >&3
}

step_up() {
    for n in 1 2 3; do
        device=eth$((n - 1))
        make_host $n
        in_host $n ip addr add 10.0.0.$n/24 dev $device
        in_host $n ip link set $device up
    done
    sleep 1
    for n in 1 2 3; do
        in_host $n ip link show eth$((n - 1)) | grep -q LOWER_UP
    done
}

step_ping() {
    in_host 1 ping -c 5 -i 0.1 10.0.0.2 >/run/ping
    grep -q '5 packets transmitted, 5 packets received' /run/ping
    in_host 2 ping -c 5 -i 0.1 10.0.0.3 >/run/ping
    grep -q '5 packets transmitted, 5 packets received' /run/ping
    in_host 3 ping -c 5 -i 0.1 -s 1372 10.0.0.1 >/run/ping
    grep -q '5 packets transmitted, 5 packets received' /run/ping
}

step_serve() {
    mkdir -p /run/www
    for n in 1 2 3; do
        dd if=/dev/urandom of=/run/www/file$n bs=1M count=$MIB 2>/dev/null
        in_host $n httpd -p 80 -h /run/www
    done
}

# Large segments and partial checksums go through as they are.
step_bulk() {
    fetch 1 2
    fetch 2 1
}

# Large segments are cut, and all checksums are computed and verified.
step_bulk_plain() {
    fetch 1 3
    fetch 3 1
}

step_both_ways() {
    fetch 2 3 &
    first=$!
    fetch 3 2
    wait $first
}

for step in find up ping serve bulk bulk_plain both_ways; do
    run_step $step
    [ "$FAILED" = 0 ] || break
done
# What has been sent is acknowledged.
sleep 1
for n in 1 2 3; do
    device=eth$((n - 1))
    # Bytes and packets received, with six other numbers behind each, then the same sent.
    say "counters $((n - 1)) $(in_host $n sed -n "s/ *$device: *//p" /proc/net/dev | tr -s ' ')"
done
grep virtio /proc/interrupts | sed 's/^/guest: /'
result
# dom0 reads the driver domain's counters.
sleep 8
