#!/usr/bin/env bash
# Prints docs/benchmarks-symbolize-log.md: what it costs to symbolize a log, as a ratio to the kernel's
# own decode_stacktrace.sh on the same log and to blazecli on the same addresses, in the same run.
#
#   benches/symbolize_log.sh VMLINUX MODULES LOG DECODE_STACKTRACE > docs/benchmarks-symbolize-log.md
#
# VMLINUX has debug information, MODULES is the directory of its modules' debug files, LOG a console log
# of that kernel, such as tests/linux_logs/make.sh makes (61-large.log). DECODE_STACKTRACE is
# scripts/decode_stacktrace.sh of a kernel's source, such as the one in Debian's linux-source-6.1.
# Needs hyperfine, jq, and blazecli (`cargo install blazecli`), in PATH or where BLAZECLI says. Takes as
# long as decode_stacktrace.sh does, which is minutes.
set -euo pipefail
[[ $# == 4 && -r $1 && -d $2 && -r $3 && -r $4 ]] || {
    echo "usage: $0 VMLINUX MODULES LOG DECODE_STACKTRACE" >&2
    exit 2
}
image=$(realpath "$1") modules=$(realpath "$2") log=$(realpath "$3") script=$(realpath "$4")
cd "$(dirname "$0")/.."

blazecli=${BLAZECLI:-blazecli}
for program in hyperfine jq addr2line "$blazecli"; do
    command -v "$program" >/dev/null || { echo "$0: $program is missing: install it" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --quiet --release --locked
nmiscope=${CARGO_TARGET_DIR:-target}/release/nmiscope

# decode_stacktrace.sh reads no carriage returns.
tr -d '\r' <"$log" >"$work/log"
"$nmiscope" symbolize --image "$image" --modules "$modules" --json -q <"$work/log" >"$work/records"
# The addresses that are looked up in the image: of a return address, one less.
jq --raw-output 'select(.module == null) | [.exact, .candidates[0].address] | @tsv' "$work/records" |
    while read -r exact address; do
        [[ $address ]] || continue
        value=$((16#$address))
        [[ $exact == true ]] || value=$((value - 1))
        printf '0x%x\n' "$value"
    done >"$work/addresses"

# Each as a script, so that both are started in the same way and ours gets the log.
printf '#!/bin/sh\nexec %q symbolize --image %q --modules %q -q <%q\n' \
    "$nmiscope" "$image" "$modules" "$work/log" >"$work/nmiscope"
printf '#!/bin/sh\nexec xargs --arg-file=%q --max-chars=1000000 --exit %q symbolize elf --path %q\n' \
    "$work/addresses" "$blazecli" "$image" >"$work/blazecli"
chmod +x "$work/nmiscope" "$work/blazecli"
hyperfine --shell=none --warmup 2 --runs 20 --style none \
    --export-csv "$work/table.csv" --export-markdown "$work/table.md" \
    --command-name nmiscope "$work/nmiscope" --command-name blazecli "$work/blazecli" >/dev/null

seconds() { # command...: its wall time
    local started=${EPOCHREALTIME/./}
    "$@" <"$work/log" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; return 1; }
    awk -v us=$((${EPOCHREALTIME/./} - started)) 'BEGIN { printf "%.3f", us / 1e6 }'
}
# In turn, so that a machine whose speed drifts drifts for both.
ours_once=$(seconds "$nmiscope" symbolize --image "$image" --modules "$modules" -q)
script_once=$(seconds bash "$script" "$image" / "$modules")
ours_again=$(seconds "$nmiscope" symbolize --image "$image" --modules "$modules" -q)

cat <<DOCUMENT
# Symbols of a log

Made by \`benches/symbolize_log.sh\`. Absolute times depend on the machine;
compare the ratios. The times are those of whole processes, with a warm page cache.

- date: $(date -u +%F)
- revision: $(git describe --always --dirty --exclude '*')
- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- image: $(grep --text --only-matching --max-count 1 'Linux version [0-9][^ ]*' "$image"), $(($(stat --format %s "$image") / 1000000)) MB
- log: $(wc -l <"$work/log") lines, $(wc -l <"$work/records") places, $(wc -l <"$work/addresses") of them in the image
- peers: $("$blazecli" --version); decode_stacktrace.sh of the kernel's source

## The whole log, beside decode_stacktrace.sh

| | seconds |
|:---|---:|
| nmiscope, before | $ours_once |
| decode_stacktrace.sh | $script_once |
| nmiscope, after | $ours_again |

$(awk -v a="$ours_once" -v b="$ours_again" -v s="$script_once" \
    'BEGIN { printf "%.5f of its time; the bar is 0.05.", (a + b) / 2 / s }')

## The whole log, beside blazecli on its addresses

blazecli is given the addresses and reads no log, modules or names.

$(cat "$work/table.md")

$(awk -F, 'NR > 1 { median[NR] = $4 }
    END { printf "Medians: %.2f of blazecli'"'"'s time; the bar is 1.2.", median[2] / median[3] }' "$work/table.csv")
DOCUMENT
