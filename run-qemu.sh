#!/usr/bin/env bash
# Runs virtio-domain under Xen under QEMU: builds what is needed, boots Xen with a dom0, and runs scenarios there.
# See --help; the parts are in lab/host.
set -euo pipefail
shopt -s inherit_errexit

VD_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in common packages boot dom0 fio guest project overlay qemu watch verdict; do
    # shellcheck source=/dev/null
    source "$VD_ROOT/lab/host/$part.sh"
done

usage() {
    cat <<'END'
Usage: ./run-qemu.sh [OPTION]...
Boots Xen in QEMU (no KVM needed), starts a guest whose disk a driver domain serves, and tests it.
Without options it runs the scenario main-job; the exit status is 0 only if everything passed.

  --scenario NAME   run this scenario; can be given several times; "all" means all of them, "first" and "second"
                    the two halves that ./test.sh runs side by side
  --second          run beside another lab, for which there have to be two CPUs
  --list            list the scenarios
  --exec COMMANDS   run a shell script in dom0 and exit with its status
  --shell           a shell in dom0, on this terminal
  --rounds NUMBER   how often scenarios that repeat something do so, instead of what each has by itself
  --timeout SECONDS give up after this time (default: 600; no limit for --shell)
  --cpus NUMBER     so many physical CPUs (default: 1; with more, HVM guests do not always start here)
  --icount          let the time stamp counter count instructions, the same in every run; about five times slower
  --keep-log FILE   keep a copy of the log here; the last one is always .cache/lab/last.log
  --verbose         show Xen's messages too (the log always has them)
  --build           build everything, boot nothing
  --refresh         look for new versions of the Debian packages first
  --help            this text

The first run downloads about 200 MB of Debian packages and takes some minutes; what it makes is kept
in .cache/lab. What the host needs is in lab/packages.host; lab/setup-host.sh installs it.

Environment:
  VD_CACHE          the cache, instead of .cache/lab
  VD_MIRROR         the Debian mirror, instead of the one that the host uses
END
}

usage_error() {
    printf 'run-qemu.sh: %s (see --help)\n' "$*" >&2
    exit 2
}

scenarios() {
    local file
    for file in "$VD_LAB"/scenarios/*.sh; do
        basename "$file" .sh
    done
}

# half NAME: which half of the scenarios this one is of: its file says "# half: second", or nothing.
half() {
    local own
    own=$(sed -n 's/^# half: *\([a-z]*\).*/\1/p' "$VD_LAB/scenarios/$1.sh")
    printf '%s\n' "${own:-first}"
}

parse() {
    while (($#)); do
        case $1 in
            --help) usage && exit ;;
            --list) scenarios && exit ;;
            --shell) MODE=shell ;;
            --build) MODE=build ;;
            --second) BESIDE=-second ;;
            --refresh) REFRESH=1 ;;
            --verbose) VERBOSE=1 ;;
            --icount) ICOUNT=1 ;;
            --scenario | --exec | --rounds | --timeout | --keep-log | --cpus)
                (($# > 1)) || usage_error "$1 needs a value"
                parse_value "$1" "$2"
                shift
                ;;
            *) usage_error "unknown option $1" ;;
        esac
        shift
    done
}

parse_value() {
    case $1 in
        --scenario) add_scenario "$2" ;;
        --exec) MODE=exec COMMANDS=$2 ;;
        --keep-log) KEEP_LOG=$2 ;;
        --rounds)
            [[ $2 =~ ^[1-9][0-9]*$ ]] || usage_error "--rounds needs a number"
            ROUNDS=$2
            ;;
        --cpus)
            [[ $2 =~ ^[1-9]$ ]] || usage_error "--cpus needs a number from 1 to 9"
            CPUS=$2
            ;;
        --timeout)
            [[ $2 =~ ^[1-9][0-9]*$ ]] || usage_error "--timeout needs a number of seconds"
            LIMIT=$2
            ;;
    esac
}

add_scenario() {
    local name
    if [[ $1 == all ]]; then
        mapfile -t SCENARIOS < <(scenarios)
    elif [[ $1 == first || $1 == second ]]; then
        for name in $(scenarios); do
            if [[ $(half "$name") == "$1" ]]; then
                SCENARIOS+=("$name")
            fi
        done
    elif [[ -e $VD_LAB/scenarios/$1.sh ]]; then
        SCENARIOS+=("$1")
    else
        usage_error "no scenario $1; there are: $(scenarios | tr '\n' ' ')"
    fi
}

# Two labs at once would fight for the cache and starve each other of CPU time: a second one is for who asks for it, and
# waits for the first one to have built.
take_lock() {
    mkdir -p "$VD_CACHE"
    exec {lock}>"$VD_CACHE/lock$BESIDE" {building}>"$VD_CACHE/building"
    flock --nonblock "$lock" || die "another lab is running (it holds $VD_CACHE/lock$BESIDE)"
    flock "$building"
    # What an interrupted build or run has left.
    rm -rf "$VD_CACHE"/tmp"$BESIDE".*
    if ((REFRESH)); then
        rm -rf "$VD_CACHE"/packages-*
    fi
}

build() {
    "$VD_LAB/setup-host.sh"
    need_packages
    need_qemu
    need_boot
    need_dom0
    need_guest
    need_programs
    flock --unlock "$building"
}

main() {
    # shellcheck disable=SC2034 # LIMIT, VERBOSE, ICOUNT, CPUS: for verdict.sh and qemu.sh
    MODE=scenario SCENARIOS=() COMMANDS='' LIMIT=600 KEEP_LOG='' REFRESH=0 VERBOSE=0 ICOUNT=0 CPUS=1 BESIDE='' ROUNDS=''
    parse "$@"
    ((${#SCENARIOS[@]})) || SCENARIOS=(main-job)
    take_lock
    build
    [[ $MODE != build ]] || exit 0

    local work
    work=$(mktemp -d "$VD_CACHE/tmp$BESIDE.run.XXXXXX")
    case $MODE in
        exec) printf '%s\n' "$COMMANDS" >"$work/request" ;;
        *) printf '%s\n' "${SCENARIOS[@]}" >"$work/request" ;;
    esac
    printf '%s\n' "$ROUNDS" >"$work/rounds"
    dom0_initrd "$work" >"$work/dom0.img"
    : >"$work/results"
    run "$work"
    [[ -z $KEEP_LOG ]] || cp "$VD_CACHE/last$BESIDE.log" "$KEEP_LOG"
    verdict "$work"
}

main "$@"
