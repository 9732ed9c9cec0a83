# shellcheck shell=bash
# The driver domain is destroyed under an idle guest: dom0 stays healthy, and nothing is left once the guest is gone too.
# timeout: 100
# half: second

start_guest idle idle
step "xl destroy of the driver domain"
expect_ok xl destroy idle-vd
xl list
expect_ok vdom list
expect_ok xl destroy idle
wait_for 10 "no zombie" no_zombie
expect_ok vdom destroy idle
assert_clean
