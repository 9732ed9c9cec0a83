# shellcheck shell=bash
# The main job: a guest with a stock kernel gets a disk from a driver domain, tests it, and powers off; then everything
# is taken away and nothing is left.
# timeout: 240

step "a disk image of 128 MiB, and a guest with its driver domain"
truncate -s 128M /root/disk.img
expect_ok vdom --verbose create /root/examples/guest.cfg
xl list
follow_console guest

step "the guest tests its disk"
wait_for 150 "the guest's result" console_says guest '^guest: RESULT'
expect_ok vdom stats guest
wait_for_end 20 guest
show_console guest-vd

step "taking everything away"
expect_ok vdom destroy guest
assert_clean
console_says guest '^guest: RESULT PASS' || fail "$(grep -a -m 1 'FAILED' "$(console guest)" || echo 'guest: RESULT FAIL')"
