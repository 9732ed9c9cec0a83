# shellcheck shell=bash
# vd.run=scenario: runs the scenarios that /lab/request names, one a line, and reports one line for each:
# "PASS NAME (SECONDS s)" or "FAIL NAME: REASON".

export REASON=/run/reason
SCENARIO_SECONDS=180
passed=0 failed=0

# How long a scenario may take: its own line "# timeout: SECONDS", or the default, times SLOWNESS. With a number of rounds
# that somebody has asked for nobody knows.
limit_of() {
    local own
    if [[ -s /lab/rounds && -n $(</lab/rounds) ]]; then
        printf '%s\n' 7200
        return
    fi
    own=$(sed -n 's/^# timeout: *\([0-9]*\).*/\1/p' "/lab/scenarios/$1.sh")
    printf '%s\n' "$((SLOWNESS * ${own:-$SCENARIO_SECONDS}))"
}

# Destroys what a scenario has left behind, so that the next one starts in the same place.
clean_up() {
    local domain
    for domain in $(xl list | awk 'NR > 1 && $2 != 0 { print $2 }'); do
        # It may be about to go by itself.
        xl destroy "$domain" 2>/dev/null
    done
    rm -rf /run/vdom/* /root/*.img /var/log/xen/console/*
}

# What the consoles of a failed scenario's domains say last.
show_consoles() {
    local file
    for file in /var/log/xen/console/*.log; do
        [[ -s $file ]] || continue
        echo "--- the end of $file"
        tail -n 30 "$file"
    done
}

run_scenario() {
    local name=$1 limit start status=0 seconds verdict
    limit=$(limit_of "$name")
    start=${EPOCHREALTIME/./}
    rm -f "$REASON"
    echo "=== $name"
    timeout --kill-after=5 "$limit" bash /lab/run-scenario.sh "$name" &
    wait $! || status=$?
    # Whatever the scenario has left running in the background.
    kill -- -$! 2>/dev/null
    seconds=$(((${EPOCHREALTIME/./} - start) / 100000))
    if ((status == 0)); then
        verdict="PASS $name ($((seconds / 10)).$((seconds % 10)) s)"
        passed=$((passed + 1))
    else
        ((status != 124 && status != 137)) || echo "not finished after $limit s" >"$REASON"
        verdict="FAIL $name: $(head -n 1 "$REASON" 2>/dev/null || echo "exit status $status")"
        failed=$((failed + 1))
        show_consoles
    fi
    echo "$verdict"
    report "$verdict"
}

while read -r name; do
    run_scenario "$name"
    clean_up
done </lab/request
echo "$passed passed, $failed failed"
