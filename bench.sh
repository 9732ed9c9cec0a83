#!/usr/bin/env bash
# Measures the driver domain's disks beside QEMU's and Xen's PV disk, and its network devices beside Xen's PV interface, each in
# one guest under nested Xen; prints tables and writes them to docs/performance.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'END'
Usage: ./bench.sh [--only disks|nets] [--part counts|times|vcpus] [--rounds N] [--seconds N] [--print]
  --only KIND   disks, or nets, instead of both
  --part PART   counts, in a machine whose clock counts instructions, times, in one where it does not, or vcpus, how busy the
                driver domain is with a CPU of its own (disks only), instead of all
  --rounds N    time each load N times (default: 5)
  --seconds N   for so long on each disk (default: 2)
  --print       print the tables, and leave docs/performance.md as it is
Counts take a quarter of an hour, whatever else runs on the machine. Times take five minutes and another three for each
round, and nothing else should run.
END
}

number() {
    [[ ${1-} =~ ^[1-9][0-9]*$ ]] || {
        echo "bench.sh: --rounds and --seconds need a number" >&2
        exit 2
    }
    echo "$1"
}

ROUNDS=5 EACH=2 WRITE=1 KINDS=(disks nets) PARTS=(counts times vcpus)
while (($#)); do
    case $1 in
        --rounds) ROUNDS=$(number "${2-}") && shift ;;
        --seconds) EACH=$(number "${2-}") && shift ;;
        --only)
            [[ ${2-} == disks || ${2-} == nets ]] || { usage >&2 && exit 2; }
            KINDS=("$2")
            shift
            ;;
        --part)
            [[ ${2-} == counts || ${2-} == times || ${2-} == vcpus ]] || { usage >&2 && exit 2; }
            PARTS=("$2")
            shift
            ;;
        --print) WRITE=0 ;;
        --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

LOG=$(mktemp)
trap 'rm -f "$LOG" "$LOG.one"' EXIT

# table NAME: what the log has between lines "BEGIN NAME" and "END NAME", without the times in front, and its head once.
table() {
    sed -nE "s/^ *[0-9.]+  //; /^BEGIN $1$/,/^END $1$/{ /^(BEGIN|END) /d; p }" "$LOG" | awk '!seen[$0]++'
}

# replace NAME: puts a table into the document, between its marks.
replace() {
    local text
    text=$(table "$1")
    awk -v name="$1" -v text="$text" '
        $0 == "<!-- end of " name " -->" { inside = 0 }
        !inside { print }
        $0 == "<!-- begin of " name " -->" { inside = 1; print ""; print text; print "" }
    ' docs/performance.md >"$LOG.md"
    cp "$LOG.md" docs/performance.md
    rm "$LOG.md"
}

# boot KIND VARIABLE=VALUE... -- OPTION...: a machine that measures that; LOG gets more.
boot() {
    local kind=$1 set=() try
    shift
    while [[ $1 != -- ]]; do set+=("$1") && shift; done
    shift
    # The emulated machine may stand still: see lab/host/watch.sh. Its last state is in the log then.
    for try in 1 2 3; do
        # The machine before may not have let go of the lab yet.
        sleep 3
        if ./run-qemu.sh "$@" --timeout 7200 --keep-log "$LOG.one" \
            --exec "VD_BENCH_ROUNDS=$ROUNDS VD_BENCH_SECONDS=$EACH ${set[*]} bash /lab/run-scenario.sh $kind"; then
            cat "$LOG.one" >>"$LOG"
            return
        fi
        grep -q '^--- info lapic' "$LOG.one" && ((try < 3)) || exit 1
        echo "bench.sh: once more"
    done
}

# measure KIND PART: the table is called as both say: "net times", but "times" of disks.
measure() {
    local kind=$1 part=$2 name=$2 size
    [[ $kind == disks ]] || name="${kind%s} $part"
    : >"$LOG"
    case "$kind $part" in
        'disks counts')
            # A boot for each: what is lost by one that stands still is less.
            for size in 4096 131072; do
                boot disks VD_BENCH_PART=counts VD_BENCH_SIZES=$size -- --icount
            done
            ;;
        'disks vcpus') boot disks VD_BENCH_PART=vcpus -- --cpus 2 ;;
        *' vcpus') return ;;
        *' counts') boot "$kind" VD_BENCH_PART=counts -- --icount ;;
        *) boot "$kind" VD_BENCH_PART=times -- ;;
    esac
    [[ -n $(table "$name") ]] || {
        echo "bench.sh: the log has no table \"$name\"" >&2
        exit 1
    }
    ((!WRITE)) || replace "$name"
}

for part in "${PARTS[@]}"; do
    for kind in "${KINDS[@]}"; do
        measure "$kind" "$part"
    done
done
((!WRITE)) || echo "docs/performance.md has these tables"
