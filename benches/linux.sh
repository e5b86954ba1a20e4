#!/usr/bin/env bash
# Prints docs/benchmarks-linux.md: all stacks of a Linux guest beside drgn, and the pause that an attach costs it.
#
#   benches/linux.sh [ROUNDS] > docs/benchmarks-linux.md
#
# Needs QEMU, python3 with venv, and what tests/linux_guest/kernel.sh needs; the first time it downloads Debian's debug
# package of the kernel and drgn. Takes about five minutes then, and two later.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in qemu-system-x86_64 python3; do
    command -v "$program" >/dev/null || { echo "$0: $program is missing: install it" >&2; exit 1; }
done

rounds=${1:-11}
target=${CARGO_TARGET_DIR:-target}
kernel=$target/linux/bookworm
drgn=$target/drgn/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tests/linux_guest/kernel.sh -d bookworm
tests/linux_guest/drgn.sh
cargo build --quiet --release --locked
python3 tests/linux_guest/dump.py "$kernel" mutex "$work/dump" 4 256

cat <<DOCUMENT
# Benchmarks on Linux guests

Made by \`just bench-linux\` (\`benches/linux.sh\`). Absolute times depend on the machine;
compare the ratios.

- date: $(date -u +%F)
- revision: $(git describe --always --dirty --exclude '*')
- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- kernel: $(uname -sr)
- QEMU: $(qemu-system-x86_64 --version | head -n 1)
- guest: $(grep --text --only-matching --max-count 1 'Linux version [0-9][^ ]*' "$kernel/vmlinux"), 4 vCPUs
- peer: $("$drgn/drgn" --version | sed -n '1s/ (.*//p')
- load at the start, over one, five and fifteen minutes: $(cut -d ' ' -f 1-3 /proc/loadavg)

## All stacks of a dump

Whole processes on one dump of 256 MiB, in turn, with a warm page cache: medians of $rounds, and the largest memory.
Three tasks of the guest are blocked. drgn cannot open the dump without the VMCOREINFO and the vmlinux, which it is
given, and prints the stacks of all tasks, as \`nmiscope report --tasks all\` does. The bar is 0.06 of drgn's time without a vmlinux, 0.12 with one, and 100 MiB.

| | time | memory | of drgn's time |
|---|---|---|---|
DOCUMENT
python3 benches/linux_guest.py stacks "$rounds" "$target/release/nmiscope" "$work/dump" "$kernel/vmlinux" "$drgn/python"
cat <<DOCUMENT

## The pause

The time for which \`nmiscope attach\` stops an idle guest with four vCPUs under TCG, by the report's
\`visit.stopped_ms\`, compared with QMP \`stop\`, \`info registers -a\` and \`cont\` with nothing in between. Both take
turns on one VM; the table has medians of $rounds. The bar is eight times the bare stop.

| memory | bare stop | attach | longest attach | ratio |
|---|---|---|---|---|
DOCUMENT
for memory in 1024 8192; do
    python3 benches/linux_guest.py pause "$rounds" "$target/release/nmiscope" "$kernel" "$memory"
done
