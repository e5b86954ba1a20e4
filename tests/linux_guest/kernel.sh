#!/usr/bin/env bash
# Makes the Linux guest of the tests in this directory: Debian's cloud kernel, and an initial RAM disk with busybox
# and `init`.
#
#   kernel.sh [DIRECTORY]    default: target/linux
#
# The directory receives vmlinuz and initrd. A kernel that is there already is kept. Needs root for nothing, Debian's
# busybox-static, cpio and xz-utils, and once apt-get's package lists and a network. Nothing is installed, and nothing
# here is for git: kernels are not ours to hand on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/debian-kernel.sh
. "$here/../debian-kernel.sh"
directory=${1:-${CARGO_TARGET_DIR:-$here/../../target}/linux}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "kernel.sh: $*" >&2
    exit 1
}

fetch_kernel() {
    [[ ! -e $directory/vmlinuz ]] || return 0
    unpack_debian_kernel "$scratch" './boot/vmlinuz-*' || fail "there is no kernel to boot"
    mv "$scratch"/kernel/boot/vmlinuz-* "$directory/vmlinuz"
}

make_initrd() {
    local root=$scratch/root
    mkdir -p "$root"/{bin,proc,sys,dev}
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp "$here/init" "$root/init"
    chmod 755 "$root/init"
    (cd "$root" && find . | cpio --quiet -o -H newc) >"$scratch/initrd"
    mv "$scratch/initrd" "$directory/initrd"
}

mkdir -p "$directory"
fetch_kernel
make_initrd
