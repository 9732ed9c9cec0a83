# shellcheck shell=bash
# Measures disks in the memory of whoever serves them, side by side in one guest: the driver domain's in two ways, QEMU's
# virtio-blk-pci, and Xen's PV disk of dom0's kernel. Prints tables between lines "BEGIN NAME" and "END NAME".
#
# First counts, of a fixed number of requests with nothing else going on. Then times: for each kind of load all disks in
# turn, ROUNDS times over, so that whatever slows the machine down meets all of them.

ROUNDS=${VD_BENCH_ROUNDS:-5} SECONDS_EACH=${VD_BENCH_SECONDS:-2} REQUESTS=512 MIB=64
DISKS=(driver posted qemu pv)
SIZES=(4096 131072)
# Depth, and how many are submitted at once.
DEPTHS=('1 1' '4 1' '32 1' '32 16')

# shellcheck source=lab/bench/counted.sh
source /lab/scenarios/counted.sh

step "a guest with four disks of $MIB MiB"
modprobe brd rd_nr=1 rd_size=$((MIB * 1024))
# In the file system that is memory: one copy from QEMU to its page. Direct I/O of a guest's pages to a RAM disk fails.
truncate -s ${MIB}M /run/qemu.img
# The PV drivers do not have the emulated disk taken away.
cmdline="$(sed -n 's/^cmdline = "\(.*\)vd.job=.*/\1/p' /root/examples/guest.cfg)xen_emul_unplug=unnecessary vd.job=bench"
# Reading the time stamp counter would be an exit, on a host that says nothing of its being invariant.
expect_ok vdom create "$(guest_config bench bench "cmdline = \"$cmdline\""  'memory = 512' '-vdom_ramdisk' 'tsc_mode = "native"' \
    "vdom_devices = [ \"type=blk,backend=ram:${MIB}M,serial=driver,doorbell=mmio\",
        \"type=blk,backend=ram:${MIB}M,serial=posted\" ]" \
    'disk = [ "format=raw,vdev=xvda,access=rw,target=/dev/ram0" ]' \
    'device_model_args_hvm = [ "-drive", "file=/run/qemu.img,if=none,id=q,format=raw,cache=writeback,aio=threads",
        "-device", "virtio-blk-pci,drive=q,serial=qemu" ]')"
wait_for 60 "the guest is ready" console_says bench '^guest: ready'
grep -a '^guest: disk' "$(console bench)"
[[ $(grep -ac '^guest: disk' "$(console bench)") == 4 ]] || fail "a disk is missing"
xl list

exec {CONSOLE}< <(trap - ERR && exec tail -n +1 --follow "$(console bench)")

step "what one request costs, in counts, of $REQUESTS"
: >/run/counts
for size in "${SIZES[@]}"; do
    for depth in "${DEPTHS[@]}"; do
        for disk in "${DISKS[@]}"; do
            counted bench load randread "$size" "$depth" "ios=$REQUESTS" "$disk"
            printf '| %s KiB, depth %s | %s | %s\n' $((size / 1024)) \
                "${depth% *}$([[ $depth == *' 1' ]] || echo ", by ${depth#* }")" "$disk" "$(costs bench)" | tee -a /run/counts
        done
    done
done
counts_table counts load disk

step "times: requests a second, $ROUNDS rounds of $SECONDS_EACH s"
: >/run/times
for ((round = 1; round <= ROUNDS; round++)); do
    # Another one goes first in each round.
    DISKS=("${DISKS[@]:1}" "${DISKS[0]}")
    for mode in randread randwrite; do
        for size in "${SIZES[@]}"; do
            for depth in "${DEPTHS[@]}"; do
                load "$mode" "$size" "$depth" "time=$SECONDS_EACH" "${DISKS[@]}"
                printf "$mode $size $depth %s\n" "${LINES[@]}" >>/run/times
            done
        done
    done
    step "round $round of $ROUNDS"
done
awk -v OFS='\t' '{
    load = ($1 == "randread" ? "read" : "write") ", " $2 / 1024 " KiB, depth " $3 ($4 > 1 ? ", by " $4 : "")
    print load, $5, $6 * 1000000 / $7
}' /run/times | medians "driver posted qemu pv" "driver,posted/qemu driver,posted/pv" >/run/table
echo "BEGIN times"
echo "| load | driver domain | posted | QEMU | PV | better of ours / QEMU | / PV |"
echo "|---|---|---|---|---|---|---|"
cat /run/table
echo "END times"

step "the end"
type_at bench end
wait_for_end 20 bench
wait_for_end 20 bench-vd
expect_ok vdom destroy bench
