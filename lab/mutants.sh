#!/usr/bin/env bash
# Changes the core crates in one place at a time and runs their tests: a change that no test finds is listed. What is
# left, and why, stands in docs/security.md. Takes more than an hour for all, so ./test.sh does not run it.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
Usage: lab/mutants.sh [PACKAGE...]
       lab/mutants.sh --checks [ROW...]
  PACKAGE   every change that cargo-mutants knows, in these packages or in all of them; logs are in
            target/mutants/PACKAGE/mutants.out
  --checks  only the changes of lab/checks.txt: one for each check that an attack case rests on
END
}

readonly VERSION=27.1.0
readonly TOOL=$PWD/.cache/cargo-mutants-$VERSION
readonly OUT=$PWD/target/mutants
# For each package, the tests that find most changes soon. What they do not find is tried again with all tests, also
# those of a package that builds upon it.
declare -rA FAST=(
    [vd-ioreq]="--lib --test slots --test doorbells --test posted -- --skip probes_with_4096"
    [vd-virtio]="--lib --test mmio --test later"
    [vd-blk]="--tests" [vd-config]="--lib" [vd-kernel-core]="--lib" [vd-xenbus]="--tests"
    [vd-blkif]="--lib --test device --test vbd --test layout"
    [vd-netif]="--lib --test frames --test hostile --test control --test layout" [vd-pv]="--lib"
)
declare -rA USERS=([vd-blk]=",vd-blkif" [vd-config]=",vd-kernel-core" [vd-xenbus]=",vd-kernel-core"
    [vd-pv]=",vd-blkif,vd-netif")
# Few random inputs: a change that is found only by luck would be listed one day and not the next.
export PROPTEST_CASES=16 CARGO_PROFILE_DEV_DEBUG=0
renice -n 19 $$ >/dev/null

install_tool() {
    [[ -x $TOOL/bin/cargo-mutants ]] && return
    echo "lab/mutants.sh: installing cargo-mutants $VERSION from crates.io into .cache" >&2
    cargo install cargo-mutants --version "$VERSION" --locked --quiet --root "$TOOL"
}

# mutate PACKAGE TESTED OPTION...: the status is 2 for changes that were not found, and 3 for tests that did not end;
# a test that does not end has found the change.
mutate() {
    local package=$1 tested=$2 status=0
    shift 2
    "$TOOL/bin/cargo-mutants" mutants --package "$package" --test-package "$tested" --cap-lints true \
        --timeout 20 --build-timeout 300 --output "$OUT/$package" --colors never "$@" || status=$?
    ((status == 0 || status == 2 || status == 3))
}

# total PACKAGE FILE...: how many changes stand in these lists.
total() {
    local package=$1
    shift
    (cd "$OUT/$package/mutants.out" && cat "$@" 2>/dev/null | sort -u | wc -l)
}

packages() {
    local package fast
    install_tool
    for package; do
        rm -rf "${OUT:?}/$package"
        mkdir -p "$OUT/$package"
        read -ra fast <<<"${FAST[$package]}"
        mutate "$package" "$package" -- "${fast[@]}"
        if (($(total "$package" missed.txt))); then
            mutate "$package" "$package${USERS[$package]-}" --iterate -- --tests
        fi
    done
    for package; do
        printf '%s: %d found, %d of them because a test did not end, %d did not compile, %d not found\n' "$package" \
            "$(total "$package" caught.txt previously_caught.txt timeout.txt)" "$(total "$package" timeout.txt)" \
            "$(total "$package" unviable.txt)" "$(total "$package" missed.txt)"
        sed 's/^/    /' "$OUT/$package/mutants.out/missed.txt"
    done
}

# check ROW FILE PACKAGE TARGET TEST CHANGE: takes one check away in the copy; the test has to fail, and nothing else
# counts as that: a change that no longer fits the code, or that does not compile, is a mistake in the list.
check() {
    local row=$1 file=$2 package=$3 target=$4 test=$5 change=$6 result
    cp "$file" "$WORK/tree/$file"
    sed -i "$change" "$WORK/tree/$file"
    [[ $target == lib ]] && target=--lib || target=--test=$target
    if cmp --quiet "$file" "$WORK/tree/$file"; then
        result="CHANGES NOTHING"
    elif (cd "$WORK/tree" && cargo test --offline --locked --package "$package" "$target" -- --exact "$test") \
        &>"$WORK/log"; then
        result="NOT FOUND"
    elif grep -qE "^test $test \.\.\. FAILED" "$WORK/log"; then
        result=found
    else
        result="NO RESULT" && tail -n 30 "$WORK/log"
    fi
    cp "$file" "$WORK/tree/$file"
    printf '%-9s %2d  %-60s %s\n' "$result" "$row" "${test##*::}" "$change"
    [[ $result == found ]]
}

checks() {
    local row file package target test change failed=0 done=0
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
    mkdir "$WORK/tree"
    # Cargo goes by the time of a file: what is copied now is newer than what the last run has left in the target
    # directory, and `cp` makes each change, and each one taken back, newer still.
    git ls-files -z | tar -c --null --files-from=- | tar -x --touch -C "$WORK/tree"
    export CARGO_TARGET_DIR=$OUT/checks
    while read -r row file package target test; do
        [[ -n $row && $row != \#* ]] || continue
        IFS= read -r change
        (($# == 0)) || [[ " $* " == *" $row "* ]] || continue
        check "$row" "$file" "$package" "$target" "$test" "${change#"${change%%[! ]*}"}" || failed=$((failed + 1))
        done=$((done + 1))
    done <lab/checks.txt
    printf '%d checks taken away, %d not found\n' "$done" "$failed"
    ((failed == 0))
}

case ${1-} in
    --help) usage && exit ;;
    --checks) shift && checks "$@" && exit ;;
    *)
        for package; do
            [[ -n ${FAST[$package]-} ]] || { usage >&2 && exit 2; }
        done
        (($#)) || mapfile -t PACKAGES < <(printf '%s\n' "${!FAST[@]}" | sort)
        packages "${PACKAGES[@]-$@}"
        ;;
esac
