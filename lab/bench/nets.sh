# shellcheck shell=bash
# Measures network interfaces on one bridge of dom0's, side by side in one guest: a virtio-net device whose driver domain
# has a PV interface there, and a PV interface of the guest's own. VD_BENCH_PART says what, "counts" or "times"
# (as for disks); prints a table between lines "BEGIN NAME" and "END NAME".
#
# What the driver domain is compared with it also stands on: its frames go through dom0's netback, too. The difference is
# what virtio for a guest without PV drivers costs.

PART=${VD_BENCH_PART:-counts} ROUNDS=${VD_BENCH_ROUNDS:-5} MIB=8 PINGS=100
NICS=(driver pv)
declare -A ADDRESS=([driver]=10.1.0.11 [pv]=10.1.0.12)
# For "each": MiB.
REQUESTS=$MIB

# shellcheck source=lab/bench/counted.sh
source /lab/scenarios/counted.sh

# asked COMMAND: has the guest do it; its answer is left in ANSWER.
asked() {
    local before
    before=$(answers)
    type_at nets "$1"
    wait_for 120 "the answer to $1" has_answers $((before + 1))
    ANSWER=$(sed -n 's/^guest: nets: //p' "$(console nets)" | tail -n 1 | tr -d '\r')
    [[ $ANSWER =~ ^[0-9]+$ ]] || fail "$1: $ANSWER"
}

answers() { grep -ac '^guest: nets: ' "$(console nets)" || true; }

has_answers() { (($(answers) >= $1)); }

# receive NIC, send NIC: milliseconds for so many MiB of a TCP stream, in ANSWER.
receive() { asked "receive $1"; }

send() {
    local began=${EPOCHREALTIME/./}
    expect_ok wget -q -O /run/got "http://${ADDRESS[$1]}/bulk"
    ANSWER=$(((${EPOCHREALTIME/./} - began) / 1000))
    cmp /run/got /run/www/bulk || fail "$1 has sent something else"
}

step "a guest with a virtio-net device and a PV interface on one bridge"
bridge_with_files "$MIB"
sed -e 's/"uplink"/"nets"/; s/vd.job=uplink/vd.job=nets/; s/^memory.*/memory = 512/' \
    -e '/^vdom_devices/,/\]/d' /root/examples/uplink.cfg >/root/nets.cfg
cat >>/root/nets.cfg <<'END'
vdom_devices = [ "type=net,backend=vif:0,mac=00:16:3e:00:00:01,doorbell=posted" ]
vif = [ "type=vif,bridge=xenbr0,mac=00:16:3e:00:00:02" ]
END
expect_ok vdom create /root/nets.cfg
wait_for 60 "the guest is ready" console_says nets '^guest: ready'
xl list

counts() {
    local how nic
    # Nothing is taken off: what begins and ends a connection is little beside so many MiB.
    echo "0 0 0 0 0 0 0 0 0 0 0 0 0" >/run/few
    for how in receive send; do
        for nic in "${NICS[@]}"; do
            # The guest's memory is mapped with its first touch, once.
            $how "$nic"
            counted nets $how "$nic"
            echo "$(costs nets) $ANSWER" >/run/many
            echo "| $how | $nic | $(per_request /run/few /run/many)" | tee -a /run/counts
        done
    done
}

times() {
    local round how nic
    for ((round = 1; round <= ROUNDS; round++)); do
        # The other one goes first in each round.
        NICS=("${NICS[@]:1}" "${NICS[0]}")
        for nic in "${NICS[@]}"; do
            for how in receive send; do
                $how "$nic"
                printf '%s, KiB/s\t%s\t%s\n' $how "$nic" $((MIB * 1024 * 1000 / ANSWER)) >>/run/times
            done
            asked "ping $nic $PINGS"
            printf 'round trips of 64 bytes, one at a time, a second\t%s\t%s\n' "$nic" $((PINGS * 1000 / ANSWER)) >>/run/times
        done
        step "round $round of $ROUNDS"
    done
}

: >/run/counts
: >/run/times
case $PART in
    counts)
        step "what a MiB of a TCP stream costs, of $MIB"
        counts
        counts_table "net counts" load interface
        ;;
    times)
        step "times, $ROUNDS rounds"
        times
        medians "driver pv" "driver/pv" </run/times >/run/table
        echo "BEGIN net times"
        echo "| load | driver domain | PV | driver domain / PV |"
        echo "|---|---|---|---|"
        cat /run/table
        echo "END net times"
        ;;
esac

step "the end"
type_at nets end
wait_for_end 20 nets
wait_for_end 20 nets-vd
expect_ok vdom destroy nets
