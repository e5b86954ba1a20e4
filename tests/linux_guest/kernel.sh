#!/usr/bin/env bash
# Makes the Linux guests of the tests in this directory: Debian's cloud kernel, and an initial RAM disk with busybox,
# `init` and `hang`.
#
#   kernel.sh [-d] [SUITE...]
#   kernel.sh -i DIRECTORY        only the initrd, for a kernel of one's own
#
#   -d    the kernel's vmlinux with its debug information too, from the debug package: 300 MB to download
#
# Without a suite, target/linux receives vmlinuz and initrd, with the kernel of this system's own release. With suites,
# such as bookworm and trixie, target/linux/SUITE receives those of each. A file that is there already is kept, but for
# the initrd. Needs root for nothing, Debian's busybox-static, gcc, libc6-dev, cpio and xz-utils, and once apt-get's
# package lists and a network. Nothing is installed, and nothing here is for git: kernels are not ours to hand on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/debian-kernel.sh
. "$here/../debian-kernel.sh"
target=${CARGO_TARGET_DIR:-$here/../../target}/linux
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "kernel.sh: $*" >&2
    exit 1
}

# Unpacks the kernel of a package into the scratch directory. Later Debians have it in a package of its own, which the
# one that is asked for depends on.
unpack_vmlinuz() { # package
    local binary=${1/linux-image/linux-binary}
    if apt-cache "${apt_options[@]}" show "$binary" >/dev/null 2>&1; then
        unpack_debian_package "$scratch" "$binary" './usr/lib/modules/*/vmlinuz'
    else
        unpack_debian_package "$scratch" "$1" './boot/vmlinuz-*'
    fi
}

# Fetches what the directory lacks of a suite's kernel. An empty suite is that of this system.
fetch_kernel() { # directory, suite, whether with vmlinux
    local directory=$1 suite=$2 with_vmlinux=$3 package
    if [[ -e $directory/vmlinuz ]] && { ! $with_vmlinux || [[ -e $directory/vmlinux ]]; }; then
        return 0
    fi
    mkdir -p "$directory"
    apt_options=()
    [[ -z $suite ]] || use_debian_suite "$scratch/apt-$suite" "$suite" || fail "there are no lists of $suite"
    package=$(debian_kernel_package) || fail "there is no kernel to boot"
    rm -rf "$scratch/kernel"
    unpack_vmlinuz "$package" || fail "there is no kernel to boot"
    # Both of one package: those of two versions do not belong together.
    if $with_vmlinux; then
        unpack_debian_package "$scratch" "$package-dbg" './usr/lib/debug/boot/vmlinux-*' ||
            fail "there is no vmlinux"
        mv "$scratch"/kernel/usr/lib/debug/boot/vmlinux-* "$directory/vmlinux"
    fi
    find "$scratch/kernel" -name 'vmlinuz*' -type f -exec mv {} "$directory/vmlinuz" \;
}

make_initrd() { # directory
    local root=$scratch/root
    if [[ ! -e $scratch/initrd ]]; then
        mkdir -p "$root"/{bin,proc,sys,dev}
        cp "$(command -v busybox)" "$root/bin/busybox"
        gcc -O1 -Wall -Werror -static -o "$root/bin/hang" "$here/hang.c"
        cp "$here/init" "$root/init"
        chmod 755 "$root/init"
        (cd "$root" && find . | cpio --quiet -o -H newc) >"$scratch/initrd"
    fi
    cp "$scratch/initrd" "$1/initrd"
}

main() {
    local with_vmlinux=false suite
    if [[ ${1:-} == -i ]]; then
        make_initrd "${2:?a directory}"
        return
    fi
    if [[ ${1:-} == -d ]]; then
        with_vmlinux=true
        shift
    fi
    if (($# == 0)); then
        fetch_kernel "$target" '' "$with_vmlinux"
        make_initrd "$target"
    fi
    for suite; do
        fetch_kernel "$target/$suite" "$suite" "$with_vmlinux"
        make_initrd "$target/$suite"
    done
}

main "$@"
