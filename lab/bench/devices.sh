# shellcheck shell=bash
# What a request costs when a guest has more devices: sectors of the first disk are read one by one, with 1, 8, 16 and
# 32 devices there. Prints a table between lines "BEGIN devices" and "END devices". With ./run-qemu.sh --icount a cycle is an
# instruction of the machine, whoever's it is.

REQUESTS=200

# value NAME: a counter of the driver domain, as it is now.
value() {
    vdom stats many | awk -v name="$1" '$1 == name { print $2 }'
}

settled() { [[ $(value device-0-requests) == "$1" ]]; }
has_probed() { console_says many '^guest: probe vda'; }

: >/run/table
for number in 1 8 16 32; do
    step "$number devices"
    devices=''
    for ((index = 0; index < number; index++)); do
        devices+="\"type=blk,backend=ram:1M,serial=D$index\", "
    done
    rm -f "$(console many)" "$(console many-vd)"
    expect_ok vdom create "$(guest_config many probe -vdom_ramdisk "vdom_devices = [ ${devices%, } ]")"
    wait_for 300 "the guest is ready" console_says many '^guest: ready'
    sleep 3
    row="| $number |"
    served=$(value device-0-requests)
    counters=(register-reads posted-doorbells posted-writes hypercall-13 allocations-in-passes)
    before=()
    for name in "${counters[@]}"; do before+=("$(value "$name")"); done
    type_at many "vda $REQUESTS"
    wait_for 300 "the probe" has_probed
    wait_for 60 "counters after" settled $((served + REQUESTS))
    for index in "${!counters[@]}"; do
        row+=" $(each $(($(value "${counters[index]}") - before[index]))) |"
    done
    row+=" $(sed -n 's/^guest: probe vda .*: \(.*\) thousand cycles.*/\1/p' "$(console many)" | tr / '|') |"
    row+=" $(value cycles-to-boot) | $(value cycles-to-attach) |"
    echo "$row" | tee -a /run/table
    type_at many end
    wait_for_end 60 many
    wait_for_end 60 many-vd
    expect_ok vdom destroy many
done
echo "BEGIN devices"
echo "| devices | status reads | posted doorbells | other posted writes | multicalls | blocks of heap | thousand cycles: 1st percentile | median | 95th | until it waits | to attach |"
echo "|---|---|---|---|---|---|---|---|---|---|---|"
cat /run/table
echo "END devices"
