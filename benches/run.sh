#!/usr/bin/env bash
# Prints docs/benchmarks.md: every number as a ratio to a named peer in the same run.
#
#   benches/run.sh > docs/benchmarks.md
#
# Needs /dev/kvm, hyperfine, qemu-system-x86_64, and what tests/nested/run.sh needs. Takes some ten
# minutes, on a machine that has nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in hyperfine qemu-system-x86_64 cc; do
    command -v "$program" >/dev/null || { echo "$0: $program is missing: install it" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --quiet --release --locked
nmiscope=${CARGO_TARGET_DIR:-target}/release/nmiscope
"$nmiscope" guest "$work/guest.elf"
cc -nostdlib -static -no-pie -Wl,-Ttext=0x200000 -Wl,--build-id=none \
    -o "$work/first.elf" benches/first_instruction.S

qemu() { # image, vCPUs, kernel parameters: the command line of the peer
    echo "qemu-system-x86_64 -M microvm -accel kvm -smp $2 -m 64 -nodefaults" \
        "-display none -serial null -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=4" \
        "-kernel $1 -append '$3'"
}

compare() { # vCPUs
    local status=0
    eval "$(qemu "$work/guest.elf" "$1" workload=exit)" 2>/dev/null || status=$?
    # (code << 1) | 1: anything else is no clean end.
    [[ $status == 1 ]] || { echo "$0: QEMU ended with $status, not 1" >&2; exit 1; }
    hyperfine --shell=none --ignore-failure --warmup 3 --runs 30 --style none \
        --export-markdown "$work/table.md" \
        --command-name "nmiscope, vCPUs: $1" \
        "$nmiscope run --cpus $1 --append workload=exit --no-json --quiet --serial none" \
        --command-name "QEMU microvm, vCPUs: $1" \
        "$(qemu "$work/guest.elf" "$1" workload=exit)" >/dev/null
    [[ -s $work/table.md ]] || { echo "$0: hyperfine failed" >&2; exit 1; }
    cat "$work/table.md"
    echo
}

cat <<EOF
# Benchmarks

Made by \`just bench\` (\`benches/run.sh\`). Absolute times depend on the machine;
compare the ratios.

- date: $(date -u +%F)
- revision: $(git describe --always --dirty --exclude '*')
- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- kernel: $(uname -sr)
- QEMU: $(qemu-system-x86_64 --version | head -n 1)

## To the first instruction, beside QEMU

The time from the start of the process until the text that the guest's first instructions print is on
standard output, with the same image file.

EOF
cargo bench --quiet --locked --bench start -- "$work/first.elf" 2>/dev/null | grep '^|'
cat <<EOF

## To the ready mark, beside QEMU

The time of whole processes, from start to end, with the same image file; its guest exits as soon as
all its CPUs are up.

EOF
compare 1
compare 4

echo '## A backtrace of vCPUs that all spin'
echo
echo 'The time from the trigger to the last buffer read, compared with the time that the handlers themselves'
echo 'run, and with the same NMIs while all vCPUs run freely.'
echo
cargo bench --quiet --locked --bench capture 2>/dev/null | grep '^|'
echo
echo 'The same on a standard KVM, nested in an emulated machine of one CPU (tests/nested):'
echo
tests/nested/run.sh -b capture 2>/dev/null | grep '^|'
echo
echo '## Watching a healthy guest'
echo
echo "The CPU time of all the tool's threads except the vCPUs', with hang detection off and on in turn:"
echo 'medians of three periods of five seconds, which begin when the guest has long been up. "Once" is the'
echo 'time to find the structures of a known kernel, at the start. Exits are those to the tool. A guest with'
echo "an unknown kernel starts one vCPU of two. The time in which a vCPU's thread answers the tool is not in the"
echo 'share.'
echo
cargo bench --quiet --locked --bench watch 2>/dev/null | grep '^|'
echo
echo '## The page of a report'
echo
echo 'The time to make it, the memory that this takes on top of the report, and its size, beside the JSON of the'
echo 'same report. It may take 20 ms and 10 MiB more, and have 300 KB.'
echo
cargo bench --quiet --locked --package nmiscope-report --bench page 2>/dev/null | grep '^|'
