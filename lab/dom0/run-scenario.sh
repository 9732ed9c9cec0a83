# shellcheck shell=bash
# Runs one scenario: /lab/scenarios/NAME.sh, after the helpers of lib.sh.

# shellcheck source=lab/dom0/lib.sh
source /lab/lib.sh
# What Xen logs from here on is this scenario's.
xl dmesg -c >/dev/null
# shellcheck source=/dev/null
source "/lab/scenarios/$1.sh"
