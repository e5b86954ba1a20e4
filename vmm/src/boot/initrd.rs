//! The initial RAM disk: where it lies in guest memory.
//!
//! Owns its place, at the end of the RAM below the hole, as far from the kernel as it can be;
//! refuses to own what is in it. Called by `boot::load`.

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout;

const PAGE: u64 = 4096;

/// Why an initial RAM disk cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// No bytes.
    #[error("load the initrd: the file is empty")]
    Empty,
    /// Between the image and the end of RAM, or the hole, there is too little room.
    #[error(
        "load the initrd: its {len} bytes do not fit behind the image, where {room} bytes are free; \
         give the guest more memory{}",
        if *.at_hole { ", or a smaller initrd: it has to lie below 3 GiB" } else { "" }
    )]
    DoesNotFit {
        /// Its length in bytes.
        len: u64,
        /// Bytes that there are.
        room: u64,
        /// Whether it is the hole that ends them, and not the end of RAM.
        at_hole: bool,
    },
    /// It could not be written.
    #[error("write the initrd to guest memory")]
    Write(#[source] GuestMemoryError),
}

/// An initial RAM disk in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initrd {
    /// Its first byte; on a page boundary.
    pub(super) start: GuestAddress,
    /// Its length in bytes.
    pub(super) len: u64,
}

/// Copies an initial RAM disk to where neither the image is, which ends at `image_end`, nor the end
/// of `bytes` of RAM.
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
    fn it_lies_at_the_end_of_the_ram_below_the_hole() {
        assert_eq!(start(64 * MIB, 2 * MIB, 1), Some(64 * MIB - 4096));
        assert_eq!(start(64 * MIB, 2 * MIB, 4096), Some(64 * MIB - 4096));
        assert_eq!(start(64 * MIB, 2 * MIB, 4097), Some(64 * MIB - 8192));
        assert_eq!(start(8192 * MIB, 2 * MIB, MIB), Some(3071 * MIB));
    }

    #[test]
    fn it_fits_exactly_or_is_refused() {
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
