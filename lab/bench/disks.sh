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

# load MODE SIZE 'DEPTH BATCH' LIMIT NAME...: has the guest do it, and sets LINES to what each disk gave: "NAME REQUESTS
# MICROSECONDS". Waits without work: dom0 has the same CPU as all others.
load() {
    local line
    LINES=()
    type_at bench "$*"
    while IFS= read -r -t 600 -u "$CONSOLE" line; do
        line=${line%$'\r'}
        case $line in
            'guest: bench end') break ;;
            'guest: bench '*) LINES+=("${line#guest: bench }") ;;
        esac
    done
    [[ ${LINES[*]} != *FAILED* ]] || fail "$*: fio failed"
    ((${#LINES[@]} == $# - 4)) || fail "$*: ${LINES[*]:-no result}"
}

# values: the driver domain's counters, as "NAME VALUE". It publishes them twice a second when it is idle.
values() {
    sleep 1.3
    vdom stats bench
}

# grown NAME...: by how much those counters have grown, together.
grown() {
    awk -v names="$*" '
        BEGIN { split(names, list); for (i in list) wanted[list[i]] = 1 }
        FNR == NR { before[$1] = $2; next }
        ($1 in wanted) { sum += $2 - before[$1] }
        END { print sum + 0 }
    ' /run/before /run/after
}

# traced DOMAIN EXITS...: of xenalyze's summary, how often a domain has left for one of these reasons (parts of their names).
traced() {
    local domain=$1
    shift
    awk -v domain="$domain" -v names="$*" '
        $1 == "|--" { ours = ($3 == domain) }
        ours && /VMEXIT_/ { for (i = split(names, list, " "); i; i--) if ($1 ~ list[i]) { sum += $2; break } }
        END { print sum + 0 }
    ' /run/analysis
}

# busy DOMAIN: microseconds that a domain has run for each request.
busy() {
    awk -v domain="$1" -v requests="$REQUESTS" '
        $1 == "|--" { ours = ($3 == domain) }
        ours && $1 == "full" && $2 == "run:" { printf "%d", $4 * 1000000 / requests }
    ' /run/analysis
}

step "a guest with four disks of $MIB MiB"
modprobe brd rd_nr=1 rd_size=$((MIB * 1024))
# In the file system that is memory: one copy from QEMU to its page. Direct I/O of a guest's pages to a RAM disk fails.
truncate -s ${MIB}M /run/qemu.img
# The PV drivers do not have the emulated disk taken away.
cmdline="$(sed -n 's/^cmdline = "\(.*\)vd.job=.*/\1/p' /root/examples/guest.cfg)xen_emul_unplug=unnecessary vd.job=bench"
# Reading the time stamp counter would be an exit, on a host that says nothing of its being invariant.
expect_ok vdom create "$(guest_config bench bench "cmdline = \"$cmdline\""  'memory = 512' '-vdom_ramdisk' 'tsc_mode = "native"' \
    "vdom_devices = [ \"type=blk,backend=ram:${MIB}M,serial=driver\",
        \"type=blk,backend=ram:${MIB}M,serial=posted,doorbell=posted\" ]" \
    'disk = [ "format=raw,vdev=xvda,access=rw,target=/dev/ram0" ]' \
    'device_model_args_hvm = [ "-drive", "file=/run/qemu.img,if=none,id=q,format=raw,cache=writeback,aio=threads",
        "-device", "virtio-blk-pci,drive=q,serial=qemu" ]')"
wait_for 60 "the guest is ready" console_says bench '^guest: ready'
grep -a '^guest: disk' "$(console bench)"
[[ $(grep -ac '^guest: disk' "$(console bench)") == 4 ]] || fail "a disk is missing"
xl list

exec {CONSOLE}< <(trap - ERR && exec tail -n +1 --follow "$(console bench)")
guest=$(xl domid bench) driver=$(xl domid bench-vd)

step "what one request costs, in counts, of $REQUESTS"
: >/run/counts
for size in "${SIZES[@]}"; do
    for depth in "${DEPTHS[@]}"; do
        for disk in "${DISKS[@]}"; do
            values >/run/before
            # Exits and scheduling.
            xentrace -D -e 0x000a1000 -S 1024 /run/trace >/run/xentrace.log 2>&1 &
            tracer=$!
            sleep 0.5
            load randread "$size" "$depth" "ios=$REQUESTS" "$disk"
            kill -INT $tracer
            wait $tracer || true
            values >/run/after
            xenalyze -s /run/trace >/run/analysis 2>/dev/null
            printf '| %s KiB, depth %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' $((size / 1024)) \
                "${depth% *}$([[ $depth == *' 1' ]] || echo ", by ${depth#* }")" "$disk" \
                "$(each "$(grown doorbells register-reads register-writes)")" \
                "$(each "$(grown hypercall-13 hypercall-32 hypercall-41)")" \
                "$(each "$(traced "$guest" NPF IOIO)")" "$(each "$(traced "$guest" VMMCALL)")" \
                "$(busy "$driver")" "$(busy 0)" "$(busy "$guest")" | tee -a /run/counts
        done
    done
done
echo "BEGIN counts"
cat <<'END'
| load | disk | synchronous ioreqs | hypercalls of the driver domain | guest: exits for a register | guest: hypercalls | µs of the driver domain | µs of dom0 | µs of the guest |
|---|---|---|---|---|---|---|---|---|
END
cat /run/counts
echo "END counts"

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
awk '
    # Sorts the numbers of a list of words.
    function sorted(words, list,   count, i, j, swap) {
        count = split(words, list, " ")
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && list[j - 1] + 0 > list[j] + 0; j--) { swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap }
        return count
    }
    { load = $1 " " $2 " " $3 " " $4; if (!(load in seen)) { seen[load] = 1; order[++loads] = load }
      all[load, $5] = all[load, $5] " " $6 * 1000000 / $7 }
    function cell(load, disk,   list, count) {
        count = sorted(all[load, disk], list)
        median[disk] = list[int((count + 1) / 2)]
        return sprintf("%d (%d-%d)", median[disk], list[1], list[count])
    }
    END {
        for (i = 1; i <= loads; i++) {
            load = order[i]; split(load, part, " ")
            row = sprintf("| %s, %d KiB, depth %d%s |", part[1] == "randread" ? "read" : "write", part[2] / 1024, part[3],
                part[4] > 1 ? ", by " part[4] : "")
            for (d = 1; d <= split("driver posted qemu pv", disks, " "); d++) row = row " " cell(load, disks[d]) " |"
            best = median["posted"] > median["driver"] ? median["posted"] : median["driver"]
            printf "%s %.2f | %.2f |\n", row, best / median["qemu"], best / median["pv"]
        }
    }
' /run/times >/run/table
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
