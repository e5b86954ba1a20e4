//! The initial RAM disk: where it lies in guest memory.
//!
//! Owns its address, at the end of the RAM below the hole, as far from the kernel as possible;
//! refuses to own its contents. Called by `boot::load`.

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout;

const PAGE: u64 = 4096;

/// Reasons to refuse an initial RAM disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// The file has no bytes.
    #[error("load the initrd: the file is empty")]
    Empty,
    /// The RAM between the image and the hole, or the end of RAM, is too small.
    #[error(
        "load the initrd: its {len} bytes do not fit behind the image, where {room} bytes are free; \
         give the guest more memory{}",
        if *.at_hole { ", or a smaller initrd: it has to lie below 3 GiB" } else { "" }
    )]
    DoesNotFit {
        /// Length of the initial RAM disk in bytes.
        len: u64,
        /// Length of that RAM in bytes.
        room: u64,
        /// True if that RAM ends at the hole, false if at the end of RAM.
        at_hole: bool,
    },
    /// The copy to guest memory failed.
    #[error("write the initrd to guest memory")]
    Write(#[source] GuestMemoryError),
}

/// An initial RAM disk in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initrd {
    /// Guest-physical address of the first byte, on a page boundary.
    pub(super) start: GuestAddress,
    /// Length of the file in bytes.
    pub(super) len: u64,
}

/// Copies an initial RAM disk to the end of the RAM below the hole. The guest has `bytes` of RAM, and
/// its image ends at the guest-physical address `image_end`.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    bytes: u64,
    image_end: u64,
    data: &[u8],
) -> Result<Initrd, InitrdError> {
    let initrd = place(bytes, image_end, data.len() as u64)?;
    memory.write_slice(data, initrd.start).map_err(InitrdError::Write)?;
    Ok(initrd)
}

fn place(bytes: u64, image_end: u64, len: u64) -> Result<Initrd, InitrdError> {
    if len == 0 {
        return Err(InitrdError::Empty);
    }
    let hole = layout::HOLE_START.raw_value();
    let first = image_end.max(layout::HIGH_RAM_START.raw_value()).next_multiple_of(PAGE);
    let room = bytes.min(hole).saturating_sub(first);
    match len.checked_next_multiple_of(PAGE) {
        Some(pages) if pages <= room => {
            Ok(Initrd { start: GuestAddress(first + room - pages), len })
        }
        _ => Err(InitrdError::DoesNotFit { len, room, at_hole: bytes > hole }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn start(bytes: u64, image_end: u64, len: u64) -> Option<u64> {
        place(bytes, image_end, len).ok().map(|initrd| initrd.start.raw_value())
    }

    #[test]
    fn an_initrd_lies_at_the_end_of_ram_below_the_hole() {
        assert_eq!(start(64 * MIB, 2 * MIB, 1), Some(64 * MIB - 4096));
        assert_eq!(start(64 * MIB, 2 * MIB, 4096), Some(64 * MIB - 4096));
        assert_eq!(start(64 * MIB, 2 * MIB, 4097), Some(64 * MIB - 8192));
        assert_eq!(start(8192 * MIB, 2 * MIB, MIB), Some(3071 * MIB));
    }

    #[test]
    fn an_initrd_fits_exactly_or_is_refused() {
        assert_eq!(start(4 * MIB, 2 * MIB + 1, 2 * MIB - 4096), Some(2 * MIB + 4096));
        assert_eq!(start(4 * MIB, 2 * MIB + 1, 2 * MIB - 4095), None);
        assert_eq!(start(2 * MIB, 4096, MIB), Some(MIB), "never below 1 MiB");
        assert_eq!(start(2 * MIB, 4096, MIB + 1), None);
        for len in [0, u64::MAX] {
            assert_eq!(start(64 * MIB, 2 * MIB, len), None);
        }
        let error = place(64 * MIB, 60 * MIB, 5 * MIB).unwrap_err().to_string();
        assert!(error.contains("4194304 bytes are free; give the guest more memory"), "{error}");
    }
}
