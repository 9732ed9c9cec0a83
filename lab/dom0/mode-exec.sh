# shellcheck shell=bash
# vd.run=exec: runs /lab/request as a script and reports its exit status.

bash /lab/request
report "status $?"
