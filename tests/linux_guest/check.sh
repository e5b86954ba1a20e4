#!/usr/bin/env bash
# Compares what nmiscope reads out of dumps of Linux guests with what QEMU, nm, pahole and drgn say.
#
#   check.sh DIRECTORY...
#
# Each directory has vmlinuz, initrd and vmlinux, as of `kernel.sh -d` and own-kernel.sh. Needs QEMU, binutils, pahole
# (Debian's dwarves) and what drgn.sh needs. Prints each check's result, goes on after one that fails, and exits with 1
# then. A kernel takes a minute.
set -euo pipefail
(($#)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$(realpath "${CARGO_TARGET_DIR:-$here/../../target}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()
mapfile -t directories < <(realpath "$@")

for program in qemu-system-x86_64 nm pahole python3; do
    command -v "$program" >/dev/null || { echo "check.sh: $program is missing: install it" >&2; exit 1; }
done
"$here/drgn.sh"
cd "$here/../.."
cargo build --quiet --locked --package nmiscope --bin nmiscope
cargo build --quiet --locked --package nmiscope-symbolizer --example linux_tables
nmiscope=$target/debug/nmiscope
tables=$target/debug/examples/linux_tables

check() { # what it is, program, argument...
    local what=$1
    shift
    echo "$what"
    "$@" || failed+=("$what")
}

check_kernel() { # directory
    local directory=$1 name base scenario dump
    name=$(basename "$directory")
    for scenario in idle mutex rwsem; do
        dump=$work/$name-$scenario
        python3 "$here/dump.py" "$directory" "$scenario" "$dump"
        "$nmiscope" report "$dump" --tasks all --json "$dump.json" --quiet >/dev/null || true
        check "$name $scenario registers" python3 "$here/check.py" registers "$dump.registers" "$dump.json"
        check "$name $scenario stacks" "$target/drgn/bin/python" "$here/check.py" \
            stacks "$dump" "$dump.json" "$directory/vmlinux"
        [[ $scenario == idle ]] || rm "$dump"
    done
    dump=$work/$name-idle
    base=$(python3 "$here/check.py" image "$dump" "$dump.json" "$work/image")
    check "$name kallsyms" python3 "$here/check.py" kallsyms "$tables" "$work/image" "$base" "$directory/vmlinux"
    check "$name btf" python3 "$here/check.py" btf "$tables" "$work/image" "$base" "$directory/vmlinux"
    rm "$dump" "$work/image"
}

for directory in "${directories[@]}"; do
    check_kernel "$directory"
done
if ((${#failed[@]})); then
    printf 'check.sh: differs: %s\n' "${failed[@]}" >&2
    exit 1
fi
