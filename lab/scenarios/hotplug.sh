# shellcheck shell=bash
# Devices come and go while the guest runs and uses its first disk: one in memory, one that dom0 serves, one that is taken
# away under its driver. What cannot be had is refused, and changes nothing. Another driver domain takes over what has come.
# timeout: 210

DRIVER=plug-vd
STORE="format=raw,vdev=xvdb,access=rw,target=/root/store.img"

# guest_does STEP SLOT [SERIAL]: the guest does something with a device, and succeeds. Prints what it says of that.
guest_does() {
    local before
    before=$(steps "$1")
    type_at plug "$*"
    wait_for 20 "$1 in the guest" eval "((\$(steps $1) > $before))"
    grep -a "^guest: step $1 " "$(console plug)" | tail -n 1 >/run/said
    grep -q "^guest: step $1 ok" /run/said || fail "$(cat /run/said)"
    sed -n 's/^guest: step [a-z]* ok ([^)]*) *//p' /run/said | tr -d '\r' | sed 's/ *$//'
}

steps() {
    grep -ac "^guest: step $1 \(ok\|FAILED\)" "$(console plug)" || true
}

# rounds_done: how often the guest has written its first disk and read it back.
rounds_done() {
    sed -n 's/^guest: round \([0-9]*\).*/\1/p' "$(console plug)" | tail -n 1
}

# more_rounds: the first disk works, and has worked all the time.
more_rounds() {
    local before
    before=$(rounds_done)
    wait_for 20 "another round on the first disk" eval "((\$(rounds_done) > ${before:-0}))"
    assert_eq "$(grep -ac 'round .* FAILED' "$(console plug)" || true)" 0 "rounds that failed"
}

# node SLOT NAME: a node of a device's back end, or nothing.
node() {
    xenstore-read "/local/domain/$(xl domid $DRIVER)/backend/virtio/$(xl domid plug)/$1/$2" 2>/dev/null || true
}

# has_state SLOT STATE
has_state() {
    [[ $(node "$1" state) == "$2" ]]
}

step "a guest with one disk"
start_guest plug plug 'vdom_reserve = 24'

step "a disk in memory comes, is used, and goes"
expect_ok vdom device-attach plug type=blk,backend=ram:8M,serial=LATE
assert_eq "$(node 1 state) $(node 1 base) $(node 1 irq)" "2 0xfea01000 22" "state, base and irq"
guest_does take 1 LATE
wait_for 5 "the state Connected" has_state 1 4
vdom list
guest_does give 1
wait_for 5 "the state InitWait" has_state 1 2
expect_ok vdom device-detach plug 1
assert_eq "$(node 1 state)" "" "the state of a device that is gone"
guest_does empty 1
more_rounds

step "a disk that dom0 serves: what the guest has written is in the image"
truncate -s 8M /root/store.img
expect_fail "has no disk xvdb" vdom device-attach plug type=blk,backend=vbd:xvdb,serial=STORE
expect_ok xl block-attach $DRIVER "$STORE"
expect_ok vdom device-attach plug slot=3,type=blk,backend=vbd:xvdb,serial=STORE
sum=$(guest_does take 3 STORE)
guest_does give 3
expect_ok vdom device-detach plug 3
expect_ok xl block-detach $DRIVER xvdb
assert_eq "$(head -c 512K /root/store.img | sha256sum | cut -d ' ' -f 1)" "$sum" "what is in the image"

step "what cannot be had"
expect_fail "slot 0" vdom device-attach plug slot=0,type=blk,backend=ram:1M
expect_fail "ACPI table" vdom device-attach plug type=blk,backend=ram:1M,interrupt=edge
expect_fail "does not fit" vdom device-attach plug type=blk,backend=ram:1G
expect_fail "no device in slot 9" vdom device-detach plug 9
assert_eq "$(vdom list | grep -c '1:blk')" 0 "devices in slot 1"

step "a disk is taken away under its driver: errors, and nothing hangs"
expect_ok vdom device-attach plug type=blk,backend=ram:8M,serial=GONE
guest_does take 1 GONE
guest_does use 1 GONE
expect_fail "has not let it go" vdom device-detach --timeout 1 plug 1
assert_eq "$(node 1 state)" 5 "the state of a device that is to go"
expect_ok vdom device-detach --force plug 1
assert_eq "$(guest_does lost 1 GONE)" "0 sectors, 0 in flight" "what is left in the guest"
expect_fail "has not let go" vdom device-attach plug slot=1,type=rng,backend=cpu
expect_fail "has not let go" vdom restart plug
guest_does give 1
wait_for 5 "the slot is free" vdom device-attach plug slot=1,type=blk,backend=ram:8M,serial=AGAIN
guest_does take 1 AGAIN
more_rounds

step "what was counted"
type_at $DRIVER stats # Publishes them.
sleep 1
assert_eq "$(counter plug attached) $(counter plug detached) $(counter plug detached-in-use)" "4 3 1" \
    "devices attached, detached, and detached while in use"
assert_eq "$(counter plug device-0-faults)" 0 "faults of the first disk"

step "another driver domain has the disk that came late, and lets others come and go"
# As if a release with sixteen slots had started the guest: it has those only, whoever serves it.
table=/local/domain/$(xl domid $DRIVER)/virtio-domain/table
xenstore-write "$table" "$(xenstore-read "$table" | head -c 16)"
expect_ok vdom restart plug
expect_fail "start the guest again" vdom device-attach plug slot=16,type=blk,backend=ram:1M
wait_for 5 "the state Connected" has_state 1 4
guest_does same 1 AGAIN
more_rounds
guest_does give 1
expect_ok vdom device-detach plug 1
expect_ok vdom device-attach plug slot=1,type=blk,backend=ram:4M,serial=LAST
guest_does take 1 LAST

step "the guest is destroyed with both devices"
assert_eq "$(xl destroy plug 2>&1)" "" "what xl destroy says"
wait_for_end 20 $DRIVER
show_console $DRIVER
expect_ok vdom destroy plug
assert_clean
no_warnings 'cannot attach|leaving the guest to another driver domain: device 1 was taken away'
