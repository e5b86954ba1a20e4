#!/usr/bin/env bash
# The live tests on a standard KVM: builds them and the tool as static programs, and runs them in
# the machine of machine.sh. Or a benchmark, or a command.
#
#   run.sh [ARGUMENT...]    the live tests; arguments go to each test program (a filter, --ignored)
#   run.sh -s               the selection that CI runs, of the file in-ci
#   run.sh -b NAME          the benchmark of that name instead
#   run.sh -c COMMAND       a shell command instead, with nmiscope in its PATH
#
# Needs Debian's qemu-system-x86, busybox-static, cpio, gcc and libc6-dev, and once, for the kernel,
# apt-get's package lists and a network. Works in $NESTED_DIR, by default target/nested: cache/ is
# kept, out/ has the results of the last run (console.log, and the reports of tests and commands).
#
# NESTED_WITH lists programs and files of the host, absolute paths with spaces between them, to put into
# the machine at the same paths, programs with their libraries.
#
# Exit status: 0 if all passed, 1 if a test failed, 125 if the machine did not run, or froze;
# with -b and -c, the program's own. NESTED_TEST_TIMEOUT is the time limit of one test program in seconds;
# machine.sh has the machine's settings.
set -euo pipefail

readonly target=x86_64-unknown-linux-gnu
# Test programs: all of vmm's live tests, and of tests/main.rs the modules that run VMs and do not read the
# source tree. Not stepping: a breakpoint that KVM sets for its guest (DR7) did not stop it on this emulated
# processor.
readonly tests=(live end_to_end)
readonly modules=(live:: accuracy:: capture:: hostile_guest:: hostile_detector:: terminal::)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
in_ci=0
work=${NESTED_DIR:-${CARGO_TARGET_DIR:-$root/target}/nested}

# Prints `KIND SOURCE PROGRAM` for the tool and for each test program or benchmark; SOURCE is relative to
# the root. The arguments are for cargo.
#
# Given a target, cargo keeps the flags away from build scripts and procedural macros, which cannot
# be static. The guest kernel has its own flags, in build.rs.
build() {
    RUSTFLAGS="-C target-feature=+crt-static" cargo "$@" --locked --no-run --target "$target" \
        --message-format json |
        sed -n 's|.*"reason":"compiler-artifact".*"kind":\["\([a-z]*\)"\].*"src_path":"'"$root"'/\([^"]*\)".*"executable":"\([^"]*\)".*|\1 \2 \3|p'
}

# Checks that a program is static: another one fails with "not found" in the machine.
check_static() {
    if head -c 4096 "$1" | LC_ALL=C grep -q ld-linux; then
        echo "nested: $1 is not static: is libc6-dev installed, with libc.a?" >&2
        exit 125
    fi
}

# Prints the default arguments of a test program.
selected() {
    local source=$1 program=$2 names=() name all
    [[ $source == tests/main.rs ]] || return 0
    if ((!in_ci)); then
        echo "${modules[*]}"
        return
    fi
    all=$("$program" --list)
    mapfile -t names < <(grep -v -e '^#' -e '^$' "$here/in-ci")
    for name in "${names[@]}"; do
        grep -q -x -F "$name: test" <<<"$all" || {
            echo "nested: in-ci names $name, and there is no such test" >&2
            return 125
        }
    done
    echo "--exact ${names[*]}"
}

# Makes the job: the programs without their debug information, and a list of the test programs.
make_job() {
    local job=$1 kind source program name arguments
    rm -rf "$job"
    mkdir -p "$job/bin"
    : >"$job/tests"
    while read -r kind source program; do
        check_static "$program"
        name=$(basename "$program")
        strip -g -o "$job/bin/$name" "$program"
        if [[ $kind == test || $kind == bench ]]; then
            arguments=$(selected "$source" "$program")
            echo "$name $source $arguments" >>"$job/tests"
        fi
    done
    [[ -x $job/bin/nmiscope && -s $job/tests ]] || {
        echo "nested: cargo built no nmiscope, or no live test" >&2
        exit 125
    }
    cp "$here/job" "$job/run"
}

# Copies the host's files that NESTED_WITH lists, with the libraries that ldd lists for them.
take_along() {
    local root=$1/root path file
    local -a files
    read -r -a files <<<"${NESTED_WITH:-}"
    for path in "${files[@]}"; do
        while read -r file; do
            mkdir -p "$root$(dirname "$file")"
            cp --dereference "$file" "$root$file"
        done < <(
            echo "$path"
            # ldd fails on a file that is no dynamic program, which needs no libraries.
            ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true
        )
    done
}

main() {
    cd "$root"
    export NESTED_TEST_TIMEOUT=${NESTED_TEST_TIMEOUT:-2400}
    local job=$work/job wanted programs
    if [[ ${1:-} == -s ]]; then
        in_ci=1
        shift
    fi
    mkdir -p "$work"
    wanted=(test --package nmiscope --package nmiscope-vmm "${tests[@]/#/--test=}")
    if [[ ${1:-} == -b ]]; then
        wanted=(bench --bench "${2:?a benchmark is wanted after -b}")
    fi
    programs=$(build "${wanted[@]}")
    make_job "$job" <<<"$programs"
    take_along "$job"
    case ${1:-} in
    -b) echo "$(cut -d ' ' -f 1 "$job/tests") --bench ${*:3}" >"$job/command" ;;
    -c) printf '%s\n' "${2:?a command is wanted after -c}" >"$job/command" ;;
    '') ;;
    *) printf '%s\n' "$@" >"$job/arguments" ;;
    esac
    echo "$NESTED_TEST_TIMEOUT" >"$job/timeout"
    exec "$here/machine.sh" "$job" "$work/cache" "$work/out"
}

main "$@"
