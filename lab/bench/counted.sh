# shellcheck shell=bash
# Helpers of the benches: what was counted while something ran, and tables of what was timed. Rates are for each of REQUESTS.

# values GUEST: its driver domain's counters, as "NAME VALUE". It publishes them twice a second when it is idle.
values() {
    sleep 1.3
    vdom stats "$1"
}

# counted GUEST COMMAND...: what its driver domain counts, and what Xen traces of all domains, while the command runs.
counted() {
    local guest=$1 tracer
    shift
    values "$guest" >/run/before
    # Exits and scheduling.
    xentrace -D -e 0x000a1000 -S 1024 /run/trace >/run/xentrace.log 2>&1 &
    tracer=$!
    sleep 0.5
    "$@"
    kill -INT $tracer
    wait $tracer || true
    values "$guest" >/run/after
    xenalyze -s /run/trace >/run/analysis 2>/dev/null
}

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

# busy DOMAIN: cycles that a domain has run, with what Xen did for it: how often it ran, by how long in the mean.
busy() {
    awk -v domain="$1" '
        $1 == "|--" { ours = ($3 == domain) }
        ours && $1 == "full" && $2 == "run:" { sum += $3 * $5 }
        END { printf "%.0f", sum }
    ' /run/analysis
}

# medians NAMES RATIOS: rows of a table from lines "LOAD<tab>NAME<tab>VALUE" (more is better), in the order in which loads
# come first: the median, least and most of each name, and ratios of medians. A ratio is written "A,B/C": the better of A
# and B over C.
medians() {
    awk -F '\t' -v names="$1" -v ratios="$2" '
        # Sorts the numbers of a list of words.
        function sorted(words, list,   count, i, j, swap) {
            count = split(words, list, " ")
            for (i = 2; i <= count; i++)
                for (j = i; j > 1 && list[j - 1] + 0 > list[j] + 0; j--) { swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap }
            return count
        }
        function cell(load, name,   list, count) {
            count = sorted(all[load, name], list)
            median[name] = 0
            if (!count) return "-"
            median[name] = list[int((count + 1) / 2)]
            return sprintf("%d (%d-%d)", median[name], list[1], list[count])
        }
        function best(words,   list, i, most) {
            most = 0
            for (i = split(words, list, ","); i; i--) if (median[list[i]] > most) most = median[list[i]]
            return most
        }
        { if (!($1 in seen)) { seen[$1] = 1; order[++loads] = $1 }
          all[$1, $2] = all[$1, $2] " " $3 }
        END {
            columns = split(names, column, " ")
            pairs = split(ratios, pair, " ")
            for (i = 1; i <= loads; i++) {
                row = "| " order[i] " |"
                for (c = 1; c <= columns; c++) row = row " " cell(order[i], column[c]) " |"
                for (c = 1; c <= pairs; c++) { split(pair[c], side, "/"); row = row (median[side[2]] ? sprintf(" %.2f |", best(side[1]) / median[side[2]]) : " - |") }
                print row
            }
        }
    '
}

# ran DOMAIN: how often it had a turn.
ran() {
    awk -v domain="$1" '
        $1 == "|--" { ours = ($3 == domain) }
        ours && $1 == "full" && $2 == "run:" { sum += $3 }
        END { print sum + 0 }
    ' /run/analysis
}

# costs GUEST: what was counted, and how long the guest, its driver domain and dom0 have run. A line of numbers.
costs() {
    local guest driver
    guest=$(xl domid "$1") driver=$(xl domid "$1-vd")
    echo "$(grown doorbells register-reads register-writes) $(grown hypercall-13 hypercall-20 hypercall-32 hypercall-41)" \
        "$(grown hypercall-32) $(grown lines-raised lines-lowered) $(grown bytes-to-guest bytes-from-guest)" \
        "$(traced "$guest" NPF IOIO) $(traced "$guest" VMMCALL) $(traced "$guest" VMEXIT) $(ran "$driver") $(busy "$driver") $(busy 0) $(busy "$guest")"
}

# The columns of a table of counts behind its first two, as COSTS_HEAD and as per_request prints them: between two lines
# of costs, for each of REQUESTS. Cycles are instructions here. What comes last are milliseconds of everything.
COSTS_HEAD="synchronous ioreqs | hypercalls of the driver domain | of them for events | dm_ops, in \
hypercalls or multicalls | bytes copied | guest: exits for a register | guest: hypercalls | guest: all exits | turns of the driver domain | thousand \
instructions of the driver domain | of dom0 | of the guest | all |"
per_request() {
    paste -d ' ' "$1" "$2" | awk -v requests="$REQUESTS" '{
        for (i = 1; i <= NF / 2; i++) each[i] = ($(NF / 2 + i) - $i) / requests
        for (i = 1; i <= 9; i++) printf (i == 5 ? "%.0f | " : "%.2f | "), each[i]
        printf "%.1f | %.1f | %.1f | %.1f |\n", each[10] / 1000, each[11] / 1000, each[12] / 1000, each[13] * 1000
    }'
}

# counts_table NAME FIRST SECOND: what is in /run/counts, with these first two columns.
counts_table() {
    echo "BEGIN $1"
    echo "| $2 | $3 | $COSTS_HEAD"
    echo '|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|'
    cat /run/counts
    echo "END $1"
}
