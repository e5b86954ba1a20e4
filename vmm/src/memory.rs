//! Guest RAM: its size limits, its guest-physical ranges, and its host mapping.
//!
//! Owns the split around the 32-bit hole and the size checks; refuses to own the contents (`boot`) and
//! the registration with KVM (`vm`). Called by `vm`, and by `boot` for the ranges.

use vm_memory::{Address, GuestAddress, GuestMemoryMmap};

use crate::layout;

/// Least RAM of a VM in bytes: the first MiB, and one MiB for the kernel.
pub const MIN_BYTES: u64 = 2 << 20;

const PAGE: u64 = 4096;

/// Reasons why guest memory could not be allocated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RamError {
    /// The size is less than [`MIN_BYTES`].
    #[error("allocate {0} bytes of guest memory: a VM needs at least {MIN_BYTES} bytes (2 MiB)")]
    TooLittle(u64),
    /// The size is not a whole number of 4 KiB pages.
    #[error("allocate {0} bytes of guest memory: not a multiple of the page size, {PAGE} bytes")]
    NotPages(u64),
    /// RAM would end above the highest address that the CPU supports.
    #[error(
        "allocate {bytes} bytes of guest memory: this host's CPU gives a guest {bits} bits of \
         physical address, which is room for {max} bytes of RAM"
    )]
    TooMuch {
        /// Size asked for, in bytes.
        bytes: u64,
        /// Guest-physical address bits (CPUID 0x80000008 EAX 7:0).
        bits: u32,
        /// Largest possible size, in bytes.
        max: u64,
    },
    /// mmap(2) refused; memory is mapped without reserving swap for it, so this is rare.
    #[error("map {bytes} bytes of guest memory: try less memory")]
    Map {
        /// Size asked for, in bytes.
        bytes: u64,
        /// Error of mmap(2), or of its arguments.
        source: vm_memory::mmap::FromRangesError,
    },
}

/// Returns the guest-physical RAM ranges, first byte and length, of a VM with `bytes` of memory.
pub(crate) fn ranges(bytes: u64) -> Vec<(GuestAddress, u64)> {
    let below = bytes.min(layout::HOLE_START.raw_value());
    let mut ranges = vec![(GuestAddress(0), below)];
    if bytes > below {
        ranges.push((layout::HOLE_END, bytes - below));
    }
    ranges
}

/// Maps `bytes` of zeroed, private, unreserved memory for a guest with `physical_bits` of address.
pub(crate) fn allocate(bytes: u64, physical_bits: u32) -> Result<GuestMemoryMmap, RamError> {
    check(bytes, physical_bits)?;
    // `check` keeps every length below 2^52, so the casts to usize lose nothing on a 64-bit host.
    let ranges: Vec<_> = ranges(bytes).into_iter().map(|(at, len)| (at, len as usize)).collect();
    GuestMemoryMmap::from_ranges(&ranges).map_err(|source| RamError::Map { bytes, source })
}

fn check(bytes: u64, physical_bits: u32) -> Result<(), RamError> {
    if bytes < MIN_BYTES {
        return Err(RamError::TooLittle(bytes));
    }
    let bits = physical_bits.clamp(32, 52);
    let hole = layout::HOLE_END.raw_value() - layout::HOLE_START.raw_value();
    let max = (1u64 << bits) - hole;
    if bytes > max {
        return Err(RamError::TooMuch { bytes, bits, max });
    }
    if !bytes.is_multiple_of(PAGE) {
        return Err(RamError::NotPages(bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_below_3_gib_is_one_range() {
        assert_eq!(ranges(3 << 30), [(GuestAddress(0), 3 << 30)]);
    }

    #[test]
    fn memory_beyond_3_gib_goes_to_4_gib() {
        let expected = [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 1 << 20)];
        assert_eq!(ranges((3 << 30) + (1 << 20)), expected);
    }

    #[test]
    fn sizes_out_of_bounds_get_different_errors() {
        assert!(matches!(check(0, 39), Err(RamError::TooLittle(0))));
        assert!(matches!(check((2 << 20) - 1, 39), Err(RamError::TooLittle(_))));
        assert!(matches!(check((2 << 20) + 1, 39), Err(RamError::NotPages(_))));
        assert!(matches!(check(1 << 39, 39), Err(RamError::TooMuch { bits: 39, .. })));
        assert!(matches!(check(u64::MAX, 64), Err(RamError::TooMuch { bits: 52, .. })));
        assert!(check((1 << 39) - (1 << 30), 39).is_ok());
        assert!(check(MIN_BYTES, 39).is_ok());
    }
}
