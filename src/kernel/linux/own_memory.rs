//! The guest-virtual pages in which a kernel describes itself: what a small core needs to recognise it again.
//!
//! Owns the set of pages, and the recording of what is read. Refuses to own why a page is read: recognition marks
//! what it uses, so that a core holds the kernel's tables and none of the code and data between them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use nmiscope_machine::{ReadError, VirtualAddress, VirtualMemory};

const PAGE: u64 = 4 << 10;

/// A set of guest-virtual pages of 4 KiB.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnMemory(RefCell<BTreeSet<u64>>);

impl OwnMemory {
    /// Marks the pages of a range; `length` is in bytes. A range that would wrap is left out.
    pub(super) fn mark(&self, start: VirtualAddress, length: u64) {
        let Some(last) = length.checked_sub(1).and_then(|last| start.0.checked_add(last)) else {
            return;
        };
        self.0.borrow_mut().extend((start.0 / PAGE)..=(last / PAGE));
    }

    /// Returns the marked ranges, without gaps in each: the first address and the length in bytes.
    pub(super) fn ranges(&self) -> Vec<(VirtualAddress, u64)> {
        let mut ranges: Vec<(VirtualAddress, u64)> = Vec::new();
        for page in self.0.borrow().iter().map(|page| page * PAGE) {
            match ranges.last_mut() {
                Some((start, length)) if start.0.wrapping_add(*length) == page => *length += PAGE,
                _ => ranges.push((VirtualAddress(page), PAGE)),
            }
        }
        ranges
    }
}

/// Memory whose successful reads are marked in an [`OwnMemory`].
pub(super) struct Marking<'a> {
    pub(super) memory: &'a dyn VirtualMemory,
    pub(super) own: &'a OwnMemory,
}

impl VirtualMemory for Marking<'_> {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(address, buffer)?;
        self.own.mark(address, buffer.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_pages_are_whole_and_neighbours_are_one_range() {
        let own = OwnMemory::default();
        own.mark(VirtualAddress(0xffff_ffff_8100_0ff8), 16);
        own.mark(VirtualAddress(0xffff_ffff_8100_2000), 1);
        own.mark(VirtualAddress(0xffff_ffff_8200_0123), 4096);
        own.mark(VirtualAddress(0xffff_ffff_8300_0000), 0);
        own.mark(VirtualAddress(u64::MAX - 7), 16);
        let expected = [(0xffff_ffff_8100_0000, 0x3000), (0xffff_ffff_8200_0000, 0x2000)];
        let expected = expected.map(|(start, length)| (VirtualAddress(start), length));
        assert_eq!(own.ranges(), expected);
    }
}
