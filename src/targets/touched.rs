//! Memory that remembers which of its pages were read: they are what a small core has to hold.

use std::cell::RefCell;
use std::collections::BTreeSet;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

/// Memory that remembers which of its pages were read.
pub struct Touched<M> {
    memory: M,
    pages: RefCell<BTreeSet<u64>>,
}

impl<M: PhysicalMemory> Touched<M> {
    /// Nothing has been read yet.
    pub fn new(memory: M) -> Self {
        Self { memory, pages: RefCell::default() }
    }

    /// The pages of 4 KiB that were read, in ascending order.
    pub fn pages(&self) -> Vec<PhysicalAddress> {
        self.pages.borrow().iter().map(|&page| PhysicalAddress(page)).collect()
    }
}

impl<M: PhysicalMemory> PhysicalMemory for Touched<M> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(address, buffer)?;
        if let Some(last) = buffer.len().checked_sub(1) {
            let page = |address: u64| address & !0xfff;
            // It was read, and so lies in memory whole.
            let range = page(address.0)..=page(address.0 + last as u64);
            self.pages.borrow_mut().extend(range.step_by(4096));
        }
        Ok(())
    }
}
