#!/usr/bin/env bash
# Prints docs/benchmarks-symbolize.md: what symbols of a large image cost, as a ratio to blazecli on
# the same addresses in the same run. Then compares answers with llvm-symbolizer's.
#
#   benches/symbolize.sh VMLINUX > docs/benchmarks-symbolize.md
#
# VMLINUX is a kernel with debug information, such as the one in Debian's
# linux-image-6.1.0-*-cloud-amd64-dbg. Needs hyperfine, nm, python3, llvm-symbolizer, and blazecli
# (`cargo install blazecli`), in PATH or where BLAZECLI says. Takes a minute or two, on a machine
# that has nothing else to do.
set -euo pipefail
[[ $# == 1 && -r $1 ]] || { echo "usage: $0 VMLINUX" >&2; exit 2; }
image=$(realpath "$1")
cd "$(dirname "$0")/.."

blazecli=${BLAZECLI:-blazecli}
for program in hyperfine nm python3 llvm-symbolizer "$blazecli"; do
    command -v "$program" >/dev/null || { echo "$0: $program is missing: install it" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --quiet --release --locked
nmiscope=${CARGO_TARGET_DIR:-target}/release/nmiscope

# Address, size and name of each function that has a size.
nm --print-size --defined-only "$image" |
    awk 'NF == 4 && $3 ~ /^[tTwW]$/ && $2 !~ /^0+$/ { print $1, $2, $4 }' >"$work/functions"

# A write to a file that waits for a lock, from the inside out: the middle of each function. Some
# are inlined or in a module, depending on the kernel: twelve of these it has.
call_chain() {
    local function address size found=0
    for function in native_queued_spin_lock_slowpath _raw_spin_lock_irqsave folio_add_lru \
        filemap_add_folio ext4_da_write_begin generic_perform_write ext4_buffered_write_iter \
        ext4_file_write_iter vfs_write ksys_write do_syscall_64 entry_SYSCALL_64 \
        __handle_mm_fault handle_mm_fault exc_page_fault asm_exc_page_fault schedule __schedule \
        kthread ret_from_fork; do
        read -r address size < <(awk -v name="$function" \
            '$3 == name { print $1, $2; exit }' "$work/functions") || continue
        printf '0x%x\n' $((16#$address + 16#$size / 2))
        if ((++found == 12)); then return; fi
    done
    echo "$0: $image is no kernel that has 12 of the call chain's functions" >&2
    return 1
}

# Any byte of any function. The seed is fixed: the same image, the same addresses.
random_addresses() { # how many
    local functions state=1 address size count
    random() {
        # Knuth's MMIX generator; its upper bits are the random ones.
        state=$((state * 6364136223846793005 + 1442695040888963407))
        number=$((state >> 33 & 0x7fffffff))
    }
    mapfile -t functions <"$work/functions"
    local number
    for ((count = 0; count < $1; count++)); do
        random
        read -r address size _ <<<"${functions[number % ${#functions[@]}]}"
        random
        printf '0x%x\n' $((16#$address + number % 16#$size))
    done
}

chain=$(call_chain)
random_addresses 10000 >"$work/random"

compare() { # title, addresses, runs, the ratio to stay below; the addresses as a file, if too many
    local start='' ours theirs
    if [[ ${5-} ]]; then
        printf -v start 'xargs --arg-file=%q --max-chars=1000000 --exit ' "$5"
    fi
    printf -v ours '%s%q symbolize --image %q %s' "$start" "$nmiscope" "$image" "$2"
    printf -v theirs '%s%q symbolize elf --path %q %s' "$start" "$blazecli" "$image" "$2"
    hyperfine --shell=none --warmup 3 --runs "$3" --style none \
        --export-markdown "$work/table.md" --export-csv "$work/table.csv" \
        --command-name nmiscope "$ours" --command-name blazecli "$theirs" >/dev/null
    echo "## $1"
    echo
    cat "$work/table.md"
    echo
    awk -F, -v bar="$4" 'NR > 1 { median[NR] = $4 }
        END { printf "Medians: %.2f of blazecli'"'"'s time; the bar is %s.\n", median[2] / median[3], bar }' \
        "$work/table.csv"
    echo
}

cat <<EOF
# Symbols of a large image

Made by \`just bench-symbolize VMLINUX\` (\`benches/symbolize.sh\`). Absolute times depend on the machine;
compare the ratios. The times are those of whole processes, with a warm page cache.

- date: $(date -u +%F)
- revision: $(git describe --always --dirty --exclude '*')
- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores
- kernel: $(uname -sr)
- image: $(grep --text --only-matching --max-count 1 'Linux version [0-9][^ ]*' "$image"), $(($(stat --format %s "$image") / 1000000)) MB
- peer: $("$blazecli" --version)

EOF
# Mebibytes of memory that our command had at its largest, pages of the mapped image included.
peak_memory() { # addresses as a file
    python3 - "$1" "$nmiscope" symbolize --image "$image" <<'PYTHON'
import resource
import subprocess
import sys

with open(sys.argv[1]) as addresses:
    command = [*sys.argv[2:], *addresses.read().split()]
subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
PYTHON
}

compare '12 addresses of a call chain' "${chain//$'\n'/ }" 50 0.4
compare '10,000 addresses at random' '' 10 0.5 "$work/random"
echo "Peak memory of nmiscope: $(peak_memory "$work/random") MiB; the bar is 150."
echo

NMISCOPE_TEST_IMAGE=$image cargo test --quiet --release --locked --package nmiscope-symbolizer \
    --test llvm ten_thousand -- --ignored >"$work/llvm" 2>&1 || { cat "$work/llvm" >&2; exit 1; }
cat <<EOF
## Answers

For 10,000 other addresses, at random in the image's text sections, name, file, line and depth of inlining
are those of llvm-symbolizer ($(llvm-symbolizer --version | grep -o 'LLVM version .*')), except for two things that it guesses from the symbol
table; \`symbolizer/tests/llvm.rs\` names them.
EOF
