# shellcheck shell=bash
# Three virtio network devices of a stock guest on the switch of its driver domain: ping, bulk TCP both ways, and every frame
# accounted for on both sides.
# timeout: 200

step "a guest with three network devices"
follow_console net
follow_console net-vd
expect_ok vdom create /root/examples/net.cfg
ended() { console_says net '^guest: RESULT'; }
wait_for 150 "the guest's result" ended
console_says net '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console net)" || echo no result)"
# The counters are published twice a second when nothing happens.
sleep 1.5
vdom stats net >/run/net.stats

# of PORT NAME: one of a device's counters.
of() {
    awk -v name="device-$1-$2" '$1 == name { print $2 }' /run/net.stats
}

# seen PORT FIELD: what the guest counts: 1 bytes and 2 packets received, 9 bytes and 10 packets sent.
seen() {
    sed -n "s/^guest: counters $1 //p" "$(console net)" | tr -d '\r' | cut -d ' ' -f "$2"
}

step "what the guest has counted is what the switch has"
for port in 0 1 2; do
    assert_eq "$(of $port tx-frames)" "$(seen $port 10)" "frames that port $port has sent"
    assert_eq "$(of $port tx-bytes)" "$(seen $port 9)" "bytes that port $port has sent"
    assert_eq "$(of $port rx-frames)" "$(seen $port 2)" "frames that port $port has received"
    assert_eq "$(of $port rx-bytes)" "$(seen $port 1)" "bytes that port $port has received"
    for name in tx-short tx-long tx-bad-offload tx-spoofed tx-reserved tx-unreachable rx-long rx-uncut \
        bad-commands faults bad-accesses refusals; do
        assert_eq "$(of $port $name)" 0 "device-$port-$name"
    done
    echo "port $port: $(of $port tx-frames) frames sent, $(of $port rx-frames) received, $(of $port parked) waited," \
        "$(of $port rx-no-room) without room, $(of $port cut) cut, $(of $port checksums) checksums computed"
done

step "who has done what"
# Each of three pairs had to find one another, by asking all; a question may be asked again.
floods=$(($(of 0 flooded) + $(of 1 flooded) + $(of 2 flooded)))
((floods >= 3 && floods < 10)) || fail "$floods frames to all"
# The first two take checksums and large segments as they are; the third takes neither.
assert_eq "$(of 0 checksums) $(of 1 checksums) $(of 0 cut) $(of 1 cut)" "0 0 0 0" "work for drivers that take everything"
(($(of 2 cut) > 100)) || fail "too few large segments were cut"
(($(of 2 checksums) > $(of 2 cut))) || fail "too few checksums were computed"
(($(of 1 commands) >= 1)) || fail "the guest has not said how many queues it uses"

step "the guest powers off"
wait_for_end 20 net
wait_for_end 20 net-vd
grep -a 'slot [0-9]:' "$(console net-vd)"
no_warnings
expect_ok vdom destroy net
assert_clean
