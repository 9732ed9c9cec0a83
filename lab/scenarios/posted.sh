# shellcheck shell=bash
# Register writes that are posted: neither a kick nor an acknowledgement makes the guest wait. The same disk and the same
# work with and without, and what each costs.
# timeout: 400

# run NAME DEVICE: a guest that tests its disk. Sets the counters' differences for its requests.
work() {
    local name=$1
    rm -f "$(console "$name")" "$(console "$name-vd")"
    truncate -s 128M /root/disk.img
    expect_ok vdom create "$(guest_config "$name" selftest "vdom_devices = [ \"type=blk,backend=module,serial=VDOM0$2\" ]")"
    wait_for 150 "the guest's result" console_says "$name" '^guest: RESULT'
    grep -a '^guest:' "$(console "$name")" | tail -n 12
    console_says "$name" '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console "$name")" || echo no result)"
    wait_for_end 20 "$name"
    wait_for_end 20 "$name-vd"
    no_warnings
    grep -a 'served:' "$(console "$name-vd")"
}

# number NAME PATTERN: a number before a word in the driver domain's last report.
number() {
    sed -n "s/.* \([0-9]*\) $2.*/\1/p" "$(console "$1-vd")" | tail -n 1
}

step "a window where writes are posted needs the place of the VGA card"
expect_fail 'vga = "none"' vdom check "$(guest_config vga selftest 'vga = "stdvga"' \
    'vdom_devices = [ "type=blk,backend=module,doorbell=posted" ]')"

step "every register write waits for its answer"
work waits ""
expect_ok vdom destroy waits

step "every register write is posted"
work posts ",doorbell=posted"
expect_ok vdom destroy posts
assert_clean

step "nobody waited for a write"
assert_eq "$(number posts 'doorbells in the interrupt handler')" 0 "doorbells that somebody waited for"
assert_eq "$(number posts writes)" 0 "register writes that somebody waited for"
(($(number waits 'doorbells in the interrupt handler') > 1000)) || fail "too few doorbells to compare"
waits=$(number waits answered) posts=$(number posts answered)
((posts * 2 < waits)) || fail "$posts answers, and $waits without posting"
echo "requests that a vCPU waited for: $waits, and $posts when writes are posted"
