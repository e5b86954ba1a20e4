#!/usr/bin/env bash
# Runs the tests of Linux guests on every kernel that there is a recipe for, and prints what works of each as a table
# (docs/linux.md).
#
#   matrix.sh [KERNEL...]    of bullseye bookworm trixie testing own-bare own-clang own-lockdep
#
# Debian's suites are fetched by kernel.sh, those of own-kernel.sh are built. A test that fails is a row's cell, and
# its output is in target/linux/KERNEL/tests.log. Takes minutes for each kernel.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
kernels=("$@")
((${#kernels[@]})) || kernels=(bullseye bookworm trixie testing own-bare own-clang own-lockdep)

# Makes a kernel's directory. Its output is not part of the table.
make_kernel() { # kernel
    case $1 in
    own-*)
        tests/linux_guest/own-kernel.sh "${1#own-}"
        tests/linux_guest/kernel.sh -i "$target/linux/$1"
        ;;
    *) tests/linux_guest/kernel.sh "$1" ;;
    esac
}

# Prints a row, and the table's head before the first one: the kernel, what the tool says of it, and each test.
row() { # kernel, directory
    local results description
    results=$(sed -n 's/^test linux_guest::\([^ ]*\) .*\.\.\. \(.*\)$/\1 \2/p' "$2/tests.log" | sort)
    if ! $has_head; then
        has_head=true
        awk '{ names = names " " $1 " |"; lines = lines "---|" }
            END { print "| kernel | recognised as |" names; print "|---|---|" lines }' <<<"$results"
    fi
    description=$("$target/debug/nmiscope" report "$2/idle.dump" 2>/dev/null |
        sed -n 's/KASLR [^,]*, //; s/^\(Linux .*)\)$/\1/p' | head -n 1)
    awk -v kernel="$1" -v description="${description:-nothing}" '
        { cells = cells ($2 == "ok" ? " yes |" : " no |") }
        END { print "| " kernel " | " description " |" cells }' <<<"$results"
}

# With the tests, which have the program built for them.
cargo test --quiet --locked --test end_to_end --no-run
tests/linux_guest/drgn.sh
has_head=false
for kernel in "${kernels[@]}"; do
    directory=$target/linux/$kernel
    make_kernel "$kernel" >&2
    python3 tests/linux_guest/dump.py "$directory" idle "$directory/idle.dump" >&2
    NMISCOPE_LINUX=$directory cargo test --locked --test end_to_end -- --ignored --skip debug_vmlinux linux_guest:: \
        >"$directory/tests.log" 2>&1 || true
    row "$kernel" "$directory"
    rm "$directory"/idle.dump*
done
