# shellcheck shell=bash
# Measures disks in the driver domain's memory whose register writes are posted, with registers that are read from the device
# and with registers in the guest's memory, beside Xen's PV disk of dom0's kernel; in one guest. Prints tables between lines
# "BEGIN NAME" and "END NAME".

ROUNDS=${VD_BENCH_ROUNDS:-5} SECONDS_EACH=${VD_BENCH_SECONDS:-2} REQUESTS=512 MIB=32
DISKS=(posted memory pv)
# Depth, and how many are submitted at once.
DEPTHS=('1 1' '4 1' '32 1' '32 16')

# shellcheck source=lab/bench/counted.sh
source /lab/scenarios/counted.sh

step "a guest with three disks of $MIB MiB"
modprobe brd rd_nr=1 rd_size=$((MIB * 1024))
expect_ok vdom create "$(guest_config bench bench 'memory = 512' '-vdom_ramdisk' 'tsc_mode = "native"' \
    "vdom_devices = [ \"type=blk,backend=ram:${MIB}M,serial=posted\",
        \"type=blk,backend=ram:${MIB}M,serial=memory,registers=memory\" ]" \
    'disk = [ "format=raw,vdev=xvda,access=rw,target=/dev/ram0" ]')"
wait_for 60 "the guest is ready" console_says bench '^guest: ready'
grep -a '^guest: disk' "$(console bench)"
[[ $(grep -ac '^guest: disk' "$(console bench)") == "${#DISKS[@]}" ]] || fail "a disk is missing"

exec {CONSOLE}< <(trap - ERR && exec tail -n +1 --follow "$(console bench)")

step "what one request costs, in counts, of $REQUESTS"
: >/run/counts
for depth in "${DEPTHS[@]}"; do
    for disk in "${DISKS[@]}"; do
        counted bench load randread 4096 "$depth" "ios=$REQUESTS" "$disk"
        printf '| depth %s | %s | %s\n' "${depth% *}$([[ $depth == *' 1' ]] || echo ", by ${depth#* }")" "$disk" \
            "$(costs bench)" | tee -a /run/counts
    done
done
counts_table "read counts" load disk

step "times: requests a second, $ROUNDS rounds of $SECONDS_EACH s"
: >/run/times
for ((round = 1; round <= ROUNDS; round++)); do
    # Another one goes first in each round.
    DISKS=("${DISKS[@]:1}" "${DISKS[0]}")
    for mode in randread randwrite; do
        for depth in "${DEPTHS[@]}"; do
            load "$mode" 4096 "$depth" "time=$SECONDS_EACH" "${DISKS[@]}"
            printf "$mode $depth %s\n" "${LINES[@]}" >>/run/times
        done
    done
    step "round $round of $ROUNDS"
done
awk -v OFS='\t' '{
    load = ($1 == "randread" ? "read" : "write") ", depth " $2 ($3 > 1 ? ", by " $3 : "")
    print load, $4, $5 * 1000000 / $6
}' /run/times | medians "posted memory pv" "memory/posted memory/pv" >/run/table
echo "BEGIN read times"
echo "| load | posted | registers in memory | PV | in memory / posted | / PV |"
echo "|---|---|---|---|---|---|"
cat /run/table
echo "END read times"

step "the end"
type_at bench end
wait_for_end 20 bench
wait_for_end 20 bench-vd
expect_ok vdom destroy bench
