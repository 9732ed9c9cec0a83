# shellcheck shell=sh
# All that selftest does, with less data.

FILE_MIB=8 IOS=1000
# shellcheck source=lab/guest/jobs/selftest.sh
. /jobs/selftest.sh
