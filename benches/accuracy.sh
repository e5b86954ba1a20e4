#!/usr/bin/env bash
# Prints docs/accuracy.md: the labelled corpus at several numbers of vCPUs, with the host loaded, with
# the VMM stopped, and on a standard KVM.
#
#   benches/accuracy.sh > docs/accuracy.md
#   benches/accuracy.sh SECTION...      only these sections: host, loaded, stopped, nested,
#                                       nested_loaded, nested_stopped
#
# Needs /dev/kvm and what tests/nested/run.sh needs. All takes some three quarters of an hour, on a machine
# that has nothing else to do. Each section says which revision it is of.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly sections=(host loaded stopped nested nested_loaded nested_stopped)

accuracy() {
    cargo bench --quiet --locked --bench accuracy -- "$@" || true
}

# Nested in a QEMU machine without hardware support (tests/nested).
accuracy_nested() {
    NESTED_TIMEOUT=2000 NESTED_TEST_TIMEOUT=1800 tests/nested/run.sh -b accuracy "$@" 2>/dev/null |
        sed -n '/ runs right, in /,/^nested:/p' | tr -d '\r' | grep -v -e '^nested:' -e '^\[ '
}

heading() {
    printf '\n## %s\n\nRevision %s, %s.\n\n' "$1" "$(git describe --always --dirty --exclude '*')" "$(date -u +%F)"
}

host() {
    heading "On this machine, at 1, 2, 4 and 8 vCPUs"
    accuracy
}

loaded() {
    heading "Healthy guests, with the host loaded by 8 busy processes per core"
    accuracy --only-healthy --load 8 --healthy 10s --jobs 4
}

stopped() {
    heading "Healthy guests, with the VMM stopped for 10 s (SIGSTOP) and continued"
    accuracy --only-healthy --stop 10 --healthy 15s --jobs 8
}

nested() {
    heading "On a standard KVM with one CPU, at 1, 2 and 4 vCPUs"
    accuracy_nested --cpus 1,2,4 --jobs 1
}

nested_loaded() {
    heading "There too, with 8 busy processes"
    accuracy_nested --only-healthy --cpus 1,2 --load 8 --healthy 10s --jobs 2
}

nested_stopped() {
    heading "There too, with the VMM stopped for 10 s (SIGSTOP) and continued"
    accuracy_nested --only-healthy --cpus 1,2 --stop 10 --healthy 15s --jobs 4
}

selected=("$@")
for section in "${selected[@]}"; do
    [[ " ${sections[*]} " == *" $section "* ]] || {
        echo "accuracy: no section is called $section; there are ${sections[*]}" >&2
        exit 2
    }
done

# Built before anything is printed, so that what fails later is a row, which is in what is printed.
cargo bench --quiet --locked --bench accuracy --no-run

((${#selected[@]})) || {
    selected=("${sections[@]}")
    cat <<END
# Accuracy

Made by \`benches/accuracy.sh\`. Every workload of [the corpus](../guest/src/workload), and whether the
class, the blame, the victims and the locks are right. The standard KVM is nested in a QEMU machine
without hardware support (tests/nested).

- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- kernel: $(uname -sr)
END
}

for section in "${selected[@]}"; do
    "$section"
done
