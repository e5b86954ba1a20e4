#!/usr/bin/env bash
# Runs fuzz targets for a bounded time each, from the seeds in fuzz/seeds and the inputs that earlier
# runs kept: on the pinned stable toolchain, without cargo-fuzz. It builds as `cargo fuzz run --sanitizer
# none` does; the fuzzed code has no unsafe block that another sanitizer could watch.
#
#   fuzz/run.sh [-t SECONDS] [TARGET...]    all targets, 10 seconds each, or only these
#
# Failing inputs are left in fuzz/target/artifacts; new inputs are kept in fuzz/target/corpus.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=10
if [[ ${1:-} == -t ]]; then
    seconds=$2
    shift 2
fi
targets=("$@")
((${#targets[@]})) || targets=(unwind page_walk types core_file dump guest_trace kernel_tables symbolize module)

# Not the host's: a target of its own keeps these flags from build scripts.
readonly machine=x86_64-unknown-linux-gnu
flags="--cfg fuzzing -Cpasses=sancov-module"
for argument in -sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters \
    -sanitizer-coverage-pc-table -sanitizer-coverage-trace-compares; do
    flags+=" -Cllvm-args=$argument"
done
built=${CARGO_TARGET_DIR:-target}
RUSTFLAGS=$flags cargo build --release --locked --target "$machine" --target-dir "$built" \
    "${targets[@]/#/--bin=}"

for target in "${targets[@]}"; do
    echo "fuzz: $target, $seconds s"
    mkdir -p "target/corpus/$target" "target/artifacts/$target"
    # -seed: where nothing is kept, the next run tries the same as this one.
    timeout $((seconds + 60)) "$built/$machine/release/$target" \
        -seed=1 -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024 \
        -verbosity=0 -print_final_stats=1 -artifact_prefix="target/artifacts/$target/" \
        "target/corpus/$target" "seeds/$target"
done
