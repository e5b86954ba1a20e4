#!/usr/bin/env bash
# Prints docs/benchmarks-farm.md: the cost of the farm compared with a shell loop over QEMU microvm, on this
# machine's /dev/kvm and on a standard KVM, and the time of planning and triage for 10,000 VMs.
#
#   benches/farm.sh > docs/benchmarks-farm.md
#
# Needs /dev/kvm, qemu-system-x86_64, xargs, cc, and the programs that tests/nested/run.sh needs. Takes ten
# minutes on an idle machine.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in qemu-system-x86_64 xargs cc; do
    command -v "$program" >/dev/null || { echo "$0: $program is missing: install it" >&2; exit 1; }
done

# The nested machine sees these files at the same paths, except below /tmp, which is its own.
work=$(mkdir -p "${CARGO_TARGET_DIR:-target}/bench-farm" && cd "${CARGO_TARGET_DIR:-target}/bench-farm" && pwd)
ends_at_once=$work/ends-at-once.elf
bundled=$work/bundled.elf
qemu=$(command -v qemu-system-x86_64)
# The directory in which QEMU looks for its firmware first.
firmware=$(cd "$(dirname "$qemu")/../share/qemu" && pwd)

cargo build --quiet --release --locked
"${CARGO_TARGET_DIR:-target}/release/nmiscope" guest "$bundled"
cc -nostdlib -static -no-pie -Wl,-Ttext=0x200000 -Wl,--build-id=none \
    -o "$ends_at_once" benches/ends_at_once.S

bench() { # NAME ARGUMENT...: its table
    cargo bench --quiet --locked --bench "$1" -- "${@:2}" 2>/dev/null | grep '^|'
}

cat <<EOF
# Benchmarks of the farm

Made by \`just bench-farm\` (\`benches/farm.sh\`). Absolute times depend on the machine; compare the ratios.

- date: $(date -u +%F)
- revision: $(git describe --always --dirty --exclude '*')
- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- kernel: $(uname -sr)
- QEMU: $(qemu-system-x86_64 --version | head -n 1)
- load at the start, over one, five and fifteen minutes: $(cut -d ' ' -f 1-3 /proc/loadavg)

## VMs that end by themselves, compared with a shell loop over QEMU

Both sides boot the same image with one vCPU and 64 MiB, two VMs at a time. The farm is \`nmiscope farm -j 2\`,
which keeps each VM's console, report and verdict; the loop is
\`xargs -P 2 qemu-system-x86_64 -M microvm -accel kvm\`, which keeps nothing. The farm starts the next VM when a
guest has ended, while the kernel still cleans up its process; the loop waits for the process. The sides run 200
VMs each, in turn, and the table has medians of three rounds.

*ends-at-once* is a guest of three instructions, so its time is the cost of a VM alone. *bundled* is the bundled
guest with \`workload=exit\`, built into the farm and a file for the loop; its time includes the guest kernel's boot
on both sides. *Own CPU* is the user and system time of the process that starts the VMs, without theirs.

EOF
bench farm speed 200 1.5 "$ends_at_once" "$bundled"
cat <<EOF

On a standard KVM, nested in an emulated machine with one CPU (tests/nested), with 20 VMs each:

EOF
NESTED_WITH="$qemu $firmware/pvh.bin $firmware/bios-microvm.bin $ends_at_once $bundled" \
    tests/nested/run.sh -b farm speed 20 3 "$ends_at_once" "$bundled" 2>/dev/null |
    tr -d '\r' | grep '^|'
cat <<EOF

In the nested machine everything takes thirty to fifty times as long, own CPU time included, so the bar of 5 ms
is missed. The bars are about the cost of a VM alone, which dominates *ends-at-once*. In *bundled* both times
include the guest's boot, which brings them closer together, so that row misses the bar for the ratio of times.

## Memory of idle VMs

The table has medians over 8 processes at a time, each with an idle guest of 64 MiB and one vCPU, from
\`/proc/PID/smaps\`: resident memory of the mapping that holds the guest's memory, and of everything else. PSS
divides shared pages among the processes that share them. Memory of the kernel for these processes is not
included.

EOF
bench farm memory "$bundled"
cat <<EOF

## A suite of 10,000 VMs

The suite lists all VMs without a matrix. *load* parses it; *plan* filters, partitions and orders its VMs.

| what | time | bar |
|---|---|---|
EOF
# Criterion prints the name, and on the same line or the next the low, the best and the high estimate.
cargo bench --quiet --locked --bench plan 2>/dev/null | tr '\n' ' ' |
    grep -o '\(load\|plan\) 10,000 VMs *time: *\[[^]]*\]' |
    sed 's/ *time: *\[[^ ]* [^ ]* \([^ ]* [^ ]*\) .*/ | \1/; s/^/| /; s/$/ | both: under 0.5 s |/'
cat <<EOF

## Triage of 10,000 reports

Each row is the best of three runs in processes of their own. The bar is under 2 s, with bounded memory.

EOF
bench triage
