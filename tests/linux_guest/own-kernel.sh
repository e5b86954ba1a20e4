#!/usr/bin/env bash
# Builds Linux kernels that Debian does not build, from Debian's kernel source: its smallest configuration (tinyconfig),
# grown until it boots the tests' initial RAM disk under QEMU.
#
#   own-kernel.sh KIND [DIRECTORY]    default: target/linux/own-KIND
#
#   bare      ORC, no BTF, no KALLSYMS_ALL: variables are in no symbol table
#   clang     built by clang and lld, frame pointers instead of ORC
#   lockdep   PROVE_LOCKING, and KGDB on the serial console
#
# The directory receives vmlinuz, vmlinux with its debug information, and config; a kernel that is there is kept. The
# source is linux-source-6.1, downloaded and not installed, or the unpacked source that LINUX_SOURCE names. A build
# takes minutes of two cores and 2 GB in TMPDIR. Nothing here is for git: kernels are not ours to hand on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here source_package=linux-source-6.1
scratch=

fail() {
    echo "own-kernel.sh: $*" >&2
    exit 1
}

# Reports missing programs and headers by their Debian packages.
require() { # kind
    local missing=() file package
    while read -r file package; do
        command -v "$file" >/dev/null || [[ -e $file ]] || missing+=("$package")
    done < <(
        printf '%s\n' 'make make' 'gcc gcc' 'flex flex' 'bison bison' 'bc bc' 'pahole dwarves' 'xz xz-utils' \
            '/usr/include/gelf.h libelf-dev'
        [[ $1 != clang ]] || printf '%s\n' 'clang clang' 'ld.lld lld' 'llvm-ar llvm'
    )
    ((${#missing[@]} == 0)) || fail "needs ${missing[*]}: apt-get install ${missing[*]}"
}

# Prints the directory of the kernel's source, unpacked for this build where nobody gave one.
unpack_source() {
    if [[ -n ${LINUX_SOURCE:-} ]]; then
        realpath "$LINUX_SOURCE"
        return
    fi
    mkdir "$scratch/source"
    # apt downloads as its own user, which must be able to write here.
    chmod 755 "$scratch"
    chmod 777 "$scratch/source"
    (cd "$scratch/source" && timeout 600 apt-get download -qq "$source_package") ||
        fail "failed to download $source_package: run apt-get update, and look at the network"
    dpkg-deb --fsys-tarfile "$scratch"/source/*.deb |
        tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | xz -dc | tar -x -C "$scratch/source"
    realpath "$scratch"/source/linux-source-*/
}

# Prints what a kernel of this kind has and lacks, as lines of its configuration.
configuration() { # kind
    {
        # To boot: processors, a serial console, an initial RAM disk and the file systems that init mounts.
        printf '%s=y\n' 64BIT SMP ACPI PCI RELOCATABLE RANDOMIZE_BASE HIGH_RES_TIMERS \
            CPU_MITIGATIONS PAGE_TABLE_ISOLATION \
            PRINTK TTY SERIAL_8250 SERIAL_8250_CONSOLE BLK_DEV_INITRD BINFMT_ELF BINFMT_SCRIPT \
            PROC_FS PROC_SYSCTL SYSFS DEVTMPFS SHMEM TMPFS FUTEX POSIX_TIMERS MULTIUSER KERNEL_GZIP SLUB
        # To hang and to say so: sysrq, the detectors, what the scenarios call, and the notes of a crash dump.
        printf '%s=y\n' BUG KALLSYMS MAGIC_SYSRQ DETECT_HUNG_TASK SOFTLOCKUP_DETECTOR HOTPLUG_CPU USERFAULTFD \
            KEXEC DEBUG_KERNEL DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT
        case $1 in
        bare)
            printf '%s=y\n' UNWINDER_ORC
            printf '%s=n\n' KALLSYMS_ALL DEBUG_INFO_BTF
            ;;
        clang)
            printf '%s=y\n' UNWINDER_FRAME_POINTER KALLSYMS_ALL BPF_SYSCALL DEBUG_INFO_BTF
            ;;
        lockdep)
            printf '%s=y\n' UNWINDER_ORC KALLSYMS_ALL BPF_SYSCALL DEBUG_INFO_BTF PROVE_LOCKING \
                KGDB KGDB_SERIAL_CONSOLE KGDB_KDB
            ;;
        esac
    } | sed 's/^/CONFIG_/'
}

# Fails where the kernel's makefiles dropped an option, for instance for want of one that it depends on.
check_configuration() { # kind, config
    local line lost=()
    while read -r line; do
        case $line in
        *=y) grep --quiet "^$line\$" "$2" || lost+=("$line") ;;
        *=n) ! grep --quiet "^${line%=n}=y\$" "$2" || lost+=("$line") ;;
        esac
    done < <(configuration "$1")
    ((${#lost[@]} == 0)) || fail "the kernel's makefiles do not accept ${lost[*]}"
}

build() { # kind, source
    local make=(make -s -C "$2" "O=$scratch/build")
    [[ $1 != clang ]] || make+=(LLVM=1)
    "${make[@]}" tinyconfig >/dev/null
    # The last of several lines on one option counts, and the last option of a choice.
    configuration "$1" >>"$scratch/build/.config"
    "${make[@]}" olddefconfig 2>/dev/null
    check_configuration "$1" "$scratch/build/.config"
    nice -n 19 "${make[@]}" "-j$(nproc)" bzImage
}

main() {
    local kind=${1:-} directory source
    case $kind in
    bare | clang | lockdep) ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
    directory=${2:-${CARGO_TARGET_DIR:-$here/../../target}/linux/own-$kind}
    [[ ! -e $directory/vmlinuz ]] || return 0
    require "$kind"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    source=$(unpack_source)
    build "$kind" "$source"
    mkdir -p "$directory"
    cp "$scratch/build/.config" "$directory/config"
    cp "$scratch/build/vmlinux" "$directory/vmlinux"
    cp "$scratch/build/arch/x86/boot/bzImage" "$directory/vmlinuz"
}

main "$@"
