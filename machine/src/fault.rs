//! How reading a guest's memory can fail.
//!
//! Owns the error types that `memory` and the page walks share, so that neither needs the other's.
//! Owns no reading. Callers match on these to say in a report why something is missing.

use crate::address::{PhysicalAddress, VirtualAddress};
use crate::arch::x86_64::Level;

/// Why guest memory could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No memory is known to lie at some byte of the range: it is a hole, a device, or a part that
    /// the core does not hold.
    #[error("read {length} bytes at guest-physical {address}: no memory there")]
    Unbacked {
        /// First address of the range.
        address: PhysicalAddress,
        /// The length of the read in bytes.
        length: usize,
    },
    /// The target itself failed, for example with an I/O error.
    #[error("read {length} bytes at guest-physical {address}: {reason}")]
    Target {
        /// First address of the range.
        address: PhysicalAddress,
        /// The length of the read in bytes.
        length: usize,
        /// The reason that the target gives.
        reason: String,
    },
    /// The guest's page tables do not map some byte of the range.
    #[error("read {length} bytes at guest-virtual {address}")]
    Unmapped {
        /// First address of the range.
        address: VirtualAddress,
        /// The length of the read in bytes.
        length: usize,
        /// The fault of the page walk, with its address.
        #[source]
        walk: Box<WalkError>,
    },
    /// The range runs past the end of the address space.
    #[error("read {length} bytes at guest-virtual {address}: the range wraps around")]
    Wraps {
        /// First address of the range.
        address: VirtualAddress,
        /// The length of the read in bytes.
        length: usize,
    },
}

/// Why a guest-virtual address has no translation. Each names the address and, where one is to
/// blame, the level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// The upper bits do not repeat the highest translated one.
    #[error("translate {address}: not canonical with {levels} levels of page tables")]
    NotCanonical {
        /// The address asked for.
        address: VirtualAddress,
        /// 4 or 5.
        levels: u8,
    },
    /// An entry's present bit is clear.
    #[error("translate {address}: {level} entry {entry:#x} is not present")]
    NotPresent {
        /// The address asked for.
        address: VirtualAddress,
        /// Where the walk ended.
        level: Level,
        /// The entry as it was read; the guest may use its other bits, a swap slot for one.
        entry: u64,
    },
    /// An entry is present and has bits set that the CPU requires to be clear: the CPU would take a
    /// page fault with the RSVD bit in its error code. A corrupt table, or not a table at all.
    #[error("translate {address}: {level} entry {entry:#x} has reserved bits {reserved:#x} set")]
    ReservedBits {
        /// The address asked for.
        address: VirtualAddress,
        /// Where the walk ended.
        level: Level,
        /// The entry as it was read.
        entry: u64,
        /// The offending bits.
        reserved: u64,
    },
    /// The table that should hold the entry could not be read.
    #[error("translate {address}: read the {level} entry")]
    TableUnreadable {
        /// The address asked for.
        address: VirtualAddress,
        /// The level whose entry was wanted.
        level: Level,
        /// Why.
        #[source]
        source: ReadError,
    },
}
