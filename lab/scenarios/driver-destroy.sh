# shellcheck shell=bash
# The driver domain is destroyed under an idle guest, and vdom destroy under a busy one: dom0 stays healthy, and nothing
# is left once the guest is gone too.
# timeout: 150

step "xl destroy of the driver domain of an idle guest"
start_guest idle idle
expect_ok xl destroy idle-vd
xl list
expect_ok vdom list
expect_ok xl destroy idle
wait_for 10 "no zombie" no_zombie
expect_ok vdom destroy idle
assert_clean

step "vdom destroy of both, the guest busy"
start_guest busy hammer
wait_for 20 "I/O under way" console_says busy 'alive [0-9]+ s, [1-9][0-9]{2,} requests'
expect_ok vdom destroy busy
wait_for 10 "no zombie" no_zombie
assert_clean
