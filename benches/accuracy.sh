#!/usr/bin/env bash
# Prints docs/accuracy.md: the labelled corpus at several numbers of vCPUs, with the host loaded, with
# the VMM stopped, and on a standard KVM.
#
#   benches/accuracy.sh > docs/accuracy.md
#
# Needs /dev/kvm and what tests/nested/run.sh needs. Takes some half an hour, on a machine that has
# nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."

# Built before anything is printed, so that what fails later is a row, which is in what is printed.
cargo bench --quiet --locked --bench accuracy --no-run

accuracy() {
    cargo bench --quiet --locked --bench accuracy -- "$@" || true
}

cat <<EOF
# Accuracy

Made by \`benches/accuracy.sh\`. Every workload of [the corpus](../guest/src/workload), and whether the
class, the blame, the victims and the locks are right.

- date: $(date -u +%F)
- revision: $(git describe --always --dirty --exclude '*')
- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- kernel: $(uname -sr)

## On this machine, at 1, 2, 4 and 8 vCPUs

EOF
accuracy

cat <<EOF

## Healthy guests, with the host loaded by 8 busy processes per core

EOF
accuracy --only-healthy --load 8 --healthy 10s --jobs 4

cat <<EOF

## Healthy guests, with the VMM stopped for 10 s (SIGSTOP) and continued

EOF
accuracy --only-healthy --stop 10 --healthy 15s --jobs 8

nested() {
    NESTED_TIMEOUT=2000 NESTED_TEST_TIMEOUT=1800 tests/nested/run.sh -b accuracy "$@" 2>/dev/null |
        sed -n '/ runs right, in /,/^nested:/p' | tr -d '\r' | grep -v -e '^nested:' -e '^\[ '
}

cat <<EOF

## On a standard KVM with one CPU, at 1, 2 and 4 vCPUs

Nested in a QEMU machine without hardware support (tests/nested).

EOF
nested --cpus 1,2,4 --jobs 1

cat <<EOF

## There too, with 8 busy processes

EOF
nested --only-healthy --cpus 1,2 --load 8 --healthy 10s --jobs 2

cat <<EOF

## There too, with the VMM stopped for 10 s (SIGSTOP) and continued

EOF
nested --only-healthy --cpus 1,2 --stop 10 --healthy 15s --jobs 4
