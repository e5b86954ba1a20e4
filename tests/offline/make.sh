#!/usr/bin/env bash
# Makes the cores that tests/offline.rs reads, and the reports that it expects of them: runs the
# bundled guest with some workloads on this machine's /dev/kvm. What is in a report is for a person
# to look at before it is committed.
#
#   tests/offline/make.sh [NMISCOPE]    the program to run; without one, it is built
#
# The image is kept beside the cores: the bundled guest becomes another one with every change to it,
# and a core is of the one that ran. Those in version3/ were written by an nmiscope that wrote version 3
# of the format, and stay as they are. Dumps are of the same image: make-dumps.sh has to follow.
set -euo pipefail

# Only names relative to this directory get into cores and reports.
cd "$(dirname "${BASH_SOURCE[0]}")"
nmiscope=${1:-}
if [[ -z $nmiscope ]]; then
    (cd ../.. && cargo build --locked)
    nmiscope=${CARGO_TARGET_DIR:-../../target}/debug/nmiscope
fi

# Runs one workload; its vCPUs, and the exit code that it is to have.
core() {
    local workload=$1 cpus=$2 wanted=$3 status=0
    "$nmiscope" run --quiet --serial none --no-json --workload "$workload" --cpus "$cpus" \
        --memory 16M --hang-after 500ms --nmi-timeout 200ms --core "cores/$workload.core" \
        </dev/null || status=$?
    ((status == wanted)) || {
        echo "make.sh: $workload ended with code $status, not $wanted" >&2
        exit 1
    }
}

mkdir -p cores
"$nmiscope" guest guest.elf
core abba-deadlock 3 3
core nmi-stuck 4 3
core corrupt-stack 2 3
core null-deref 2 4
core deep-stack 2 3
core halt-irqs-off 2 3
core mutex-deadlock 2 3
core ipi-wait 3 3

cd ../..
NMISCOPE_UPDATE=1 cargo test --locked --test end_to_end offline::
