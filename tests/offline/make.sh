#!/usr/bin/env bash
# Makes the cores that tests/offline.rs reads, and the reports that it expects of them: runs the
# bundled guest with some workloads on this machine's /dev/kvm. A person has to check the reports
# before they are committed.
#
#   tests/offline/make.sh [NMISCOPE]    the program to run; by default it is built
#
# The image is kept beside the cores: the bundled guest changes, and a core needs the image that ran. The
# cores in version3/ were written in version 3 of the format and are not made again. The dumps are of the
# same image: run make-dumps.sh after this script.
set -euo pipefail

# So that cores and reports have names relative to this directory only.
cd "$(dirname "${BASH_SOURCE[0]}")"
nmiscope=${1:-}
if [[ -z $nmiscope ]]; then
    (cd ../.. && cargo build --locked)
    nmiscope=${CARGO_TARGET_DIR:-../../target}/debug/nmiscope
fi

# Runs a workload with this number of vCPUs, and checks the exit code.
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
