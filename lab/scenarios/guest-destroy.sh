# shellcheck shell=bash
# The guest is destroyed in the middle of its I/O: it does not stay a zombie, and the driver domain ends by itself. The
# same by vdom destroy, which ends both.
# timeout: 120
# half: second

busy_guest() {
    step "a guest that is busy with its disk"
    start_guest busy hammer
    wait_for 20 "I/O under way" console_says busy 'alive [0-9]+ s, [1-9][0-9]{2,} requests'
    grep -a alive "$(console busy)" | tail -n 1
}

busy_guest
step "xl destroy"
expect_ok xl destroy busy
wait_for 10 "no zombie" no_zombie
wait_for_end 20 busy-vd
tail -n 6 "$(console busy-vd)"
expect_ok vdom destroy busy
assert_clean

busy_guest
step "vdom destroy"
expect_ok vdom destroy busy
wait_for 10 "no zombie" no_zombie
assert_clean
no_warnings
