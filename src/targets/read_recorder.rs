//! Recorder of the pages that are read from a target's memory.
//!
//! Owns the set of pages. Refuses to own their use: a minimal core holds the pages that its capture read
//! (`capture`, the caller).

use std::cell::RefCell;
use std::collections::BTreeSet;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

/// A set of guest-physical pages of 4 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet(BTreeSet<u64>);

impl PageSet {
    /// Iterates over the guest-physical addresses of the pages, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PhysicalAddress> {
        self.0.iter().map(|&page| PhysicalAddress(page))
    }

    /// Adds all pages of another set.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// Guest-physical memory that records which of its pages are read.
pub struct ReadRecorder<M> {
    memory: M,
    pages: RefCell<PageSet>,
}

impl<M: PhysicalMemory> ReadRecorder<M> {
    /// Wraps `memory`, with no page recorded yet.
    pub fn new(memory: M) -> Self {
        Self { memory, pages: RefCell::default() }
    }

    /// Returns the pages that were read.
    pub fn into_pages(self) -> PageSet {
        self.pages.into_inner()
    }
}

impl<M: PhysicalMemory> PhysicalMemory for ReadRecorder<M> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(address, buffer)?;
        if let Some(last) = buffer.len().checked_sub(1) {
            let page = |address: u64| address & !0xfff;
            // The read succeeded, so the whole range exists and the sum does not overflow.
            let range = page(address.0)..=page(address.0 + last as u64);
            self.pages.borrow_mut().0.extend(range.step_by(4096));
        }
        Ok(())
    }
}
