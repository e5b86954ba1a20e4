//! Guest-physical memory of a VM in this process: plain reads for whoever walks and parses, and
//! atomic ones, the only kind of write, for the words that guest and hypervisor share.
//!
//! Every address comes from the guest in the end, so every access is checked and can fail.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};
use vm_memory::{
    AtomicInteger, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    VolatileMemory,
};

use crate::core_file::Extents;

/// The memory of a VM that we run.
#[derive(Clone, Copy)]
pub struct GuestRam<'vm>(&'vm GuestMemoryMmap);

/// An address at which there is no memory, or none that an atomic access can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no aligned memory at guest-physical {0}")]
pub struct NoSuchWord(PhysicalAddress);

impl<'vm> GuestRam<'vm> {
    /// The memory of a VM.
    pub fn new(memory: &'vm GuestMemoryMmap) -> Self {
        Self(memory)
    }

    /// Reads an aligned 64-bit word that the guest may be writing.
    pub fn load_u64(self, address: PhysicalAddress) -> Result<u64, NoSuchWord> {
        self.with_atomic(address, |word: &AtomicU64| word.load(Ordering::Acquire))
    }

    /// Reads an aligned 32-bit word that the guest may be writing.
    pub fn load_u32(self, address: PhysicalAddress) -> Result<u32, NoSuchWord> {
        self.with_atomic(address, |word: &AtomicU32| word.load(Ordering::Acquire))
    }

    /// Writes an aligned 32-bit word; what was written before is seen by whoever sees this.
    pub fn store_u32(self, address: PhysicalAddress, value: u32) -> Result<(), NoSuchWord> {
        self.with_atomic(address, |word: &AtomicU32| word.store(value, Ordering::Release))
    }

    /// Replaces `current` by `new` in an aligned 32-bit word, or returns what is there instead.
    pub fn compare_exchange_u32(
        self,
        address: PhysicalAddress,
        current: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, NoSuchWord> {
        self.with_atomic(address, |word: &AtomicU32| {
            word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
        })
    }

    fn with_atomic<T: AtomicInteger, R>(
        self,
        address: PhysicalAddress,
        access: impl FnOnce(&T) -> R,
    ) -> Result<R, NoSuchWord> {
        let slice = self
            .0
            .get_slice(GuestAddress(address.0), size_of::<T>())
            .map_err(|_| NoSuchWord(address))?;
        let word = slice.get_atomic_ref::<T>(0).map_err(|_| NoSuchWord(address))?;
        Ok(access(word))
    }
}

impl GuestRam<'_> {
    /// All the memory there is.
    pub fn extents(self) -> Extents {
        let mut extents = Extents::new();
        for region in self.0.iter() {
            extents.insert(PhysicalAddress(region.start_addr().0), region.len());
        }
        extents
    }
}

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

impl PhysicalMemory for GuestRam<'_> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.0
            .read_slice(buffer, GuestAddress(address.0))
            .map_err(|_| ReadError::Unbacked { address, length: buffer.len() })
    }
}
