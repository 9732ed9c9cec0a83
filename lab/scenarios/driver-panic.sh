# shellcheck shell=bash
# The driver domain panics in the middle of the guest's I/O: it releases the guest first, so that no vCPU is stuck in
# Xen; the guest can be ended in the ordinary way.
# timeout: 120

step "a guest that is busy with its disk"
start_guest busy hammer
wait_for 20 "I/O under way" console_says busy 'alive [0-9]+ s, [1-9][0-9]{2,} requests'

step "panic"
type_at busy-vd panic
wait_for_end 20 busy-vd
show_console busy-vd
console_says busy-vd '^asked for at the console' || fail "no report"
console_says busy-vd 'guest released \([0-9]+ requests answered, ioreq server destroyed\)' || fail "the guest was not released"

step "the guest's vCPU goes on"
signs() { grep -ac '^guest: alive' "$(console busy)"; }
wanted=$(($(signs) + 5))
lives_on() { (($(signs) >= wanted)); }
wait_for 20 "five more signs of life" lives_on
grep -a '^guest: alive' "$(console busy)" | tail -n 3

step "and ends when it is told to"
expect_ok xl destroy busy
wait_for 10 "no zombie" no_zombie
expect_ok vdom destroy busy
assert_clean
