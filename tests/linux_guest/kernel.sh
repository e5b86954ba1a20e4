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
directory=${1:-${CARGO_TARGET_DIR:-$here/../../target}/linux}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "kernel.sh: $*" >&2
    exit 1
}

fetch_kernel() {
    local package
    [[ ! -e $directory/vmlinuz ]] || return 0
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [[ -n $package ]] || fail "apt knows no linux-image-cloud-amd64: run apt-get update"
    mkdir "$scratch/package" "$scratch/kernel"
    # apt downloads as a user of its own, which must be able to write here.
    chmod 755 "$scratch"
    chmod 777 "$scratch/package"
    (cd "$scratch/package" && timeout 300 apt-get download -qq "$package") ||
        fail "failed to download $package: run apt-get update, and look at the network"
    dpkg-deb --fsys-tarfile "$scratch"/package/*.deb |
        tar -x -C "$scratch/kernel" --wildcards './boot/vmlinuz-*' || fail "failed to unpack $package"
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
