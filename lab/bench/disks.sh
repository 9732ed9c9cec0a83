# shellcheck shell=bash
# Measures disks in the memory of whoever serves them, side by side in one guest: the driver domain's in three ways, QEMU's
# virtio-blk-pci, and Xen's PV disk of dom0's kernel. VD_BENCH_PART says what: "counts" is for a machine whose time stamp
# counter counts instructions (./run-qemu.sh --icount), "times" for one where it does not, "vcpus" for one with two CPUs (--cpus 2).
# Prints a table between lines "BEGIN NAME" and "END NAME".
#
# Counts: of each kind of load so many requests more than few, each disk for itself. Times: for each kind of load all disks in
# turn, ROUNDS times over, so that whatever slows the machine down meets all of them. VCPUs: how much of the time that of the
# driver domain is busy when it has a CPU for itself: more of them have no more to take over.

PART=${VD_BENCH_PART:-counts} ROUNDS=${VD_BENCH_ROUNDS:-5} SECONDS_EACH=${VD_BENCH_SECONDS:-2} FEW=64 MIB=64
read -ra DISKS <<<"${VD_BENCH_DISKS:-driver posted memory qemu pv}"
read -ra SIZES <<<"${VD_BENCH_SIZES:-4096 131072}"
# Depth, and how many are submitted at once.
DEPTHS=('1 1' '4 1' '32 1' '32 16')

# shellcheck source=lab/bench/counted.sh
source /lab/scenarios/counted.sh

step "a guest with five disks of $MIB MiB"
modprobe brd rd_nr=1 rd_size=$((MIB * 1024))
# In the file system that is memory: one copy from QEMU to its page. Direct I/O of a guest's pages to a RAM disk fails.
truncate -s ${MIB}M /run/qemu.img
# The PV drivers do not have the emulated disk taken away.
cmdline="$(sed -n 's/^cmdline = "\(.*\)vd.job=.*/\1/p' /root/examples/guest.cfg)xen_emul_unplug=unnecessary vd.job=bench"
# Reading the time stamp counter would be an exit, on a host that says nothing of its being invariant.
expect_ok vdom create "$(guest_config bench bench "cmdline = \"$cmdline\""  'memory = 512' '-vdom_ramdisk' 'tsc_mode = "native"' \
    "vdom_devices = [ \"type=blk,backend=ram:${MIB}M,serial=driver,doorbell=mmio\",
        \"type=blk,backend=ram:${MIB}M,serial=posted\",
        \"type=blk,backend=ram:${MIB}M,serial=memory,registers=memory\" ]" \
    'disk = [ "format=raw,vdev=xvda,access=rw,target=/dev/ram0" ]' \
    'device_model_args_hvm = [ "-drive", "file=/run/qemu.img,if=none,id=q,format=raw,cache=writeback,aio=threads",
        "-device", "virtio-blk-pci,drive=q,serial=qemu" ]')"
wait_for 60 "the guest is ready" console_says bench '^guest: ready'
grep -a '^guest: disk' "$(console bench)"
[[ $(grep -ac '^guest: disk' "$(console bench)") == 5 ]] || fail "a disk is missing"
xl list

exec {CONSOLE}< <(trap - ERR && exec tail -n +1 --follow "$(console bench)")

# name_of SIZE 'DEPTH BATCH': a kind of load, in words.
name_of() {
    local batch=${2#* }
    echo "$(($1 / 1024)) KiB, depth ${2% *}$( ((batch == 1)) || echo ", by $batch")"
}

# requests DISK SIZE DEPTH: how many are counted. Of the larger ones a disk has 512; QEMU takes a hundred times as long for each,
# and there is less to one of many at once than a clock of milliseconds shows.
requests() {
    if (($2 > 4096)) || [[ $1 == qemu ]]; then
        echo 448
    elif (($3 == 1)) || [[ $1 == driver ]]; then
        echo 1024
    else
        echo 8192
    fi
}

# cost_of NUMBER MODE SIZE 'DEPTH BATCH' DISK: what so many requests cost, as costs says it, and fio's milliseconds.
cost_of() {
    counted bench load "$2" "$3" "$4" "ios=$1" "$5"
    local words
    read -ra words <<<"${LINES[0]}"
    echo "$(costs bench) $((words[2] / 1000))"
}

counts() {
    local mode=randread size depth disk
    for size in "${SIZES[@]}"; do
        for depth in "${DEPTHS[@]}"; do
            for disk in "${DISKS[@]}"; do
                REQUESTS=$(requests "$disk" "$size" "${depth% *}")
                cost_of $FEW "$mode" "$size" "$depth" "$disk" >/run/few
                cost_of $((FEW + REQUESTS)) "$mode" "$size" "$depth" "$disk" >/run/many
                echo "| ${mode#rand}, $(name_of "$size" "$depth") | $disk | $(per_request /run/few /run/many)" | tee -a /run/counts
            done
        done
    done
}

times() {
    local round mode size depth line
    for ((round = 1; round <= ROUNDS; round++)); do
        # Another one goes first in each round.
        DISKS=("${DISKS[@]:1}" "${DISKS[0]}")
        for mode in randread randwrite; do
            for size in "${SIZES[@]}"; do
                for depth in "${DEPTHS[@]}"; do
                    load "$mode" "$size" "$depth" "time=$SECONDS_EACH" "${DISKS[@]}"
                    for line in "${LINES[@]}"; do
                        echo "${mode#rand}, $(name_of "$size" "$depth") $line"
                    done >>/run/times
                done
            done
        done
        step "round $round of $ROUNDS"
    done
}

vcpus() {
    local round size depth disk words shares mhz
    mhz=$(xl info | awk '$1 == "cpu_mhz" { printf "%d", $3 }')
    xl vcpu-pin 0 all 0
    xl vcpu-pin bench all 0
    xl vcpu-pin bench-vd all 1
    for size in "${SIZES[@]}"; do
        for depth in '1 1' '32 1' '32 16'; do
            for disk in posted memory; do
                shares=()
                for ((round = 1; round <= ROUNDS; round++)); do
                    counted bench load randread "$size" "$depth" "time=$SECONDS_EACH" "$disk"
                    read -ra words <<<"${LINES[0]}"
                    shares+=($(($(busy "$(xl domid bench-vd)") * 100 / (mhz * words[2]))))
                done
                mapfile -t shares < <(printf '%s\n' "${shares[@]}" | sort -n)
                echo "| read, $(name_of "$size" "$depth") | $disk | ${shares[(ROUNDS - 1) / 2]} (${shares[0]}-${shares[ROUNDS - 1]}) |" | tee -a /run/counts
            done
        done
    done
}

: >/run/counts
: >/run/times
case $PART in
    counts)
        step "what one request costs"
        counts
        counts_table counts load disk
        ;;
    vcpus)
        step "how busy the driver domain's vCPU is with a CPU for itself, $ROUNDS rounds of $SECONDS_EACH s"
        vcpus
        echo "BEGIN vcpus"
        echo "| load | disk | % of the time |"
        echo "|---|---|---|"
        cat /run/counts
        echo "END vcpus"
        ;;
    times)
        step "times: requests a second, $ROUNDS rounds of $SECONDS_EACH s"
        times
        # The last three words are a disk's name, requests and microseconds.
        awk -v OFS='\t' '{ name = $(NF - 2); rate = $(NF - 1) * 1000000 / $NF; NF -= 3; gsub(OFS, " "); print $0, name, rate }' \
            /run/times | medians "driver posted memory qemu pv" "driver,posted,memory/qemu driver,posted,memory/pv" >/run/table
        echo "BEGIN times"
        echo "| load | driver domain | posted | memory | QEMU | PV | best of ours / QEMU | / PV |"
        echo "|---|---|---|---|---|---|---|---|"
        cat /run/table
        echo "END times"
        ;;
esac

step "the end"
type_at bench end
wait_for_end 20 bench
wait_for_end 20 bench-vd
expect_ok vdom destroy bench
