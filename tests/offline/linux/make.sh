#!/usr/bin/env bash
# Makes the cores of Linux guests that tests/offline/linux.rs reads, and the reports that it expects of them: boots
# Debian's kernels in QEMU without KVM, brings each guest to a moment, and has `nmiscope attach` write a small core.
# A person has to check the reports before they are committed.
#
#   tests/offline/linux/make.sh WORK [NMISCOPE]
#
# WORK has the kernels, a module and the directories to build modules in, as tests/linux_logs/make.sh leaves them, and
# receives hang.ko of module/ and cores/KERNEL/MOMENT.core. A core that is there is not made again: remove it to renew
# it. NMISCOPE is the program to run; by default it is built. Needs root, to build a module in a chroot and for a host
# name that is nobody's, and qemu-system-x86, busybox-static, cpio, xz-utils, zstd and python3 of Debian.
#
# A core is mostly the kernel's own tables, which are the same at each boot: pages that all cores of a kernel have
# are in KERNEL/tables.zst once, the others in KERNEL/MOMENT.zst (split.py). They hold bytes of Debian's kernels: after
# a change of their versions, change NOTICE.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly boot_within=300
readonly moments=(61/idle 61/panic 61/softlockup 61/frozen 61/user 61/mutexes 61/rwsem 61/spinlocks 61/holder 61/call
    612/idle 612/softlockup 612/mutexes 612/rwsem 612/spinlocks)
scratch=
qemu=

fail() {
    echo "make.sh: $*" >&2
    exit 1
}

clean_up() {
    [[ -z $qemu ]] || kill "$qemu" 2>/dev/null || true
    [[ -z $scratch ]] || rm -rf "$scratch"
}

build_module() { # kernel
    local root=$work/build$1 headers compiler
    [[ ! -e $work/mod$1/hang.ko ]] || return 0
    headers=$(echo "$root"/usr/src/linux-headers-*-amd64)
    compiler=$(basename "$(echo "$root"/usr/bin/gcc-[0-9]*[0-9])")
    rm -rf "$root/hang"
    cp -r "$here/module" "$root/hang"
    chroot "$root" /usr/bin/make -s -C "${headers#"$root"}" M=/hang CC="$compiler" modules >"$scratch/build" 2>&1 ||
        fail "failed to build the module: $(cat "$scratch/build")"
    cp "$root/hang/hang.ko" "$work/mod$1/"
}

make_initrd() { # kernel
    local root=$scratch/root$1 loop
    mkdir -p "$root"/{bin,dev,mnt,proc,sys,tmp}
    cp "$(command -v busybox)" "$root/bin/busybox"
    build_module "$1"
    cp "$work/mod$1/logmod.ko" "$work/mod$1/hang.ko" "$root/"
    loop=$(echo "$work/k$1"/usr/lib/modules/*/kernel/drivers/block/loop.ko*)
    case $loop in
    *.xz) xz -dc "$loop" >"$root/loop.ko" ;;
    *) cp "$loop" "$root/loop.ko" ;;
    esac
    install -m 755 "$here/init" "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet) >"$scratch/initrd$1"
}

# Prints the text on the console that says that the moment has come.
sign_of() { # moment
    case $1 in
    panic) echo 'end Kernel panic' ;;
    softlockup) echo 'BUG: soft lockup' ;;
    mutexes | rwsem | spinlocks | holder | call) echo 'hang: started' ;;
    *) echo 'moment: ready' ;;
    esac
}

wait_for() { # text, console
    local end=$((SECONDS + boot_within))
    until grep -qF "$1" "$2" 2>/dev/null; do
        kill -0 "$qemu" 2>/dev/null || fail "QEMU has ended: $(tail -n 3 "$2")"
        ((SECONDS < end)) || fail "no \"$1\" within $boot_within s: $(tail -n 3 "$2")"
        sleep 0.2
    done
}

core() { # kernel, moment
    local core=$work/cores/$1/$2.core console=$scratch/console status=0
    [[ ! -e $core ]] || return 0
    echo "$(date +%T) $1/$2" >&2
    [[ -e $scratch/initrd$1 ]] || make_initrd "$1"
    mkdir -p "$work/cores/$1"
    rm -f "$console"
    # pti=on, so that the page tables of a vCPU in a program hide the kernel. no_timer_check, because some boots would
    # panic on a loaded host.
    qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
        -M q35 -accel tcg,thread=multi -cpu max -smp 4 -m 256M \
        -kernel "$work/k$1"/boot/vmlinuz-* -initrd "$scratch/initrd$1" \
        -serial "file:$console" -qmp "unix:$scratch/qmp,server=on,wait=off" \
        -append "console=ttyS0 loglevel=7 no_timer_check pti=on moment=$2" </dev/null &
    qemu=$!
    wait_for "$(sign_of "$2")" "$console"
    # The guest cannot be relied on to say more once its CPUs hang.
    [[ $(sign_of "$2") != 'hang: started' ]] || sleep 10
    # The reports name the host.
    unshare --uts sh -c 'hostname host && exec "$@"' sh "$nmiscope" attach --quiet \
        --qmp "$scratch/qmp" --max-pause 60s --core "$core" >"$scratch/attach" 2>&1 || status=$?
    [[ -e $core ]] || fail "attach ended with code $status: $(cat "$scratch/attach")"
    kill "$qemu"
    wait "$qemu" || true
    qemu=
}

(($# >= 1)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
((EUID == 0)) || fail "needs root, for a host name that is nobody's"
work=$(cd "$1" && pwd)
nmiscope=${2:-}
if [[ -z $nmiscope ]]; then
    (cd "$here" && cargo build --locked)
    nmiscope=${CARGO_TARGET_DIR:-$here/../../../target}/debug/nmiscope
fi
nmiscope=$(realpath "$nmiscope")
trap clean_up EXIT
scratch=$(mktemp -d)
for moment in "${moments[@]}"; do
    core "${moment%/*}" "${moment#*/}"
done
for kernel in 61 612; do
    mkdir -p "$here/$kernel"
    python3 "$here/split.py" "$work/cores/$kernel" "$here/$kernel"
    for pages in "$here/$kernel"/*.pages; do
        zstd -19 --quiet --force --rm "$pages" -o "${pages%.pages}.zst"
    done
done

cd "$here/../../.."
NMISCOPE_UPDATE=1 cargo test --locked --test end_to_end offline::linux::
