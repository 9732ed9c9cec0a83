# shellcheck shell=bash
# Runs one scenario: /lab/scenarios/NAME.sh, after the helpers of lib.sh.

# shellcheck source=lab/dom0/lib.sh
source /lab/lib.sh
# shellcheck source=/dev/null
source "/lab/scenarios/$1.sh"
