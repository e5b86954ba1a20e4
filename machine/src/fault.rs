//! The errors of reading a guest's memory.
//!
//! Owns the error types that `memory` and the page walks share, so that neither needs the other's. Owns no
//! reading. Callers match on these to report why something is missing.

use crate::address::{PhysicalAddress, VirtualAddress};
use crate::arch::x86_64::Level;

/// The reason why guest memory could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Some byte of the range has no memory behind it: it is in a hole or a device, or the core does not
    /// hold it.
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
        /// The target's own description of the error.
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

/// The reason why a guest-virtual address has no translation. Each variant names the address and, where an
/// entry is at fault, its level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// The address is not canonical: its upper bits do not repeat the highest translated one.
    #[error("translate {address}: not canonical with {levels} levels of page tables")]
    NotCanonical {
        /// The guest-virtual address that was translated.
        address: VirtualAddress,
        /// The number of levels in use: 4 or 5.
        levels: u8,
    },
    /// An entry's present bit is clear.
    #[error("translate {address}: {level} entry {entry:#x} is not present")]
    NotPresent {
        /// The guest-virtual address that was translated.
        address: VirtualAddress,
        /// The level at which the walk ended.
        level: Level,
        /// The entry as it was read; the guest may use its other bits, a swap slot for one.
        entry: u64,
    },
    /// An entry is present and has bits set that the CPU requires to be clear: the CPU would take a page
    /// fault with the RSVD bit in its error code. The table is corrupt, or no page table at all.
    #[error("translate {address}: {level} entry {entry:#x} has reserved bits {reserved:#x} set")]
    ReservedBits {
        /// The guest-virtual address that was translated.
        address: VirtualAddress,
        /// The level at which the walk ended.
        level: Level,
        /// The entry as it was read.
        entry: u64,
        /// The reserved bits that are set.
        reserved: u64,
    },
    /// The table that should hold the entry could not be read.
    #[error("translate {address}: read the {level} entry")]
    TableUnreadable {
        /// The guest-virtual address that was translated.
        address: VirtualAddress,
        /// The level of the entry.
        level: Level,
        /// The error of the read.
        #[source]
        source: ReadError,
    },
}
