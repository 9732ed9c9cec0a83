# shellcheck shell=sh
# Two network devices that are on a bridge of dom0's, each in a network namespace of its own: addresses by DHCP, bulk TCP
# with dom0 and with one another; then a small file is fetched again and again, while dom0 takes the bridge away and
# gives it back.

SERVER=10.1.0.1

# address N: what the DHCP server has given.
address() {
    cat "/run/address$1"
}

# has_link N: whether its device says that the link is up.
has_link() {
    in_host "$1" ip link show "eth$(($1 - 1))" | grep -q LOWER_UP
}

# get N FROM FILE: fetches a file; its checksum is left in $sum.
get() {
    in_host "$1" wget -q -T 5 -O /run/got "http://$2/$3"
    sum=$(sha256sum </run/got | cut -d ' ' -f 1)
    rm /run/got
}

step_find() {
    modprobe virtio_mmio
    modprobe virtio_net
    modprobe af_packet
    wait_for_interface eth1
}

step_up() {
    for n in 1 2; do
        make_host $n
        in_host $n ip link set eth$((n - 1)) up
    done
    tries=0
    until has_link 1 && has_link 2; do
        tries=$((tries + 1))
        [ $tries -lt 100 ]
        sleep 0.1
    done
}

step_dhcp() {
    # shellcheck disable=SC2016 # for udhcpc
    printf '%s\n' '#!/bin/sh' '[ "$1" = bound ] || exit 0' \
        'ip addr add "$ip/$mask" dev "$interface" && echo "$ip" >"/run/address$((${interface#eth} + 1))"' >/run/bound
    chmod +x /run/bound
    for n in 1 2; do
        in_host $n udhcpc -i eth$((n - 1)) -n -q -f -t 10 -T 1 -s /run/bound
        echo "eth$((n - 1)) $(address $n)" >&3
    done
}

step_ping() {
    for n in 1 2; do
        in_host $n ping -c 5 -i 0.1 -s 1472 $SERVER >/run/ping
        grep -q '5 packets transmitted, 5 packets received' /run/ping
    done
    in_host 1 ping -c 5 -i 0.1 "$(address 2)" >/run/ping
    grep -q '5 packets transmitted, 5 packets received' /run/ping
}

# From dom0, to both.
step_fetch() {
    for n in 1 2; do
        get $n $SERVER bulk
        echo "sum $sum" >&3
    done
}

# dom0 fetches these.
step_serve() {
    mkdir -p /run/www
    dd if=/dev/urandom of=/run/www/bulk bs=1M count=1
    dd if=/run/www/bulk of=/run/www/part bs=128k count=1
    for n in 1 2; do
        in_host $n httpd -p 80 -h /run/www
    done
    sha256sum </run/www/bulk | cut -d ' ' -f 1 >&3
}

# Between the two, with the uplink there.
step_between() {
    for n in 1 2; do
        get $n "$(address $((3 - n)))" part
        equal "$sum" "$(sha256sum </run/www/part | cut -d ' ' -f 1)" "what $n has got from the other"
    done
}

for step in find up dhcp ping fetch serve between; do
    run_step $step
    [ "$FAILED" = 0 ] || break
done
# What has been sent is acknowledged.
sleep 1
counters() {
    for n in 1 2; do
        device=eth$((n - 1))
        # Bytes and packets received, with six other numbers behind each, then the same sent.
        say "counters $((n - 1)) $(in_host $n sed -n "s/ *$device: *//p" /proc/net/dev | tr -s ' ')"
    done
}
result
# dom0 fetches, and says so.
read -r _
counters
read -r _
# From now on until dom0 says that it is enough.
(
    number=0 before=up
    while :; do
        now=down
        if has_link 1; then now=up; fi
        [ $now = $before ] || say "link $now"
        before=$now
        if get 1 $SERVER small 2>/dev/null; then
            number=$((number + 1))
            say "fetched $number"
        fi
        sleep 0.2
    done
) &
read -r _
kill $!
counters
# dom0 reads the driver domain's counters.
read -r _
