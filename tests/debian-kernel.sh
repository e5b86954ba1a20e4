#!/usr/bin/env bash
# Debian's cloud kernel for scripts that boot it: downloaded from the mirror that apt uses, and not installed.
# Sourced by tests/nested/machine.sh and tests/linux_guest/kernel.sh.

# Unpacks the files of the kernel's package that match the patterns of tar into DIRECTORY/kernel. On failure prints
# the reason and returns 1.
unpack_debian_kernel() { # directory, pattern...
    local directory=$1 package
    shift
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    if [[ -z $package ]]; then
        echo "apt knows no linux-image-cloud-amd64: run apt-get update" >&2
        return 1
    fi
    echo "fetching $package" >&2
    mkdir "$directory/package" "$directory/kernel"
    # apt downloads as its own user, which must be able to write here.
    chmod 755 "$directory"
    chmod 777 "$directory/package"
    if ! (cd "$directory/package" && timeout 300 apt-get download -qq "$package"); then
        echo "failed to download $package: run apt-get update, and look at the network" >&2
        return 1
    fi
    if ! dpkg-deb --fsys-tarfile "$directory"/package/*.deb |
        tar -x -C "$directory/kernel" --wildcards --no-wildcards-match-slash "$@"; then
        echo "$package is not laid out as expected" >&2
        return 1
    fi
}
