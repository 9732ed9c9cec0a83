# shellcheck shell=bash
# Runs the machine and says how it went. A crash, a hang or a missing result is a failure.

# QEMU's exit status when dom0 has reported and stopped it (value 1 of isa-debug-exit). Any other end is a crash.
readonly QEMU_STOPPED=3
readonly TIMED_OUT=124

# run WORK: boots the machine and sets QEMU_STATUS. The log goes to the cache. A machine that stands still while it runs
# scenarios is started again, once, for those that have no result.
run() {
    local work=$1 log=$VD_CACHE/last$BESIDE.log left
    : >"$log"
    boot "$work" "$log"
    stood_still "$work" || return 0
    tee -a "$log" <"$work/state"
    mapfile -t left < <(without_result "$work/results")
    [[ $MODE == scenario ]] && ((${#left[@]})) || return 0
    echo "NOTE: the emulated machine stood still for $STILL s in ${left[0]}; another one runs: ${left[*]}"
    rm "$work/state"
    printf '%s\n' "${left[@]}" >"$work/request"
    dom0_initrd "$work" >"$work/dom0.img"
    boot "$work" "$log"
}

# boot WORK LOG: one machine.
boot() {
    local work=$1 log=$2 watcher
    QEMU_STATUS=0
    say "booting"
    if [[ $MODE == shell ]]; then
        run_qemu "$work" shell "stdio,mux=on,signal=off,logfile=$log" || QEMU_STATUS=$?
        return
    fi
    rm -f "$work/pid" "$work/input"
    mkfifo "$work/input"
    watch "$work" >/dev/null 2>&1 &
    watcher=$!
    # With pipefail, what fails here is QEMU.
    run_qemu "$work" "$MODE" stdio timeout --foreground "$LIMIT" <>"$work/input" 2>&1 |
        transcript | tee -a "$log" | readable || QEMU_STATUS=$?
    kill "$watcher" 2>/dev/null || true
    if [[ -e $work/woken ]]; then
        echo "NOTE: the emulated machine stood still, and went on when it was given an interrupt: $(paste -sd , "$work/woken")" |
            tee -a "$log"
        rm "$work/woken"
    fi
}

# without_result RESULTS: the scenarios that have neither passed nor failed, in their order.
without_result() {
    local name
    for name in "${SCENARIOS[@]}"; do
        grep -qE "^(PASS $name \(|FAIL $name:)" "$1" || echo "$name"
    done
}

# Leaves out what Xen and the guests' firmware say, except panics, unless it has been asked for: the log has it.
readable() {
    if ((VERBOSE)); then
        cat
    else
        sed -uE '/PANIC|[Pp]anic/b; /^ *[0-9.]+  (\(XEN\)|\(d[0-9]+\)|mapping kernel|about to get)/d'
    fi
}

# The end of the log, with Xen's messages: what a crash leaves.
show_end() {
    if ((!VERBOSE)); then
        echo "The last lines of $VD_CACHE/last$BESIDE.log:"
        tail -n 25 "$VD_CACHE/last$BESIDE.log"
    fi
}

# crash WORK: how the machine ended, if it was not dom0 that ended it; else nothing.
crash() {
    if stood_still "$1"; then
        echo "the emulated machine stood still for $STILL s"
        return
    fi
    case $QEMU_STATUS in
        "$QEMU_STOPPED") ;;
        "$TIMED_OUT") echo "not finished after $LIMIT s" ;;
        *) echo "Xen or dom0 crashed (QEMU ended with status $QEMU_STATUS)" ;;
    esac
}

# verdict WORK: the exit status of the run.
verdict() {
    local trouble
    trouble=$(crash "$1")
    if [[ $MODE == scenario ]]; then
        judge_scenarios "$1/results" "$trouble"
    else
        judge_commands "$1/results" "$trouble"
    fi
}

judge_commands() {
    local status trouble=$2
    status=$(sed -n 's/^status \([0-9]*\)\r*$/\1/p' "$1")
    if [[ -n $trouble || -z $status ]]; then
        show_end
        die "${trouble:-dom0 has reported no status}"
    fi
    return "$status"
}

judge_scenarios() {
    local name passed=0 failed=0 trouble=$2
    [[ -z $trouble ]] || show_end
    for name in "${SCENARIOS[@]}"; do
        if grep -q "^PASS $name (" "$1"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            # dom0 has printed its own failures.
            grep -q "^FAIL $name:" "$1" || echo "FAIL $name: ${trouble:-no result}"
        fi
    done
    if [[ -n $trouble ]]; then
        echo "$passed passed, $failed failed"
        return 1
    fi
    ((failed == 0)) || {
        echo "The whole log, with Xen's messages: $VD_CACHE/last$BESIDE.log"
        return 1
    }
}
