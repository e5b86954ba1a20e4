//! Errors of reading a core, the kinds of files that are not one, and damage to one that can be read.
//!
//! Owns their texts. Called by the readers of this folder and of `targets`.

use std::fmt;

use super::{FORMAT_VERSION, OLDEST_VERSION};

/// Reason why a file cannot be used as a core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// A file without the ELF magic.
    #[error("not a dump that nmiscope can read: {0}")]
    NotElf(FileKind),
    /// An ELF file for another machine than a 64-bit x86.
    #[error("not a dump that nmiscope can read: an ELF file, but not one for x86-64")]
    NotX86_64,
    /// The core of a 32-bit x86, which QEMU writes until the first vCPU is in long mode.
    #[error(
        "not a dump that nmiscope can read: the core of a 32-bit x86, as QEMU writes it until the guest's \
         first vCPU is in long mode; dump the guest later"
    )]
    Not64Bit,
    /// An ELF file of another type than a core, such as an image.
    #[error("not a dump that nmiscope can read: {0}")]
    NotCore(FileKind),
    /// A core without nmiscope's own note.
    #[error("not a core of nmiscope: {0}")]
    NotOurs(FileKind),
    /// The file ends before the memory begins.
    #[error("truncated: {what} end at byte {end} of {length}")]
    Truncated {
        /// Name of the part that is cut, in the plural.
        what: &'static str,
        /// End of that part, in bytes from the start of the file.
        end: u64,
        /// Length of the file in bytes.
        length: u64,
    },
    /// A header or note contradicts itself.
    #[error("malformed core: {0}")]
    Malformed(&'static str),
    /// The core has another format version, by another version of this program.
    #[error(
        "core format version {found}, and this nmiscope reads versions {OLDEST_VERSION} to \
         {FORMAT_VERSION}: use the nmiscope that wrote it, or one as new"
    )]
    Version {
        /// Format version of the core.
        found: u32,
    },
}

/// Kind of a file that is not a core of nmiscope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file of 0 bytes.
    Empty,
    /// A file without a known magic number.
    NoElf,
    /// A compressed file, with the name of the program that decompresses it.
    Compressed(&'static str),
    /// The compressed format of makedumpfile, which QEMU writes too unless it is asked for ELF.
    KdumpCompressed,
    /// QEMU's migration stream: the state of devices, and memory in no order of addresses.
    MigrationStream,
    /// A crash dump in Windows's format.
    Windows,
    /// An ELF file of another type than a core, with its e_type.
    Elf(u16),
    /// A guest's memory, by QEMU's `dump-guest-memory`.
    Qemu,
    /// A crash dump of a Linux kernel: `/proc/vmcore`, or a file by `makedumpfile -E`.
    LinuxKernel,
    /// The core of a process.
    Process,
    /// An ELF core without a note of a known program.
    Core,
}

/// Advice for a file in another format: the commands that make one that is read.
const DUMP_AS_ELF: &str =
    "dump the guest as ELF: `virsh dump --memory-only --format elf`, or QEMU's dump-guest-memory";

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty file"),
            Self::NoElf => f.write_str("not an ELF file"),
            Self::Compressed(by) => write!(f, "a file compressed by {by}; uncompress it first"),
            Self::KdumpCompressed => write!(
                f,
                "a crash dump in kdump's compressed format, which is not read yet; {DUMP_AS_ELF}"
            ),
            Self::MigrationStream => write!(
                f,
                "a migration stream or saved state of QEMU, which is no image of memory; {DUMP_AS_ELF}"
            ),
            Self::Windows => write!(f, "a crash dump in Windows's format; {DUMP_AS_ELF}"),
            Self::Elf(2 | 3) => f.write_str("an ELF executable, and no core"),
            Self::Elf(kind) => write!(f, "an ELF file of type {kind}"),
            Self::Qemu => f.write_str("a guest's memory as QEMU dumps it"),
            Self::LinuxKernel => f.write_str("a Linux kernel's crash dump"),
            Self::Process => f.write_str("the core of a process"),
            Self::Core => f.write_str("an ELF core without a note of nmiscope"),
        }
    }
}

/// Damage to a core that can still be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The file ends before the memory that its headers name.
    Truncated {
        /// Length of the file in bytes.
        length: u64,
        /// Smallest length that its headers require, in bytes.
        expected: u64,
        /// Number of PT_LOADs that are cut or beyond the end.
        segments: usize,
    },
    /// PT_LOADs that are left out: larger in the file than in memory, or past 2^64.
    ImpossibleSegments {
        /// Number of PT_LOADs that are left out.
        count: usize,
    },
    /// PT_LOADs that have other bytes for the same memory than another one. The one that begins first
    /// takes precedence, which may be the wrong one.
    ContradictorySegments {
        /// Smallest number of such PT_LOADs.
        count: usize,
    },
    /// A note is cut, or there are too many notes; the rest is left out.
    DamagedNotes,
    /// Notes of a vCPU's registers that cannot be decoded, or repeat those of another note.
    DamagedRegisters {
        /// Number of notes that are left out.
        count: usize,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { length, expected, segments } => write!(
                f,
                "truncated at byte {length} of {expected}: \
                 {segments} segments of memory are missing or cut"
            ),
            Self::ImpossibleSegments { count } => {
                write!(f, "{count} segments of impossible sizes are passed over")
            }
            Self::ContradictorySegments { count } => {
                write!(f, "{count} segments contradict others about the same memory")
            }
            Self::DamagedNotes => f.write_str("damaged notes: some are passed over"),
            Self::DamagedRegisters { count } => {
                write!(f, "damaged or repeated registers of {count} vCPUs are passed over")
            }
        }
    }
}
