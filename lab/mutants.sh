#!/usr/bin/env bash
# Changes the core crates in one place at a time and runs their tests: a change that no test finds is listed. What is
# left, and why, stands in docs/security.md. Takes about an hour for all, so ./test.sh does not run it.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
Usage: lab/mutants.sh [PACKAGE...]
Without PACKAGE: all of them. Changes and the output of the tests are in target/mutants/PACKAGE/mutants.out.
END
}

readonly VERSION=27.1.0
readonly TOOL=$PWD/.cache/cargo-mutants-$VERSION
# For each package, the tests that find most changes soon. What they do not find is tried again with all tests, also
# those of a package that builds upon it.
declare -rA FAST=(
    [vd-ioreq]="--lib --test slots --test doorbells --test posted"
    [vd-virtio]="--lib --test mmio --test later"
    [vd-blk]="--tests" [vd-config]="--lib" [vd-kernel-core]="--lib" [vd-xenbus]="--tests"
    [vd-blkif]="--lib --test device --test vbd --test layout"
)
declare -rA USERS=([vd-blk]=",vd-blkif" [vd-config]=",vd-kernel-core" [vd-xenbus]=",vd-kernel-core")
# Few random inputs: a change that is found only by luck would be listed one day and not the next.
export PROPTEST_CASES=16 CARGO_PROFILE_DEV_DEBUG=0

# mutate PACKAGE TESTED OPTION... -- TEST...: cargo-mutants says 2 for changes that were not found and 3 for tests that
# did not end; a test that does not end has found the change.
mutate() {
    local package=$1 tested=$2 status=0
    shift 2
    nice -n 19 "$TOOL/bin/cargo-mutants" mutants --package "$package" --test-package "$tested" --timeout 8 \
        --output "target/mutants/$package" --colors never "$@" || status=$?
    ((status == 0 || status == 2 || status == 3))
}

# total PACKAGE FILE...: how many changes stand in these lists.
total() {
    local package=$1
    shift
    (cd "target/mutants/$package/mutants.out" && cat "$@" | sort -u | wc -l)
}

for option; do
    case $option in
        --help) usage && exit ;;
        *) [[ -n ${FAST[$option]-} ]] || { usage >&2 && exit 2; } ;;
    esac
done
(($#)) || mapfile -t PACKAGES < <(printf '%s\n' "${!FAST[@]}" | sort)
(($# == 0)) || PACKAGES=("$@")

if [[ ! -x $TOOL/bin/cargo-mutants ]]; then
    echo "lab/mutants.sh: installing cargo-mutants $VERSION from crates.io into .cache" >&2
    cargo install cargo-mutants --version "$VERSION" --locked --quiet --root "$TOOL"
fi
for package in "${PACKAGES[@]}"; do
    mkdir -p "target/mutants/$package"
    rm -rf "target/mutants/$package/mutants.out"
    read -ra fast <<<"${FAST[$package]}"
    mutate "$package" "$package" -- "${fast[@]}"
    if (($(total "$package" missed.txt))); then
        mutate "$package" "$package${USERS[$package]-}" --iterate -- --tests
    fi
done
for package in "${PACKAGES[@]}"; do
    printf '%s: %d changes found, %d because a test did not end, %d did not compile, %d not found\n' "$package" \
        "$(total "$package" caught.txt previously_caught.txt timeout.txt)" "$(total "$package" timeout.txt)" \
        "$(total "$package" unviable.txt)" "$(total "$package" missed.txt)"
    sed 's/^/    /' "target/mutants/$package/mutants.out/missed.txt"
done
