//! What can be wrong with a core, or with what is said to be one, and how that reads.

use std::fmt;

use super::{FORMAT_VERSION, OLDEST_VERSION};

/// Why a file is no core that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// No ELF magic.
    #[error("no dump that nmiscope reads: {0}")]
    NotElf(FileKind),
    /// An ELF file for another machine than a 64-bit x86.
    #[error("no dump that nmiscope reads: an ELF file, but not one for x86-64")]
    NotX86_64,
    /// The core of a 32-bit x86, which is what QEMU writes while the first vCPU is in no long mode.
    #[error(
        "no dump that nmiscope reads: the core of a 32-bit x86, as QEMU writes it until the guest's \
         first vCPU is in long mode; dump the guest later"
    )]
    Not64Bit,
    /// An ELF file, but no core: an image, perhaps.
    #[error("no dump that nmiscope reads: {0}")]
    NotCore(FileKind),
    /// A core without our note.
    #[error("not a core of nmiscope: {0}")]
    NotOurs(FileKind),
    /// The file ends before the memory begins.
    #[error("truncated: {what} end at byte {end} of {length}")]
    Truncated {
        /// What is not whole.
        what: &'static str,
        /// Where it would end, in bytes from the start of the file.
        end: u64,
        /// The length of the file in bytes.
        length: u64,
    },
    /// A header contradicts itself.
    #[error("malformed core: {0}")]
    Malformed(&'static str),
    /// The core is of another version, and so by another version of this program.
    #[error(
        "core format version {found}, and this nmiscope reads versions {OLDEST_VERSION} to \
         {FORMAT_VERSION}: use the nmiscope that wrote it, or one as new"
    )]
    Version {
        /// The core's.
        found: u32,
    },
}

/// A file that is not one of ours, as far as it shows what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Nothing in it.
    Empty,
    /// Unknown.
    NoElf,
    /// Compressed by a program that can undo it; its name.
    Compressed(&'static str),
    /// The compressed format of makedumpfile, which QEMU writes too where it is asked for another format
    /// than ELF.
    KdumpCompressed,
    /// QEMU's migration stream: the state of devices, and memory in an order of its own.
    MigrationStream,
    /// A crash dump of Windows.
    Windows,
    /// An ELF file of another type than a core; e_type.
    Elf(u16),
    /// What QEMU's `dump-guest-memory` writes.
    Qemu,
    /// What a kernel leaves when it crashes: `/proc/vmcore`, or what `makedumpfile -E` writes.
    LinuxKernel,
    /// The core of a process.
    Process,
    /// An ELF core that says nothing of its maker.
    Core,
}

/// The way to a file that is read.
const DUMP_AS_ELF: &str =
    "dump the guest as ELF: `virsh dump --memory-only --format elf`, or QEMU's dump-guest-memory";

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty file"),
            Self::NoElf => f.write_str("no ELF file"),
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

/// Something wrong with a core that is read all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The file ends before what its headers name.
    Truncated {
        /// The length of the file in bytes.
        length: u64,
        /// What it should be at least.
        expected: u64,
        /// How many PT_LOADs are cut or beyond the end.
        segments: usize,
    },
    /// PT_LOADs that are passed over: larger in the file than in memory, or past 2^64.
    ImpossibleSegments {
        /// How many.
        count: usize,
    },
    /// PT_LOADs that have other bytes for memory that another one has too. Which of them is right
    /// cannot be known; the one that begins first counts.
    ContradictorySegments {
        /// How many, at least.
        count: usize,
    },
    /// A note is cut, or there are too many; the rest is passed over.
    DamagedNotes,
    /// Notes that are named as a vCPU's registers and are none, or of a vCPU that has some.
    DamagedRegisters {
        /// How many.
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
