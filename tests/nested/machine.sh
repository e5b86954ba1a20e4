#!/usr/bin/env bash
# A machine with a standard KVM, for hosts that have none: QEMU emulates an AMD processor with its
# virtualization extension (TCG, no hardware needed), Debian's cloud kernel runs on it, and its
# kvm_amd gives the job a /dev/kvm.
#
#   machine.sh JOB CACHE OUT
#
# JOB is a directory that appears as /job in the machine. Its `run` is started there as root, with
# only busybox beside it, so programs must be static. CACHE keeps the unpacked kernel, so that later runs
# need no network. OUT receives console.log and the files that `run` leaves in /job/out.
#
# Exit status: that of `run`; 125 if the machine did not run it to its end.
#
# NESTED_CPUS, NESTED_MEMORY (QEMU's -m), NESTED_TIMEOUT (seconds, for all of it) and
# NESTED_KVM_AMD (options of the module, by default npt=0) change the machine.
#
# Known faults of this machine under floods of NMIs and ticks, and the workarounds. The causes are
# guesses; none has been found in QEMU's source.
# - With nested paging, sysrq-storm with backtraces taken from outside crashed in about 1 of 20 runs,
#   with QEMU 7.2 and 10.0. One such run was traced (7.2, -d int): #PF, not present, on fetching the
#   handler's iretq, then on reading the IDT, while other vCPUs went on with the same CR3. With npt=0
#   no crash was seen, but in some 30 runs only, which may be chance.
# - With two CPUs the machine's kernel freezes now and then, within minutes; hence one. One freeze was
#   taken apart (7.2): a timer interrupt had come in inside the scheduler, on a saved RFLAGS with IF
#   clear, and both CPUs waited for the run queue's lock. The others were not investigated, so a
#   freeze need not be QEMU's fault: a kernel that gives no sign of life is a failure, and is not tried
#   again. The processor's state is left in OUT/frozen, and the end of that file is printed.
# - With one CPU three freezes were seen, and one was investigated: a guest of the kernel's KVM ran, with its
#   interrupts off, and the local APIC had a timer interrupt for the kernel (in IRR, nothing in ISR, of a
#   priority far above its own) that had not reached the processor. A possible cause: QEMU's VMRUN sets
#   CPU_INTERRUPT_VIRQ in the processor's interrupt_request without the lock that the timer's thread holds
#   when it sets its own bit there. If both do so at once, one bit is lost; and the kernel, which sets its
#   timer again at each interrupt, never gets another. Any other interrupt makes the APIC signal again. So
#   this script presses keys on the console all the time: an interrupt is a tenth of a second late at most.
# - With thread=single, traces showed a vCPU's timer interrupt on top of itself, and vCPUs hung for
#   it: 8 of 19 live tests failed so in one run that passed on the host. Hence thread=multi.
set -euo pipefail

readonly did_not_run=125 frozen=98
readonly sign_of_life_within=60
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/debian-kernel.sh
. "$here/../debian-kernel.sh"
scratch=
machine=

fail() {
    echo "nested: $*" >&2
    exit "$did_not_run"
}

clean_up() {
    if [[ -n $machine ]]; then
        kill "$machine" 2>/dev/null || true
    fi
    if [[ -n $scratch ]]; then
        rm -rf "$scratch"
    fi
}

# Reports missing programs by their Debian packages.
require() {
    local missing=() program package
    while read -r program package; do
        command -v "$program" >/dev/null || missing+=("$package")
    done <<-LIST
		qemu-system-x86_64 qemu-system-x86
		busybox busybox-static
		cpio cpio
		dpkg-deb dpkg
		timeout coreutils
		tar tar
		gzip gzip
	LIST
    if ((${#missing[@]})); then
        fail "needs ${missing[*]}: apt-get install ${missing[*]}"
    fi
    # The dynamic one, package busybox, would find no library in the machine.
    if head -c 4096 "$(command -v busybox)" | LC_ALL=C grep -q ld-linux; then
        fail "needs a static busybox: apt-get install busybox-static"
    fi
}

# The kernel and the three modules of KVM, from Debian's package, which is not installed.
fetch_kernel() {
    local cache=$1
    [[ ! -e $cache/vmlinuz ]] || return 0
    command -v apt-get >/dev/null ||
        fail "needs apt-get to fetch a kernel, or one in $cache (vmlinuz, irqbypass.ko, kvm.ko, kvm-amd.ko)"
    unpack_debian_kernel "$scratch" './boot/vmlinuz-*' \
        './lib/modules/*/kernel/virt/lib/irqbypass.ko' \
        './lib/modules/*/kernel/arch/x86/kvm/kvm.ko' \
        './lib/modules/*/kernel/arch/x86/kvm/kvm-amd.ko' || fail "there is no kernel to boot"
    mkdir -p "$cache"
    find "$scratch/kernel" -name '*.ko' -exec mv -t "$cache" {} +
    # Last, because its presence means that the cache is complete.
    mv "$scratch"/kernel/boot/vmlinuz-* "$cache/vmlinuz"
}

# Makes the initial RAM disk, which has all that the machine needs, the job too: no disk, no driver.
make_initrd() {
    local job=$1 cache=$2 root=$scratch/root
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,modules}
    cp "$(command -v busybox)" "$root/bin/busybox"
    install -m 755 "$here/machine-init" "$root/init"
    cp "$cache"/{irqbypass,kvm,kvm-amd}.ko "$root/modules/"
    cp -r "$job" "$root/job"
    (cd "$root" && find . | cpio -o -H newc --quiet >"$scratch/initrd")
}

# Reads the processor's state from QEMU's monitor, a few times, half a second apart.
look_at_frozen() {
    local out=$1 monitor looker
    # Opened for reading and writing: opening it for one of them alone would wait for QEMU.
    exec {monitor}<>"$scratch/monitor.in"
    cat "$scratch/monitor.out" >"$out/frozen" &
    looker=$!
    for _ in 1 2 3 4 5; do
        printf 'info registers\n' >&"$monitor"
        sleep 0.5
    done
    printf 'info lapic\n' >&"$monitor"
    sleep 0.5
    exec {monitor}>&-
    kill "$looker" 2>/dev/null || true
}

# Runs the machine. Returns QEMU's status, 124 if the time is over, or $frozen.
boot() {
    local cache=$1 out=$2 left=$((${NESTED_TIMEOUT:-2700} - SECONDS)) signs=0 last=$SECONDS size keys
    ((left > 0)) || return 124
    : >"$scratch/results"
    mkfifo "$scratch"/monitor.{in,out} "$scratch/keys"
    exec {keys}<>"$scratch/keys"
    # signal=off, so that Ctrl-C ends this script and the machine rather than going to the console.
    timeout --foreground --kill-after=10 "$left" \
        qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
        -accel tcg,thread=multi,tb-size=512 -cpu max \
        -smp "${NESTED_CPUS:-1}" -m "${NESTED_MEMORY:-2G}" \
        -chardev "stdio,id=console,signal=off,logfile=$out/console.log" -serial chardev:console \
        -chardev "file,id=results,path=$scratch/results" -serial chardev:results \
        -kernel "$cache/vmlinuz" -initrd "$scratch/initrd" \
        -chardev "pipe,id=monitor,path=$scratch/monitor" -mon monitor \
        -append "console=ttyS0 loglevel=4 panic=-1 nokaslr no_timer_check kvm_amd_options=${NESTED_KVM_AMD-npt=0}" <"$scratch/keys" &
    machine=$!
    while kill -0 "$machine" 2>/dev/null; do
        sleep 0.1
        # Ctrl-Q, which resumes output. It has no effect, because output is not stopped, and is not stored.
        printf '\021' >&"$keys"
        size=$(stat --format %s "$scratch/results")
        if ((size != signs)); then
            signs=$size last=$SECONDS
        elif ((SECONDS - last > sign_of_life_within)); then
            look_at_frozen "$out"
            grep -a -E 'RIP=|RFL=|LVTT|Timer|ISR|IRR|PPR' "$out/frozen" | tail -n 12 >&2
            kill "$machine"
            wait "$machine" || true
            machine=
            return "$frozen"
        fi
    done
    local status=0
    wait "$machine" || status=$?
    machine=
    return "$status"
}

main() {
    (($# == 3)) || fail "usage: machine.sh JOB CACHE OUT"
    [[ -x $1/run ]] || fail "$1 has no executable called run"
    require
    local job cache=$2 out=$3 status
    job=$(cd "$1" && pwd)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    scratch=$(mktemp -d)
    rm -rf "$out"
    mkdir -p "$out" "$cache"
    fetch_kernel "$cache"
    make_initrd "$job" "$cache"
    status=0
    boot "$cache" "$out" || status=$?
    case $status in
    0) ;;
    124 | 137) fail "not done after ${NESTED_TIMEOUT:-2700} s (NESTED_TIMEOUT); see $out/console.log" ;;
    "$frozen") fail "the machine froze: its kernel gave no sign of life for $sign_of_life_within s; see console.log and frozen in $out" ;;
    *) fail "QEMU failed with status $status; see $out/console.log" ;;
    esac
    LC_ALL=C sed '1,/^results$/d' "$scratch/results" | tar -xz -C "$out" 2>/dev/null ||
        fail "the machine stopped before it was done; see $out/console.log"
    status=$(<"$out/status")
    rm "$out/status"
    return "$status"
}

main "$@"
