#!/usr/bin/env bash
# Debian's cloud kernel for scripts that boot it: downloaded from the mirror that apt uses, and not installed.
# Sourced by tests/nested/machine.sh and tests/linux_guest/kernel.sh.

# Options with which apt-get and apt-cache look into the package lists: none for those of this system.
apt_options=()

# Prints the address of the mirror of this system's own release, or of that release's security updates; nothing if
# apt knows none.
debian_mirror() { # suffix of the suite: nothing, or -security
    local codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="$codename$1" '$1 == suite && $2 == "main" { print $3; exit }'
}

# Makes the functions below look into the lists of another suite, which DIRECTORY receives. The lists of this system
# are not touched. On failure prints the reason and returns 1.
use_debian_suite() { # directory, suite
    local state=$1 suite=$2 mirror
    mirror=$(debian_mirror '')
    if [[ -z $mirror ]]; then
        echo "apt knows no mirror of this system's release: run apt-get update" >&2
        return 1
    fi
    mkdir -p "$state"/{lists/partial,cache/archives/partial}
    : >"$state/status"
    echo "deb $mirror $suite main" >"$state/sources.list"
    mirror=$(debian_mirror -security)
    [[ -z $mirror ]] || echo "deb $mirror $suite-security main" >>"$state/sources.list"
    apt_options=(-oDir::State::Lists="$state/lists" -oDir::State::status="$state/status"
        -oDir::Etc::SourceList="$state/sources.list" -oDir::Etc::SourceParts=/dev/null
        -oDir::Cache="$state/cache" -oAcquire::Languages=none -oAPT::Sandbox::User="$(id -un)")
    if ! timeout 300 apt-get "${apt_options[@]}" update -qq; then
        echo "failed to update the lists of $suite: look at the network" >&2
        return 1
    fi
}

# Prints the name of the package of the suite's current kernel, as linux-image-6.1.0-1-cloud-amd64. On failure prints
# the reason and returns 1.
debian_kernel_package() {
    local package
    package=$(apt-cache "${apt_options[@]}" depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    if [[ -z $package ]]; then
        echo "apt knows no linux-image-cloud-amd64: run apt-get update" >&2
        return 1
    fi
    echo "$package"
}

# Unpacks the files of a package that match the patterns of tar into DIRECTORY/kernel. On failure prints the reason
# and returns 1.
unpack_debian_package() { # directory, package, pattern...
    local directory=$1 package=$2
    shift 2
    echo "fetching $package" >&2
    rm -rf "$directory/package"
    mkdir -p "$directory/package" "$directory/kernel"
    # apt downloads as its own user, which must be able to write here.
    chmod 755 "$directory"
    chmod 777 "$directory/package"
    if ! (cd "$directory/package" && timeout 600 apt-get "${apt_options[@]}" download -qq "$package"); then
        echo "failed to download $package: run apt-get update, and look at the network" >&2
        return 1
    fi
    if ! dpkg-deb --fsys-tarfile "$directory"/package/*.deb |
        tar -x -C "$directory/kernel" --wildcards --no-wildcards-match-slash "$@"; then
        echo "$package is not laid out as expected" >&2
        return 1
    fi
    rm -r "$directory/package"
}

# Unpacks the files of the suite's current kernel that match the patterns of tar into DIRECTORY/kernel. On failure
# prints the reason and returns 1.
unpack_debian_kernel() { # directory, pattern...
    local package
    package=$(debian_kernel_package) || return 1
    unpack_debian_package "$1" "$package" "${@:2}"
}
