# shellcheck shell=bash
# Notices that the emulated machine stands still.
#
# dom0 says "alive" on com2 every few seconds, whatever it is busy with. Without that for a long time, dom0, Xen or the
# emulator itself does not run any more, and no limit of time inside of the machine helps.
#
# It is known to happen: QEMU 10.0 sets and clears the bit of a virtual interrupt at each entry of a nested guest, and its
# exit, in the same word in which another of its threads sets the bit of a real one, and not atomically. A timer's interrupt
# gets lost that way: it stays in the local APIC's IRR, the guest runs on, and no other comes, because Xen sets its timer in
# the handler. Any other interrupt has QEMU look at the IRR again. So a machine that stands still is given one first, by a
# character on Xen's console; if that does not help, it is looked at, ended, and what it had still to do is done in a new one.

# Seconds without a sign of life, until it is given interrupts, and until it is given up. A busy host has let half a minute
# pass; to boot takes one more.
readonly QUIET=45 STILL=180

# watch WORK: until QEMU ends. If the machine stands still, WORK/state says what its CPU was doing; WORK/woken has a line for
# each time that it went on.
watch() {
    local work=$1 size before='' since=$SECONDS pulsed='' pid
    while sleep 5; do
        pid=$(cat "$work/pid" 2>/dev/null) || continue
        kill -0 "$pid" 2>/dev/null || return 0
        size=$(stat --format=%s "$work/results")
        if [[ $size != "$before" ]]; then
            [[ -z $pulsed ]] || echo "after $((SECONDS - since)) s" >>"$work/woken"
            before=$size since=$SECONDS pulsed=''
        elif ((SECONDS - since >= STILL)); then
            state "$work" "$pid" >"$work/state" 2>&1
            kill "$pid"
            sleep 5
            kill -KILL "$pid"
            return 0
        elif ((SECONDS - since >= QUIET)); then
            echo >"$work/input"
            pulsed=1
        fi
    done
}

# state WORK PID: what the emulator does, twice, and where its CPU is.
state() {
    local work=$1 pid=$2 command
    for command in "info status" "info registers" "info lapic" "info registers"; do
        echo "--- $command; the emulator has used $(cut -d ' ' -f 14,15 "/proc/$pid/stat") ticks (user, system)"
        # Without the command as it is echoed, and what is of no use here.
        timeout 5 sed -u '/\x1b/d; /^XMM/d; /^FPR/d' "$work/monitor.out" &
        echo "$command" >"$work/monitor.in"
        wait $! || true
        echo
    done
}

# stood_still WORK: whether it did.
stood_still() {
    [[ -e $1/state ]]
}
