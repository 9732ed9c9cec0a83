#!/usr/bin/env bash
# Half an hour of what can happen to guests and driver domains, at random: see soak/soak.sh. Not a part of ./test.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
Usage: lab/soak.sh [--minutes N] [--seed N]
  --minutes N   for so long (default: 30)
  --seed N      of the order in which things happen (default: 1)
END
}

MINUTES=30 SEED=1
while (($#)); do
    [[ ${2-} =~ ^[1-9][0-9]*$ ]] || { usage >&2 && exit 2; }
    case $1 in
        --minutes) MINUTES=$2 ;;
        --seed) SEED=$2 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift 2
done
./run-qemu.sh --timeout $((MINUTES * 60 + 900)) \
    --exec "VD_SOAK_MINUTES=$MINUTES VD_SOAK_SEED=$SEED bash /lab/run-scenario.sh soak || {
        status=\$?; tail -v -n 30 /var/log/xen/console/*.log; exit \$status; }"
