# shellcheck shell=sh
# Measures network interfaces side by side, each in a network namespace of its own: a virtio-net device ("driver") and Xen's
# PV interface ("pv"). A line on the console is a command and has one answer, "guest: nets: MILLISECONDS":
# "receive NAME" fetches a file from dom0, "ping NAME COUNT" sends that many echo requests, one at a time. Both
# serve that file to dom0. Another line ends it.

SERVER=10.1.0.1

# number NAME: of its namespace; also the last of its address.
number() {
    case $1 in
        driver) echo 1 ;;
        pv) echo 2 ;;
    esac
}

modprobe virtio_mmio
modprobe virtio_net
modprobe af_packet
wait_for_interface eth0
modprobe xen-netfront
wait_for_interface eth1
mkdir -p /run/www
for n in 1 2; do
    make_host $n
    in_host $n ip addr add 10.1.0.1$n/24 dev eth$((n - 1))
    in_host $n ip link set eth$((n - 1)) up
    in_host $n httpd -p 80 -h /run/www
done
sleep 1
in_host 1 wget -q -O /run/www/bulk http://$SERVER/bulk
say ready
while read -r command name count; do
    n=$(number "$name")
    [ -n "$n" ] || break
    began=$(now) status=0
    case $command in
        receive) in_host "$n" wget -q -O /dev/null http://$SERVER/bulk || status=$? ;;
        ping) in_host "$n" ping -q -c "$count" -A $SERVER >/run/ping || status=$? ;;
    esac
    took=$((($(now) - began) * 10))
    [ $status = 0 ] || took="FAILED with status $status"
    say "nets: $took"
done </dev/console
