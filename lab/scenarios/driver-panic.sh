# shellcheck shell=bash
# The driver domain crashes in the middle of the guest's I/O, because its stack overflows or an allocation fails: it
# releases the guest first, so that no vCPU is stuck in Xen; the guest can be ended in the ordinary way. For a panic that
# was asked for and for an NMI see successor.sh.
# timeout: 160
# half: second

signs() { grep -ac '^guest: alive' "$(console busy)"; }
lives_on() { (($(signs) >= wanted)); }

# dies_by REGEX COMMAND...: the command kills the driver domain, which reports so.
dies_by() {
    local regex=$1
    shift
    step "a guest that is busy with its disk"
    start_guest busy hammer
    wait_for 20 "I/O under way" console_says busy 'alive [0-9]+ s, [1-9][0-9]{2,} requests'

    step "$*"
    expect_ok "$@"
    wait_for_end 20 busy-vd
    show_console busy-vd
    console_says busy-vd "$regex" || fail "no report"
    console_says busy-vd 'guest released \([0-9]+ requests answered, ioreq server destroyed\)' ||
        fail "the guest was not released"

    step "the guest's vCPU goes on"
    wanted=$(($(signs) + 5))
    wait_for 20 "five more signs of life" lives_on
    grep -a '^guest: alive' "$(console busy)" | tail -n 3

    step "and ends when it is told to"
    expect_ok xl destroy busy
    wait_for 10 "no zombie" no_zombie
    expect_ok vdom destroy busy
    assert_clean
}

dies_by '^PANIC: (page|double) fault ' type_at busy-vd "panic stack"
console_says busy-vd 'address 0x[0-9a-f]*: a stack overflowed' || fail "no word of the stack"
dies_by '^(PANIC: )?(memory allocation of|capacity overflow)' type_at busy-vd "panic heap"
