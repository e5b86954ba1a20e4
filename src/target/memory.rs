//! Guest-physical memory of a VM in this process: plain reads for whoever walks and parses, and
//! atomic ones, the only kind of write, for the words that guest and hypervisor share.
//!
//! Every address comes from the guest in the end, so every access is checked and can fail.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nmiscope_symbolizer::{PhysicalAddress, PhysicalMemory, ReadError};
use vm_memory::{
    AtomicInteger, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory,
};

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

impl PhysicalMemory for GuestRam<'_> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.0
            .read_slice(buffer, GuestAddress(address.0))
            .map_err(|_| ReadError::Unbacked { address, length: buffer.len() })
    }
}
