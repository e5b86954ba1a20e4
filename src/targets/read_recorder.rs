//! Memory that remembers which of its pages were read: they are what a small core has to hold.

use std::cell::RefCell;
use std::collections::BTreeSet;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

/// A set of guest-physical pages of 4 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet(BTreeSet<u64>);

impl PageSet {
    /// The addresses of the pages, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PhysicalAddress> {
        self.0.iter().map(|&page| PhysicalAddress(page))
    }

    /// Adds the pages of another set.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// Memory that remembers which of its pages were read.
pub struct ReadRecorder<M> {
    memory: M,
    pages: RefCell<PageSet>,
}

impl<M: PhysicalMemory> ReadRecorder<M> {
    /// Memory of which nothing has been read yet.
    pub fn new(memory: M) -> Self {
        Self { memory, pages: RefCell::default() }
    }

    /// The pages that were read.
    pub fn into_pages(self) -> PageSet {
        self.pages.into_inner()
    }
}

impl<M: PhysicalMemory> PhysicalMemory for ReadRecorder<M> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(address, buffer)?;
        if let Some(last) = buffer.len().checked_sub(1) {
            let page = |address: u64| address & !0xfff;
            // It was read, and so lies in memory whole.
            let range = page(address.0)..=page(address.0 + last as u64);
            self.pages.borrow_mut().0.extend(range.step_by(4096));
        }
        Ok(())
    }
}
