# shellcheck shell=bash
# A guest's network devices on a bridge of dom0's, through a PV network interface of the driver domain: DHCP, ping, bulk
# TCP both ways with checksums verified, every frame accounted for on all three sides; the interface is taken away and
# given back during traffic, and the guest sees its link go down and up.
# timeout: 150
# half: second

# counted NAME: a counter, as in /run/stats.
counted() {
    awk -v name="$1" '$1 == name { print $2 }' /run/stats
}

# publish: the counters as they are now, in /run/stats.
publish() {
    type_at uplink-vd stats
    sleep 1
    expect_ok vdom stats uplink >/run/stats
}

# vif FIELD: what dom0 counts of the interface.
vif() {
    cat "/sys/class/net/vif$(xl domid uplink-vd).0/statistics/$1"
}

# what_guest_says STEP: the information of one of its steps.
what_guest_says() {
    sed -n "s/^guest: step $1 ok ([^)]*) *//p" "$(console uplink)" | tr -d '\r'
}

# seen PORT FIELD: what the guest has counted last: 1 bytes and 2 packets received, 9 bytes and 10 packets sent.
seen() {
    sed -n "s/^guest: counters $1 //p" "$(console uplink)" | tail -n 1 | tr -d '\r' | cut -d ' ' -f "$2"
}

counts_are_there() {
    (($(grep -ac '^guest: counters' "$(console uplink)") >= $1))
}

last_fetched() {
    sed -n 's/^guest: fetched \([0-9]*\).*/\1/p' "$(console uplink)" | tail -n 1
}

has_fetched() {
    (($(last_fetched) >= $1))
}

step "a bridge of dom0's, with a DHCP server and a web server"
bridge_with_files 2
echo hello >/run/www/small
touch /run/leases
printf '%s\n' 'interface xenbr0' 'start 10.1.0.100' 'end 10.1.0.150' 'lease_file /run/leases' \
    'pidfile /run/udhcpd.pid' 'opt subnet 255.255.255.0' >/run/udhcpd.conf
udhcpd -f /run/udhcpd.conf &

step "an interface that does not exist is missed"
expect_fail 'gets only number 0 \(add it to vdom_network' vdom check /root/examples/uplink.cfg \
    'vdom_devices = [ "type=net,backend=vif:1,mac=00:16:3e:00:00:01" ]'

step "a guest with two network devices on it"
follow_console uplink
follow_console uplink-vd
expect_ok vdom --verbose create /root/examples/uplink.cfg
wait_for 90 "the guest's result" console_says uplink '^guest: RESULT'
console_says uplink '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console uplink)" || echo no result)"
sum=$(sha256sum </run/www/bulk | cut -d ' ' -f 1)
assert_eq "$(what_guest_says fetch)" "sum $sum sum $sum " "what the guest has fetched"

step "dom0 fetches from it"
for address in $(what_guest_says dhcp | grep -o '10\.1\.0\.[0-9]*'); do
    wget -q -O /run/got "http://$address/bulk"
    assert_eq "$(sha256sum </run/got | cut -d ' ' -f 1) " "$(what_guest_says serve)" "what $address serves"
done
sleep 1
type_at uplink go
wait_for 10 "the guest's counters" counts_are_there 2

step "what was counted on all three sides"
publish
grep -E 'uplink-0|device-[01]-' /run/stats
for port in 0 1; do
    assert_eq "$(counted device-$port-tx-frames)" "$(seen $port 10)" "frames that port $port has sent"
    assert_eq "$(counted device-$port-tx-bytes)" "$(seen $port 9)" "bytes that port $port has sent"
    assert_eq "$(counted device-$port-rx-frames)" "$(seen $port 2)" "frames that port $port has received"
    assert_eq "$(counted device-$port-rx-bytes)" "$(seen $port 1)" "bytes that port $port has received"
    for name in tx-short tx-long tx-bad-offload tx-spoofed rx-long rx-uncut bad-commands faults refusals; do
        assert_eq "$(counted device-$port-$name)" 0 "device-$port-$name"
    done
done
assert_eq "$(counted uplink-0-frames-out)" "$(vif rx_packets)" "frames from the guest to dom0"
assert_eq "$(counted uplink-0-frames-in)" "$(vif tx_packets)" "frames from dom0 to the guest"
# dom0 counts what comes in without Ethernet headers.
assert_eq "$(counted uplink-0-bytes-out)" $(($(vif rx_bytes) + 14 * $(vif rx_packets))) "bytes from the guest to dom0"
assert_eq "$(counted uplink-0-bytes-in)" "$(vif tx_bytes)" "bytes from dom0 to the guest"
for name in dropped-out refused-out lost-out failed-in no-grants connections-broken tx-bad-offload tx-long tx-short rx-long; do
    assert_eq "$(counted "uplink-0-$name")" 0 "uplink-0-$name"
done
(($(counted uplink-0-large-out) > 10)) || fail "no large segments went out"
(($(counted uplink-0-large-in) > 10)) || fail "no large segments came in"
# The first device takes checksums and large segments as they are; so does dom0.
assert_eq "$(counted device-0-checksums) $(counted device-0-cut)" "0 0" "work for the first device"
assert_eq "$(counted uplink-0-checksums) $(counted uplink-0-cut)" "0 0" "work for dom0"
(($(counted device-1-cut) > 10)) || fail "nothing was cut for the second device"
assert_eq "$(vif rx_errors) $(vif tx_errors) $(vif rx_dropped) $(vif tx_dropped)" "0 0 0 0" "dom0's errors"

step "the interface is taken away during traffic: the guest's link goes down"
type_at uplink go
wait_for 20 "files" has_fetched 3
expect_ok xl network-detach uplink-vd 0
wait_for 20 "link down" console_says uplink '^guest: link down'
before=$(last_fetched)
sleep 2
assert_eq "$(last_fetched)" "$before" "files fetched without a link"

step "it is given back: up, and traffic goes on"
expect_ok xl network-attach uplink-vd devid=0 bridge=xenbr0 mac=00:16:3e:00:01:00
wait_for 20 "link up" console_says uplink '^guest: link up'
wait_for 30 "more files" has_fetched $((before + 3))

step "its back end is gone without a word: it is connected again"
before=$(last_fetched)
xenstore-write "$(xenstore-read "/local/domain/$(xl domid uplink-vd)/device/vif/0/backend")/state" 6
wait_for 30 "its loss" console_says uplink-vd 'network interface 0: the connection was lost'
wait_for 30 "more files" has_fetched $((before + 3))
type_at uplink go
wait_for 10 "the guest's counters" counts_are_there 4
publish
grep -E 'uplink-0' /run/stats
assert_eq "$(grep -ac '(00:16:3e:00:01:00) is served by domain 0' "$(console uplink-vd)")" 3 "connections, with its address"
assert_eq "$(counted uplink-0-connections)" 3 "connections"
assert_eq "$(counted uplink-0-connections-broken)" 0 "connections that broke the protocol"
assert_eq "$(counted device-0-config-interrupts)" 4 "interrupts for the link: down and up, twice"

step "the guest powers off"
type_at uplink go
wait_for_end 20 uplink
wait_for_end 20 uplink-vd
no_warnings 'network interface 0'
expect_ok vdom destroy uplink
assert_clean
ip link set xenbr0 down
brctl delbr xenbr0
