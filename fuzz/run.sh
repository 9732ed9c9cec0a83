#!/usr/bin/env bash
# Builds the fuzz targets and runs them. One line a target; fails if one of them finds something.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'END'
Usage: fuzz/run.sh --short [TARGET...]
       fuzz/run.sh --long RUNS [TARGET...]
       fuzz/run.sh --coverage [TARGET...]
       fuzz/run.sh --seeds [TARGET...]
  --short     the seeds, then a fixed number of executions: half a minute, for every change
  --long      RUNS executions each, one process with low priority; what it finds worth keeping is in fuzz/corpus
  --coverage  how many lines of the crates the seeds and fuzz/corpus reach (needs the rustup component llvm-tools)
  --seeds     makes fuzz/seeds from itself and fuzz/corpus: the fewest inputs that reach every edge
Without TARGET: all of them. An input that fails is kept in fuzz/artifacts; show it with
  fuzz/target/x86_64-unknown-linux-gnu/release/TARGET FILE
END
}

readonly HOST=x86_64-unknown-linux-gnu
readonly BIN=$PWD/target/$HOST/release
# What libFuzzer needs of the compiler: counters on edges, and what comparisons compare. The same as `cargo fuzz build
# --sanitizer none`, which works here too.
readonly FLAGS="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
-Cllvm-args=-sanitizer-coverage-stack-depth -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
# Executions for --short: about five seconds each.
declare -rA SHORT=(
    [config]=60000 [ioreq]=40000 [net]=40000 [registers]=60000 [ring_packed]=40000 [ring_split]=40000
    [start_info]=200000 [xenbus_console]=200000 [xenbus_store]=40000 [xl_config]=150000
)
readonly OPTIONS=(-max_len=2048 -timeout=20 -rss_limit_mb=1024)

# The targets are built like any other program but for the instrumentation, which stable Rust has. No sanitizer: the
# code under test forbids unsafe code.
build() {
    RUSTFLAGS=$FLAGS cargo build --release --locked --quiet --bins --target "$HOST"
}

# fuzz TARGET RUNS CORPUS SEED: runs a target; new inputs go into the corpus. The seed is the random generator's: 0 is
# another one each time.
fuzz() {
    local target=$1 runs=$2 corpus=$3 seed=$4 log=$LOGS/$1 status=0
    mkdir -p "$corpus" "artifacts/$target" "seeds/$target"
    "$BIN/$target" "${OPTIONS[@]}" -seed="$seed" -runs="$runs" -print_final_stats=1 \
        -artifact_prefix="artifacts/$target/" "$corpus" "seeds/$target" >"$log" 2>&1 || status=$?
    if ((status)); then
        printf 'FAILED  %s\n' "$target"
        grep -vE '^(#|"|NEW_FUNC|\tNEW_FUNC)' "$log" | tail -n 60
        return 1
    fi
    local edges features counters rate
    read -r edges features < <(sed -nE 's/^#[0-9]+\s+DONE\s+cov: ([0-9]+) ft: ([0-9]+).*/\1 \2/p' "$log")
    counters=$(sed -nE 's/.*Loaded 1 modules +\(([0-9]+) inline.*/\1/p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    printf 'ok      %-14s %9d executions, %5d of %5d edges, %6d features, %6d a second\n' \
        "$target" "$runs" "$edges" "$counters" "$features" "$rate"
}

# The same executions for the same code: a change fails for what it did. The long runs are for finding new things.
short() {
    fuzz "$1" "${SHORT[$1]}" "$LOGS/corpus-$1" 1
}

# coverage TARGET...: lines of the crates under test that the targets reach, all together.
coverage() {
    local tools bin=target/coverage/$HOST/release target objects=()
    tools=$(rustc --print sysroot)/lib/rustlib/$HOST/bin
    [[ -x $tools/llvm-cov ]] || {
        echo "fuzz/run.sh: llvm-cov is missing: rustup component add llvm-tools" >&2
        return 1
    }
    RUSTFLAGS="-Cinstrument-coverage --cfg fuzzing" \
        cargo build --release --locked --quiet --target "$HOST" --target-dir target/coverage
    for target; do
        mkdir -p "seeds/$target" "corpus/$target"
        LLVM_PROFILE_FILE=$LOGS/$target.profraw "$bin/$target" -runs=0 "seeds/$target" "corpus/$target" \
            >"$LOGS/$target" 2>&1 || {
            tail -n 20 "$LOGS/$target"
            return 1
        }
        objects+=(--object "$bin/$target")
    done
    "$tools/llvm-profdata" merge --output "$LOGS/all" "$LOGS"/*.profraw
    # Of the many columns: the file, its lines, those that were missed.
    "$tools/llvm-cov" report "${objects[@]}" --instr-profile "$LOGS/all" \
        --ignore-filename-regex='/(rustc|registry|test_util)/|/test_util\.rs|/fuzz/src/|/fuzz_targets/[a-z_]*\.rs' |
        awk '/\.rs|^TOTAL/ { printf "%-40s %5d lines, %4d missed, %s\n", $1, $8, $9, $10 }'
}

seeds() {
    local target=$1 new=$LOGS/seeds-$1
    mkdir -p "$new" "seeds/$target" "corpus/$target"
    "$BIN/$target" "${OPTIONS[@]}" -set_cover_merge=1 -use_counters=0 "$new" "seeds/$target" "corpus/$target" \
        >"$LOGS/$target" 2>&1 || { tail -n 20 "$LOGS/$target"; return 1; }
    rm -r "seeds/$target"
    cp -r "$new" "seeds/$target"
    printf '%-14s %4d seeds, %6d bytes\n' "$target" "$(find "$new" -type f | wc -l)" \
        "$(cat "$new"/* | wc -c)"
}

MODE=${1-}
[[ $# -gt 0 ]] && shift
RUNS=0
case $MODE in
    --short | --coverage | --seeds) ;;
    --long) RUNS=${1:?--long needs a number} && shift ;;
    --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
esac
TARGETS=("$@")
(($#)) || mapfile -t TARGETS < <(printf '%s\n' "${!SHORT[@]}" | sort)
for target in "${TARGETS[@]}"; do
    [[ -f fuzz_targets/$target.rs && -n ${SHORT[$target]-} ]] || {
        echo "fuzz/run.sh: there is no target $target" >&2
        exit 2
    }
done

LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT
failed=0
[[ $MODE == --coverage ]] || build
case $MODE in
    --short)
        # As many at a time as there are CPUs.
        running=0
        for target in "${TARGETS[@]}"; do
            if ((running >= $(nproc))); then
                wait -n || failed=1
                running=$((running - 1))
            fi
            short "$target" &
            running=$((running + 1))
        done
        while ((running)); do
            wait -n || failed=1
            running=$((running - 1))
        done
        ;;
    --long)
        renice -n 19 $$ >/dev/null
        for target in "${TARGETS[@]}"; do
            fuzz "$target" "$RUNS" "corpus/$target" 0 || failed=1
        done
        ;;
    --coverage) coverage "${TARGETS[@]}" || failed=1 ;;
    --seeds)
        for target in "${TARGETS[@]}"; do
            seeds "$target" || failed=1
        done
        ;;
esac
exit "$failed"
