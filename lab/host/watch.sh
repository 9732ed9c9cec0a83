# shellcheck shell=bash
# Notices that the emulated machine stands still.
#
# dom0 says "alive" on com2 every few seconds, whatever it is busy with. Without that for a long time, dom0, Xen or the
# emulator itself does not run any more, and no limit of time inside of the machine helps. So it is looked at from
# outside, ended, and what it had still to do is done in a new one.

# Seconds without a sign of life. A busy host has let half a minute pass.
readonly STILL=180

# watch WORK: until QEMU ends. If the machine stands still, WORK/state says what its CPU was doing.
watch() {
    local work=$1 size before='' since=$SECONDS pid
    while sleep 5; do
        pid=$(cat "$work/pid" 2>/dev/null) || continue
        kill -0 "$pid" 2>/dev/null || return 0
        size=$(stat --format=%s "$work/results")
        if [[ $size != "$before" ]]; then
            before=$size since=$SECONDS
        elif ((SECONDS - since >= STILL)); then
            state "$work" "$pid" >"$work/state" 2>&1
            kill "$pid"
            sleep 5
            kill -KILL "$pid"
            return 0
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
