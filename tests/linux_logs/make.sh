#!/usr/bin/env bash
# Makes real Linux logs, and the files to verify them with: boots Debian's kernels in QEMU, makes them
# print stacks, and keeps the console's text.
#
#   make.sh WORK [61] [612]
#
# WORK receives, for 61 (Debian 12's kernel, Linux 6.1) and 612 (Debian 13's, 6.12):
#
#   k61/                     the kernel's packages, unpacked: vmlinux, modules, their debug files
#   mod61/logmod.ko          the module of module/, built with that kernel's compiler, with DWARF
#   mod61/pktgen.ko          a module of the kernel's own, with its debug file, for its threads
#   logs/61-SCENARIO.log     the console: sysrql, sysrqt, large, warn, oops, jump,
#                            noreturn, softlockup, panic
#   logs/61-SCENARIO.truth   the addresses that the guest was loaded at (KASLR is on), from the guest
#   scripts/                 decode_stacktrace.sh and faddr2line of the kernel's source
#
# Existing files are not made again: remove a log, or a directory, to renew it. The first run
# takes five to ten minutes, 5 GB on the disk, and downloads 1 GB from the mirror that this
# system's apt uses. Nothing is installed. It needs root, as the module is built in a chroot.
#
# Do not commit any of it: kernels and their scripts are not this project's to distribute.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly scenarios=(sysrql sysrqt large warn oops jump noreturn softlockup panic)
readonly boot_within=300
scratch=
work=

fail() {
    echo "make.sh: $*" >&2
    exit 1
}

progress() {
    echo "$(date +%T) $*" >&2
}

clean_up() {
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
		apt-get apt
		dpkg-deb dpkg
		qemu-system-x86_64 qemu-system-x86
		busybox busybox-static
		cpio cpio
		tar tar
		xz xz-utils
	LIST
    ((${#missing[@]} == 0)) || fail "needs ${missing[*]}: apt-get install ${missing[*]}"
    if head -c 4096 "$(command -v busybox)" | LC_ALL=C grep -q ld-linux; then
        fail "needs a static busybox: apt-get install busybox-static"
    fi
    ((EUID == 0)) || fail "needs root, to build a module in a chroot"
}

suite_of() {
    case $1 in
    61) echo bookworm ;;
    612) echo trixie ;;
    *) fail "no kernel is called $1: 61 or 612" ;;
    esac
}

compiler_of() {
    case $1 in
    61) echo gcc-12 ;;
    612) echo gcc-14 ;;
    esac
}

# Prints the mirror of this system's own release, or of that release's security updates; nothing if it has
# none.
mirror() { # suffix of the suite: nothing, or -security
    local codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="$codename$1" '$1 == suite && $2 == "main" { print $3; exit }'
}

# Runs apt-get or apt-cache with lists, cache and installed packages (none) of its own.
private_apt() { # kernel, command...
    local state=$work/apt/$1 command=$2
    shift 2
    nice "$command" -oDir::State::Lists="$state/lists" -oDir::State::status="$state/status" \
        -oDir::Etc::SourceList="$state/sources.list" -oDir::Etc::SourceParts=/dev/null \
        -oDir::Cache="$state/cache" -oAcquire::Languages=none -oAPT::Sandbox::User=root "$@"
}

update_lists() { # kernel
    local state=$work/apt/$1 suite main security
    [[ ! -e $state/ready ]] || return 0
    suite=$(suite_of "$1")
    main=$(mirror '')
    [[ -n $main ]] || fail "apt knows no mirror of this system's release: run apt-get update"
    security=$(mirror -security)
    progress "$1: apt's lists of $suite"
    mkdir -p "$state"/{lists/partial,cache/archives/partial}
    : >"$state/status"
    echo "deb $main $suite main" >"$state/sources.list"
    if [[ -n $security ]]; then
        echo "deb $security $suite-security main" >>"$state/sources.list"
    fi
    private_apt "$1" apt-get update -qq || fail "failed to update the lists of $suite: look at the network"
    touch "$state/ready"
}

# Unpacks .deb files into one directory, with a merged /usr.
unpack() { # directory, file...
    local root=$1 directory file
    shift
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
    for directory in bin sbin lib lib64; do
        ln -sfn "usr/$directory" "$root/$directory"
    done
    for file; do
        dpkg-deb --fsys-tarfile "$file" | nice tar -x -C "$root" --keep-directory-symlink
    done
}

release_of() { # kernel
    sed -n 's/^linux-image-//p' "$work/k$1/package"
}

fetch_kernel() { # kernel
    local target=$work/k$1 package
    [[ ! -e $target/package ]] || return 0
    update_lists "$1"
    package=$(private_apt "$1" apt-cache depends linux-image-cloud-amd64 |
        sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [[ -n $package ]] || fail "$(suite_of "$1") has no linux-image-cloud-amd64"
    progress "$1: $package and its debug files"
    mkdir -p "$scratch/$1"
    (cd "$scratch/$1" && private_apt "$1" apt-get download -qq "$package" "$package-dbg") ||
        fail "failed to download $package: remove $work/apt, which may be too old"
    unpack "$target" "$scratch/$1"/*.deb
    rm -r "${scratch:?}/$1"
    echo "$package" >"$target/package"
}

# Makes a root with that release's compiler, and with the programs that Linux's makefiles call.
make_build_root() { # kernel
    local root=$work/build$1 headers common
    [[ ! -e $root/ready ]] || return 0
    update_lists "$1"
    headers=linux-headers-$(release_of "$1")
    common=${headers%-cloud-amd64}-common
    progress "$1: $(compiler_of "$1") and $headers"
    private_apt "$1" apt-get install -qq --yes --download-only --no-install-recommends \
        "$(compiler_of "$1")" make bash coreutils sed grep gawk findutils diffutils "$headers" "$common" \
        >"$scratch/install" 2>&1 || { cat "$scratch/install" >&2; fail "failed to download $headers"; }
    unpack "$root" "$work/apt/$1"/cache/archives/*.deb
    rm "$work/apt/$1"/cache/archives/*.deb
    ln -sf bash "$root/bin/sh"
    ln -sf gawk "$root/bin/awk"
    # With a vmlinux, the build would make BTF for the module, which needs pahole.
    rm -f "$root/usr/src/$headers/vmlinux"
    mkdir -p "$root/dev" "$root/tmp"
    [[ -e $root/dev/null ]] || mknod -m 666 "$root/dev/null" c 1 3
    touch "$root/ready"
}

build_module() { # kernel
    local root=$work/build$1 target=$work/mod$1
    [[ ! -e $target/logmod.ko ]] || return 0
    make_build_root "$1"
    progress "$1: logmod.ko"
    rm -rf "$root/logmod"
    cp -r "$here/module" "$root/logmod"
    nice chroot "$root" /usr/bin/make -s -C "/usr/src/linux-headers-$(release_of "$1")" \
        M=/logmod CC="$(compiler_of "$1")" modules >"$scratch/build" 2>&1 ||
        { cat "$scratch/build" >&2; fail "failed to build the module"; }
    mkdir -p "$target"
    cp "$root/logmod/logmod.ko" "$target/"
}

# Copies a module of the kernel's own twice: as it is loaded, and with debug information, for --modules.
take_module() { # kernel, path below kernel/
    local target=$work/loaded$1 name loaded debug
    name=$(basename "$2")
    [[ ! -e $target/$name ]] || return 0
    loaded=$(echo "$work/k$1"/usr/lib/modules/*/kernel/"$2"*)
    debug=$(echo "$work/k$1"/usr/lib/debug/lib/modules/*/kernel/"$2"*)
    mkdir -p "$target"
    case $loaded in
    *.xz) xz -dc "$loaded" >"$target/$name" ;;
    *.ko) cp "$loaded" "$target/$name" ;;
    *) fail "the kernel of $1 has no $2" ;;
    esac
    cp "$debug" "$work/mod$1/"
}

make_initrd() { # kernel
    local root=$scratch/root$1
    mkdir -p "$root"/{bin,dev,proc,sys,tmp}
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp "$work/mod$1/logmod.ko" "$work/loaded$1/pktgen.ko" "$root/"
    install -m 755 "$here/init" "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet) >"$scratch/initrd$1"
}

boot() { # kernel, scenario
    local log=$work/logs/$1-$2.log truth=$work/logs/$1-$2.truth status=0
    [[ ! -e $log ]] || return 0
    [[ -e $scratch/initrd$1 ]] || make_initrd "$1"
    progress "$1: $2"
    # no_timer_check, because some boots would panic on a loaded host.
    nice timeout "$boot_within" \
        qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
        -M q35 -accel tcg,thread=multi -cpu max -smp 3 -m 512M \
        -kernel "$work/k$1"/boot/vmlinuz-* -initrd "$scratch/initrd$1" \
        -serial "file:$scratch/log" -serial "file:$scratch/truth" \
        -append "console=ttyS0 loglevel=7 panic=-1 no_timer_check scenario=$2" </dev/null || status=$?
    tr -d '\r' <"$scratch/truth" >"$truth"
    grep -q '^end$' "$truth" || fail "the guest did not get that far: $scratch/log: $(tail -n 3 "$scratch/log")"
    ((status == 0)) || fail "the guest of $1-$2 was not done within $boot_within s"
    mv "$scratch/log" "$log"
}

fetch_scripts() {
    local target=$work/scripts
    [[ ! -e $target/decode_stacktrace.sh ]] || return 0
    update_lists 61
    progress "the kernel's scripts, from linux-source-6.1"
    mkdir -p "$scratch/source" "$target"
    (cd "$scratch/source" && private_apt 61 apt-get download -qq linux-source-6.1) ||
        fail "failed to download linux-source-6.1"
    dpkg-deb --fsys-tarfile "$scratch"/source/*.deb |
        tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | nice xz -dc |
        tar -x -C "$target" --strip-components=2 --wildcards \
            '*/scripts/decode_stacktrace.sh' '*/scripts/faddr2line' '*/scripts/decodecode'
    rm -r "$scratch/source"
}

main() {
    (($# >= 1)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    local kernel scenario kernels=("${@:2}")
    ((${#kernels[@]})) || kernels=(61 612)
    for kernel in "${kernels[@]}"; do
        suite_of "$kernel" >/dev/null
    done
    require
    mkdir -p "$1/logs"
    work=$(cd "$1" && pwd)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    scratch=$(mktemp -d "$work/scratch.XXXXXX")
    for kernel in "${kernels[@]}"; do
        fetch_kernel "$kernel"
        build_module "$kernel"
        take_module "$kernel" net/core/pktgen.ko
        for scenario in "${scenarios[@]}"; do
            boot "$kernel" "$scenario"
        done
    done
    fetch_scripts
    progress "done: $work"
}

main "$@"
