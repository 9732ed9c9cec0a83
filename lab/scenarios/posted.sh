# shellcheck shell=bash
# Register writes that are posted: neither a kick nor an acknowledgement makes the guest wait. What the same guest's
# requests cost without: main-job.
# timeout: 200

# number PATTERN: a number before a word in the driver domain's last report.
number() {
    sed -n "s/.* \([0-9]*\) $1.*/\1/p" "$(console posts-vd)" | tail -n 1
}

step "a window where writes are posted needs the place of the VGA card"
expect_fail 'vga = "none"' vdom check "$(guest_config vga brief 'vga = "stdvga"' \
    'vdom_devices = [ "type=blk,backend=module,doorbell=posted" ]')"

step "a guest that tests its disk: every register write is posted"
truncate -s 64M /root/disk.img
expect_ok vdom create "$(guest_config posts brief \
    'vdom_devices = [ "type=blk,backend=module,serial=VDOM0,doorbell=posted" ]')"
wait_for 120 "the guest's result" console_says posts '^guest: RESULT'
grep -a '^guest:' "$(console posts)" | tail -n 12
console_says posts '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console posts)" || echo no result)"
type_at posts-vd stats
sleep 1.5
requests=$(counter posts device-0-requests)
wait_for_end 20 posts
wait_for_end 20 posts-vd
no_warnings
grep -a 'served:' "$(console posts-vd)"
expect_ok vdom destroy posts
assert_clean

step "nobody waited for a write"
assert_eq "$(number 'doorbells in the interrupt handler')" 0 "doorbells that somebody waited for"
assert_eq "$(number writes)" 0 "register writes that somebody waited for"
((requests >= 1000)) || fail "only $requests requests"
# What is left: an interrupt's status is read.
(($(number answered) < requests)) || fail "$(number answered) answers for $requests requests"
echo "$requests requests, of which a vCPU waited for $(number answered) register reads and for no write"
