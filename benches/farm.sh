#!/usr/bin/env bash
# Prints docs/benchmarks-farm.md: what the farm costs beside a shell loop over QEMU microvm, on this
# machine's /dev/kvm and on a standard KVM, and how planning and triage scale.
#
#   benches/farm.sh > docs/benchmarks-farm.md
#
# Needs /dev/kvm, qemu-system-x86_64, xargs, cc, and what tests/nested/run.sh needs. Takes some ten
# minutes, on a machine that has nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in qemu-system-x86_64 xargs cc; do
    command -v "$program" >/dev/null || { echo "$0: $program is missing: install it" >&2; exit 1; }
done

# In the nested machine they have the same paths, and /tmp is another one there.
work=$(mkdir -p "${CARGO_TARGET_DIR:-target}/bench-farm" && cd "${CARGO_TARGET_DIR:-target}/bench-farm" && pwd)
ends_at_once=$work/ends-at-once.elf
bundled=$work/bundled.elf
qemu=$(command -v qemu-system-x86_64)
# Where QEMU looks for its firmware first.
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

Made by \`just bench-farm\` (\`benches/farm.sh\`). Absolute times are this machine's; the ratios are the
point.

- date: $(date -u +%F)
- revision: $(git describe --always --dirty --exclude '*')
- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- kernel: $(uname -sr)
- QEMU: $(qemu-system-x86_64 --version | head -n 1)
- load at the start, over one, five and fifteen minutes: $(cut -d ' ' -f 1-3 /proc/loadavg)

## VMs that end by themselves, beside a shell loop over QEMU

The same image file, one vCPU, 64 MiB, two VMs at a time: \`nmiscope farm -j 2\`, which keeps each VM's
console, report and verdict, and \`xargs -P 2 qemu-system-x86_64 -M microvm -accel kvm\`, which keeps
nothing. The farm starts the next VM when a guest is over, while the kernel still cleans up after it; the
loop waits for the process. 200 VMs each, in turn, medians of three rounds. The guest's own run is three instructions in
*ends-at-once*, so that all of its time is what a VM costs beyond that; in *bundled*
(\`workload=exit\`), which the farm has in itself and the loop as a file, the boot of the guest kernel is
part of the time on both sides. Own CPU is user and
system time of the one process that runs the VMs, without theirs.

EOF
bench farm speed 200 1.5 "$ends_at_once" "$bundled"
cat <<EOF

The same on a standard KVM, nested in an emulated machine of one CPU (tests/nested), with 20 VMs each:

EOF
NESTED_WITH="$qemu $firmware/pvh.bin $firmware/bios-microvm.bin $ends_at_once $bundled" \
    tests/nested/run.sh -b farm speed 20 3 "$ends_at_once" "$bundled" 2>/dev/null |
    tr -d '\r' | grep '^|'
cat <<EOF

There everything takes some thirty to fifty times as long, and the own CPU time with it: 5 ms are not met.
What a VM costs is most of *ends-at-once*; in *bundled* the guest's own boot is in both times, which brings
them closer to each other, and takes that row over the bars, which are about what a VM costs beyond it.

## Memory of VMs that idle

Of 8 processes at once, each with an idle guest of 64 MiB and one vCPU, by the kernel's account
(\`/proc/PID/smaps\`): medians of what they have of the mapping that is the guest's memory, and of all
else. PSS counts what processes share in parts. What the kernel itself has for them is not in it.

EOF
bench farm memory "$bundled"
cat <<EOF

## A suite of 10,000 VMs

All written out: to read it, and to filter, partition and order it.

| what | time | bar |
|---|---|---|
EOF
# Criterion prints the name, and on the same line or the next the low, the best and the high estimate.
cargo bench --quiet --locked --bench plan 2>/dev/null | tr '\n' ' ' |
    grep -o '\(load\|plan\) 10,000 VMs *time: *\[[^]]*\]' |
    sed 's/ *time: *\[[^ ]* [^ ]* \([^ ]* [^ ]*\) .*/ | \1/; s/^/| /; s/$/ | both: under 0.5 s |/'
cat <<EOF

## Triage of 10,000 reports

Each row is a process of its own, the best of three. The bar: under 2 s, memory bounded.

EOF
bench triage
