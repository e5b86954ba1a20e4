#!/usr/bin/env bash
# Prints docs/benchmarks-attach.md: the pause that an attach costs a VM beside a bare stop.
#
#   benches/attach.sh [ROUNDS] > docs/benchmarks-attach.md
#
# Needs qemu-system-x86_64 and python3; /dev/kvm for its rows. Takes about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in qemu-system-x86_64 python3; do
    command -v "$program" >/dev/null || { echo "$0: $program is missing: install it" >&2; exit 1; }
done

rounds=${1:-21}
target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --quiet --release --locked
"$target/release/nmiscope" guest "$work/guest.elf"

cat <<EOF
# Benchmarks of attach

Made by \`just bench-attach\` (\`benches/attach.sh\`). Absolute times depend on the machine;
compare the ratios.

- date: $(date -u +%F)
- revision: $(git describe --always --dirty --exclude '*')
- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- kernel: $(uname -sr)
- QEMU: $(qemu-system-x86_64 --version | head -n 1)
- load at the start, over one, five and fifteen minutes: $(cut -d ' ' -f 1-3 /proc/loadavg)

## The pause

The time for which \`nmiscope attach\` stops a guest with two vCPUs, by the report's \`visit.stopped_ms\`,
compared with QMP \`stop\`, \`info registers -a\` and \`cont\` with nothing in between. Both take turns on one VM;
the table has medians of $rounds. The bar is a pause of at most five times the bare stop.

| accelerator | memory | workload | bare stop | attach | longest attach | ratio |
|---|---|---|---|---|---|---|
EOF
python3 benches/attach_pause.py "$target/release/nmiscope" "$work/guest.elf" "$rounds"
